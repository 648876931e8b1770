"""Real blood cells from every kind of source: the challenge's file, a MedMNIST file, a folder."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data import sources
from harness.data.image_cache import open_dataset
from harness.data.preview import class_preview
from harness.data.readers.npz import BLOOD_CELLS
from harness.data.splitting import split_indices
from harness.schema.dataset import Dataset, Split

CELLS = 11_959
CELL_COUNTS = [852, 2181, 1085, 2026, 849, 993, 2330, 1643]
CONTAMINANTS = 1_800


@pytest.fixture(scope="module")
def challenge(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    cache = tmp_path_factory.mktemp("cache")
    return open_dataset(sources.prepare(str(real_data / "training_set.npz"), 96, cache))


def test_the_challenge_file(challenge: Dataset, real_data: Path) -> None:
    assert challenge.images.shape == (CELLS + CONTAMINANTS, 96, 96, 3)
    assert challenge.class_names == BLOOD_CELLS
    assert np.bincount(challenge.labels[:CELLS]).tolist() == CELL_COUNTS
    with np.load(real_data / "training_set.npz", allow_pickle=False) as arrays:
        assert arrays["labels"].shape == (CELLS + CONTAMINANTS, 1)
        np.testing.assert_array_equal(challenge.labels, arrays["labels"][:, 0])
        np.testing.assert_array_equal(challenge.images[::500], arrays["images"][::500])


def test_copies_are_found(challenge: Dataset) -> None:
    """Seven cells occur twice; about 1,200 copies of one picture, and 200 of another."""
    repeated = np.flatnonzero(challenge.groups[:CELLS] != np.arange(CELLS))
    assert len(repeated) == 7
    for i in repeated:
        np.testing.assert_array_equal(challenge.images[i], challenge.images[challenge.groups[i]])
    _, sizes = np.unique(challenge.groups[CELLS:], return_counts=True)
    first, second = np.sort(sizes)[::-1][:2]
    assert 1100 < first < 1300
    assert second == 200


@pytest.mark.parametrize("seed", [0, 1])
def test_contaminants_are_never_on_two_sides(challenge: Dataset, seed: int) -> None:
    parts = split_indices(Split(seed=seed), challenge)
    sides = (parts.train, parts.validation, parts.test)
    for one, other in combinations(sides, 2):
        assert not set(challenge.groups[one].tolist()) & set(challenge.groups[other].tolist())
    total = np.bincount(challenge.labels)
    for ids, ratio in zip(sides, (0.7, 0.1, 0.2), strict=True):
        assert (np.abs(np.bincount(challenge.labels[ids]) - ratio * total) < 2).all()
    groups, sizes = np.unique(challenge.groups, return_counts=True)
    for big in groups[sizes >= 200]:
        assert big in challenge.groups[parts.train]


def test_the_medmnist_file_keeps_its_split(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "bloodmnist_64.npz"
    data = open_dataset(sources.prepare(str(source), 96, tmp_path))
    assert data.images.shape == (2320, 96, 96, 3)
    assert data.given is not None
    assert np.bincount(data.given).tolist() == [1600, 240, 480]
    parts = split_indices(Split(), data)
    assert len(parts.test) == 480
    assert len(parts.train) + len(parts.validation) >= 1830  # less what occurs in a later part


def test_the_folder(real_data: Path, tmp_path: Path) -> None:
    data = open_dataset(sources.prepare(str(real_data / "folder"), 96, tmp_path))
    assert data.class_names == BLOOD_CELLS
    assert np.bincount(data.labels).tolist() == [25] * 8
    assert len(split_indices(Split(), data).test) == 40


def test_another_size_keeps_the_look(challenge: Dataset, real_data: Path, tmp_path: Path) -> None:
    small = open_dataset(sources.prepare(str(real_data / "folder"), 48, tmp_path))
    large = open_dataset(sources.prepare(str(real_data / "folder"), 96, tmp_path))
    assert small.fingerprint != large.fingerprint
    halved = np.asarray(large.images, np.float32).reshape(200, 48, 2, 48, 2, 3).mean(axis=(2, 4))
    assert np.abs(halved - small.images).max() <= 1


def test_the_preview(challenge: Dataset, tmp_path: Path) -> None:
    class_preview(challenge, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 10 * 96
        assert picture.height > 8 * 96
