"""Predictions of the validation and test images: averaged views and shifted copies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.augmentation.test_time import apply_view
from harness.data.image_cache import open_dataset
from harness.data.shifted_test import Shifted, corrupt_images, get_or_corrupt, open_shifted
from harness.data.sources import prepare
from harness.data.splitting import split_indices
from harness.schema.dataset import Dataset, Split
from harness.schema.predictions import EVERY_SHIFT, SHIFTED
from harness.training.predictor import Predictor, count_passes

SPLIT = Split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare("smear@400", 32, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return open_dataset(folder)


@pytest.fixture(scope="module")
def test_ids(data: Dataset) -> np.ndarray:
    return split_indices(SPLIT, data).test


def shifted_copy(folder: Path, data: Dataset, ids: np.ndarray, mode: str) -> Shifted:
    path = get_or_corrupt(folder, data, ids, SPLIT, mode)  # type: ignore[arg-type]
    return open_shifted(path, data, ids, SPLIT)


def embed(images: np.ndarray) -> np.ndarray:
    """A backbone that depends on the orientation: the mean colour of the upper left quarter."""
    return np.asarray(images[:, :16, :16].mean(axis=(1, 2)), dtype=np.float32)


def classify(features: np.ndarray) -> np.ndarray:
    powers = np.exp(features / 40)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


def mean_over_views(images: np.ndarray, views: int) -> np.ndarray:
    return np.mean([classify(embed(apply_view(images, v))) for v in range(views)], axis=0)


def predictor(data: Dataset, views: int = 1) -> tuple[Predictor, list[int]]:
    """A predictor, and the number of images in each of its passes through the backbone."""
    passes: list[int] = []

    def extract(take: Callable[[np.ndarray], Any], rows: np.ndarray) -> np.ndarray:
        passes.append(len(rows))
        return embed(take(rows))

    return Predictor(data.labels, extract, classify, views), passes


def test_one_view_of_a_part_needs_no_further_pass(data: Dataset, test_ids: np.ndarray) -> None:
    ours, passes = predictor(data)
    features = embed(data.images[test_ids])
    predictions = ours.predict("test", (data.images, test_ids), test_ids, features)
    assert set(predictions) == {"test"}
    np.testing.assert_array_equal(predictions["test"].probabilities, classify(features))
    np.testing.assert_array_equal(predictions["test"].labels, data.labels[test_ids])
    assert passes == []


@pytest.mark.parametrize("views", [2, 3, 8])
def test_predictions_are_averaged_over_the_views(
    data: Dataset, test_ids: np.ndarray, views: int
) -> None:
    ours, passes = predictor(data, views)
    images, rows = data.images[test_ids], (data.images, test_ids)
    predictions = ours.predict("test", rows, test_ids, embed(images))
    assert passes == [len(test_ids)] * (views - 1)
    test, plain = predictions["test"].probabilities, predictions["plain-test"].probabilities
    np.testing.assert_allclose(test, mean_over_views(images, views), rtol=1e-5)
    np.testing.assert_array_equal(plain, classify(embed(images)))
    assert (test != plain).any()
    assert set(ours.predict("validation", rows, test_ids, embed(images))) == {"validation"}


@pytest.mark.parametrize("views", [1, 2])
def test_the_shifted_copy_is_predicted_row_by_row(
    folder: Path, data: Dataset, test_ids: np.ndarray, views: int
) -> None:
    copy = shifted_copy(folder, data, test_ids, "mixed")
    ours, passes = predictor(data, views)
    predictions = ours.predict_shifted(copy)
    images = corrupt_images(data, test_ids, copy.pairs, SPLIT)
    expected = mean_over_views(images, views)
    np.testing.assert_allclose(predictions[SHIFTED].probabilities, expected, rtol=1e-5)
    np.testing.assert_array_equal(predictions[SHIFTED].ids, test_ids)
    np.testing.assert_array_equal(predictions[SHIFTED].features, embed(images))
    assert set(predictions) == ({SHIFTED} if views == 1 else {SHIFTED, "plain-shifted"})
    assert sum(passes) == count_passes(views, 0, copy) == views * len(test_ids)


def test_every_corruption_is_predicted_besides_the_mixed_copy(
    folder: Path, data: Dataset, test_ids: np.ndarray
) -> None:
    full, mixed = (shifted_copy(folder, data, test_ids, mode) for mode in ("full", "mixed"))
    ours, passes = predictor(data)
    predictions = ours.predict_shifted(full)
    every = predictions[EVERY_SHIFT]
    assert len(every.ids) == 55 * len(test_ids)
    assert every.features is None, "they would be too many to keep"
    np.testing.assert_array_equal(every.labels, np.tile(data.labels[test_ids], 55))
    of_mixed = predictor(data)[0].predict_shifted(mixed)[SHIFTED].probabilities
    np.testing.assert_array_equal(every.probabilities[full.mixed], of_mixed)
    np.testing.assert_array_equal(predictions[SHIFTED].probabilities, of_mixed)
    assert sum(passes) == count_passes(1, 0, full) == 56 * len(test_ids)


def test_probabilities_that_are_not_finite_are_a_failure(
    data: Dataset, test_ids: np.ndarray
) -> None:
    diverged = Predictor(data.labels, predictor(data)[0].extract, lambda f: f * np.nan)
    with pytest.raises(FloatingPointError, match="diverged"):
        diverged.predict_first_view(test_ids, embed(data.images[test_ids]))


def test_augmented_validation_images_are_predicted_in_every_view(
    data: Dataset, test_ids: np.ndarray
) -> None:
    ours, _ = predictor(data, views=2)
    augmented = 255 - data.images[test_ids]
    rows = (augmented, np.arange(len(test_ids)))
    prediction = ours.predict("validation", rows, test_ids, embed(augmented))["validation"]
    expected = mean_over_views(augmented, 2)
    np.testing.assert_allclose(prediction.probabilities, expected, rtol=1e-5)
    np.testing.assert_array_equal(prediction.labels, data.labels[test_ids])
