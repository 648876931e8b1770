"""Joules that a device draws while a run is on it, where the device tells.

NVIDIA: the board's own counter through NVML (``nvidia-ml-py``, if it is installed), or its power
at every look where an older board has no counter. Linux CPUs: the counters of the processor
packages under ``/sys/class/powercap``, where they may be read. They count for all who run there.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import final

POWERCAP = Path("/sys/class/powercap")
MICRO, MILLI = 1e-6, 1e-3


class Gauge(ABC):
    """Something that tells how much was drawn since it was asked last; the first time 0."""

    @abstractmethod
    def drawn(self) -> float:
        """Joules."""


@final
@dataclass
class Counter(Gauge):
    """A counter in joules that starts again at 0 when it reaches ``wraps``; 0: never."""

    read: Callable[[], float]
    wraps: float = 0.0
    _last: float | None = None

    def drawn(self) -> float:
        now = self.read()
        last, self._last = now if self._last is None else self._last, now
        return now - last + (self.wraps if now < last else 0.0)


@final
@dataclass
class Power(Gauge):
    """Watts, looked at now and then; in between they are taken to have changed evenly."""

    read: Callable[[], float]
    clock: Callable[[], float] = time.monotonic
    _last: tuple[float, float] | None = None

    def drawn(self) -> float:
        at, watts = self.clock(), self.read()
        (before, then), self._last = self._last or (at, watts), (at, watts)
        return (at - before) * (watts + then) / 2


@dataclass
class Energy:
    """What a device has drawn since the first look; look often, for a counter may wrap."""

    gauges: Sequence[Gauge]
    _joules: float = 0.0
    _silent: bool = field(default=False, init=False)
    _looking: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> None:
        with self._looking:
            try:
                self._joules += sum(gauge.drawn() for gauge in self.gauges)
            except Exception:  # Whatever a driver raises: a figure is never worth a run.
                self._silent = True

    @property
    def joules(self) -> float | None:
        """None where the device tells nothing, or has once failed to."""
        return self._joules if self.gauges and not self._silent else None


def of(device: str, powercap: Path = POWERCAP) -> Energy:
    """The energy of ``cpu`` or ``gpu:INDEX``, from this moment on."""
    energy = Energy(
        _packages(powercap) if device == "cpu" else _board(int(device.removeprefix("gpu:")))
    )
    energy.look()
    return energy


def _packages(powercap: Path) -> list[Gauge]:
    """One counter a processor package; what is inside of one (cores, memory) is left out."""
    gauges: list[Gauge] = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            if not (zone / "name").read_text().startswith("package"):
                continue
            wraps = _told(zone / "max_energy_range_uj")
            gauge = Counter(partial(_told, zone / "energy_uj"), wraps)
            gauge.drawn()
        except (OSError, ValueError):
            return []  # Root alone may read it, on most systems.
        gauges.append(gauge)
    return gauges


def _told(file: Path) -> float:
    """Joules, of a file in microjoules."""
    return MICRO * float(file.read_text())


def _board(index: int) -> list[Gauge]:
    """The GPU of this index: its counter, else its power, else nothing."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        board = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError:
        return []
    gauges: tuple[Gauge, ...] = (
        Counter(lambda: MILLI * pynvml.nvmlDeviceGetTotalEnergyConsumption(board)),
        Power(lambda: MILLI * pynvml.nvmlDeviceGetPowerUsage(board)),
    )
    for gauge in gauges:
        try:
            gauge.drawn()
        except pynvml.NVMLError:
            continue
        return [gauge]
    return []
