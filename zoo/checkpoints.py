"""Reads a torch state dict without torch, and without ever running what the file says.

A ``.pth`` file is a pickle and raw numbers, in a zip archive or (before torch 1.6) one after the
other. The pickle is not unpickled: a small machine here knows the two dozen opcodes that torch
writes and has no way to import or call anything. Every size is checked against what the file
holds before an array is made.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import WeightsError

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

DTYPES: dict[str, np.dtype[Any]] = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}
ORDERED_DICT, REBUILD_TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
MOST_AXES = 16
ALLOWED = {*DTYPES, ORDERED_DICT, REBUILD_TENSOR}


@dataclass(frozen=True)
class Name:
    """A global that the pickle names. Never looked up, only compared."""

    value: str


@dataclass(frozen=True)
class Storage:
    """A run of ``count`` numbers that lies elsewhere in the file under ``key``."""

    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True)
class Tensor:
    """A window on a storage: all in elements, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a torch state dict by their names, as read-only views of the file's bytes.

    Raises WeightsError when the file is damaged, holds anything but tensors, or asks for code to
    be run. Bytes flipped inside the numbers of the older format cannot be noticed: it has no
    checksum.
    """
    try:
        content = path.read_bytes()
        read = _read_zip if content.startswith(b"PK") else _read_legacy
        return read(content)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # whatever hostile bytes may break, it is the file's fault
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise WeightsError(f"{path}: not a readable torch state dict: {reason}") from error


def _read_zip(content: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(BytesIO(content)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        # torch stores without compression, so nothing can unfold to more than the file's length.
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members.values())
        if packed or sum(member.file_size for member in archive.infolist()) > len(content):
            raise WeightsError("the archive claims more than it holds")
        roots = [name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise WeightsError("the archive has not exactly one data.pkl")
        root = roots[0]
        order = f"{root}byteorder"
        if order in members and archive.read(order) != b"little":
            raise WeightsError("its numbers are big-endian")
        tensors = _tensors(Machine().run(BytesIO(archive.read(f"{root}data.pkl"))))
        keys = {tensor.storage.key for tensor in tensors.values()}
        buffers = {key: memoryview(archive.read(f"{root}data/{key}")) for key in keys}
    return {name: _array(tensor, buffers) for name, tensor in tensors.items()}


def _read_legacy(content: bytes) -> dict[str, np.ndarray]:
    file = BytesIO(content)
    magic, protocol, system = (Machine().run(file) for _ in range(3))
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL:
        raise WeightsError("not a torch file")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError("its numbers are big-endian")
    tensors = _tensors(Machine().run(file))
    sizes = {each.storage.key: each.storage.dtype.itemsize for each in tensors.values()}
    keys = _strings(Machine().run(file))
    buffers: dict[str, memoryview] = {}
    position, view = file.tell(), memoryview(content)
    for key in keys:
        count = int.from_bytes(view[position : position + 8], "little", signed=True)
        position += 8
        end = position + count * sizes.get(key, 0)
        if key not in sizes or count < 0 or end > len(content):
            raise WeightsError(f"storage {key!r} claims more than the file holds")
        buffers[key] = view[position:end]
        position = end
    return {name: _array(tensor, buffers) for name, tensor in tensors.items()}


def _tensors(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not state:
        raise WeightsError("not a state dict")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise WeightsError(f"entry {name[:80]!r} is not a tensor")
    return state


def _strings(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise WeightsError("its table of storages is damaged")
    return value


def _array(tensor: Tensor, buffers: dict[str, memoryview]) -> np.ndarray:
    """The window as an array, if it lies within its storage, and the storage within the file."""
    storage = tensor.storage
    buffer = buffers.get(storage.key)
    if buffer is None or storage.count * storage.dtype.itemsize > len(buffer):
        raise WeightsError(f"storage {storage.key!r} claims more than the file holds")
    size = math.prod(tensor.shape)
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if size > storage.count or (size and tensor.offset + reach >= storage.count):
        raise WeightsError(f"a tensor of shape {tensor.shape} reaches beyond its storage")
    if not size:
        return np.empty(tensor.shape, storage.dtype)
    flat = np.frombuffer(buffer, storage.dtype, storage.count)[tensor.offset :]
    strides = [step * storage.dtype.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)


class Machine:
    """Carries out one pickle of protocol 2, as far as torch uses it; data in, data out."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: BytesIO) -> Any:
        """What the pickle at the file's position describes; leaves the position behind it."""
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                break
            self._step(opcode.name, argument)
        (result,) = self.stack
        return result

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "PROTO":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "GLOBAL":
                if argument not in ALLOWED:
                    raise WeightsError(
                        f"it names {argument[:80]!r}, which is no part of a state dict"
                    )
                stack.append(Name(argument))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MARK":
                self.marks.append(len(stack))
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop({"1": 1, "2": 2, "3": 3}.get(opcode[-1], 0))))
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "EMPTY_LIST" | "EMPTY_DICT":
                stack.append([] if opcode == "EMPTY_LIST" else {})
            case "APPEND" | "APPENDS":
                items = self._pop(1) if opcode == "APPEND" else self._pop_to_mark()
                self._top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop(2) if opcode == "SETITEM" else self._pop_to_mark()
                self._set(items)
            case "BINPERSID":
                stack.append(_storage(*self._pop(1)))
            case "REDUCE":
                stack.append(_reduce(*self._pop(2)))
            case "BUILD":  # attributes of the OrderedDict: version notes, not needed
                self._pop(1)
                self._top(dict)
            case _:
                raise WeightsError(f"it holds {opcode}, which is no part of a state dict")

    def _pop(self, count: int) -> list[Any]:
        floor = self.marks[-1] if self.marks else 0
        start = len(self.stack) - count
        if start < floor:
            raise WeightsError("its pickle is damaged")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise WeightsError("its pickle is damaged")
        return self.stack[-1]

    def _set(self, items: list[Any]) -> None:
        target, keys = self._top(dict), items[::2]
        if not all(type(key) is str for key in keys):  # hashing a deep tuple can crash Python
            raise WeightsError("a key is not a string")
        target.update(zip(keys, items[1::2], strict=True))


def _storage(identity: Any) -> Storage:
    kind, name, key, _, count, *view = identity
    if kind != "storage" or not isinstance(name, Name) or type(key) is not str:
        raise WeightsError("it refers to something that is no storage")
    if name.value not in DTYPES or not _sizes(count) or any(each is not None for each in view):
        raise WeightsError(f"storage {key!r} is of an unknown kind")
    return Storage(key, DTYPES[name.value], count)


def _reduce(function: Any, arguments: Any) -> Any:
    if function == Name(ORDERED_DICT) and arguments == ():
        return {}
    if function != Name(REBUILD_TENSOR):
        raise WeightsError("it calls something that makes no tensor")
    storage, offset, shape, strides, *_ = arguments
    flat = len(shape) == len(strides) <= MOST_AXES and _sizes(offset, *shape, *strides)
    if not isinstance(storage, Storage) or not flat:
        raise WeightsError("a tensor is described wrongly")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _sizes(*values: Any) -> bool:
    return all(type(value) is int and value >= 0 for value in values)
