"""The energy in joules that a device draws during a run, where the device reports it.

NVIDIA: the board's own counter through NVML (``nvidia-ml-py``, if installed), or its power at every
sample where an older board has no counter. Linux CPUs: the counters of the processor packages
under ``/sys/class/powercap``, where they are readable. They count for all programs on the device.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

POWERCAP = Path("/sys/class/powercap")
MICRO, MILLI = 1e-6, 1e-3


class EnergySource(Protocol):
    def consumed(self) -> float:
        """Joules since the previous call; 0 in the first."""


@dataclass
class EnergyCounter:
    """A counter in joules that starts again at 0 when it reaches ``maximum``; 0: never."""

    read: Callable[[], float]
    maximum: float = 0.0
    _last: float | None = None

    def consumed(self) -> float:
        now = self.read()
        last, self._last = now if self._last is None else self._last, now
        return now - last + (self.maximum if now < last else 0.0)


@dataclass
class PowerSensor:
    """Power in watts, integrated by the trapezoidal rule between samples."""

    read: Callable[[], float]
    clock: Callable[[], float] = time.monotonic
    _last: tuple[float, float] | None = None

    def consumed(self) -> float:
        time_now, power_now = self.clock(), self.read()
        (time_last, power_last), self._last = (
            self._last or (time_now, power_now),
            (time_now, power_now),
        )
        return (time_now - time_last) * (power_now + power_last) / 2


@dataclass
class EnergyMeter:
    """The sum over a device's sources. Sample it often: a counter may wrap."""

    sources: Sequence[EnergySource]
    _joules: float = 0.0
    _failed: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of_device(cls, device: str, powercap: Path = POWERCAP) -> EnergyMeter:
        """The meter of ``cpu`` or ``gpu:INDEX``, which counts from now on."""
        gpu = device.removeprefix("gpu:")
        meter = cls(_cpu_counters(powercap) if device == "cpu" else _gpu_source(int(gpu)))
        meter.sample()
        return meter

    def sample(self) -> None:
        with self._lock:
            try:
                self._joules += sum(source.consumed() for source in self.sources)
            except Exception:  # Whatever a driver raises: a figure is never worth a run.
                self._failed = True

    @property
    def joules(self) -> float | None:
        """Joules so far; None where the device reports none, or a sample has failed."""
        return self._joules if self.sources and not self._failed else None


def _cpu_counters(powercap: Path) -> list[EnergySource]:
    """The counter of each processor package; its sub-zones (cores, memory) are part of it."""
    counters: list[EnergySource] = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            if not (zone / "name").read_text().startswith("package"):
                continue
            maximum = _read_microjoules(zone / "max_energy_range_uj")
            counter = EnergyCounter(partial(_read_microjoules, zone / "energy_uj"), maximum)
            counter.consumed()
        except (OSError, ValueError):
            return []  # On most systems root alone may read it.
        counters.append(counter)
    return counters


def _read_microjoules(file: Path) -> float:
    """Joules."""
    return MICRO * float(file.read_text())


def _gpu_source(index: int) -> list[EnergySource]:
    """The energy counter of the GPU, else its power sensor, else nothing."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError:
        return []
    sources: tuple[EnergySource, ...] = (
        EnergyCounter(lambda: MILLI * pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)),
        PowerSensor(lambda: MILLI * pynvml.nvmlDeviceGetPowerUsage(gpu)),
    )
    for source in sources:
        try:
            source.consumed()
        except pynvml.NVMLError:
            continue
        return [source]
    return []
