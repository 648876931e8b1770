"""Read state dicts of other programs, torch's and safetensors, without running code from the file.

A ``.pth`` file is a pickle that describes tensors, and their raw numbers: in a zip archive, or
(before torch 1.6) one after the other. Nothing that the pickle names is imported, and every size
is checked against the file before an array is made.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import safetensors.numpy

from zoo.errors import WeightsError

LEGACY_SIGNATURE = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""The magic number with which a file of torch's older format begins, pickled."""

DTYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2",
    "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip

OPCODES: tuple[bytes, ...] = (
    pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.BINPERSID, pickle.REDUCE,
    pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT, pickle.BINUNICODE,
    pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1,
    pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET,
    pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
    pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS,
)  # fmt: skip
"""Those that torch writes, besides EMPTY_DICT and BUILD."""


class Storage(NamedTuple):
    """``length`` numbers that the file holds under ``key``."""

    key: str
    dtype: np.dtype[Any]
    length: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a torch or safetensors file by their names, as read-only arrays.

    Raises WeightsError when the file is damaged, holds anything but tensors, or asks for code to
    be run. The older torch format has no checksum: flipped bits in its numbers go unnoticed.
    """
    try:
        content = path.read_bytes()
        if content.startswith(b"PK"):
            return _read_zip(content)
        if content.startswith(LEGACY_SIGNATURE):
            return _read_legacy(content)
        return safetensors.numpy.load(content)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # Hostile bytes can raise anything.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise WeightsError(f"{path}: not a readable state dict: {reason}") from error


def _read_zip(content: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(BytesIO(content)) as archive:
        members = archive.infolist()
        # Torch does not compress, so nothing can unpack to more than the file's length.
        compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if compressed or sum(member.file_size for member in members) > len(content):
            raise WeightsError("the archive claims more than it holds")
        names = {member.filename for member in members}
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsError("the archive has not exactly one data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise WeightsError("its numbers are big-endian")
        tensors = _tensors(Unpickler(BytesIO(archive.read(pickles[0]))).load())
        keys = {tensor.storage.key for tensor in tensors.values()}
        buffers = {key: memoryview(archive.read(f"{root}data/{key}")) for key in keys}
    return {name: _array(tensor, buffers) for name, tensor in tensors.items()}


def _read_legacy(content: bytes) -> dict[str, np.ndarray]:
    """Magic number, version, system, state dict and storage keys as pickles, then the storages."""
    file = BytesIO(content)
    _, _, system, state, keys = (Unpickler(file).load() for _ in range(5))
    if system["little_endian"] is not True:
        raise WeightsError("its numbers are big-endian")
    tensors = _tensors(state)
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    buffers: dict[str, memoryview] = {}
    position, view = file.tell(), memoryview(content)
    for key in keys:
        count = int.from_bytes(view[position : position + 8], "little", signed=True)
        begin, itemsize = position + 8, storages[_string(key)].dtype.itemsize
        position = begin + count * itemsize
        if count < 0 or position > len(content):
            raise WeightsError(f"storage {key[:80]!r} claims more than the file holds")
        buffers[key] = view[begin:position]
    return {name: _array(tensor, buffers) for name, tensor in tensors.items()}


def _tensors(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not state:
        raise WeightsError("not a state dict")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise WeightsError(f"entry {name[:80]!r} is not a tensor")
    return state


def _array(tensor: Tensor, buffers: Mapping[str, memoryview]) -> np.ndarray:
    (key, dtype, length), offset, shape, strides = tensor
    if length * dtype.itemsize > len(buffers[key]):
        raise WeightsError(f"storage {key[:80]!r} claims more than the file holds")
    # Checked here because numpy's own check overflows.
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    size = math.prod(shape)
    if size > length or (size and last >= length):
        raise WeightsError(f"a tensor of shape {str(shape)[:80]} reaches beyond its storage")
    steps = [stride * dtype.itemsize for stride in strides]
    return np.ndarray(shape, dtype, buffers[key], offset * dtype.itemsize, steps)


class StringKeys(dict[str, Any]):
    """A dict with string keys alone: hashing a deeply nested tuple would crash the interpreter."""

    def __init__(self) -> None:
        """Take no items, so that every key passes ``__setitem__``."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(_string(key), value)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise WeightsError("a tensor has no storage")
    return Tensor(storage, _size(offset), tuple(map(_size, shape)), tuple(map(_size, strides)))


def _reject(_: Any) -> None:
    raise WeightsError("it holds an instruction that is no part of a state dict")


class Unpickler(pickle._Unpickler):
    """Python's unpickler without the instructions and names that torch does not write.

    Based on the one written in Python: its instructions can be replaced one by one, and it
    allocates nothing before it has read it.
    """

    GLOBALS: ClassVar[dict[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): StringKeys,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        **{("torch", name): np.dtype(code) for name, code in DTYPES.items()},
    }
    dispatch: ClassVar[dict[int, Any]] = {
        **dict.fromkeys(range(256), _reject),
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in OPCODES},
        pickle.EMPTY_DICT[0]: lambda self: self.append(StringKeys()),
        pickle.BUILD[0]: lambda self: self.stack.pop(),  # Version notes of an OrderedDict.
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.GLOBALS:
            full_name = f"{module}.{name}"[:80]
            raise WeightsError(f"it names {full_name!r}, which is no part of a state dict")
        return self.GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, length, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise WeightsError("it refers to something that is no storage")
        return Storage(_string(key), dtype, _size(length))


def _string(value: Any) -> str:
    if type(value) is not str:
        raise WeightsError("a key is not a string")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise WeightsError("a size is not a number, or negative")
    return value
