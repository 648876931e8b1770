"""Arbitrary bytes: only a DataError may be raised, and no memory allocated by their claims."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.data import sources
from harness.data.image_cache import open_dataset
from harness.data.readers.image_file import decode
from harness.errors import DataError

MEMORY = 32 << 20
"""Bytes that a file of a few kilobytes may cost; a claim that is believed costs far more."""

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
LABELS = np.arange(12) % 2


def packed(compressed: bool, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


MEDMNIST = {
    f"{part}_{what}": array[at]
    for part, at in (("train", slice(0, 6)), ("val", slice(6, 8)), ("test", slice(8, 12)))
    for what, array in (("images", PIXELS), ("labels", LABELS[:, None]))
}
VALID = [
    packed(False, images=PIXELS, labels=LABELS),
    packed(True, images=PIXELS, labels=LABELS, class_names=np.array(["a", "b"])),
    packed(True, images=PIXELS.astype(np.float32), labels=np.eye(2)[LABELS]),
    packed(False, **MEDMNIST),
]


def image_file(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(file, kind, **options)
    return file.getvalue()


IMAGES = [
    ("x.png", image_file("PNG")),
    ("x.jpg", image_file("JPEG", progressive=True)),
    ("x.tif", image_file("TIFF", compression="tiff_lzw")),
    ("x.bmp", image_file("BMP")),
]


@contextmanager
def modest() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def prepare(raw: bytes) -> None:
    """Prepared as by a user; what is accepted is a sound Dataset."""
    with TemporaryDirectory() as folder, modest():
        path = Path(folder) / "x.npz"
        path.write_bytes(raw)
        try:
            data = open_dataset(sources.prepare(str(path), 4, Path(folder) / "cache"))
        except DataError as error:
            message = str(error)
        else:
            message = ""
            assert data.images.shape == (len(data), 4, 4, 3)
            assert set(data.labels.tolist()) == set(range(len(data.class_names)))
        assert "\n" not in message


@st.composite
def damaged(draw: st.DrawFn, valid: list[bytes]) -> bytes:
    """A valid file with some bytes changed, and perhaps a piece cut out or put in."""
    raw = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 6))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    start, length = draw(st.integers(0, len(raw))), draw(st.integers(0, 40))
    raw[start : start + draw(st.sampled_from([0, 0, length]))] = draw(st.binary(max_size=4))
    return bytes(raw)


@st.composite
def npy_headers(draw: st.DrawFn) -> bytes:
    """An npy file with a header of any shape and type, well formed or nearly."""
    number = st.one_of(st.integers(-3, 20), st.integers(-(2**70), 2**70))
    shape = draw(st.one_of(st.lists(number, max_size=6).map(tuple), st.text(max_size=5)))
    types = ["|u1", "<f4", "<i8", "|b1", "|O", "<U4", "|V9", "<M8[s]", "(2,)<i4", [("a", "|u1")]]
    dtype = draw(st.one_of(st.sampled_from(types), st.text(max_size=8)))
    fields = {"descr": dtype, "fortran_order": draw(st.booleans()), "shape": shape}
    text = draw(st.sampled_from([repr(fields), repr(fields)[:-1], repr({**fields, "more": 1})]))
    raw = text.encode("latin1", "replace")
    claimed = draw(st.sampled_from([len(raw), len(raw), 0, 65535]))
    version = draw(st.sampled_from([1, 1, 2, 3, 9]))
    size = claimed.to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + raw + draw(st.binary(max_size=64))


@pytest.mark.parametrize("raw", VALID)
def test_what_is_damaged_below_was_valid(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(raw)
    data = open_dataset(sources.prepare(str(tmp_path / "x.npz"), 4, tmp_path / "cache"))
    np.testing.assert_array_equal(data.images, PIXELS)


@settings(deadline=None, max_examples=100)
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda b: b"PK\3\4" + b)))
def test_random_bytes(raw: bytes) -> None:
    prepare(raw)


@settings(deadline=None, max_examples=600)
@given(damaged(VALID))
def test_damaged_npz(raw: bytes) -> None:
    prepare(raw)


@settings(deadline=None, max_examples=400)
@given(npy_headers(), st.one_of(st.none(), npy_headers()), st.sampled_from([0, 8]))
def test_any_npy_headers(images: bytes, labels: bytes | None, method: int) -> None:
    file = io.BytesIO()
    valid = io.BytesIO()
    np.save(valid, LABELS)
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", labels or valid.getvalue())
    prepare(file.getvalue())


@pytest.mark.filterwarnings("ignore")  # Pillow's, about damaged EXIF
@settings(deadline=None, max_examples=600)
@given(st.data())
def test_damaged_image_files(data: st.DataObject) -> None:
    name, valid = data.draw(st.sampled_from(IMAGES))
    raw = data.draw(damaged([valid]))
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(raw)
        try:
            pixels = decode(path)
        except DataError as error:
            message = str(error)
        else:
            message = str(path)
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
        assert str(path) in message
        assert "\n" not in message
