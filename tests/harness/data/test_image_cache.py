"""The cache of decoded images: what it has, what its key covers, and what it rejects."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from harness.data import image_cache
from harness.data.image_cache import (
    TURNS,
    Content,
    Source,
    get_or_decode,
    open_dataset,
    square,
    turned,
    turned_digest,
)
from harness.data.splitting import split_indices
from harness.data.synthetic.smear import draw
from harness.errors import DataError, NoRoom, StoreError
from harness.schema.dataset import Dataset, Split

Stack = Callable[..., np.ndarray]


@dataclass
class Reader:
    """A source in memory that counts how often it is decoded."""

    images: np.ndarray
    labels: np.ndarray
    given: np.ndarray | None = None
    names: tuple[str, ...] = ("a", "b")
    identity: str = "1"
    decoded: int = 0
    hook: Callable[[], None] = field(default=lambda: None)

    @property
    def source(self) -> Source:
        return Source("made", "made for a test", self.identity, self.read)

    def read(self) -> Content:
        def batches() -> Iterator[np.ndarray]:
            self.decoded += 1
            self.hook()
            yield self.images[:5]
            yield self.images[5:]

        return Content(self.labels, self.names, batches, self.given)


def visible(cache: Path) -> list[str]:
    """Names in a cache but for its hidden lock files; temporary folders are not left out."""
    return [path.name for path in cache.iterdir() if not path.name.endswith(".lock")]


@pytest.fixture
def reader(stack: Stack) -> Reader:
    return Reader(stack(12), np.arange(12) % 2)


def test_the_second_call_decodes_nothing(reader: Reader, tmp_path: Path) -> None:
    first = get_or_decode(reader.source, 8, tmp_path)
    assert get_or_decode(reader.source, 8, tmp_path) == first
    assert reader.decoded == 1
    assert visible(tmp_path) == [first.name]


def test_what_the_folder_holds(reader: Reader, tmp_path: Path) -> None:
    reader.given = np.repeat([0, 1, 2], 4)
    folder = get_or_decode(reader.source, 8, tmp_path)
    data = open_dataset(folder)
    assert isinstance(data.images, np.memmap)
    assert not data.images.flags.writeable
    np.testing.assert_array_equal(data.images, reader.images)
    np.testing.assert_array_equal(data.labels, reader.labels)
    np.testing.assert_array_equal(data.given, reader.given)
    assert (data.name, data.class_names) == ("made", ("a", "b"))
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["image_size"] == 8
    assert "opencv" in meta["resizer"]
    assert meta["source"] == "made for a test"


@pytest.mark.parametrize("change", ["identity", "size", "resizer", "schema"])
def test_the_key_covers_all_that_counts(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    first = get_or_decode(reader.source, 8, tmp_path)
    if change == "identity":
        reader.identity = "2"
    elif change == "resizer":
        monkeypatch.setattr(image_cache, "resizer_version", lambda: "another")
    elif change == "schema":
        monkeypatch.setattr(image_cache, "SCHEMA", image_cache.SCHEMA + 1)
    second = get_or_decode(reader.source, 4 if change == "size" else 8, tmp_path)
    assert second != first
    assert reader.decoded == 2


def test_groups_point_at_the_first_of_equal_images(reader: Reader, tmp_path: Path) -> None:
    reader.images[[3, 7, 11]] = reader.images[1]
    reader.images[10] = reader.images[8]
    groups = open_dataset(get_or_decode(reader.source, 8, tmp_path)).groups
    assert groups.tolist() == [0, 1, 2, 1, 4, 5, 6, 1, 8, 9, 8, 1]
    assert groups.dtype == np.int64


def test_the_fingerprint_is_of_the_content(reader: Reader, tmp_path: Path) -> None:
    """Everything that a run could see changes it; name, identity and batches do not."""

    def fingerprint(**changes: object) -> str:
        changed = replace(reader, **changes)
        cache = tmp_path / str(len(list(tmp_path.iterdir())))
        return open_dataset(get_or_decode(changed.source, 8, cache)).fingerprint

    same = fingerprint()
    pixel = reader.images.copy()
    pixel[7, 3, 3, 0] ^= 1
    different = {
        fingerprint(images=pixel),
        fingerprint(images=reader.images[::-1]),
        fingerprint(labels=reader.labels[::-1].copy()),
        fingerprint(names=("a", "c")),
        fingerprint(given=np.repeat([0, 1, 2], 4)),
        fingerprint(given=np.repeat([0, 1, 1], 4)),
    }
    assert fingerprint(identity="2") == same
    assert len(different | {same}) == 7
    assert all(len(f) == 24 for f in different)


def test_the_fingerprint_stays_what_it_was(tmp_path: Path) -> None:
    """Records of earlier runs name it: when this fails, raise SCHEMA knowingly."""
    images = np.arange(4 * 4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 4, 3)
    reader = Reader(images, np.array([0, 1, 0, 1]))
    folder = get_or_decode(reader.source, 4, tmp_path)
    assert open_dataset(folder).fingerprint == "4566e455773b0c2f5cbea5aa"


# --- damage --------------------------------------------------------------------------------------


def cut_images(folder: Path) -> None:
    raw = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(raw[:-1])


def lose_labels(folder: Path) -> None:
    (folder / "labels.npy").unlink()


def lose_meta(folder: Path) -> None:
    (folder / "meta.json").unlink()


def lose_manifest(folder: Path) -> None:
    """As in the folders of older versions."""
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [cut_images, lose_labels, lose_meta, lose_manifest])
def test_a_damaged_folder_is_made_again(
    reader: Reader, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = get_or_decode(reader.source, 8, tmp_path)
    before = open_dataset(folder).fingerprint
    damage(folder)
    with pytest.raises(DataError, match="not whole decoded images"):
        open_dataset(folder)
    assert get_or_decode(reader.source, 8, tmp_path) == folder
    assert open_dataset(folder).fingerprint == before
    assert reader.decoded == 2
    assert visible(tmp_path) == [folder.name]


def test_a_changed_pixel_is_found_by_its_checksum(reader: Reader, tmp_path: Path) -> None:
    folder = get_or_decode(reader.source, 8, tmp_path)
    whole = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    get_or_decode(reader.source, 8, tmp_path)
    assert (folder / "images.npy").read_bytes() == whole
    assert reader.decoded == 2


def test_a_header_damaged_in_place_is_said(reader: Reader, tmp_path: Path) -> None:
    folder = get_or_decode(reader.source, 8, tmp_path)
    with (folder / "images.npy").open("r+b") as file:
        file.write(b"XXXXXXXX")
    with pytest.raises(DataError, match="damaged decoded images"):
        open_dataset(folder)


def test_a_failure_leaves_nothing_behind(reader: Reader, tmp_path: Path) -> None:
    def fail() -> None:
        raise DataError("the source is broken")

    reader.hook = fail
    with pytest.raises(DataError, match="the source is broken"):
        get_or_decode(reader.source, 8, tmp_path)
    assert visible(tmp_path) == []


def test_a_cache_that_cannot_be_written(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="the cache cannot be written"):
        get_or_decode(reader.source, 8, tmp_path / "file")


def test_a_full_disk_is_noticed_before_decoding(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(NoRoom, match="are free there"):
        get_or_decode(reader.source, 8, tmp_path)
    assert reader.decoded == 0


def test_batches_that_do_not_match_the_labels(reader: Reader, tmp_path: Path) -> None:
    reader.labels = reader.labels[:10]
    with pytest.raises(DataError, match="12 images but 10 labels"):
        get_or_decode(reader.source, 8, tmp_path)


# --- resizing ------------------------------------------------------------------------------------


def test_the_right_size_is_left_alone(stack: Stack) -> None:
    np.testing.assert_array_equal(square(stack(1)[0], 8), stack(1)[0])


def test_the_centre_is_kept() -> None:
    wide = np.zeros((8, 20, 3), np.uint8)
    wide[:, 6:14] = 200
    assert (square(wide, 8) == 200).all()
    assert (square(wide.transpose(1, 0, 2), 4) == 200).all()


def test_shrinking_averages_areas() -> None:
    checks = np.zeros((8, 8, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 200
    assert (square(checks, 4) == 100).all()


def test_enlarging_keeps_the_mean_and_the_order() -> None:
    smooth = np.linspace(0, 255, 8).astype(np.uint8)[:, None, None].repeat(8, 1).repeat(3, 2)
    large = square(smooth, 32)
    assert large.shape == (32, 32, 3)
    assert large.dtype == np.uint8
    assert abs(large.mean() - smooth.mean()) < 1
    assert (np.diff(large[:, 0, 0].astype(int)) >= 0).all()


def test_images_of_different_sizes_share_one_stack(reader: Reader, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (5 + i, 20 - i, 3), dtype=np.uint8) for i in range(12)]
    content = Content(reader.labels, ("a", "b"), lambda: iter([images[:7], images[7:]]))
    source = Source("made", "", "1", lambda: content)
    data = open_dataset(get_or_decode(source, 8, tmp_path))
    assert data.images.shape == (12, 8, 8, 3)
    for image, square_image in zip(images, data.images, strict=True):
        np.testing.assert_array_equal(square(image, 8), square_image)


# --- turned copies -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 64), (63, 64), (5, 8), (1, 1)])
def test_flips_and_quarter_turns_are_copies(
    shape: tuple[int, int],
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    digests = {turned_digest(turned(pixels, *turn)) for turn in TURNS}
    assert len(digests) == 1
    other = pixels.copy()
    other[0, 0, 0] ^= 1
    assert turned_digest(other) not in digests


def test_turned_copies_are_on_one_side_and_in_the_fingerprint(
    save: Callable[..., Path], prepared: Callable[..., Dataset]
) -> None:
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)
    every = np.concatenate(
        [np.stack([turned(cell, *turn) for turn in TURNS[:6]]) for cell in cells]
    )
    labels = np.repeat(np.arange(40) % 2, 6)
    data = prepared(save(images=every, labels=labels), 32)
    assert data.groups.tolist() == np.repeat(np.arange(0, 240, 6), 6).tolist()
    parts = split_indices(Split(), data)
    for one, two in ((parts.train, parts.test), (parts.train, parts.validation)):
        assert not set(data.groups[one].tolist()) & set(data.groups[two].tolist())


def test_without_turned_copies_the_fingerprint_is_as_before(
    save: Callable[..., Path], prepared: Callable[..., Dataset], stack: Callable[..., np.ndarray]
) -> None:
    images = np.concatenate([stack(24), stack(2)])
    data = prepared(save(images=images, labels=np.arange(26) % 3))
    assert data.groups.tolist() == [*range(24), 0, 1]
    assert data.fingerprint == "b9d9a936d4d8887a90178dcf"


# --- near copies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [48, 96, 128])
def test_near_copies_are_found_on_decoding_and_are_no_part_of_the_fingerprint(
    size: int, save: Callable[..., Path], prepared: Callable[..., Dataset], tmp_path: Path
) -> None:
    drawn = draw(200, 0)
    images = np.delete(drawn.images, drawn.near_duplicates[:, 1], axis=0)
    labels = np.delete(drawn.labels, drawn.near_duplicates[:, 1])
    assert prepared(save(images=images, labels=labels), size).near_groups is None
    data = prepared(save(images=drawn.images, labels=drawn.labels), size)
    assert data.near_groups is not None
    joined = np.flatnonzero(data.near_groups != data.groups)
    assert sorted(zip(data.near_groups[joined].tolist(), joined.tolist(), strict=True)) == sorted(
        tuple(sorted(pair)) for pair in drawn.near_duplicates.tolist()
    )
    parts = split_indices(Split(group_near_copies=True), data)
    for one, two in ((parts.train, parts.test), (parts.train, parts.validation)):
        assert not {*data.near_groups[one].tolist()} & {*data.near_groups[two].tolist()}
