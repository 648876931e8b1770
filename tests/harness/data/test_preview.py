"""The contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.preview import class_preview
from harness.errors import DataError
from harness.schema.dataset import Dataset

RED = np.array([200, 30, 40], np.uint8)


def dataset(classes: int, size: int = 64, each: int = 4) -> Dataset:
    """Every image is a plain square: RED in class 0, and shades of blue in the others."""
    labels = np.repeat(np.arange(classes), each)
    images = np.zeros((len(labels), size, size, 3), np.uint8)
    images[..., 2] = 255
    images[..., 1] = labels[:, None, None] * 2
    images[labels == 0] = RED
    return Dataset(
        name="cells",
        images=images,
        labels=labels,
        class_names=tuple(f"class_{k}" for k in range(classes)),
        fingerprint="0123456789abcdef",
        groups=np.arange(len(labels)),
    )


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_row_a_class(tmp_path: Path) -> None:
    class_preview(dataset(3), tmp_path / "sheet.png", per_class=4)
    picture = pixels(tmp_path / "sheet.png")
    assert (picture == RED).all(axis=2).sum() == 4 * 64 * 64
    rows = [
        np.flatnonzero((picture == shade).all(axis=2).any(axis=1))
        for shade in (RED, [0, 2, 255], [0, 4, 255])
    ]
    assert [len(row) for row in rows] == [64, 64, 64]
    assert rows[0][-1] < rows[1][0] <= rows[1][-1] < rows[2][0]


def test_no_more_than_asked_for(tmp_path: Path) -> None:
    class_preview(dataset(2, each=9), tmp_path / "sheet.png", per_class=3)
    assert (pixels(tmp_path / "sheet.png") == RED).all(axis=2).sum() == 3 * 64 * 64


@pytest.mark.parametrize(("size", "side"), [(16, 48), (96, 96), (300, 128)])
def test_thumbnails_have_a_readable_size(tmp_path: Path, size: int, side: int) -> None:
    class_preview(dataset(2, size), tmp_path / "sheet.png", per_class=2)
    assert (pixels(tmp_path / "sheet.png") == RED).all(axis=2).sum() == 2 * side * side


def test_names_counts_and_title_are_written(tmp_path: Path) -> None:
    """Each text leaves dark ink on light paper where it belongs, and changes with its content."""
    data = dataset(3)
    class_preview(data, tmp_path / "sheet.png")
    picture = pixels(tmp_path / "sheet.png").astype(int)
    assert picture[0, 0].min() > 240
    dark = picture.sum(axis=2) < 3 * 130
    left = np.flatnonzero((picture == RED).all(axis=2).any(axis=0))[0]
    top = np.flatnonzero((picture == RED).all(axis=2).any(axis=1))[0]
    assert dark[:top].any()
    for row in range(3):
        start = top + row * 68
        assert dark[start : start + 64, :left].any()


def test_a_hundred_classes(tmp_path: Path) -> None:
    class_preview(dataset(100, 32, 2), tmp_path / "deep" / "sheet.png")
    picture = pixels(tmp_path / "deep" / "sheet.png")
    assert picture.shape[0] > 100 * 48
    assert ((picture == [0, 198, 255]).all(axis=2)).sum() == 2 * 48 * 48


def test_the_same_seed_gives_the_same_sheet(tmp_path: Path) -> None:
    data = dataset(2, each=50)
    data.images[:, 0, 0, 0] = np.arange(100)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        class_preview(data, tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="the preview cannot be written"):
        class_preview(dataset(2), tmp_path / "file" / "sheet.png")


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "JPEG"), ("a.webp", "WEBP"), ("a", "PNG")])
def test_the_name_says_the_format(tmp_path: Path, name: str, kind: str) -> None:
    class_preview(dataset(2), tmp_path / name, per_class=1)
    assert Image.open(tmp_path / name).format == kind
    with pytest.raises(DataError, match=r"a\.txt: \.txt is no kind of image; write \.png"):
        class_preview(dataset(2), tmp_path / "a.txt", per_class=1)
