"""What is predicted of the images that judge: views averaged, shifted copies, nothing lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from harness.augmentation.test_time import apply_view
from harness.data.image_cache import open_dataset
from harness.data.shifted_test import Shifted, corrupt_images, get_or_corrupt, open_shifted
from harness.data.sources import prepare
from harness.data.splitting import split_indices
from harness.schema.dataset import Dataset, Split
from harness.schema.predictions import EVERY_SHIFT, SHIFTED
from harness.training.predictor import Predictor, images_to_pass

SPLIT = Split()
BATCH = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare("smear@400", 32, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return open_dataset(folder)


@pytest.fixture(scope="module")
def test_ids(data: Dataset) -> np.ndarray:
    return split_indices(SPLIT, data).test


def copied(folder: Path, data: Dataset, ids: np.ndarray, mode: str) -> Shifted:
    path = get_or_corrupt(folder, data, ids, SPLIT, mode)  # type: ignore[arg-type]
    return open_shifted(path, data, ids, SPLIT)


def forward(images: np.ndarray) -> np.ndarray:
    """A backbone that minds the orientation: the mean colour of the upper left quarter."""
    return np.asarray(images[:, :16, :16].mean(axis=(1, 2)), dtype=np.float32)


def classify(features: np.ndarray) -> np.ndarray:
    powers = np.exp(features / 40)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


def judge(data: Dataset, views: int = 1) -> tuple[Predictor, list[int]]:
    """A judge, and what it tells of its progress; its backbone takes full batches alone."""
    told: list[int] = []

    def strict(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for images in batches:
            assert len(images) == BATCH, "another shape would recompile"
            yield forward(images)

    return Predictor(data, strict, classify, BATCH, views, told.append), told


def test_one_view_of_a_part_needs_no_further_pass(data: Dataset, test_ids: np.ndarray) -> None:
    made, told = judge(data)
    features = forward(data.images[test_ids])
    (only,) = made.part("test", (data.images, test_ids), test_ids, features).items()
    assert only[0] == "test"
    np.testing.assert_array_equal(only[1].probabilities, classify(features))
    np.testing.assert_array_equal(only[1].labels, data.labels[test_ids])
    assert told == []


@pytest.mark.parametrize("views", [2, 3, 8])
def test_predictions_are_averaged_over_the_views(
    data: Dataset, test_ids: np.ndarray, views: int
) -> None:
    made, _ = judge(data, views)
    images = data.images[test_ids]
    found = made.part("test", (data.images, test_ids), test_ids, forward(images))
    mean = np.mean([classify(forward(apply_view(images, v))) for v in range(views)], axis=0)
    np.testing.assert_allclose(found["test"].probabilities, mean, rtol=1e-5)
    np.testing.assert_array_equal(found["plain-test"].probabilities, classify(forward(images)))
    assert (found["test"].probabilities != found["plain-test"].probabilities).any()
    assert set(made.part("validation", (data.images, test_ids), test_ids, forward(images))) == {
        "validation"
    }


@pytest.mark.parametrize("views", [1, 2])
def test_the_shifted_copy_is_predicted_row_by_row(
    folder: Path, data: Dataset, test_ids: np.ndarray, views: int
) -> None:
    copy = copied(folder, data, test_ids, "mixed")
    made, told = judge(data, views)
    found = made.shifted(copy)
    images = corrupt_images(data, test_ids, copy.pairs, SPLIT)
    mean = np.mean([classify(forward(apply_view(images, v))) for v in range(views)], axis=0)
    np.testing.assert_allclose(found[SHIFTED].probabilities, mean, rtol=1e-5)
    np.testing.assert_array_equal(found[SHIFTED].ids, test_ids)
    np.testing.assert_array_equal(found[SHIFTED].features, forward(images))
    assert set(found) == {SHIFTED} if views == 1 else {SHIFTED, "plain-shifted"}
    assert told[-1] == images_to_pass(views, (0, 0), copy) == views * len(test_ids)


def test_every_shift_is_predicted_beside_the_mixed_copy(
    folder: Path, data: Dataset, test_ids: np.ndarray
) -> None:
    copy, mixed = copied(folder, data, test_ids, "full"), copied(folder, data, test_ids, "mixed")
    made, told = judge(data)
    found = made.shifted(copy)
    every = found[EVERY_SHIFT]
    assert len(every.ids) == 55 * len(test_ids)
    assert every.features is None, "they would be too many to keep"
    np.testing.assert_array_equal(every.labels, np.tile(data.labels[test_ids], 55))
    np.testing.assert_array_equal(
        every.probabilities[copy.mixed], judge(data)[0].shifted(mixed)[SHIFTED].probabilities
    )
    np.testing.assert_array_equal(found[SHIFTED].probabilities, every.probabilities[copy.mixed])
    assert told[-1] == images_to_pass(1, (0, 0), copy) == 56 * len(test_ids)


def test_probabilities_that_are_none_are_a_failure(data: Dataset, test_ids: np.ndarray) -> None:
    made = Predictor(data, partial(map, forward), lambda f: f * np.nan, BATCH)
    with pytest.raises(FloatingPointError, match="diverged"):
        made.part("test", (data.images, test_ids), test_ids, forward(data.images[test_ids]))


def test_augmented_validation_images_are_seen_in_every_view(
    data: Dataset, test_ids: np.ndarray
) -> None:
    made, _ = judge(data, views=2)
    varied = 255 - data.images[test_ids]
    rows = (varied, np.arange(len(test_ids)))
    found = made.part("validation", rows, test_ids, forward(varied))["validation"]
    mean = np.mean([classify(forward(apply_view(varied, view))) for view in range(2)], axis=0)
    np.testing.assert_allclose(found.probabilities, mean, rtol=1e-5)
    np.testing.assert_array_equal(found.labels, data.labels[test_ids])
