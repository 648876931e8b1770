"""Whether other processes take the processor while something is measured on it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from harness.execution.devices import proc_field

OTHERS = 0.05
"""Share of the machine's processor time that other processes may take."""
IDLE = 0.1
"""Share that is idle at least where they do not disturb, however much they take."""


@dataclass
class OtherLoad:
    """A context manager around a measurement. Knows nothing where the system has no /proc/stat."""

    disturbs: bool = False
    """Known afterwards."""

    def __enter__(self) -> OtherLoad:
        self._before = _seconds()
        return self

    def __exit__(self, *_: object) -> None:
        if self._before and (after := _seconds()):
            busy, idle, own = (now - then for now, then in zip(after, self._before, strict=True))
            total = busy + idle
            self.disturbs = busy - own > OTHERS * total and idle < IDLE * total


def _seconds() -> tuple[float, float, float] | None:
    """Since the start: of all processors busy and idle, and of this process."""
    try:
        fields = map(int, proc_field("stat", "cpu ").split()[:7])
        user, nice, system, idle, waiting, *interrupts = fields
    except ValueError:
        return None
    tick = os.sysconf("SC_CLK_TCK")
    busy = user + nice + system + sum(interrupts)
    return busy / tick, (idle + waiting) / tick, time.process_time()
