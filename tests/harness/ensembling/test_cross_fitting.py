"""Cross-fitted predictions: each validation image is predicted by a fit that has not seen it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from harness.ensembling.cross_fitting import (
    cross_fitted_vote,
    fit_without_each_fold,
    stratified_folds,
)
from harness.ensembling.selection import greedy_selection
from harness.ensembling.stacking import fit_stacking
from harness.ensembling.voting import fit_weights
from harness.errors import UserError
from harness.evaluation.voting import soft_vote
from tests.harness.ensembling.members import f1, make_members


def test_folds_are_stratified_and_follow_from_the_seed() -> None:
    labels = np.repeat([0, 1, 2], [50, 20, 3])
    with warnings.catch_warnings(action="error"):
        folds = stratified_folds(labels, seed=3)
    counts = np.array([np.bincount(labels[folds == fold], minlength=3) for fold in range(5)])
    assert (counts[:, :2] == [10, 4]).all()
    assert counts[:, 2].max() == 1
    np.testing.assert_array_equal(folds, stratified_folds(labels, seed=3))
    assert (folds != stratified_folds(labels, seed=4)).any()


def test_few_images_have_fewer_folds_and_single_ones_none() -> None:
    assert stratified_folds(np.array([0, 0, 0, 1]), seed=0).max() == 2
    with pytest.raises(UserError, match="too few validation images"):
        stratified_folds(np.arange(4), seed=0)


def test_an_images_label_does_not_change_its_own_prediction() -> None:
    votes, labels = make_members(3, 60, 3, seed=0)
    folds = stratified_folds(labels, seed=0)
    changed = np.where(folds == 0, (labels + 1) % 3, labels)

    def weighted_vote(labels: np.ndarray) -> np.ndarray:
        weights = fit_without_each_fold(fit_weights, votes, labels, folds)
        return cross_fitted_vote(votes, folds, weights[1:])

    def stacking(labels: np.ndarray) -> np.ndarray:
        return fit_stacking(votes, labels, folds)[1]

    np.testing.assert_array_equal(
        weighted_vote(labels)[folds == 0], weighted_vote(changed)[folds == 0]
    )
    assert (weighted_vote(labels)[folds == 1] != weighted_vote(changed)[folds == 1]).any()
    held_out = [stacking(changed)[folds == 0], stacking(labels)[folds == 0]]
    # Its fold chooses among the penalties of other folds alone.
    np.testing.assert_allclose(*held_out, atol=1e-6)


def test_the_score_of_a_search_is_that_of_new_images() -> None:
    """Sixteen members of chance: what a search makes of them on its own images is not real."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    votes = rng.dirichlet(np.full(3, 0.2), (16, 60))
    folds = stratified_folds(labels, seed=0)
    weights = fit_without_each_fold(greedy_selection, votes, labels, folds)
    assert f1(soft_vote(votes, weights[0]), labels) > 0.55
    assert f1(cross_fitted_vote(votes, folds, weights[1:]), labels) < 0.45
    assert f1(fit_stacking(votes, labels, folds)[1], labels) < 0.45
