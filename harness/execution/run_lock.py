"""Who is at work on which run, and on which GPU, so that several sweeps can share them.

A claim is a lock on a file beside the run's artefacts. The kernel holds it for an open file and
drops it when the last process that has the file open is gone, however it went, so there is never
a lock to remove by hand; the file itself may stay, and means nothing.

This holds on one machine. On NFS (version 4, or 3 with its lock daemon) Linux turns these locks
into the server's, and a client that vanishes with its machine loses them when its lease ends,
after about 90 seconds. Where a file system has no locks at all, claims are granted unseen: then
two machines need two results folders.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from harness.execution.devices import Device, lock_file

try:
    import fcntl
except ImportError:  # Windows has no flock.
    fcntl = None  # type: ignore[assignment]

LOCK_FILE, WORKING = "claim", "working"
_TAKEN = {errno.EAGAIN, errno.EACCES}


class RunLock:
    """A run that is ours until we let go or die."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def release(self) -> None:
        self._file.close()


def acquire(folder: Path, **about: Any) -> RunLock | None:
    """Claim the run whose artefacts lie in ``folder``; None where another living process has it.

    ``about`` is for whoever asks what is going on; host, process and time are added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK_FILE).open("a+", encoding="utf-8")
    if not _lock(file, wait=False):
        file.close()
        return None
    file.truncate(0)
    told = {**about, "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    file.write(json.dumps(told) + "\n")
    file.flush()
    return RunLock(file)


def owner(folder: Path) -> dict[str, Any] | None:
    """What the holder of a run told of itself; None where nobody is at work on it."""
    path = folder / LOCK_FILE
    try:  # NFS locks only what is open for writing; another user's claim cannot be.
        with path.open("r+" if os.access(path, os.W_OK) else "r", encoding="utf-8") as file:
            if fcntl is None or _lock(file, wait=False):
                return None
            told = json.loads(file.read() or "{}")
            return told if isinstance(told, dict) else {}
    except FileNotFoundError:
        return None
    except ValueError:
        return {}


def acquire_gpu(device: Device) -> RunLock | None:
    """Hold a GPU of this machine; None where other runs are on it that would not share it.

    Runs that share it hold it together; one that has it to itself holds it alone.
    """
    file = lock_file(device.id, "held").open("a+", encoding="utf-8")
    if not _lock(file, wait=False, shared=device.shared):
        file.close()
        return None
    return RunLock(file)


@contextmanager
def artefacts_lock(folder: Path) -> Iterator[None]:
    """Held by the process that trains, which may outlive its parent by a moment.

    Waits until the last one is gone: no two processes ever write to the same artefacts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / WORKING).open("a") as file:
        _lock(file, wait=True)
        yield


def _lock(file: IO[str], wait: bool, shared: bool = False) -> bool:
    if fcntl is None:
        return True
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, how if wait else how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            return True
        raise
    return True
