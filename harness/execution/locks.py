"""Locks between processes: on files, on runs, and on devices.

Built on portalocker: unlike fasteners its locks exclude the threads of one process too, and unlike
filelock it has shared locks that cost microseconds, which a lock taken for every batch needs. The
kernel drops the locks of a dead process, so there is never a lock to remove by hand; the files
may stay, and mean nothing.

On NFS (version 4, or 3 with its lock daemon) Linux turns these locks into the server's, and a
client that vanishes with its machine loses them when its lease ends, after about 90 seconds. On a
file system without locks every lock is granted, and ``enforced`` is false: two machines then need
two results folders.
"""

from __future__ import annotations

import errno
import getpass
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import portalocker
from portalocker import LockFlags
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import UserError
from harness.execution.devices import Device

RUN_LOCK, ARTEFACTS_LOCK = "run.lock", "artefacts.lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class FileLock:
    """A lock on a file, exclusive or shared, that holds between processes and between threads.

    As a context manager it waits until the lock is free. Two locks of one path exclude each other
    even in one thread: none is reentrant.
    """

    def __init__(self, path: Path, shared: bool = False) -> None:
        self.path = path
        self.shared = shared
        self.enforced = True
        """False on a file system without locks, where each is granted."""
        self.waited_seconds = 0.0
        """In the last ``acquire``."""
        self._file: IO[str] | None = None

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock; False where another holds it and ``blocking`` is false."""
        start = time.perf_counter()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+", encoding="utf-8")
        try:
            acquired = self._lock(file, self.shared, blocking)
        except BaseException:
            file.close()
            raise
        self.waited_seconds = time.perf_counter() - start
        if acquired:
            self._file = file
        else:
            file.close()
        return acquired

    def _lock(self, file: IO[str], shared: bool, blocking: bool) -> bool:
        flags = LockFlags.SHARED if shared else LockFlags.EXCLUSIVE
        while True:
            try:
                portalocker.lock(file, flags if blocking else flags | LockFlags.NON_BLOCKING)
            except portalocker.AlreadyLocked:
                if not blocking:
                    return False
                continue  # Windows gives up waiting after ten seconds.
            except portalocker.LockException as error:
                cause = error.__cause__
                if not isinstance(cause, OSError) or cause.errno not in _UNSUPPORTED:
                    raise
                self.enforced = False
            return True

    def release(self) -> None:
        """Let go of the lock; nothing happens where it is not held."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


# --- runs ----------------------------------------------------------------------------------------


class LockOwner(BaseModel):
    """What the holder of a run lock wrote about itself."""

    model_config = ConfigDict(frozen=True)

    recipe: str = "?"
    seed: int = 0
    host: str = "?"
    pid: int = 0
    since: float | None = None
    """Seconds of the epoch at which the lock was taken."""


class RunLock(FileLock):
    """The exclusive right to execute the run whose artefacts are in ``folder``.

    A sweep holds it while a run is under way, so that several sweeps can share a results folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / RUN_LOCK)

    def acquire_for(self, recipe: str, seed: int) -> bool:
        """Take the lock without waiting and write down its owner; False if another has it."""
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
        """The present holder; None where nobody holds the lock."""
        try:  # NFS locks only what is open for writing, and another user's file cannot be.
            writable = os.access(self.path, os.W_OK)
            with self.path.open("r+" if writable else "r", encoding="utf-8") as file:
                if self._lock(file, shared=True, blocking=False):
                    return None
                return LockOwner.model_validate_json(file.read())
        except FileNotFoundError:
            return None
        except (PermissionError, ValidationError):
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
