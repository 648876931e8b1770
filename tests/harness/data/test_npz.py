"""The challenge's npz layout: what is accepted, and that all else is rejected in one line."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.data.readers import npz
from harness.errors import DataError
from harness.schema.dataset import Dataset

Save = Callable[..., Path]
Prepared = Callable[..., Dataset]

LABELS = np.arange(24) % 3
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- accepted ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [LABELS, LABELS[:, None], np.eye(3)[LABELS], LABELS.astype(float), LABELS.astype(np.uint8)],
    ids=["(N,)", "(N, 1)", "one-hot", "whole floats", "uint8"],
)
def test_labels_of_every_accepted_form(save: Save, prepared: Prepared, labels: np.ndarray) -> None:
    data = prepared(save(images=PIXELS, labels=labels))
    assert data.labels.dtype == np.int64
    np.testing.assert_array_equal(data.labels, LABELS)
    np.testing.assert_array_equal(data.images, PIXELS)
    assert data.class_names == ("class_0", "class_1", "class_2")
    assert data.given is None
    assert data.name == "cells"


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.uint32, ">i4", np.float16, np.float64])
def test_whole_numbers_of_other_types_become_bytes(
    save: Save, prepared: Prepared, dtype: np.dtype
) -> None:
    data = prepared(save(images=PIXELS.astype(dtype), labels=LABELS))
    assert data.images.dtype == np.uint8
    np.testing.assert_array_equal(data.images, PIXELS)


@pytest.mark.parametrize("grey", [PIXELS[..., 0], PIXELS[..., :1]], ids=["(N,H,W)", "(N,H,W,1)"])
def test_grey_becomes_rgb(save: Save, prepared: Prepared, grey: np.ndarray) -> None:
    data = prepared(save(images=grey, labels=LABELS))
    for channel in range(3):
        np.testing.assert_array_equal(data.images[..., channel], PIXELS[..., 0])


def test_fortran_order_and_compression_change_nothing(
    save: Save, prepared: Prepared, tmp_path: Path
) -> None:
    plain = prepared(save(images=PIXELS, labels=LABELS))
    fortran = save("fortran.npz", images=np.asfortranarray(PIXELS), labels=LABELS)
    packed = tmp_path / "packed.npz"
    np.savez_compressed(packed, images=PIXELS, labels=LABELS)
    assert prepared(fortran).fingerprint == plain.fingerprint
    assert prepared(packed).fingerprint == plain.fingerprint
    assert prepared(fortran, 5).fingerprint == prepared(packed, 5).fingerprint


def test_more_pixels_than_one_batch(
    save: Save, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(images=PIXELS, labels=LABELS)
    whole = prepared(path)
    monkeypatch.setattr(npz, "BATCH", 5 * 8 * 8 * 3)
    batches = list(npz.read_images(npz.member(path, "images")))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 4]
    np.testing.assert_array_equal(np.concatenate(batches), whole.images)


def test_eight_classes_are_not_taken_for_blood_cells(save: Save, prepared: Prepared) -> None:
    labels = np.arange(len(PIXELS)) % 8
    names = prepared(save(images=PIXELS, labels=labels)).class_names
    assert names == tuple(f"class_{k}" for k in range(8))


@pytest.mark.parametrize("names", [["a", "b", "c"], [b"a", b"b", b"c"]])
def test_a_file_may_bring_its_names(save: Save, prepared: Prepared, names: list[str]) -> None:
    path = save(images=PIXELS, labels=LABELS, class_names=names)
    assert prepared(path).class_names == ("a", "b", "c")


def test_arrays_that_are_not_asked_for_do_not_matter(save: Save, prepared: Prepared) -> None:
    notes = np.array([{"object": "array"}, None], dtype=object)
    assert len(prepared(save(images=PIXELS, labels=LABELS, notes=notes))) == 24


# --- rejected: content ---------------------------------------------------------------------------

SCALED = PIXELS / 255.0
WITH_NAN = PIXELS.astype(np.float32)
WITH_NAN[20, 1, 1, 1] = np.nan
WITH_INF = PIXELS.astype(np.float32)
WITH_INF[20, 1, 1, 1] = np.inf


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (SCALED, "already scaled to 0-1; give raw 0-255"),
        (SCALED * 2 - 1, "already scaled to -1..1; give raw 0-255"),
        (SCALED.astype(np.float16), "already scaled to 0-1"),
        ((PIXELS > 127).astype(np.uint8), "no pixel is above 1"),
        (PIXELS - 0.5, "pixels from"),
        (PIXELS * 0.37, "not whole numbers"),
        (WITH_NAN, "NaN or infinite"),
        (WITH_INF, "NaN or infinite"),
        (PIXELS.astype(np.int16) - 1, "pixels from -1 to"),
        (PIXELS.astype(np.uint16) * 257, "to 65535"),
        (PIXELS > 127, "dtype bool"),
        (PIXELS.astype(np.complex64), "dtype complex64"),
        (PIXELS.astype("S3"), "dtype |S3"),
        (PIXELS[0, 0], "has shape (8, 3)"),
        (PIXELS[None], "has shape (1, 24, 8, 8, 3)"),
        (PIXELS[..., :2], "has shape (24, 8, 8, 2)"),
        (np.concatenate([PIXELS, PIXELS[..., :1]], axis=3), "has shape (24, 8, 8, 4)"),
        (PIXELS.transpose(0, 3, 1, 2).copy(), "channels first"),
        (PIXELS[:, :0], "sides may be"),
        (PIXELS[:0], "holds no images"),
        (PIXELS[:20], "24 labels for 20 images"),
        (np.zeros((24, 17_000, 1), np.uint8), "sides may be"),
        (PIXELS.astype(object), "object array"),
    ],
)
def test_rejected_images(save: Save, prepared: Prepared, images: np.ndarray, says: str) -> None:
    with pytest.raises(DataError) as error:
        prepared(save(images=images, labels=LABELS))
    assert says in one_line(error)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (LABELS - 1, "label -1 is negative"),
        (LABELS + 0.5, "not whole numbers"),
        (np.where(LABELS == 1, np.nan, LABELS), "not whole numbers"),
        (LABELS * 1_000_000_000, "label 2000000000 in 24 images"),
        (LABELS + 1, "class 'class_0' (label 0) has no images"),
        (LABELS * 2, "class 'class_1' (label 1) has no images"),
        (np.zeros(24, int), "fewer than two classes"),
        (np.ones((24, 3)), "not one-hot"),
        (np.zeros((24, 3)), "not one-hot"),
        (np.eye(3)[LABELS] * 2, "not one-hot"),
        (np.eye(3)[LABELS] * 0.5, "not whole numbers"),
        (LABELS[:20], "20 labels for 24 images"),
        (LABELS.reshape(24, 1, 1), "has shape (24, 1, 1)"),
        (np.zeros((24, 0)), "has shape (24, 0)"),
        (LABELS.astype(str), "must be the numbers 0..K-1"),
        (LABELS.astype(object), "object array"),
    ],
)
def test_rejected_labels(save: Save, prepared: Prepared, labels: np.ndarray, says: str) -> None:
    with pytest.raises(DataError) as error:
        prepared(save(images=PIXELS, labels=labels))
    assert says in one_line(error)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a", "b"], "label 2 is out of range, there are 2 names"),
        (["a", "b", "c", "d"], "class 'd' (label 3) has no images"),
        (["a", "b", "a"], "two classes of one name"),
        (["a", "b", " "], "empty or not printable"),
        (["a", "b", "c\nd"], "empty or not printable"),
        ([1, 2, 3], "list of texts"),
        ([["a", "b", "c"]], "list of texts"),
        ([b"a", b"\xff", b"c"], "damaged"),
    ],
)
def test_rejected_names(save: Save, prepared: Prepared, names: list[object], says: str) -> None:
    with pytest.raises(DataError) as error:
        prepared(save(images=PIXELS, labels=LABELS, class_names=names))
    assert says in one_line(error)


def test_missing_arrays_are_named(save: Save, prepared: Prepared) -> None:
    with pytest.raises(DataError, match=r"no array 'images'; the file has 'x', 'y'$"):
        prepared(save(x=PIXELS, y=LABELS))
    with pytest.raises(DataError, match=r"no array 'labels'; the file has 'images'$"):
        prepared(save("other.npz", images=PIXELS))


# --- rejected: damage and attacks -----------------------------------------------------------------


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("unpickled",)


def test_nothing_is_ever_unpickled(
    save: Save, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trap = np.array([Trap()] * 24, dtype=object)
    for arrays in ({"images": trap, "labels": LABELS}, {"images": PIXELS, "labels": trap}):
        with pytest.raises(DataError, match="never unpickled"):
            prepared(save(**arrays))
    assert not Path("unpickled").exists()


def npy(shape: tuple[int, ...], body: bytes, dtype: str = "|u1") -> bytes:
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + body


def zipped(path: Path, images: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("images.npy", images)
        archive.writestr("labels.npy", npy((24,), LABELS.astype(np.uint8).tobytes()))
    return path


@pytest.mark.parametrize(
    "images",
    [
        npy((24, 8, 8, 3), PIXELS.tobytes()[:-1]),
        npy((24, 8, 8, 3), PIXELS.tobytes() + b"\0"),
        npy((24, 4000, 4000, 3), PIXELS.tobytes()),
        npy((10**12, 8, 8, 3), PIXELS.tobytes()),
        npy((24, 2**62, 2**62, 3), b""),
        npy((-24, -8, 8, 3), PIXELS.tobytes()),
        npy((24, 8, 8, 3), PIXELS.tobytes(), "|V2000000000"),
        npy((24, 8, 8, 3), b"", "|S0"),
        npy((24, 8, 8), PIXELS.tobytes(), "(3,)u1"),
        npy((24, 8, 8, 3), PIXELS.tobytes(), "nonsense"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{'descr'",
        b"\x93NUMPY\x03\x00\x40\x00\x00\x00" + b" " * 64,
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x01\x00\x10\x00" + b"((((((((((((((((",
        b"",
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_headers_that_lie(tmp_path: Path, prepared: Prepared, images: bytes, method: int) -> None:
    with pytest.raises(DataError) as error:
        prepared(zipped(tmp_path / "claims.npz", images, method))
    assert "claims.npz: images" in one_line(error)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_directory_that_claims_too_much(tmp_path: Path, prepared: Prepared, method: int) -> None:
    """The zip's directory says 3 GB as well, so that header and directory agree."""
    path = zipped(tmp_path / "bomb.npz", npy((1000, 1000, 1000, 3), b"\7" * 99), method)
    claim = (len(npy((1000, 1000, 1000, 3), b"")) + 3 * 10**9).to_bytes(4, "little")
    raw = bytearray(path.read_bytes())
    entry = raw.index(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = claim
    if method == zipfile.ZIP_STORED:
        raw[entry + 20 : entry + 24] = claim
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"longer than the file|cannot be in it"):
        prepared(path)


def test_a_changed_byte_fails_the_checksum(save: Save, prepared: Prepared) -> None:
    path = save()
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"cells.npz: images: damaged.*CRC"):
        prepared(path)


@pytest.mark.parametrize("keep", [0, 3, 1000, -1, -30])
def test_truncated(save: Save, prepared: Prepared, keep: int) -> None:
    path = save()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cells.npz: damaged, or not an npz file"):
        prepared(path)


def test_other_compressions_are_rejected(tmp_path: Path, prepared: Prepared) -> None:
    path = zipped(tmp_path / "x.npz", npy(PIXELS.shape, PIXELS.tobytes()), zipfile.ZIP_LZMA)
    with pytest.raises(DataError, match="compression that numpy does not write"):
        prepared(path)


def test_a_plain_npy_is_no_npz(tmp_path: Path, prepared: Prepared) -> None:
    np.save(tmp_path / "cells.npy", PIXELS)
    with pytest.raises(DataError, match="not an npz file"):
        prepared(tmp_path / "cells.npy")


def test_fortran_order_has_a_limit(
    save: Save, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "SMALL", 1000)
    with pytest.raises(DataError, match="save it in C order"):
        prepared(save(images=np.asfortranarray(PIXELS), labels=LABELS))
