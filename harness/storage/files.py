"""Files and arrays: written completely or not at all, and read only where they are plain files."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.lib.npyio import NpzFile

from harness.errors import StoreError

DAMAGED = (
    OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, struct.error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip
"""What reading a damaged npz can raise."""


TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp", re.DOTALL)
LEFTOVER_SECONDS = 3600.0
MOST_ARRAY_BYTES = 1 << 33
DEVICE_FOLDERS = ("/dev", "/dev/fd", "/proc/self/fd")
AGAIN = "delete it and run again"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def open_plain(path: Path, flags: int) -> int:
    """The descriptor of a regular file that no link leads to. Raises StoreError, OSError.

    Whatever else has its name, a FIFO or a device, is not waited for.
    """
    waits_for_nobody = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags | waits_for_nobody | _NO_LINK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and path.is_symlink():
            raise StoreError(f"{path}: a symbolic link, which is not followed; delete it") from None
        if error.errno == errno.ENXIO:
            raise StoreError(f"{path}: not a regular file; delete it") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StoreError(f"{path}: not a regular file; delete it")
    return descriptor


def open_new(path: Path) -> io.BufferedRandom:
    """Open an empty file for writing, instead of whatever has its name: a link is replaced."""
    path.unlink(missing_ok=True)
    return path.open("x+b")


def read_plain(path: Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes. Raises StoreError, OSError."""
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise StoreError(f"{path}: {size:,} bytes are more than the {most:,} it may have")
        return file.read(size)


def unreadable(path: Path, error: BaseException, remedy: str = AGAIN) -> StoreError:
    """What to say of a file that is lost or damaged, or whose user may not read it."""
    if isinstance(error, FileNotFoundError):
        return StoreError(f"{path}: is missing; {remedy}")
    if isinstance(error, PermissionError):
        return StoreError(f"{path}: cannot be read: {error.strerror}")
    return StoreError(f"{path}: cannot be read ({error}); {remedy}")


def no_link_between(root: Path, path: Path) -> Path:
    """The path, whose folders below ``root`` are no links: nothing is written through one.

    Raises StoreError naming the link.
    """
    for folder in path.parents:
        if folder == root:
            break
        if folder.is_symlink():
            raise StoreError(f"{folder}: a symbolic link; nothing is written through it")
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file in the same folder, sync it, rename it, and sync the folder.

    A device, as ``/dev/stdout``, is written to and not replaced; but no pipe or link to a device in
    any other folder, which may come from somebody else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if str(path.parent) in DEVICE_FOLDERS:
        path.write_bytes(content)
        return
    # Not the process id: other machines may write to this folder.
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if str(error.filename) == str(temporary):
            error.filename = str(path)  # Of which the user knows.
        raise
    finally:
        with suppress(OSError):  # A file system that can only be read says so here too.
            temporary.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can do that."""
    with suppress(OSError):  # Windows opens no folder, and some network disks sync none.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(root: Path) -> None:
    """Delete temporary files of writes that were killed: those that are an hour old."""
    for pattern in (".*.tmp", "*/.*.tmp", "*/*/.*.tmp"):
        for path in root.glob(pattern):
            with suppress(OSError, StoreError):
                old = time.time() - path.lstat().st_mtime > LEFTOVER_SECONDS
                if old and TEMPORARY.fullmatch(path.name):
                    no_link_between(root, path).unlink()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = False) -> None:
    """An npz without pickle, atomically."""
    buffer = io.BytesIO()
    save = np.savez_compressed if compress else np.savez
    save(buffer, allow_pickle=False, **dict(arrays))
    write_atomically(path, buffer.getvalue())


def write_images(path: Path, shape: tuple[int, ...], batches: Iterable[np.ndarray]) -> None:
    """An npy of uint8 images (n, H, W, 3), written batch by batch.

    Not through a mapping, whose dirty pages would count as memory of this process.
    """
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for batch in batches:
            file.write(np.ascontiguousarray(batch).data)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz. Raises StoreError naming the file."""
    try:
        with (
            os.fdopen(open_plain(path, os.O_RDONLY), "rb") as stream,
            NpzFile(stream, allow_pickle=False) as file,
        ):
            assert file.zip is not None, "until it is closed"
            if sum(entry.file_size for entry in file.zip.infolist()) > MOST_ARRAY_BYTES:
                raise ValueError(f"more than {MOST_ARRAY_BYTES:,} bytes of arrays")
            arrays = dict(file)
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("not all of it are arrays")
        return arrays
    except DAMAGED as error:
        raise unreadable(path, error) from None
