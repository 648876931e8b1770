"""Averages are scikit-learn's and Keras's, and their intervals those of the records."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from harness.evaluation.averages import averages
from harness.evaluation.metrics import score
from harness.schema.predictions import Predictions


@pytest.fixture(scope="module")
def part() -> Predictions:
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 500, p=[0.5, 0.3, 0.15, 0.05])
    logits = rng.normal(size=(500, 4)) + 1.2 * np.eye(4)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(np.arange(500), labels, probabilities.astype(np.float32))


def test_averages_are_those_of_scikit_learn(part: Predictions) -> None:
    found, y_pred = averages(part), part.probabilities.argmax(axis=1)
    for kind in ("macro", "weighted"):
        expected = precision_recall_fscore_support(part.labels, y_pred, average=kind)[:3]
        values = [found[f"{kind}_{name}"].value for name in ("precision", "recall", "f1")]
        np.testing.assert_allclose(values, expected)
    assert found["weighted_recall"].value == pytest.approx(found["accuracy"].value)
    each = precision_recall_fscore_support(part.labels, y_pred)
    assert found["macro_f1"].deviation == pytest.approx(np.std(each[2]))
    assert found["accuracy"].deviation is None


def test_above_half_is_kerass_precision_and_recall(part: Predictions) -> None:
    """Their definitions with the default threshold, on one-hot labels."""
    one_hot, positive = np.eye(4)[part.labels] > 0, part.probabilities > 0.5
    hits, found = (one_hot & positive).sum(), averages(part)
    assert 0 < positive.sum() < 500
    assert found["precision_above_half"].value == pytest.approx(hits / positive.sum())
    assert found["recall_above_half"].value == pytest.approx(hits / 500)


def test_a_class_that_is_never_predicted_has_no_precision(part: Predictions) -> None:
    """Also not in the interval, where one prediction of a resample would give it any precision."""
    constant = np.tile(np.array([0.3, 0.1, 0.2, 0.4], np.float32), (len(part.labels), 1))
    found = averages(Predictions(part.ids, part.labels, constant))
    for name in ("macro_precision", "weighted_precision"):
        assert found[name].high - found[name].low < 0.01
        assert found[name].low <= found[name].value <= found[name].high
    assert found["precision_above_half"] == (0, 0, 0, None)


def test_intervals_are_as_wide_as_those_of_a_record(part: Predictions) -> None:
    found, record = averages(part), score(part, "abcd")
    for name in ("macro_f1", "accuracy"):
        ends = found[name].low, found[name].high
        np.testing.assert_allclose(ends, getattr(record, f"{name}_interval"), atol=0.01)
        assert found[name].low < found[name].value < found[name].high
