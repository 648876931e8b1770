"""A reader of npz files that may be wrong, damaged or hostile, and the challenge's layout.

A zip member or an npy header can claim terabytes, and an object array runs code when it is
unpickled. So every claim is checked against the bytes that exist before memory is allocated, and
nothing is ever unpickled. Every problem is a DataError of one line.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from harness.data.image_cache import Content
from harness.errors import DataError

BLOOD_CELLS = (
    "basophil", "eosinophil", "erythroblast", "ig",
    "lymphocyte", "monocyte", "neutrophil", "platelet",
)  # fmt: skip
"""Classes of the challenge file and of BloodMNIST, by label. ``ig``: immature granulocyte."""

CHALLENGE_SHAPE = (13_759, 96, 96, 3)
"""Of the challenge file's images; it names no classes."""

LARGEST_SIDE = 1 << 14
"""Pixels of an image's side. Photographs are smaller; damaged headers are not."""

SMALL = 1 << 28
"""The most bytes of an array that is loaded whole (labels, names, Fortran order)."""

BATCH = 1 << 24
"""Bytes of pixels in a batch."""

HEADER = 10_000
"""The most bytes of an npy header; numpy's own limit."""

DEFLATE = 1032
"""The largest compression ratio of deflate."""

DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, SyntaxError, EOFError,
    OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, MemoryError,
)  # fmt: skip
"""What zipfile and numpy raise on damaged bytes (found by fuzzing)."""


@dataclass(frozen=True)
class Member:
    """One array of an npz file: its header, checked against the file's size."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    def __str__(self) -> str:
        return f"{self.path}: {self.key}"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


# --- the challenge's layout ----------------------------------------------------------------------


def read_challenge(path: Path) -> Content:
    """``images`` (N, H, W, 3), ``labels`` (N,), (N, 1) or one-hot (N, K), perhaps ``class_names``.

    Images may also be grey, (N, H, W) or (N, H, W, 1). Raises DataError.
    """
    images, labels = member(path, "images"), member(path, "labels")
    check_images(images)
    values = read_labels(labels, images.shape[0])
    of_challenge = images.shape == CHALLENGE_SHAPE
    names = read_class_names(path, int(values.max()) + 1, BLOOD_CELLS if of_challenge else ())
    return Content(values, names, lambda: read_images(images))


# --- arrays of every layout ----------------------------------------------------------------------


def keys(path: Path) -> list[str]:
    """The names of the arrays in ``path``, in order; DataError if it is no npz file."""
    with _damage(path), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def identity(path: Path) -> str:
    """SHA-256 of the file's bytes."""
    with _damage(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def member(path: Path, key: str) -> Member:
    """The array ``key`` of ``path``; DataError unless its size is what its header claims."""
    known = keys(path)
    if key not in known:
        listed = ", ".join(map(repr, known[:8])) + (", ..." if len(known) > 8 else "")
        raise DataError(f"{path}: no array {key!r}; the file has {listed or 'no arrays'}")
    with _damage(path, key), zipfile.ZipFile(path) as archive:
        info = archive.getinfo(_zip_name(archive, key))
        _check_zip_claim(info, path)
        with archive.open(info) as file:
            shape, fortran, dtype = _read_header(file)
            size = info.file_size - file.tell()
    array = Member(path, key, shape, dtype, fortran)
    if dtype.hasobject:
        raise DataError(f"{array} is an object array; those are never unpickled")
    if dtype.fields or dtype.subdtype or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise DataError(f"{array} has an impossible header: shape {shape}, dtype {dtype}")
    if array.nbytes != size:
        claim = f"claims {array.nbytes:,} bytes (shape {shape}, {dtype})"
        raise DataError(f"{array}: the header {claim}, the file holds {size:,}")
    return array


def load(array: Member) -> np.ndarray:
    """The whole array, for small ones; DataError if it is large or its bytes are damaged."""
    if array.nbytes > SMALL:
        hint = "; save it in C order" if array.fortran else ""
        raise DataError(f"{array} has {array.nbytes:,} bytes, at most {SMALL:,} are allowed{hint}")
    (content,) = _chunks(array, [array.nbytes])
    order: Literal["F", "C"] = "F" if array.fortran else "C"
    return np.frombuffer(content, array.dtype).reshape(array.shape, order=order)


def check_images(images: Member) -> None:
    """Raise DataError unless an array is a stack of RGB or grey images."""
    shape = images.shape
    hint = "images must be (N, H, W, 3) or grey (N, H, W)"
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise DataError(f"{images} has shape {shape}, channels first; {hint}")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise DataError(f"{images} has shape {shape}; {hint}")
    if shape[0] == 0:
        raise DataError(f"{images} holds no images")
    if not 1 <= min(shape[1:3]) <= max(shape[1:3]) <= LARGEST_SIDE:
        raise DataError(f"{images} has shape {shape}; sides may be 1 to {LARGEST_SIDE} pixels")
    if images.dtype.kind not in "uif":
        raise DataError(f"{images} has dtype {images.dtype}; give raw pixels, uint8 0-255")


def read_images(images: Member) -> Iterator[np.ndarray]:
    """Batches uint8 (n, H, W, 3), in order. Integers 0-255 of other types become uint8.

    Raises DataError for pixels that are scaled, not finite, or outside 0-255.
    """
    for batch in _batches(images):
        pixels = _as_uint8(batch, images)
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        yield pixels if pixels.shape[3] == 3 else np.repeat(pixels, 3, axis=3)


def read_labels(labels: Member, count: int) -> np.ndarray:
    """Labels int64 (N,) from (N,), (N, 1) or one-hot (N, K); DataError for anything else."""
    shape = labels.shape
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] == 0):
        raise DataError(f"{labels} has shape {shape}; labels must be (N,), (N, 1) or one-hot")
    if shape[0] != count:
        raise DataError(f"{labels}: {shape[0]} labels for {count} images")
    if labels.dtype.kind not in "uifb":
        raise DataError(f"{labels} has dtype {labels.dtype}; labels must be the numbers 0..K-1")
    values = load(labels)
    if labels.dtype.kind == "f" and not (np.isfinite(values) & (values == np.floor(values))).all():
        raise DataError(f"{labels}: some labels are not whole numbers; labels must be 0..K-1")
    if len(shape) == 2 and shape[1] > 1:
        if not (np.isin(values, (0, 1)).all() and (values.sum(axis=1, dtype=int) == 1).all()):
            raise DataError(f"{labels} has shape {shape}, but its rows are not one-hot")
        return np.asarray(np.argmax(values, axis=1), np.int64)
    lowest, highest = values.min(), values.max()
    if lowest < 0:
        raise DataError(f"{labels}: label {int(lowest)} is negative; labels must be 0..K-1")
    if highest >= count:
        raise DataError(f"{labels}: label {int(highest)} in {count} images; labels must be 0..K-1")
    return np.asarray(values.reshape(-1), np.int64)


def read_class_names(path: Path, count: int, known: Sequence[str] = ()) -> tuple[str, ...]:
    """The file's ``class_names``; else those ``known`` of the file, or class_0, class_1, ..."""
    if "class_names" not in keys(path):
        return tuple(known) if len(known) == count else tuple(f"class_{k}" for k in range(count))
    array = member(path, "class_names")
    if array.dtype.kind not in "US" or len(array.shape) != 1:
        raise DataError(f"{array} must be a list of texts, not {array.dtype} {array.shape}")
    with _damage(path, "class_names"):
        values = load(array).tolist()
        names = tuple(n.decode("utf-8") if isinstance(n, bytes) else str(n) for n in values)
    if len(names) < count:
        raise DataError(f"{path}: label {count - 1} is out of range, there are {len(names)} names")
    if not all(name.strip() and name.isprintable() for name in names):
        raise DataError(f"{array}: a name is empty or not printable: {names!r}")
    return names


# --- pixels --------------------------------------------------------------------------------------


def _as_uint8(batch: np.ndarray, images: Member) -> np.ndarray:
    if batch.dtype == np.uint8:
        return batch
    if not np.isfinite(batch).all():
        raise DataError(f"{images}: some pixels are NaN or infinite; give raw pixels 0-255")
    low, high = batch.min(), batch.max()
    whole = batch.dtype.kind in "ui" or bool((batch == np.floor(batch)).all())
    if not whole and low >= -1 and high <= 1:
        span = "-1..1" if low < 0 else "0-1"
        raise DataError(f"{images}: pixels already scaled to {span}; give raw 0-255 pixels")
    if low < 0 or high > 255:
        raise DataError(f"{images}: pixels from {low:g} to {high:g}; give raw pixels 0-255")
    if not whole:
        raise DataError(f"{images}: pixels are not whole numbers; give raw 0-255 pixels, unscaled")
    return batch.astype(np.uint8)


def _batches(array: Member) -> Iterator[np.ndarray]:
    count = array.shape[0]
    if array.fortran:
        yield from np.array_split(load(array), min(count, math.ceil(array.nbytes / BATCH)))
        return
    row = array.nbytes // count
    step = max(1, BATCH // row)
    sizes = [row * min(step, count - start) for start in range(0, count, step)]
    for content in _chunks(array, sizes):
        yield np.frombuffer(content, array.dtype).reshape(-1, *array.shape[1:])


# --- zip and npy ---------------------------------------------------------------------------------


@contextmanager
def _damage(path: Path, key: str | None = None) -> Iterator[None]:
    """Turn errors of damaged files into a DataError that names the file and the array."""
    try:
        yield
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except DAMAGE as error:
        name = f"{path}: {key}" if key else str(path)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{name}: damaged, or not an npz file: {reason}") from error


def _chunks(array: Member, sizes: Iterable[int]) -> Iterator[bytes]:
    """The content of an array in chunks. zipfile compares the checksum at the end of the file."""
    with (
        _damage(array.path, array.key),
        zipfile.ZipFile(array.path) as archive,
        archive.open(_zip_name(archive, array.key)) as file,
    ):
        _read_header(file)
        for size in sizes:
            chunk = file.read(size)
            if len(chunk) < size:
                raise EOFError(f"{size - len(chunk):,} bytes are missing")
            yield chunk


def _zip_name(archive: zipfile.ZipFile, key: str) -> str:
    return f"{key}.npy" if f"{key}.npy" in archive.NameToInfo else key


def _check_zip_claim(info: zipfile.ZipInfo, path: Path) -> None:
    """A damaged directory of the zip may claim any size; the file's own size is the limit."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile("a compression that numpy does not write")
    ratio = DEFLATE if info.compress_type == zipfile.ZIP_DEFLATED else 1
    if not 0 <= info.compress_size <= path.stat().st_size:
        raise zipfile.BadZipFile("truncated: the array is longer than the file")
    if not 0 <= info.file_size <= ratio * info.compress_size:
        raise zipfile.BadZipFile(f"claims {info.file_size:,} bytes that cannot be in it")


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype. The header's length is checked before it is read."""
    version = np.lib.format.read_magic(io.BytesIO(file.read(8)))
    size = file.read({(1, 0): 2, (2, 0): 4}.get(version, 0))
    length = int.from_bytes(size, "little")
    if not size or length > HEADER:
        raise ValueError(f"npy version {version}, header of {length:,} bytes")
    header = io.BytesIO(size + file.read(length))
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(header)
    return np.lib.format.read_array_header_2_0(header)
