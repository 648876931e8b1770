"""The model confidence set and what the board says with it, on worlds whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.evaluation.confidence_set import (
    JointScores,
    confidence_set,
    joint_scores,
    selection_bias,
    smallest_difference,
)
from harness.evaluation.metrics import macro_f1
from harness.evaluation.significance import paired

CLASSES = 8


def rows_of(
    accuracies: list[float],
    images: int,
    seed: int,
    seeds: int = 1,
    seed_sd: float = 0.0,
    alike: float = 0.0,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels, and predictions (seeds, n) right with these chances.

    Of the share ``alike`` of the images all rows find the same ones difficult, else none.
    """
    rng = np.random.default_rng(seed)
    labels, y_preds = np.arange(images) % CLASSES, []
    together, difficulty = np.random.default_rng([seed, 1]).random((2, images))
    for accuracy in accuracies:
        chances = accuracy + seed_sd * rng.standard_normal((seeds, 1))
        wrong = (labels + rng.integers(1, CLASSES, (seeds, images))) % CLASSES
        u = np.where(together < alike, difficulty, rng.random((seeds, images)))
        y_preds.append(np.where(u < chances, labels, wrong))
    return labels, y_preds


def best_of(labels: np.ndarray, y_preds: list[np.ndarray]) -> list[bool]:
    return confidence_set(joint_scores(labels, y_preds, CLASSES)).tolist()


def test_what_is_clearly_worse_leaves() -> None:
    labels, y_preds = rows_of([0.95, 0.95, 0.8, 0.8, 0.95, 0.6], 2000, seed=0)
    assert best_of(labels, y_preds) == [True, True, False, False, True, False]
    assert best_of(labels, [y_preds[2]] * 3) == [True] * 3
    assert best_of(labels, y_preds[:1]) == [True]
    assert best_of(labels, []) == []


def test_scores_and_their_variation_are_those_of_images_drawn_again() -> None:
    labels, y_preds = rows_of([0.9, 0.8], 800, seed=1)
    joint = joint_scores(labels, y_preds, CLASSES)
    scores = [macro_f1(labels, row[0], CLASSES) for row in y_preds]
    np.testing.assert_allclose(joint.scores, scores)
    rng, again = np.random.default_rng(2), []
    for _ in range(800):
        of_each = [rng.choice(np.flatnonzero(labels == k), (labels == k).sum()) for k in range(8)]
        at = np.concatenate(of_each)
        again.append([macro_f1(labels[at], row[0, at], CLASSES) for row in y_preds])
    difference = np.subtract(*np.array(again).T)
    assert joint.sd[0, 1] == pytest.approx(difference.std(), rel=0.1)
    np.testing.assert_allclose(joint.draws.std(axis=0), np.std(again, axis=0), rtol=0.12)


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (2, 0.02), (3, 0.02)])
def test_the_best_rows_stay_in_95_percent(seeds: int, seed_sd: float) -> None:
    sets, all_in, one_in = 150, 0, 0
    for i in range(sets):
        marks = best_of(*rows_of([0.9] * 6 + [0.85] * 2, 400, i, seeds, seed_sd))
        all_in += all(marks[:6])
        one_in += any(marks[:6])
    assert one_in >= 0.98 * sets
    assert all_in / sets > 0.95 - 3 * 0.018


def test_with_one_seed_their_spread_is_unknown_and_with_others_pooled() -> None:
    labels, y_preds = rows_of([0.9, 0.85], 2000, 0)
    assert joint_scores(labels, y_preds, CLASSES).freedom == 0
    _, several = rows_of([0.9, 0.9], 2000, 1, seeds=3, seed_sd=0.03)
    joint = joint_scores(labels, [*y_preds, *several], CLASSES)
    assert joint.freedom == 4
    np.testing.assert_allclose(joint.seed_variance[:2], 3 * joint.seed_variance[2])


def test_the_best_of_equal_rows_is_too_high_by_the_selection_bias() -> None:
    gains, biases = [], []
    for i in range(60):
        joint = joint_scores(*rows_of([0.8] * 12, 400, i), CLASSES)
        gains.append(joint.scores.max() - 0.8)
        biases.append(selection_bias(joint, confidence_set(joint)))
    assert np.mean(biases) == pytest.approx(np.mean(gains), rel=0.2)
    assert selection_bias(joint, np.zeros(12, dtype=bool)) == 0


@pytest.mark.parametrize("alike", [0.0, 0.8])
def test_the_smallest_difference_is_found_in_four_of_five_test_sets(alike: float) -> None:
    labels, y_preds = rows_of([0.85] * 4, 800, 0, alike=alike)
    every = np.ones(4, dtype=bool)
    needed = smallest_difference(joint_scores(labels, y_preds, CLASSES), every)
    found = 0
    for i in range(250):
        labels, (a, b) = rows_of([0.85 + needed / 2, 0.85 - needed / 2], 800, i, alike=alike)
        found += paired(labels, a, b, CLASSES).p < 0.05
    assert 0.78 < found / 250 < 0.95


def test_the_smallest_difference_is_never_zero_and_falls_with_more_images() -> None:
    def of(images: int, accuracy: float) -> float:
        labels, y_preds = rows_of([accuracy] * 3, images, seed=0)
        return smallest_difference(joint_scores(labels, y_preds, CLASSES), np.ones(3, dtype=bool))

    assert of(400, 0.8) == pytest.approx(2 * of(1600, 0.8), rel=0.2)
    assert 0 < of(1600, 1.0) < of(1600, 0.8)
    joint: JointScores = joint_scores(*rows_of([0.8, 0.9], 400, 0), CLASSES)
    assert math.isnan(smallest_difference(joint, np.array([True, False])))
