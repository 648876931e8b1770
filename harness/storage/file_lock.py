"""A lock on a file that holds between processes and between threads.

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
import os
from pathlib import Path
from typing import IO

import portalocker
from portalocker import LockFlags

from harness.storage.files import open_plain

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
        self._file: IO[str] | None = None

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock; False where another holds it and ``blocking`` is false.

        Raises StoreError where the path is a link or no regular file, and OSError.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        file = os.fdopen(open_plain(self.path, flags), "a+", encoding="utf-8")
        try:
            acquired = self._lock(file, self.shared, blocking)
        except BaseException:
            file.close()
            raise
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
