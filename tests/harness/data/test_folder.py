"""Image folders: every file kind becomes upright RGB of 8 bits, and what cannot is named."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from harness.data import sources
from harness.data.image_cache import get_or_decode, open_dataset, provenance
from harness.data.readers import folder as image_folder
from harness.data.readers import image_file
from harness.errors import DataError, IgnoredFile
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
        return image_folder.identity(image_folder.scan(cells))

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
    np.testing.assert_array_equal(image_file.decode(tmp_path / name), RGB)


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.linspace(40, 200, 32).astype(np.uint8)[:, None, None].repeat(32, 1).repeat(3, 2)
    Image.fromarray(smooth).save(tmp_path / "x.JPEG", quality=95)
    decoded = image_file.decode(tmp_path / "x.JPEG")
    assert np.abs(decoded.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA"])
def test_other_modes_become_what_they_show(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    name = "x.tif" if mode == "CMYK" else "x.png"
    image.save(tmp_path / name)
    np.testing.assert_array_equal(image_file.decode(tmp_path / name), image.convert("RGB"))


def test_transparency_becomes_white(tmp_path: Path) -> None:
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:4] = 255
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "x.png")
    decoded = image_file.decode(tmp_path / "x.png")
    np.testing.assert_array_equal(decoded[:4], RGB[:4])
    assert (decoded[4:] == 255).all()


def test_a_transparent_palette_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "x.png", transparency=0)
    decoded = image_file.decode(tmp_path / "x.png")
    assert decoded[0, 0].tolist() == [40, 50, 60]
    assert (decoded[1:] == 255).all()


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path, name: str) -> None:
    deep = GREY.astype(np.uint16) * 256 + 77
    Image.fromarray(deep).save(tmp_path / name)
    decoded = image_file.decode(tmp_path / name)
    for channel in range(3):
        np.testing.assert_array_equal(decoded[..., channel], GREY)


def test_sixteen_bit_colour_follows_the_same_rule(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), RGB[..., ::-1].astype(np.uint16) * 256 + 200)
    np.testing.assert_array_equal(image_file.decode(tmp_path / "x.png"), RGB)


def test_the_cameras_orientation_is_obeyed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is at the right of the stored rows
    Image.fromarray(RGB[:6]).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(image_file.decode(tmp_path / "x.png"), np.rot90(RGB[:6], -1))


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
    (tmp_path / "set" / "test set").mkdir()
    with pytest.raises(DataError, match="Test, test set, train are parts of a split"):
        prepared(tmp_path / "set")
    save_cells(tmp_path / "one" / "train" / "mono", 2)
    with pytest.raises(DataError, match="train are parts of a split"):
        prepared(tmp_path / "one")


@pytest.mark.parametrize("names", ["TRAIN TEST TEST_SIMPLE", "a b c", "fold1 fold2"])
def test_folders_that_hold_the_same_folders_are_no_classes(
    tmp_path: Path, prepared: Prepared, names: str
) -> None:
    for part in names.split():
        for name in ("baso", "mono"):
            save_cells(tmp_path / "set" / part / name, 2)
    with pytest.raises(DataError, match=r"hold the same sub-folders \(baso, mono, ...\)"):
        prepared(tmp_path / "set")


@pytest.mark.parametrize(
    "names", ["train val test", "TRAIN Validation TESTING", "Train_set valid-set test_1"]
)
def test_folders_of_parts_are_the_sources_own_split(
    tmp_path: Path, prepared: Prepared, names: str
) -> None:
    for count, part in enumerate(names.split(), start=2):
        for name in ("baso", "mono"):
            save_cells(tmp_path / "set" / part / name, count)
    save_cells(tmp_path / "set" / names.split()[0] / "neutro", 1)
    data = prepared(tmp_path / "set")
    assert data.class_names == ("baso", "mono", "neutro")
    assert data.given is not None
    assert data.given.tolist() == [0] * 5 + [1] * 6 + [2] * 8
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 0, 0, 0, 1, 1, 1, *[0] * 4, *[1] * 4]


def test_folders_inside_classes_are_no_parts(cells: Path, prepared: Prepared) -> None:
    for name in ("baso", "mono"):
        for slide in ("slide1", "slide2"):
            save_cells(cells / name / slide, 1)
    assert len(prepared(cells)) == 10


# --- an account of every file --------------------------------------------------------------------


def save_cells(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(str(folder)))
    for i in range(count):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_what_is_passed_over_is_counted_with_an_example(cells: Path) -> None:
    for name in (".hidden", "__MACOSX"):
        (cells / name).mkdir()
    (cells / "baso" / "Thumbs.db").touch()
    (cells / "baso" / "x.czi").touch()
    (cells / "overview.png").touch()
    os.mkfifo(cells / "mono" / "pipe.png")
    with pytest.warns(IgnoredFile, match="passed over") as warned:
        sources.find(str(cells), 8)
    text = str(warned[0].message)
    for part in (
        "2 hidden or left by other programs (.hidden)",
        "2 of no known kind of image",
        "1 next to the class folders (overview.png)",
        "1 no regular files (pipe.png)",
    ):
        assert part in text


@pytest.mark.parametrize("kind", ["webp", "gif", "jfif", "jpe"])
def test_kinds_of_file_that_programs_write(cells: Path, prepared: Prepared, kind: str) -> None:
    path = cells / "mono" / f"x.{kind.upper()}"
    Image.fromarray(RGB).save(path, {"jfif": "JPEG", "jpe": "JPEG"}.get(kind, kind.upper()))
    assert len(prepared(cells)) == 7


def test_further_pages_are_named(cells: Path, prepared: Prepared) -> None:
    page = Image.fromarray(RGB)
    page.save(cells / "mono" / "x.tif", save_all=True, append_images=[page, page])
    assert prepared(cells).notes == ("1 files have further pages, which are not read (mono/x.tif)",)


def test_links_are_followed_and_circles_end(
    cells: Path, tmp_path: Path, prepared: Prepared
) -> None:
    save_cells(tmp_path / "more", 2)
    (cells / "baso" / "linked").symlink_to(tmp_path / "more")
    (cells / "baso" / "circle").symlink_to(cells)
    (cells / "baso" / "other").symlink_to(cells / "mono")
    save_cells(tmp_path / "further", 4)
    (cells / "neutro").symlink_to(tmp_path / "further")
    with pytest.warns(IgnoredFile, match="2 folders that were reached otherwise, by a link"):
        data = prepared(cells)
    assert data.class_names == ("baso", "mono", "neutro")
    assert np.bincount(data.labels).tolist() == [5, 3, 4]


def test_one_folder_is_not_two_classes(cells: Path, prepared: Prepared) -> None:
    (cells / "zz").symlink_to(cells / "mono")
    with pytest.raises(DataError, match="mono and zz are one folder, by a link"):
        prepared(cells)


def test_a_broken_link_is_an_unreadable_image(cells: Path, tmp_path: Path) -> None:
    (cells / "baso" / "zz.png").symlink_to("/nowhere/x.png")
    source = sources.find(str(cells), 8)
    with pytest.raises(DataError, match=r"baso/zz.png: unreadable image: .*clean = true"):
        get_or_decode(source, 8, tmp_path / "cache")
    folder = get_or_decode(source, 8, tmp_path / "cache", tolerant=True)
    assert list(provenance(folder).unreadable) == [3]
    assert provenance(folder).files[3] == "baso/zz.png"


@pytest.mark.parametrize(
    "names", [("Baso", "baso"), ("a b", "A  B"), ("é", "e\u0301"), ("ﬁ", "fi")]
)
def test_two_spellings_of_a_class_are_named(
    tmp_path: Path, prepared: Prepared, names: tuple[str, str]
) -> None:
    for name in names:
        save_cells(tmp_path / "set" / name, 2)
    with pytest.raises(DataError, match="two classes of one name"):
        prepared(tmp_path / "set")


def test_names_are_bytes(cells: Path, prepared: Prepared, tmp_path: Path) -> None:
    os.rename(cells / "mono" / "0.png", os.fsencode(cells / "mono") + b"/zelle_gr\xfcn.png")  # noqa: PTH104
    os.rename(cells / "baso", os.fsencode(cells) + b"/b\xe4so\n")  # noqa: PTH104
    data = prepared(cells)
    assert data.class_names == ("b\\xe4so\\n", "mono")
    folder = get_or_decode(sources.find(str(cells), 8), 8, tmp_path / "cache")
    assert "mono/zelle_gr\\xfcn.png" in provenance(folder).files


# --- bit depth by set ----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("room", [16, 32])
def test_the_largest_value_of_the_set_tells_its_bits(
    tmp_path: Path, prepared: Prepared, bits: int, colour: bool, room: int
) -> None:
    if colour and room == 32:
        pytest.skip("no such files")
    pixels = RGB if colour else GREY
    for name in ("baso", "mono"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i, image in enumerate((pixels, pixels // 4)):  # The second is dark, and stays so.
            deep = image.astype(np.int32 if room == 32 else np.uint16) << (bits - 8)
            if colour:
                cv2.imwrite(str(tmp_path / "set" / name / f"{i}.png"), deep[..., ::-1])
            else:
                Image.fromarray(deep).save(tmp_path / "set" / name / f"{i}.tif")
    data = prepared(tmp_path / "set")
    expected = pixels if colour else pixels[..., None].repeat(3, 2)
    np.testing.assert_array_equal(data.images[0], expected)
    np.testing.assert_array_equal(data.images[1], expected // 4)
    assert data.notes == (
        "4 images with room for more than 8 bits are scaled from "
        f"{bits} bits: their largest value is {int(pixels.max()) << (bits - 8):,}",
    )


def test_mixed_depths_are_said(cells: Path, prepared: Prepared) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 16).save(cells / "mono" / "x.tif")
    data = prepared(cells)
    assert np.abs(data.images[-1][..., 0].astype(int) - GREY).max() == 0
    assert "mixed depths: 6 images have 8 bits, 1 have 12" in data.notes[1]


def test_deep_files_keep_alpha_and_orientation(tmp_path: Path) -> None:
    deep = np.dstack([RGB[:6], np.full((6, 8), 255, np.uint8)]).astype(np.uint16) * 257
    deep[0, 0, 3] = 0
    cv2.imwrite(str(tmp_path / "x.png"), deep[..., [2, 1, 0, 3]])
    decoded = image_file.decode(tmp_path / "x.png")
    assert decoded[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(decoded[1:], RGB[1:6])
    exif = Image.Exif()
    exif[0x0112] = 5
    Image.fromarray(GREY[:6].astype(np.uint16) * 256).save(tmp_path / "y.tif", exif=exif)
    turned = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "y.tif"))) >> 8
    np.testing.assert_array_equal(image_file.decode(tmp_path / "y.tif")[..., 0], turned)


NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6
)
KINDS = st.sampled_from(
    ["png", "deep", "webp", "text", "broken link", "link", "link to a class", "folder", "nested",
     "empty"]
)  # fmt: skip


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, KINDS, max_size=4), max_size=4))
@settings(max_examples=60, deadline=None)
def test_no_folder_ends_in_a_traceback_or_loses_a_file(tree: dict[str, dict[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        root, files = Path(place, "set"), 0
        root.mkdir()
        try:
            for top, inner in tree.items():
                (root / top).mkdir(exist_ok=True)
                for i, (name, kind) in enumerate(inner.items()):
                    files += save_strange(root / top / f"{i}{name}", kind, root)
        except OSError:  # A name that this file system does not have.
            return
        try:
            source = sources.find(str(root), 8)
            folder = get_or_decode(source, 8, Path(place, "cache"), tolerant=True)
        except DataError:
            return
        assert len(warned) == bool(source.passed_over)
        counts = [int(text.split()[0]) for text in source.passed_over]
        hidden = sum(files_below(top) for top in root.iterdir() if top.name.startswith("."))
        if not hidden:
            links = sum(n for n, t in zip(counts, source.passed_over, strict=True) if "link" in t)
            assert len(open_dataset(folder)) + sum(counts) - links == files


def files_below(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def save_strange(path: Path, kind: str, root: Path) -> int:
    """Save something at a path; how many files a walk finds there."""
    suffix = {
        "png": ".png",
        "deep": ".tif",
        "webp": ".webp",
        "broken link": ".png",
        "empty": ".gif",
    }
    path = path.with_name(path.name + suffix.get(kind, ""))
    match kind:
        case "png" | "webp":
            Image.fromarray(RGB).save(path)
        case "deep":
            Image.fromarray(GREY.astype(np.uint16)).save(path)
        case "text" | "empty":
            path.write_text("no image" if kind == "text" else "")
        case "broken link":
            path.symlink_to("/nowhere")
        case "link":
            path.symlink_to(root)
            return 0
        case "link to a class":
            path.symlink_to(path.parent)
            return 0
        case "folder":
            path.mkdir()
            return 0
        case "nested":
            path.mkdir()
            Image.fromarray(RGB).save(path / "x.PNG")
    return 1


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
    for size in ((17_000, 10), (12_000, 12_000)):
        Image.new("1", size).save(cells / "mono" / "1.png")
        says = rf"mono/1.png: {size[0]:,} x {size[1]:,} pixels; at most 16,384 a side"
        with pytest.raises(DataError, match=says):
            prepared(cells)


def test_photographs_are_read_few_at_a_time(
    cells: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (6000, 100), (9, 200, 90)).save(cells / "mono" / "1.png")
    before = prepared(cells)
    monkeypatch.setattr(image_folder, "BATCH_PIXELS", 100)
    content = image_folder.read_folder(image_folder.scan(cells))
    batches = list(content.batches())
    assert [len(batch) for batch in batches] == [1, 1, 1, 1, 1, 1]
    assert [batch[0].shape for batch in batches][4] == (100, 6000, 3)  # type: ignore[union-attr]
    assert before.images[4].tolist() == np.full((8, 8, 3), (9, 200, 90)).tolist()


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
        image_file.decode(tmp_path / "x.tif")
