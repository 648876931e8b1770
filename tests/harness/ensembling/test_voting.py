"""Votes with equal and with fitted weights."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given

from harness.ensembling.voting import fit_weights
from harness.evaluation.metrics import cross_entropy
from harness.evaluation.voting import soft_vote
from tests.harness.ensembling.members import make_members, members_and_labels


@given(members_and_labels)
def test_a_vote_of_copies_is_the_member(case: tuple[np.ndarray, np.ndarray]) -> None:
    votes, _ = case
    copies = np.stack([votes[0]] * 3)
    np.testing.assert_allclose(soft_vote(copies), votes[0], rtol=1e-6)
    np.testing.assert_allclose(soft_vote(votes, [1, *[0] * (len(votes) - 1)]), votes[0])


@given(members_and_labels)
def test_fitted_weights_beat_equal_ones_and_every_member(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    votes, labels = case
    weights = fit_weights(votes, labels)
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0
    targets = np.eye(votes.shape[2])[labels]
    fitted = cross_entropy(targets, soft_vote(votes, weights))
    assert fitted <= cross_entropy(targets, soft_vote(votes)) + 1e-6
    for vote in votes:
        assert fitted <= cross_entropy(targets, vote) + 1e-3


def test_a_useless_member_gets_no_weight() -> None:
    votes, labels = make_members(2, 400, 3, seed=1)
    useless = np.roll(votes[0], 1, axis=1)
    weights = fit_weights(np.stack([votes[0], useless]), labels)
    assert weights[1] < 0.15


def test_fitting_takes_no_test_arrays() -> None:
    assert list(inspect.signature(fit_weights).parameters) == ["probabilities", "labels"]
