"""Against imbalance: class weights, by hand or balanced, and oversampling; with soft labels too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.data.sampling import sample_indices
from harness.schema.protocol import Loss
from harness.training.losses import class_weights, loss_targets

REPORT_004 = (851, 2179, 1085, 2023, 849, 993, 2330, 1643)
"""Images a class that the weights of report 004 belong to."""
OVERSAMPLED = Loss(oversampling=True)


def one_hot(counts: tuple[int, ...], seed: int = 0) -> np.ndarray:
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.eye(len(counts))[np.random.default_rng(seed).permutation(labels)]


def soft(seed: int, n: int = 400, classes: int = 5) -> np.ndarray:
    """Pairs of labels mixed as MixUp does, rare classes included."""
    rng = np.random.default_rng(seed)
    hard = np.eye(classes)[rng.choice(classes, n, p=[0.5, 0.25, 0.15, 0.07, 0.03])]
    share = rng.beta(0.4, 0.4, (n, 1))
    return np.asarray(share * hard + (1 - share) * hard[rng.permutation(n)])


def test_the_class_weights_of_report_004_to_four_digits() -> None:
    weights = class_weights(Loss(class_weight="balanced"), one_hot(REPORT_004))
    published = [1.7557, 0.6857, 1.3771, 0.7386, 1.7599, 1.5047, 0.6413, 0.9094]
    assert [round(float(weight), 4) for weight in weights] == published


def test_a_mix_of_classes_is_weighted_class_by_class() -> None:
    """Not as a whole, by its largest class as Keras would, or by the mean of its classes."""
    weights = class_weights(
        Loss(class_weight=(1.0, 3.0)), targets := np.array([[1.0, 0], [0.6, 0.4]])
    )
    np.testing.assert_allclose(loss_targets(targets, weights), [[1, 0], [0.6, 1.2]], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_mix_costs_what_its_classes_would_one_by_one(smoothing: float) -> None:
    weights = np.array([0.3, 1.0, 2.5, 0.7, 1.5])
    targets, one_by_one = soft(0), loss_targets(np.eye(5), weights, smoothing)
    np.testing.assert_allclose(
        loss_targets(targets, weights, smoothing), targets @ one_by_one, rtol=1e-5
    )
    if smoothing:
        np.testing.assert_allclose(one_by_one[2], 2.5 * np.array([0.04, 0.04, 0.84, 0.04, 0.04]))


@pytest.mark.parametrize("seed", range(3))
def test_balanced_weights_give_every_class_the_same_pull(seed: int) -> None:
    """Each class's share of all targets, weighted by class: 1/K; the mean weight is 1."""
    targets = soft(seed)
    loss = Loss(class_weight="balanced")
    pull = loss_targets(targets, class_weights(loss, targets)).sum(axis=0)
    np.testing.assert_allclose(pull, len(targets) / 5, rtol=1e-5)


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=8), st.integers(0, 99))
def test_oversampling_makes_every_class_as_large_as_the_largest(
    counts: list[int], seed: int
) -> None:
    targets = one_hot(tuple(counts), seed)
    chosen = sample_indices(OVERSAMPLED, targets, seed)
    np.testing.assert_allclose(targets[chosen].sum(axis=0), max(counts), atol=1)
    times = np.bincount(chosen, minlength=len(targets))
    assert times.min() >= 1
    for k in range(len(counts)):
        of_class = times[targets[:, k] == 1]
        assert of_class.max() - of_class.min() <= 1, "no image is favoured within its class"
    np.testing.assert_array_equal(chosen, sample_indices(OVERSAMPLED, targets, seed))


@pytest.mark.parametrize("seed", range(3))
def test_oversampling_of_soft_labels_narrows_the_gap(seed: int) -> None:
    targets = soft(seed)
    before, after = (
        targets.sum(axis=0),
        targets[sample_indices(OVERSAMPLED, targets, seed)].sum(axis=0),
    )
    assert after.min() / after.max() > 5 * before.min() / before.max()


def test_balanced_weights_after_oversampling_are_ones() -> None:
    targets = one_hot((90, 30, 7))
    chosen = targets[sample_indices(OVERSAMPLED, targets, 0)]
    weights = class_weights(Loss(class_weight="balanced"), chosen)
    np.testing.assert_allclose(weights, 1, atol=0.01)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=8),
    st.integers(1, 90),
    st.integers(0, 99),
)
def test_rare_classes_grow_up_to_a_count(counts: list[int], goal: int, seed: int) -> None:
    """Report 003 made 1,500 images of each class that had fewer, and left the others alone."""
    targets = one_hot(tuple(counts), seed)
    chosen = sample_indices(Loss(oversampling=goal), targets, seed)
    grown = [max(goal, count) for count in counts]
    np.testing.assert_allclose(targets[chosen].sum(axis=0), grown, atol=1)
    assert set(chosen) == set(range(len(targets))), "none is left out"


def test_oversampling_leaves_the_ids_of_old_runs_alone() -> None:
    assert Loss().canonical() == '{"class_weight":"none","label_smoothing":0.0}'
    assert '"oversampling":true' in Loss(oversampling=True).canonical()
    assert '"oversampling":1500' in Loss.model_validate({"oversampling": 1500}).canonical()
    with pytest.raises(ValidationError):
        Loss.model_validate({"oversampling": -3})
