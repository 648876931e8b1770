"""Torch files, written by hand: torch itself is not needed to test the reader."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from io import BytesIO

import numpy as np

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
PROTOCOL = b"\x80\x02M\xe9\x03."
KINDS = {"float32": "FloatStorage", "int64": "LongStorage", "float16": "HalfStorage"}


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def wholes(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(whole, values)) + b"t"


def tensor(
    key: str,
    count: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    offset: int = 0,
    kind: str = "FloatStorage",
    view: bytes = b"",
) -> bytes:
    """The opcodes that describe one tensor on the storage ``key`` of ``count`` numbers."""
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    storage = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n"
    storage += text(key) + text("cpu") + whole(count) + view + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    described = storage + whole(offset) + wholes(shape) + wholes(strides) + b"\x89" + hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + described + b"tR"


def state(entries: Mapping[str, bytes]) -> bytes:
    """A whole pickle: an OrderedDict of these entries, with torch's note of versions on it."""
    items = b"".join(text(name) + value for name, value in entries.items())
    versions = b"}" + text("_metadata") + b"}s"
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u" + versions + b"b."


def zipped(pickle: bytes, storages: Mapping[str, bytes], compression: int = 0) -> bytes:
    """Torch's format since 1.6."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", b"little")
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
    return file.getvalue()


def legacy(pickle: bytes, storages: Mapping[str, np.ndarray], endian: bytes = b"\x88") -> bytes:
    """Torch's format before 1.6."""
    system = b"\x80\x02}" + text("little_endian") + endian + b"s."
    keys = b"\x80\x02](" + b"".join(map(text, storages)) + b"e."
    raw = b"".join(struct.pack("<q", each.size) + each.tobytes() for each in storages.values())
    return MAGIC + PROTOCOL + system + pickle + keys + raw


def example(form: str) -> tuple[bytes, dict[str, np.ndarray]]:
    """A good file of either form and what it holds: a matrix, its transpose, a scalar."""
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    count = np.array(7, np.int64)
    view = b"N" if form == "legacy" else b""
    pickle = state(
        {
            "matrix": tensor("0", 12, (3, 4), view=view),
            "turned": tensor("0", 12, (4, 2), (1, 4), offset=4, view=view),
            "count": tensor("1", 1, (), kind="LongStorage", view=view),
        }
    )
    arrays = {"matrix": matrix, "turned": matrix[1:].T, "count": count}
    storages = {"0": matrix, "1": count}
    if form == "legacy":
        return legacy(pickle, storages), arrays
    return zipped(pickle, {key: each.tobytes() for key, each in storages.items()}), arrays
