"""The rules on made-up members, against brute force and against hand."""

from __future__ import annotations

import inspect
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.ensembling import rules
from harness.evaluation.metrics import cross_entropy, macro_f1
from harness.schema.protocol import Head, Phase, Protocol


def members(count: int, images: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (m, n, K) of members of differing worth, and the labels."""
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), rng.integers(0, classes, images - classes)]
    worth = rng.uniform(0.2, 2, count)[:, None, None]
    raw = rng.normal(0, 1, (count, images, classes)) + worth * np.eye(classes)[labels]
    powers = np.exp(raw)
    return (powers / powers.sum(axis=2, keepdims=True)).astype(np.float32), labels


cases = st.tuples(st.integers(2, 5), st.integers(12, 60), st.integers(2, 4), st.integers(0, 2**31))


def f1(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return macro_f1(labels, probabilities.argmax(axis=1), probabilities.shape[1])


@given(cases)
def test_a_vote_of_copies_is_the_member(case: tuple[int, int, int, int]) -> None:
    votes, _ = members(*case)
    copies = np.stack([votes[0]] * 3)
    np.testing.assert_allclose(rules.soft_vote(copies), votes[0], rtol=1e-6)
    np.testing.assert_allclose(rules.soft_vote(votes, [1, *[0] * (len(votes) - 1)]), votes[0])


@given(cases)
def test_fitted_weights_beat_equal_ones_and_every_member(case: tuple[int, int, int, int]) -> None:
    votes, labels = members(*case)
    weights = rules.fit_weights(votes, labels)
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0
    targets = np.eye(votes.shape[2])[labels]
    fitted = cross_entropy(targets, rules.soft_vote(votes, weights))
    assert fitted <= cross_entropy(targets, rules.soft_vote(votes)) + 1e-6
    for vote in votes:
        assert fitted <= cross_entropy(targets, vote) + 1e-3


def test_a_useless_member_gets_no_weight() -> None:
    votes, labels = members(2, 400, 3, seed=1)
    useless = np.roll(votes[0], 1, axis=1)
    weights = rules.fit_weights(np.stack([votes[0], useless]), labels)
    assert weights[1] < 0.15


@given(cases)
def test_greedy_never_falls_below_its_best_member(case: tuple[int, int, int, int]) -> None:
    votes, labels = members(*case)
    counts = rules.greedy(votes, labels)
    assert counts.min() >= 0
    assert counts.sum() >= 1
    chosen = f1(rules.soft_vote(votes, counts), labels)
    assert chosen >= max(f1(vote, labels) for vote in votes) - 1e-9


@given(cases)
def test_the_best_subset_is_brute_forces(case: tuple[int, int, int, int]) -> None:
    votes, labels = members(*case)
    found = rules.best_subset(votes, labels)
    masks = [np.array(m) for m in product([False, True], repeat=len(votes)) if any(m)]
    scores = [f1(votes[mask].astype(np.float32).sum(axis=0), labels) for mask in masks]
    assert f1(votes[found].sum(axis=0), labels) == pytest.approx(max(scores))
    equals = [m for m, s in zip(masks, scores, strict=True) if s > max(scores) - 1e-12]
    assert found.sum() == min(mask.sum() for mask in equals)


def test_more_members_than_a_block_are_searched_as_well() -> None:
    votes, labels = members(9, 50, 3, seed=4)
    found = rules.best_subset(votes, labels)
    masks = [np.array(m) for m in product([False, True], repeat=9) if any(m)]
    best = max(f1(votes[mask].sum(axis=0), labels) for mask in masks)
    assert f1(votes[found].sum(axis=0), labels) == pytest.approx(best)


@pytest.mark.parametrize("strength", rules.STRENGTHS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_regression_is_scikit_learns(strength: float, seed: int) -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(4), rng.integers(0, 4, 116)]
    columns = rng.normal(0, 1, (120, 6)) + np.eye(4, 6)[labels]
    theirs = LogisticRegression(C=strength, tol=1e-8, max_iter=2000).fit(columns, labels)
    weights = rules.regress(columns, np.eye(4)[labels], strength)
    ours = rules.softmax(rules.with_ones(columns) @ weights)
    np.testing.assert_allclose(ours, theirs.predict_proba(columns), atol=1e-4)


def test_folds_share_every_class() -> None:
    labels = np.repeat([0, 1, 2], [50, 9, 3])
    fold = rules._folds(labels)
    assert set(fold) == {0, 1, 2}
    for k in range(3):
        assert set(labels[fold == k]) == {0, 1, 2}
    assert set(rules._folds(np.array([0, 0, 0, 1]))) == {0, 1}


def test_stacking_learns_what_a_vote_cannot() -> None:
    """A member that swaps two classes: useless to a vote, all that a regression needs."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    swapped = np.eye(3)[np.array([1, 0, 2])[labels]] * 0.8 + 0.2 / 3
    noise = rng.dirichlet(np.ones(3), 300)
    votes = np.stack([swapped, noise]).astype(np.float32)
    predict = rules.stack(votes, labels)
    assert f1(rules.soft_vote(votes), labels) < 0.6
    assert f1(predict(votes), labels) > 0.95
    np.testing.assert_allclose(predict(votes).sum(axis=1), 1, rtol=1e-6)


def test_concatenation_uses_every_members_features() -> None:
    """Two members that each know half of it: together they know it all."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    one = np.c_[labels % 2, rng.normal(size=400)] + rng.normal(0, 0.1, (400, 2))
    other = np.c_[labels // 2, rng.normal(size=400)] + rng.normal(0, 0.1, (400, 2))
    features = np.concatenate([one, other], axis=1).astype(np.float32)
    targets = np.eye(4, dtype=np.float32)[labels]
    side = rules.TrainingSide((features[:300], targets[:300]), (features[300:], targets[300:]))
    protocol = Protocol(head=Head(units=(16,), dropout=0), frozen=Phase(epochs=150, patience=20))
    head = rules.concatenate(side, protocol, 0, [one.shape[1], other.shape[1]])
    assert f1(head.predict(features[300:]), labels[300:]) > 0.9


def test_what_fits_takes_no_test_arrays() -> None:
    for name in ("fit_weights", "greedy", "best_subset", "stack"):
        assert list(inspect.signature(getattr(rules, name)).parameters) == [
            "probabilities",
            "labels",
        ]
    assert set(rules.TrainingSide.__dataclass_fields__) == {"train", "validation"}
