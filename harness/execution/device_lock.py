"""Turns at a device, so that a throughput is measured with nothing else of ours running on it.

Runs that share a device hold a shared lock while they work and let go between batches; the one
that measures waits for them and holds it alone. The kernel drops the locks of a dead process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from harness.execution.devices import lock_file

try:
    import fcntl
except ImportError:  # Windows has no flock; throughputs there are marked as not exclusive.
    fcntl = None  # type: ignore[assignment]


class DeviceLock:
    """The lock of one device on this machine, shared by every sweep of this user.

    Work that was handed to the device must be finished before its turn ends, unless the device is
    the run's ``own``, a GPU that no other run is on: then nobody measures beside it.
    """

    def __init__(self, device: str, folder: Path | None = None, own: bool = False) -> None:
        self.own = own
        self._device = lock_file(device, "lock", folder).open("a")
        # Whoever waits to be alone holds the door, so that newcomers cannot starve it.
        self._door = lock_file(device, "door", folder).open("a")
        self.seconds = 0.0
        """Inside the turns taken so far; the waiting for them is not in it."""

    @contextmanager
    def shared(self) -> Iterator[None]:
        """A stretch of work beside others. Keep it short: a measurement may be waiting."""
        if fcntl is None:
            with self._counted():
                yield
            return
        with _held(self._door, fcntl.LOCK_EX):
            fcntl.flock(self._device, fcntl.LOCK_SH)
        try:
            with self._counted():
                yield
        finally:
            fcntl.flock(self._device, fcntl.LOCK_UN)

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """A stretch with nobody beside; yields whether that could be arranged."""
        if fcntl is None:
            with self._counted():
                yield False
            return
        with (
            _held(self._door, fcntl.LOCK_EX),
            _held(self._device, fcntl.LOCK_EX),
            self._counted(),
        ):
            yield True

    @contextmanager
    def _counted(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began


@contextmanager
def _held(file: IO[str], how: int) -> Iterator[None]:
    fcntl.flock(file, how)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
