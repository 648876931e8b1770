"""Numbers against scikit-learn and against hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from harness.evaluation.metrics import auc, cross_entropy, macro_f1, score, worst_recall_interval
from harness.schema.predictions import Predictions, digest


@st.composite
def predicted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities, degenerate ones among them."""
    classes, count = draw(st.integers(2, 6)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.integers(0, draw(st.integers(1, classes)), count)
    probabilities = rng.dirichlet(np.full(classes, draw(st.sampled_from([0.1, 1.0]))), count)
    return labels, probabilities.astype(np.float32)


@given(predicted())
def test_macro_f1_is_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    classes, y_pred = probabilities.shape[1], probabilities.argmax(axis=1)
    expected = sk.f1_score(
        labels, y_pred, labels=np.arange(classes), average="macro", zero_division=0
    )
    assert macro_f1(labels, y_pred, classes) == pytest.approx(expected)


@given(predicted())
def test_a_score_is_consistent_in_itself(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    classes = probabilities.shape[1]
    part = Predictions(np.arange(len(labels)), labels, probabilities)
    scores = score(part, [f"c{k}" for k in range(classes)])
    confusion = np.array(scores.confusion)
    assert confusion.sum() == len(labels) == scores.images
    assert scores.accuracy == pytest.approx(np.trace(confusion) / len(labels))
    assert scores.macro_f1 == pytest.approx(macro_f1(labels, probabilities.argmax(1), classes))
    assert [c.support for c in scores.per_class] == confusion.sum(axis=1).tolist()
    assert scores.macro_recall == pytest.approx(np.mean([c.recall for c in scores.per_class]))
    assert (scores.auc is None) == (len(np.unique(labels)) < classes)


@given(predicted())
def test_every_score_is_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    classes, y_pred = np.arange(probabilities.shape[1]), probabilities.argmax(axis=1)
    part = Predictions(np.arange(len(labels)), labels, probabilities)
    scores = score(part, [f"c{k}" for k in classes])
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, y_pred, labels=classes, zero_division=0
    )
    per_class = np.array([(c.precision, c.recall, c.f1, c.support) for c in scores.per_class]).T
    np.testing.assert_allclose(per_class, [precision, recall, f1, support], atol=1e-12)
    assert scores.macro_precision == pytest.approx(precision.mean())
    assert scores.balanced_accuracy == pytest.approx(recall[support > 0].mean())
    np.testing.assert_array_equal(
        scores.confusion, sk.confusion_matrix(labels, y_pred, labels=classes)
    )
    if scores.auc is not None:
        one_hot = np.eye(len(classes))[labels]
        assert scores.auc == pytest.approx(
            sk.roc_auc_score(one_hot, probabilities, average="macro")
        )
    softened = np.round(probabilities, 1)  # Many ties.
    if scores.auc is not None:
        expected = sk.roc_auc_score(np.eye(len(classes))[labels], softened, average="macro")
        assert auc(labels, softened) == pytest.approx(expected)


def test_auc_of_perfect_and_of_useless_probabilities() -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    assert auc(labels, np.eye(3)[labels]) == 1.0
    assert auc(labels, np.full((6, 3), 1 / 3)) == 0.5
    assert auc(np.array([0, 1, 1]), np.eye(3)[[0, 1, 1]]) is None


def test_cross_entropy_takes_soft_targets_and_survives_zeros() -> None:
    targets, probabilities = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    assert cross_entropy(targets, probabilities) == pytest.approx(-0.5 * np.log(1e-7))
    labels = np.array([0, 1, 1])
    given_probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    assert cross_entropy(np.eye(2)[labels], given_probabilities) == pytest.approx(
        sk.log_loss(labels, given_probabilities)
    )


def test_the_digest_sees_one_bit() -> None:
    ids, labels = np.arange(3), np.array([0, 1, 0])
    probabilities = np.full((3, 2), 0.5, dtype=np.float32)
    one = {"test": Predictions(ids, labels, probabilities)}
    moved = probabilities.copy()
    moved[2, 1] = np.nextafter(np.float32(0.5), np.float32(1))
    assert digest(one) == digest({"test": Predictions(ids, labels, probabilities.copy())})
    assert digest(one) != digest({"test": Predictions(ids, labels, moved)})
    assert digest(one) != digest({"validation": one["test"]})
    assert digest(one) != digest({"test": Predictions(ids[::-1], labels, probabilities)})


@pytest.mark.parametrize("recalls", [[0.8] * 8, [0.99] * 8, [0.5, *[0.9] * 7], [0.8, 0.8]])
def test_the_interval_of_the_worst_recall_holds_the_lowest_true_one(recalls: list[float]) -> None:
    rng, support = np.random.default_rng(0), np.full(len(recalls), 30)
    covered, lowest = 0, []
    for _ in range(400):
        hits = rng.binomial(support, recalls)
        low, high = worst_recall_interval(hits, support)
        covered += low <= min(recalls) <= high
        lowest.append((hits / support).min())
    assert covered >= 0.95 * 400
    assert np.mean(lowest) < min(recalls) + 0.01, "chance only lowers the lowest"


def test_the_worst_recall_of_no_images_is_unknown() -> None:
    assert worst_recall_interval(np.zeros(3, int), np.zeros(3, int)) == (0, 1)
    assert worst_recall_interval(np.array([0, 30]), np.array([0, 30]))[1] == 1
