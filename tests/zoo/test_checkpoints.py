"""The reader of state dicts reads what torch and safetensors write, and runs no hostile file."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.zoo.pickles import KINDS, example, legacy, state, tensor, text, zipped
from zoo.checkpoints import read_state_dict
from zoo.errors import WeightsError

FORMS = ("zip", "legacy")
NUMBERS = np.arange(12, dtype=np.float32)


def _read(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    path = folder / "weights.pth"
    path.write_bytes(content)
    return read_state_dict(path)


def _around(pickled: bytes, form: str) -> bytes:
    """A file that is good but for its main pickle."""
    if form == "legacy":
        return legacy(pickled, {"0": NUMBERS})
    return zipped(pickled, {"0": NUMBERS.tobytes()})


def _one(described: bytes, form: str = "zip") -> bytes:
    return _around(state({"weight": described}), form)


class Hostile:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("form", FORMS)
def test_reads_tensors(tmp_path: Path, form: str) -> None:
    content, arrays = example(form)
    read = _read(tmp_path, content)
    assert read.keys() == arrays.keys()
    for name, expected in arrays.items():
        np.testing.assert_array_equal(read[name], expected)
        assert read[name].dtype == expected.dtype
        assert not read[name].flags.writeable


@pytest.mark.parametrize("dtype", KINDS)
def test_reads_dtypes(tmp_path: Path, dtype: str) -> None:
    numbers = np.arange(6).astype(dtype)
    described = tensor("k", 6, (2, 3), kind=KINDS[dtype])
    content = zipped(state({"weight": described}), {"k": numbers.tobytes()})
    np.testing.assert_array_equal(_read(tmp_path, content)["weight"], numbers.reshape(2, 3))


def test_reads_an_empty_tensor(tmp_path: Path) -> None:
    assert _read(tmp_path, _one(tensor("0", 12, (0, 3))))["weight"].shape == (0, 3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "function", [os.system, eval, exec, getattr, partial, OrderedDict.fromkeys]
)
def test_runs_no_code(tmp_path: Path, form: str, protocol: int, function: Any) -> None:
    trace = tmp_path / "it-ran"
    shell = {os.system: f"touch {trace}"}
    call = Hostile(function, shell.get(function, f"open({str(trace)!r}, 'w')"))
    for payload in (call, {"weight": call}, OrderedDict(weight=[call])):
        with pytest.raises(WeightsError, match="no part of a state dict"):
            _read(tmp_path, _around(pickle.dumps(payload, protocol), form))
    assert not trace.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cbuiltins\neval\n",
        b"X\x08\x00\x00\x00builtinsX\x04\x00\x00\x00eval\x93",  # STACK_GLOBAL
        b"(X\x01\x00\x00\x001ibuiltins\neval\n",  # INST
        b"(cbuiltins\neval\nX\x01\x00\x00\x001o",  # OBJ
        b"ctorch\nFloatStorage\n)\x81",  # NEWOBJ
        b"\x82\x01",  # EXT1
        b"P0\n",  # a persistent id as text
        b"ccollections\nOrderedDict\n}b",  # attributes of a class
        b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        b"ctorch\nFloatStorage\n)R",
        b"ccollections\nOrderedDict\n]\x85R",
        b"\x96\xff\xff\xff\xff\xff\x00\x00\x00",  # a bytearray of a terabyte
        b"r\xff\xff\xff\x7f",  # a memo of two thousand million places
    ],
)
def test_knows_only_what_torch_writes(tmp_path: Path, opcodes: bytes) -> None:
    for form in FORMS:
        with pytest.raises(WeightsError):
            _read(tmp_path, _around(b"\x80\x02}" + text("weight") + opcodes + b"s.", form))


def test_a_name_outside_a_state_dict_is_named(tmp_path: Path) -> None:
    pickled = b"\x80\x02}" + text("weight") + b"ctorch.nn.modules.linear\nLinear\ns."
    with pytest.raises(WeightsError, match=r"'torch\.nn\.modules\.linear\.Linear'"):
        _read(tmp_path, _around(pickled, "zip"))


@pytest.mark.parametrize("form", FORMS)
def test_a_call_inside_a_tensor_is_not_run(tmp_path: Path, form: str) -> None:
    trace = tmp_path / "it-ran"
    call = b"cos\nsystem\n" + text(f"touch {trace}") + b"\x85R"
    arguments = b"ctorch._utils\n_rebuild_tensor_v2\n(" + call + b"tR"
    with pytest.raises(WeightsError, match="no part of a state dict"):
        _read(tmp_path, _one(arguments, form))
    assert not trace.exists()


@pytest.mark.parametrize("make", [b"}", b"ccollections\nOrderedDict\n)R"])
def test_keys_that_take_forever_to_hash_are_rejected(tmp_path: Path, make: bytes) -> None:
    """Each of a hundred tuples holds the previous one twice."""
    doubled = b")q\x00" + b"".join(b"h\x00\x86q\x00" for _ in range(100))
    for content in (make + doubled + b"Ns.", make + b"(" + doubled + b"Nu."):
        with pytest.raises(WeightsError, match="key is not a string"):
            _read(tmp_path, _around(b"\x80\x02" + content, "zip"))
    items = b"ccollections\nOrderedDict\n](" + doubled + b"N\x86e\x85R."
    with pytest.raises(WeightsError):
        _read(tmp_path, _around(b"\x80\x02" + items, "zip"))


def test_survives_deep_nesting(tmp_path: Path) -> None:
    """Hashing or comparing these would exhaust Python's own stack."""
    deep = b")" + b"\x85" * 1_000_000
    for pickled in (b"\x80\x02}" + deep + b"Ns.", b"\x80\x02" + deep + b")R.", deep + b"."):
        with pytest.raises(WeightsError):
            _read(tmp_path, _around(pickled, "zip"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "described",
    [
        tensor("0", 12, (13,)),
        tensor("0", 12, (3, 4), offset=1),
        tensor("0", 12, (3, 4), (5, 1)),
        tensor("0", 12, (3,), offset=-1),
        tensor("0", 12, (3,), (-1,), offset=11),
        tensor("0", 12, (-3, -4), (4, 1)),
        tensor("0", 12, (2**40,), (0,)),
        tensor("0", 12, (2**70, 2**70), (0, 0)),
        tensor("0", 12, (0, 2**70), (1, 1)),
        tensor("0", 12, (3, 4), (1,)),
        tensor("0", 12, (1,) * 65),
        tensor("0", 13, (3, 4)),
        tensor("0", 2**60, (3, 4)),
        tensor("0", 2**60, (2**59,)),
        tensor("0", 12, (12,), kind="DoubleStorage"),
        tensor("0", 12, (12,), kind="BFloat16Storage"),
        tensor("1", 12, (12,)),
        text("no tensor"),
        b"K\x01",
    ],
)
def test_rejects_what_the_file_does_not_hold(tmp_path: Path, form: str, described: bytes) -> None:
    with pytest.raises(WeightsError):
        _read(tmp_path, _one(described, form))


def test_rejects_storages_beyond_the_end(tmp_path: Path) -> None:
    content = legacy(state({"weight": tensor("0", 12, (12,), view=b"N")}), {"0": NUMBERS})
    at = len(content) - NUMBERS.nbytes - 8
    assert content[at : at + 8] == (12).to_bytes(8, "little")
    for claim in (13, 2**40, 2**63 - 1, -1):
        claimed = claim.to_bytes(8, "little", signed=True)
        with pytest.raises(WeightsError, match="claims more"):
            _read(tmp_path, content[:at] + claimed + content[at + 8 :])


def test_rejects_compressed_archives(tmp_path: Path) -> None:
    """Torch never writes one, and a small one can unfold to terabytes."""
    bomb = zipped(
        state({"weight": tensor("0", 12, (12,))}), {"0": bytes(10**6)}, zipfile.ZIP_DEFLATED
    )
    with pytest.raises(WeightsError, match="claims more"):
        _read(tmp_path, bomb)


def test_rejects_big_endian_numbers(tmp_path: Path) -> None:
    pickled = state({"weight": tensor("0", 12, (12,), view=b"N")})
    with pytest.raises(WeightsError, match="big-endian"):
        _read(tmp_path, legacy(pickled, {"0": NUMBERS}, endian=b"\x89"))


@pytest.mark.parametrize("form", FORMS)
def test_rejects_truncated_files(tmp_path: Path, form: str) -> None:
    content, _ = example(form)
    for length in range(len(content)):
        with pytest.raises(WeightsError, match=r"weights\.pth"):
            _read(tmp_path, content[:length])


def test_rejects_flipped_bits_in_an_archive(tmp_path: Path) -> None:
    content, arrays = example("zip")
    at = content.index(arrays["matrix"].tobytes())
    flipped = bytearray(content)
    flipped[at + 5] ^= 1
    with pytest.raises(WeightsError, match="CRC"):
        _read(tmp_path, bytes(flipped))


def test_reads_safetensors(tmp_path: Path) -> None:
    arrays = {name: np.arange(6, dtype=name).reshape(2, 3) for name in KINDS}
    read = _read(tmp_path, safetensors.numpy.save(arrays))
    assert read.keys() == arrays.keys()
    for name, expected in arrays.items():
        np.testing.assert_array_equal(read[name], expected)
        assert read[name].dtype == expected.dtype


def test_rejects_damaged_safetensors(tmp_path: Path) -> None:
    content = safetensors.numpy.save({"weight": NUMBERS})
    for length in range(len(content)):
        with pytest.raises(WeightsError, match=r"weights\.pth"):
            _read(tmp_path, content[:length])
    huge = (2**62).to_bytes(8, "little") + content[8:]
    beyond = content.replace(b"[0,48]", b"[0,96]")
    larger = content.replace(b"[12]", b"[99]")
    for damaged in (huge, beyond, larger):
        with pytest.raises(WeightsError):
            _read(tmp_path, damaged)


def test_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.pth"):
        read_state_dict(tmp_path / "absent.pth")


def _reads_or_rejects(folder: Path, content: bytes) -> None:
    try:
        read = _read(folder, content)
    except WeightsError:
        return
    for array in read.values():
        array.sum()  # touches every number: a window beyond its storage would crash here


ANY_CHANGES = st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=8)
FUZZ = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(form=st.sampled_from(FORMS), changes=ANY_CHANGES)
def test_fuzzed_files_raise_only_weights_errors(
    tmp_path: Path, form: str, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(example(form)[0])
    for position, value in changes:
        content[position % len(content)] = value
    _reads_or_rejects(tmp_path, bytes(content))


@FUZZ
@given(form=st.sampled_from(FORMS), changes=ANY_CHANGES, junk=st.binary(max_size=40))
def test_fuzzed_pickles_raise_only_weights_errors(
    tmp_path: Path, form: str, changes: list[tuple[int, int]], junk: bytes
) -> None:
    pickled = bytearray(state({"a": tensor("0", 12, (3, 4)), "b": tensor("0", 12, (12,))}))
    for position, value in changes:
        pickled[position % len(pickled)] = value
    _reads_or_rejects(tmp_path, _around(bytes(pickled), form))
    _reads_or_rejects(tmp_path, _around(b"\x80\x02" + junk + b".", form))
