"""Files and arrays, written completely or not at all."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from uuid import uuid4

import numpy as np

from harness.errors import StoreError

DAMAGED = (
    OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, struct.error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip
"""What reading a damaged npz can raise."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file in the same folder, sync it, and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process id: other machines may write to this folder.
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except DAMAGED as error:
        raise StoreError(f"{path}: cannot be read ({error}); delete it and run again") from None
