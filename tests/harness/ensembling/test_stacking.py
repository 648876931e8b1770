"""Stacking is scikit-learn's regression on the members' standardised log probabilities."""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import minimize
from scipy.special import logsumexp

from harness.ensembling.stacking import INVERSE_PENALTIES, fit_stacking
from harness.errors import UserError
from harness.evaluation.voting import soft_vote
from tests.harness.ensembling.members import f1, make_members, members_and_labels


def optimum(votes: np.ndarray, labels: np.ndarray, inverse_penalty: float) -> np.ndarray:
    """Probabilities of the penalised regression, minimised by an independent solver."""
    columns = np.log(votes).transpose(1, 0, 2).reshape(len(labels), -1).astype(float)
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    shape = (columns.shape[1] + 1, votes.shape[2])

    def logits(flat: np.ndarray) -> np.ndarray:
        weights = flat.reshape(shape)
        return columns @ weights[:-1] + weights[-1]

    def loss(flat: np.ndarray) -> float:
        values = logits(flat)
        likelihood = values[np.arange(len(labels)), labels] - logsumexp(values, axis=1)
        penalty = (flat.reshape(shape)[:-1] ** 2).sum() / 2
        return float(penalty - inverse_penalty * likelihood.sum())

    values = logits(minimize(loss, np.zeros(shape[0] * shape[1]), method="BFGS").x)
    return np.exp(values - logsumexp(values, axis=1, keepdims=True))


def test_stacking_reaches_the_optimum_of_one_of_its_penalties() -> None:
    votes, labels = make_members(2, 90, 3, seed=5)
    predicted = fit_stacking(votes, labels)(votes)
    distances = [np.abs(predicted - optimum(votes, labels, c)).max() for c in INVERSE_PENALTIES]
    assert min(distances) < 2e-3


def test_stacking_learns_what_a_vote_cannot() -> None:
    """A member that swaps two classes: useless to a vote, all that a regression needs."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    swapped = np.eye(3)[np.array([1, 0, 2])[labels]] * 0.8 + 0.2 / 3
    noise = rng.dirichlet(np.ones(3), 300)
    votes = np.stack([swapped, noise]).astype(np.float32)
    predict = fit_stacking(votes, labels)
    assert f1(soft_vote(votes), labels) < 0.6
    assert f1(predict(votes), labels) > 0.95
    np.testing.assert_allclose(predict(votes).sum(axis=1), 1, rtol=1e-6)


@settings(deadline=None, max_examples=15)
@given(members_and_labels)
def test_predictions_are_distributions_over_all_classes(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    """With classes of a single image too, and without warnings."""
    votes, labels = case
    with warnings.catch_warnings(action="error"):
        predicted = fit_stacking(votes, labels)(votes)
    assert predicted.shape == votes.shape[1:]
    np.testing.assert_allclose(predicted.sum(axis=1), 1)


def test_an_absent_class_is_never_predicted() -> None:
    votes, labels = make_members(2, 60, 3, seed=6)
    predicted = fit_stacking(votes[:, labels != 1], labels[labels != 1])(votes)
    assert (predicted[:, 1] == 0).all()


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [0, 1, 2, 2]])
def test_few_images_need_no_folds(labels: list[int]) -> None:
    votes = np.random.default_rng(0).dirichlet(np.ones(3), (2, 4)).astype(np.float32)
    predicted = fit_stacking(votes, np.array(labels))(votes)
    np.testing.assert_allclose(predicted.sum(axis=1), 1)


def test_one_class_cannot_be_stacked() -> None:
    votes, _ = make_members(2, 12, 3, seed=0)
    with pytest.raises(UserError, match="of one class"):
        fit_stacking(votes, np.zeros(12, int))


def test_fitting_takes_no_test_arrays() -> None:
    assert list(inspect.signature(fit_stacking).parameters) == ["probabilities", "labels"]
