"""Stacking is a penalised regression on log probabilities that begins at the soft vote."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.linear_model import LogisticRegression

from harness.ensembling.cross_fitting import stratified_folds
from harness.ensembling.stacking import INVERSE_PENALTIES, Predict, fit_stacking
from harness.evaluation.calibration import fit_temperature, log_loss, soften
from harness.evaluation.voting import soft_vote
from tests.harness.ensembling.members import f1, make_members, members_and_labels


def stack(votes: np.ndarray, labels: np.ndarray) -> Predict:
    return fit_stacking(votes, labels, stratified_folds(labels, seed=0))[0]


def test_stacking_reaches_the_optimum_of_one_of_its_penalties() -> None:
    """scikit-learn's, where the soft vote is uniform and so shifts nothing."""
    first, labels = make_members(1, 90, 3, seed=5)
    first = first / 2 + 1 / 6
    votes = np.concatenate([first, 2 / 3 - first]).astype(float)
    np.testing.assert_allclose(soft_vote(votes), 1 / 3, rtol=1e-6)
    predicted = stack(votes, labels)(votes)
    columns = np.log(votes).transpose(1, 0, 2).reshape(90, -1)
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    columns = np.column_stack([columns, np.ones(90)])
    optima = [
        LogisticRegression(C=c, fit_intercept=False, tol=1e-9, max_iter=10_000)
        .fit(columns, labels)
        .predict_proba(columns)
        for c in INVERSE_PENALTIES
    ]
    assert min(np.abs(predicted - optimum).max() for optimum in optima) < 1e-3


def test_stacking_learns_what_a_vote_cannot() -> None:
    """A member that swaps two classes: useless to a vote, all that a regression needs."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    swapped = np.eye(3)[np.array([1, 0, 2])[labels]] * 0.8 + 0.2 / 3
    noise = rng.dirichlet(np.ones(3), 300)
    votes = np.stack([swapped, noise]).astype(np.float32)
    predict = stack(votes, labels)
    assert f1(soft_vote(votes), labels) < 0.6
    assert f1(predict(votes), labels) > 0.95
    np.testing.assert_allclose(predict(votes).sum(axis=1), 1, rtol=1e-6)


def test_without_anything_to_learn_stacking_is_the_calibrated_soft_vote() -> None:
    """Alike members and few images: the log loss of new images is nearly that of the vote."""
    votes, labels = make_members(1, 2080, 8, seed=3)
    rng = np.random.default_rng(0)
    votes = np.stack([soften(votes[0] * rng.lognormal(0, 1, votes[0].shape), 1) for _ in range(6)])
    train, test = slice(0, 80), slice(80, None)
    predicted = stack(votes[:, train], labels[train])(votes[:, test])
    vote = soft_vote(votes)
    softened = soften(vote[test], fit_temperature(vote[train], labels[train]))
    assert log_loss(labels[test], predicted) < log_loss(labels[test], softened) + 0.03
    assert f1(predicted, labels[test]) > f1(vote[test], labels[test]) - 0.03


@settings(deadline=None, max_examples=15)
@given(members_and_labels)
def test_predictions_are_distributions_over_all_classes(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    """With classes of a single image too, and without warnings."""
    votes, labels = case
    with warnings.catch_warnings(action="error"):
        predicted = stack(votes, labels)(votes)
    assert predicted.shape == votes.shape[1:]
    np.testing.assert_allclose(predicted.sum(axis=1), 1)


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [0, 1, 2, 2], [1, 1, 1, 1]])
def test_few_images_and_absent_classes_can_be_stacked(labels: list[int]) -> None:
    votes = np.random.default_rng(0).dirichlet(np.ones(3), (2, 4)).astype(np.float32)
    predicted = stack(votes, np.array(labels))(votes)
    np.testing.assert_allclose(predicted.sum(axis=1), 1)


def test_fitting_takes_no_test_arrays() -> None:
    assert list(inspect.signature(fit_stacking).parameters) == ["probabilities", "labels", "folds"]
