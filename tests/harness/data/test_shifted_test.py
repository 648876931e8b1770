"""The shifted copy: corruptions evenly assigned, made once, the same for all."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data import corruptions, shifted_test
from harness.data.image_cache import open_dataset
from harness.data.shifted_test import (
    PAIRS,
    assign_corruptions,
    corrupt_images,
    get_or_corrupt,
    open_shifted,
)
from harness.data.sources import prepare
from harness.data.splitting import split_indices
from harness.errors import DataError, NoRoom
from harness.schema.dataset import Dataset, Split

SPLIT = Split()


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare("smear@400", 32, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def folder(decoded: Path, tmp_path: Path) -> Path:
    """Decoded images, in a cache of their own."""
    return Path(shutil.copytree(decoded, tmp_path / "cache" / "decoded"))


def opened(folder: Path) -> tuple[Dataset, np.ndarray]:
    data = open_dataset(folder)
    return data, split_indices(SPLIT, data).test


# --- assignment ---------------------------------------------------------------------------------


def spreads(pairs: np.ndarray) -> list[int]:
    """How much more often the most frequent corruption, severity and pair come than the rarest."""
    severities = len(corruptions.SEVERITIES)
    parts = (pairs // severities, 11), (pairs % severities, severities), (pairs, len(PAIRS))
    return [int(np.ptp(np.bincount(part, minlength=count))) for part, count in parts]


@settings(deadline=None)
@given(st.lists(st.integers(1, 120), min_size=2, max_size=9), st.integers(0, 99))
def test_corruptions_are_assigned_evenly(sizes: list[int], seed: int) -> None:
    """Over all and over a class, each corruption, severity and pair as often or once more."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    pairs = assign_corruptions(labels, "f" * 24, Split(seed=seed, shift_version=2))
    assert max(spreads(pairs)) <= 1
    for k, size in enumerate(sizes):
        assert max(spreads(pairs[labels == k])) <= 1
        assert abs((pairs[labels == k] % 5 + 1).sum() - 3 * size) <= 2


@settings(deadline=None)
@given(st.lists(st.integers(1, 120), min_size=2, max_size=9), st.integers(0, 99))
def test_records_of_before_keep_their_assignment(sizes: list[int], seed: int) -> None:
    """Version 1: pairs are even over all images, corruptions over a class, severities not."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    pairs = assign_corruptions(labels, "f" * 24, Split(seed=seed))
    assert spreads(pairs)[2] <= 1
    assert all(spreads(pairs[labels == k])[0] <= 1 for k in range(len(sizes)))


def test_severities_of_a_class_have_their_mean_in_the_middle() -> None:
    """30 images of each of eight classes: 3, where version 1 gave between 2.6 and 3.4."""

    def means(version: int) -> np.ndarray:
        labels = np.arange(240) % 8
        pairs = assign_corruptions(labels, "a" * 24, Split(shift_version=version))
        return np.array([(pairs[labels == k] % 5 + 1).mean() for k in range(8)])

    assert np.ptp(means(1)) > 0.5
    np.testing.assert_array_equal(means(2), 3)


def test_the_assignment_depends_on_the_data_and_the_split_alone() -> None:
    labels = np.arange(200) % 8
    first = assign_corruptions(labels, "a" * 24, SPLIT)
    np.testing.assert_array_equal(first, assign_corruptions(labels, "a" * 24, Split()))
    assert (first != assign_corruptions(labels, "b" * 24, SPLIT)).mean() > 0.5
    assert (first != assign_corruptions(labels, "a" * 24, Split(seed=1))).mean() > 0.5
    assert (first != assign_corruptions(labels, "a" * 24, Split(shift_version=2))).mean() > 0.5


def test_a_pair_is_independent_of_class_and_position() -> None:
    labels = np.repeat(np.arange(8), 110)
    pairs = assign_corruptions(labels, "a" * 24, Split(shift_version=2))
    assert abs(np.corrcoef(labels, pairs)[0, 1]) < 0.1
    assert abs(np.corrcoef(np.arange(len(labels)), pairs % 5)[0, 1]) < 0.1


# --- the copy ------------------------------------------------------------------------------------


def test_each_test_image_is_corrupted_once_as_assigned(folder: Path) -> None:
    data, test = opened(folder)
    copy = open_shifted(get_or_corrupt(folder, data, test, SPLIT), data, test, SPLIT)
    np.testing.assert_array_equal(copy.ids, test)
    np.testing.assert_array_equal(copy.mixed, np.arange(len(test)))
    np.testing.assert_array_equal(
        copy.pairs, assign_corruptions(data.labels[test], data.fingerprint, SPLIT)
    )
    assert isinstance(copy.images, np.memmap)
    changed = (copy.images != data.images[test]).reshape(len(test), -1).any(axis=1)
    assert changed.mean() > 0.9
    brighter = [i for i, pair in enumerate(copy.pairs) if PAIRS[pair] == ("brighter", 5)]
    assert brighter, "the test needs one of these"
    for i in brighter:
        expected = np.minimum(data.images[test[i]] * 1.4, 255)
        assert np.abs(copy.images[i] - expected).max() <= 0.5 + 1e-9


def test_the_full_copy_has_every_pair_and_the_mixed_copy(folder: Path) -> None:
    data, test = opened(folder)
    mixed = open_shifted(get_or_corrupt(folder, data, test, SPLIT), data, test, SPLIT)
    full = open_shifted(get_or_corrupt(folder, data, test, SPLIT, "full"), data, test, SPLIT)
    assert len(full.images) == 55 * len(test)
    np.testing.assert_array_equal(full.images[full.mixed], mixed.images)
    np.testing.assert_array_equal(full.ids[full.mixed], test)
    np.testing.assert_array_equal(full.pairs[full.mixed], mixed.pairs)
    np.testing.assert_array_equal(full.pairs, np.repeat(np.arange(55), len(test)))


def test_an_image_is_corrupted_the_same_way_in_every_batch(folder: Path) -> None:
    data, test = opened(folder)
    pairs = np.full(len(test), PAIRS.index(("bubble", 4)))
    whole = corrupt_images(data, test, pairs, SPLIT)
    np.testing.assert_array_equal(whole[3:5], corrupt_images(data, test[3:5], pairs[3:5], SPLIT))


def test_it_is_made_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, test = opened(folder)
    path = get_or_corrupt(folder, data, test, SPLIT)
    written = path.read_bytes()
    monkeypatch.setattr(corruptions, "corrupt", None)
    assert get_or_corrupt(folder, data, test, SPLIT) == path
    monkeypatch.undo()
    path.unlink()
    assert get_or_corrupt(folder, data, test, SPLIT).read_bytes() == written
    assert [p.name for p in folder.parent.glob("shifted*")] == [path.parent.name]


def test_another_split_or_drawing_is_another_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, test = opened(folder)
    paths = {get_or_corrupt(folder, data, test, SPLIT)}
    other = Split(seed=1)
    paths.add(get_or_corrupt(folder, data, split_indices(other, data).test, other))
    monkeypatch.setattr(corruptions, "VERSION", 99)
    paths.add(get_or_corrupt(folder, data, test, SPLIT))
    assert len(paths) == 3


@pytest.mark.parametrize("left", [b"", b"\x93NUMPY", None])
def test_a_torn_copy_is_made_again(folder: Path, left: bytes | None) -> None:
    data, test = opened(folder)
    path = get_or_corrupt(folder, data, test, SPLIT)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] if left is None else left)
    with pytest.raises(DataError, match="damaged shifted images; delete it"):
        open_shifted(path, data, test, SPLIT)
    assert get_or_corrupt(folder, data, test, SPLIT).read_bytes() == whole


def test_a_copy_of_other_images_is_rejected(folder: Path) -> None:
    data, test = opened(folder)
    path = get_or_corrupt(folder, data, test, SPLIT)
    with pytest.raises(DataError, match="not the shifted copy of these"):
        open_shifted(path, data, test[1:], SPLIT)


def test_no_room_is_said_and_nothing_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, test = opened(folder)
    usage = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(NoRoom, match=r"takes 0\.0 GB, but 0\.0 GB are free there"):
        get_or_corrupt(folder, data, test, SPLIT)
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shifted_test, "corrupt_images", full)
    with pytest.raises(NoRoom, match="the disk is full"):
        get_or_corrupt(folder, data, test, SPLIT)
    assert not list(folder.parent.glob("shifted*"))
    assert not list(folder.parent.glob(".*creating*"))
