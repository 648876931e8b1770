"""The locks of runs and of devices, on harness.storage.file_lock."""

from __future__ import annotations

import getpass
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from harness.errors import StoreError, UserError
from harness.execution.devices import Device
from harness.schema.base import Amount, Count, Name
from harness.storage.file_lock import FileLock
from harness.storage.files import open_plain

RUN_LOCK, ARTEFACTS_LOCK = "run.lock", "artefacts.lock"
MOST_OWNER = 4096
"""Characters of what an owner writes about itself."""


# --- runs ----------------------------------------------------------------------------------------


class LockOwner(BaseModel):
    """What the owner of a run lock wrote about itself."""

    model_config = ConfigDict(frozen=True)

    recipe: Name = "?"
    seed: Count = 0
    host: Name = "?"
    pid: Count = 0
    since: Amount | None = None
    """Seconds of the epoch at which the lock was taken."""


class RunLock(FileLock):
    """The exclusive right to execute the run whose artefacts are in ``folder``.

    A sweep holds it while a run is under way, so that several sweeps can share a results folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / RUN_LOCK)

    def acquire_for(self, recipe: str, seed: int) -> bool:
        """Take the lock without waiting and write down its owner; False if another has it."""
        folder = self.path.parent
        if folder.is_symlink():
            raise StoreError(f"{folder}: a symbolic link; nothing is written through it")
        if not self.acquire(blocking=False):
            return False
        owner = LockOwner(
            recipe=recipe, seed=seed, host=socket.gethostname(), pid=os.getpid(), since=time.time()
        )
        assert self._file is not None
        try:
            self._file.truncate(0)
            self._file.write(owner.model_dump_json() + "\n")
            self._file.flush()
        except OSError:  # A full disk.
            self.release()
            raise
        return True

    def owner(self) -> LockOwner | None:
        """The present owner; None where the lock is free."""
        try:  # NFS locks only what is open for writing, and another user's file cannot be.
            writable = os.access(self.path, os.W_OK)
            descriptor = open_plain(self.path, os.O_RDWR if writable else os.O_RDONLY)
            with os.fdopen(descriptor, "r+" if writable else "r", encoding="utf-8") as file:
                if self._lock(file, shared=True, blocking=False):
                    return None
                return LockOwner.model_validate_json(file.read(MOST_OWNER))
        except (FileNotFoundError, StoreError):  # A link or a FIFO is nobody's lock.
            return None
        except (PermissionError, ValueError):
            return LockOwner()  # Windows lets nobody read a locked file.


def artefacts_lock(folder: Path) -> FileLock:
    """The lock of the process that writes the artefacts of a run, which may outlive its parent.

    It waits for the previous one: no two processes ever write to the same artefacts.
    """
    return FileLock(folder / ARTEFACTS_LOCK)


# --- devices -------------------------------------------------------------------------------------


class DeviceLock:
    """The lock of one device, common to all sweeps of this user on this machine.

    Runs that share a device hold it shared for each batch, so that a throughput can be measured
    exclusively in between. Work that was handed to the device must be finished before the lock is
    released, unless the run has the device to itself (``own``).
    """

    def __init__(self, device: str, folder: Path | None = None, own: bool = False) -> None:
        self.own = own
        self.seconds = 0.0
        """For which the lock was held so far; the waiting for it is not in it."""
        self.waited_seconds = 0.0
        """For which the lock was waited for so far."""
        self._path = _device_file(device, "device", folder)
        # Whoever waits for the exclusive lock holds the gate, so that new shared locks wait too.
        self._gate = _device_file(device, "gate", folder)
        self._counting = threading.Lock()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Work on the device together with others. Keep it short: a measurement may be waiting."""
        device = FileLock(self._path, shared=True)
        try:
            with FileLock(self._gate) as gate:
                device.acquire()
            with self._timed(gate, device):
                yield
        finally:
            device.release()

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Work on the device alone; yields whether the file system could ensure that."""
        with (
            FileLock(self._gate) as gate,
            FileLock(self._path) as device,
            self._timed(gate, device),
        ):
            yield device.enforced

    @contextmanager
    def _timed(self, *locks: FileLock) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._counting:
                self.seconds += time.perf_counter() - start
                self.waited_seconds += sum(lock.waited_seconds for lock in locks)


def acquire_gpu(device: Device) -> FileLock | None:
    """Hold a GPU of this machine for a whole run; None where the runs on it would not share it.

    Shared GPUs are held together with others, others alone.
    """
    lock = FileLock(_device_file(device.id, "run"), shared=device.shared)
    return lock if lock.acquire(blocking=False) else None


def _device_file(device: str, kind: str, folder: Path | None = None) -> Path:
    return (folder or lock_folder()) / f"{device.replace(':', '')}.{kind}.lock"


def lock_folder() -> Path:
    """The folder of this user's device locks, private to the user. Raises UserError if it is not.

    It is the same for every session of the user, as XDG_RUNTIME_DIR is not.
    """
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    folder = Path(tempfile.gettempdir()) / f"wbc-bench-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or (hasattr(os, "getuid") and status.st_uid != user):
        raise UserError(f"{folder}: belongs to another user; set TMPDIR to a folder of your own")
    if status.st_mode & 0o077 and os.name == "posix":
        folder.chmod(0o700)
    return folder
