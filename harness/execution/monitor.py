"""A thread of a run's own process that tells, once a second, what memory the run holds.

It also looks at the device's energy, whose counter may wrap in a run of hours.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.execution.energy import Energy
from harness.execution.processes import resident_gb

EVERY_SECONDS = 1.0


@dataclass
class ResourceMonitor:
    """``tell`` gets the resident memory of this process and its children, and the device's, MiB.

    Either is None where it is not known; ``device_memory`` may be set when a framework is there.
    """

    energy: Energy
    tell: Callable[[float | None, float | None], None]
    device_memory: Callable[[], float | None] = lambda: None
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> ResourceMonitor:
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(EVERY_SECONDS):
            self.energy.look()
            resident = resident_gb(os.getpid()) * 1e9 / 1024**2
            self.tell(resident or None, self.device_memory())
