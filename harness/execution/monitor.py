"""A thread in the process of a run that reports once a second how much memory the run takes.

It also samples the device's energy, whose counter may wrap in a run of hours.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.execution.child import Emit
from harness.execution.energy import EnergyMeter
from harness.execution.processes import resident_gb
from harness.schema.events import MemoryEvent

INTERVAL_SECONDS = 1.0


@dataclass
class ResourceMonitor:
    """A context manager that emits MemoryEvents and samples the energy meter.

    ``device_memory`` (MiB, or None where it is unknown) may be set once a framework is loaded.
    """

    energy: EnergyMeter
    emit: Emit
    device_memory: Callable[[], float | None] = lambda: None
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> ResourceMonitor:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(INTERVAL_SECONDS):
            self.energy.sample()
            resident_mb = resident_gb(os.getpid()) * 1e9 / 1024**2
            event = MemoryEvent(resident_mb=resident_mb or None, device_mb=self.device_memory())
            self.emit(event)
