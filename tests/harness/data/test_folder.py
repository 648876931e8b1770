"""Image folders: every file kind becomes upright RGB of 8 bits, and what cannot is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.readers import folder as image_folder
from harness.errors import DataError
from harness.schema.dataset import Dataset

Prepared = Callable[..., Dataset]

RGB = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
GREY = RGB[..., 0]


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Two classes of three PNG files each."""
    rng = np.random.default_rng(0)
    for name in ("mono", "baso"):
        (tmp_path / "cells" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "cells" / name / f"{i}.png")
    return tmp_path / "cells"


def test_classes_are_the_sorted_folder_names(cells: Path, prepared: Prepared) -> None:
    data = prepared(cells)
    assert data.class_names == ("baso", "mono")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.name == "cells"
    np.testing.assert_array_equal(data.images[4], Image.open(cells / "mono" / "1.png"))


def test_hidden_and_foreign_files_are_passed_over(cells: Path, prepared: Prepared) -> None:
    before = prepared(cells).fingerprint
    (cells / ".thumbnails").mkdir()
    (cells / "baso" / ".hidden").mkdir()
    (cells / "baso" / ".hidden" / "x.png").write_bytes(b"no image")
    (cells / "baso" / "._0.png").write_bytes(b"no image")
    (cells / "baso" / "notes.txt").write_text("no image")
    (cells / "readme.md").write_text("no class")
    assert prepared(cells).fingerprint == before


def test_files_may_lie_deeper(cells: Path, prepared: Prepared) -> None:
    (cells / "baso" / "patient1").mkdir()
    Image.fromarray(RGB).save(cells / "baso" / "patient1" / "0.PNG")
    data = prepared(cells)
    assert data.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(data.images[3], RGB)


@pytest.mark.parametrize("change", ["bytes", "name", "class"])
def test_every_change_is_noticed(cells: Path, change: str) -> None:
    def identity() -> str:
        return image_folder.identity(cells, image_folder.scan(cells))

    before = identity()
    if change == "bytes":
        Image.fromarray(RGB).save(cells / "baso" / "1.png")
    elif change == "name":
        (cells / "baso" / "1.png").rename(cells / "baso" / "9.png")
    else:
        (cells / "baso" / "1.png").rename(cells / "mono" / "9.png")
    assert identity() != before


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif", "x.tiff"])
def test_lossless_kinds(tmp_path: Path, name: str) -> None:
    Image.fromarray(RGB).save(tmp_path / name)
    np.testing.assert_array_equal(image_folder.decode(tmp_path / name), RGB)


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.linspace(40, 200, 32).astype(np.uint8)[:, None, None].repeat(32, 1).repeat(3, 2)
    Image.fromarray(smooth).save(tmp_path / "x.JPEG", quality=95)
    decoded = image_folder.decode(tmp_path / "x.JPEG")
    assert np.abs(decoded.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA"])
def test_other_modes_become_what_they_show(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    name = "x.tif" if mode == "CMYK" else "x.png"
    image.save(tmp_path / name)
    np.testing.assert_array_equal(image_folder.decode(tmp_path / name), image.convert("RGB"))


def test_transparency_becomes_white(tmp_path: Path) -> None:
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:4] = 255
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "x.png")
    decoded = image_folder.decode(tmp_path / "x.png")
    np.testing.assert_array_equal(decoded[:4], RGB[:4])
    assert (decoded[4:] == 255).all()


def test_a_transparent_palette_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "x.png", transparency=0)
    decoded = image_folder.decode(tmp_path / "x.png")
    assert decoded[0, 0].tolist() == [40, 50, 60]
    assert (decoded[1:] == 255).all()


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path, name: str) -> None:
    deep = GREY.astype(np.uint16) * 256 + 77
    Image.fromarray(deep).save(tmp_path / name)
    decoded = image_folder.decode(tmp_path / name)
    for channel in range(3):
        np.testing.assert_array_equal(decoded[..., channel], GREY)


def test_sixteen_bit_colour_follows_the_same_rule(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "x.png"), RGB[..., ::-1].astype(np.uint16) * 256 + 200)
    np.testing.assert_array_equal(image_folder.decode(tmp_path / "x.png"), RGB)


def test_the_cameras_orientation_is_obeyed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is at the right of the stored rows
    Image.fromarray(RGB[:6]).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(image_folder.decode(tmp_path / "x.png"), np.rot90(RGB[:6], -1))


# --- rejected ------------------------------------------------------------------------------------


def test_no_sub_folders(cells: Path, prepared: Prepared) -> None:
    with pytest.raises(DataError, match="no sub-folders"):
        prepared(cells / "mono")


def test_an_empty_folder(tmp_path: Path, prepared: Prepared) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no sub-folders"):
        prepared(tmp_path / "empty")


def test_a_class_without_images(cells: Path, prepared: Prepared) -> None:
    (cells / "neutro").mkdir()
    with pytest.raises(DataError, match="neutro: no images in this class folder"):
        prepared(cells)


def test_a_single_class(cells: Path, prepared: Prepared) -> None:
    for path in (cells / "mono").iterdir():
        path.unlink()
    (cells / "mono").rmdir()
    with pytest.raises(DataError, match="fewer than two classes"):
        prepared(cells)


def test_parts_are_no_classes(cells: Path, tmp_path: Path, prepared: Prepared) -> None:
    (tmp_path / "set").mkdir()
    for part in ("train", "Test"):
        (tmp_path / "set" / part / "mono").mkdir(parents=True)
        Image.fromarray(RGB).save(tmp_path / "set" / part / "mono" / "0.png")
    with pytest.raises(DataError, match="Test, train are parts of a split"):
        prepared(tmp_path / "set")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_an_unreadable_image_is_named(cells: Path, prepared: Prepared, content: bytes) -> None:
    (cells / "mono" / "1.png").write_bytes(content)
    with pytest.raises(DataError, match=r"mono/1.png: unreadable image: ") as error:
        prepared(cells)
    assert "\n" not in str(error.value)


def test_a_truncated_image_is_named(cells: Path, prepared: Prepared) -> None:
    path = cells / "mono" / "1.png"
    path.write_bytes(path.read_bytes()[:120])
    with pytest.raises(DataError, match=r"mono/1.png: unreadable image: "):
        prepared(cells)


def test_huge_images_are_rejected_before_decoding(cells: Path, prepared: Prepared) -> None:
    Image.new("1", (5000, 10)).save(cells / "mono" / "1.png")
    with pytest.raises(DataError, match=r"mono/1.png: 5000 x 10 pixels"):
        prepared(cells)


def test_a_claim_of_gigapixels_is_rejected(cells: Path, prepared: Prepared) -> None:
    path = cells / "mono" / "1.png"
    raw = bytearray(path.read_bytes())
    raw[16:24] = (60000).to_bytes(4, "big") * 2
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"mono/1.png"):
        prepared(cells)


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (GREY.astype(np.float32), "float pixels"),
        (GREY.astype(np.int32) * 1000, "pixels beyond 16 bits"),
    ],
)
def test_pixels_without_a_known_scale(tmp_path: Path, pixels: np.ndarray, says: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=says):
        image_folder.decode(tmp_path / "x.tif")
