"""Calibration against scikit-learn, scipy and hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as their_log_loss

from harness.evaluation.calibration import (
    TEMPERATURES,
    brier,
    calibration_error_by_chance,
    expected_calibration_error,
    fit_temperature,
    flag,
    log_loss,
    reliability,
    soften,
)


@st.composite
def predicted(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels and float32 probabilities: one image, absent classes, all right, all wrong, zeros."""
    classes, images = draw(st.integers(2, 5)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    probabilities = rng.dirichlet(np.full(classes, draw(st.sampled_from([0.05, 1.0]))), images)
    y_pred = probabilities.argmax(axis=1)
    right = rng.random(images) < draw(st.sampled_from([0.0, 0.8, 1.0]))
    labels = np.where(right, y_pred, (y_pred + 1) % classes)
    return labels, probabilities.astype(np.float32)


def overconfident(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax(logits), and softmax(2.5 * logits)."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(images, 4))
    chances = softmax(logits, axis=1)
    labels = (chances.cumsum(axis=1) < rng.random((images, 1))).sum(axis=1)
    return labels, softmax(2.5 * logits, axis=1)


# --- temperature -------------------------------------------------------------------------------


def test_a_known_temperature_is_found() -> None:
    labels, probabilities = overconfident(20_000)
    assert fit_temperature(probabilities, labels) == pytest.approx(2.5, rel=0.05)


@given(predicted())
def test_no_temperature_has_a_smaller_loss(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    result = fit_temperature(probabilities, labels)
    assert TEMPERATURES[0] <= result <= TEMPERATURES[1]

    def loss(log_temperature: float) -> float:
        logs = np.log(soften(probabilities, np.exp(log_temperature)))
        return float(-logs[np.arange(len(labels)), labels].mean())

    theirs = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    assert loss(np.log(result)) <= theirs.fun + 1e-7


class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose logits are its features."""

    def __init__(self) -> None:
        self.classes_ = np.arange(4)

    def fit(self, x: np.ndarray, y: np.ndarray) -> Given:
        return self

    def decision_function(self, x: np.ndarray) -> np.ndarray:
        return x

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x.argmax(axis=1)


@pytest.mark.parametrize("seed", [0, 1])
def test_temperature_is_scikit_learns(seed: int) -> None:
    labels, probabilities = overconfident(500, seed)
    logits = np.log(np.clip(probabilities, 1e-7, 1))
    theirs = CalibratedClassifierCV(FrozenEstimator(Given()), method="temperature")
    theirs.fit(logits, labels)
    ours = soften(probabilities, fit_temperature(probabilities, labels))
    np.testing.assert_allclose(ours, theirs.predict_proba(logits), atol=1e-4)


def test_what_says_nothing_moves_nothing() -> None:
    assert fit_temperature(np.full((3, 4), 0.25), np.array([0, 1, 2])) == pytest.approx(1)


def test_bounds_hold_where_the_likelihood_has_none() -> None:
    sure = np.array([[0.6, 0.4]])
    assert fit_temperature(sure, np.array([0])) == pytest.approx(TEMPERATURES[0], rel=1e-6)
    assert fit_temperature(sure, np.array([1])) == pytest.approx(TEMPERATURES[1], rel=1e-6)
    perfect = np.eye(3, dtype=np.float32)
    result = fit_temperature(perfect, np.arange(3))
    assert TEMPERATURES[0] <= result <= 1
    assert np.isfinite(soften(perfect, result)).all()


@given(predicted(), st.floats(*TEMPERATURES))
def test_softening_is_a_softmax_of_logs(
    case: tuple[np.ndarray, np.ndarray], temperature: float
) -> None:
    _, probabilities = case
    result = soften(probabilities, temperature)
    logs = np.log(np.clip(probabilities.astype(np.float64), 1e-7, 1))
    np.testing.assert_allclose(result, softmax(logs / temperature, axis=1), atol=1e-12)
    np.testing.assert_allclose(result.sum(axis=1), 1)
    if temperature >= 1:
        assert (result.max(axis=1) <= soften(probabilities, 1).max(axis=1) + 1e-12).all()


# --- measures ----------------------------------------------------------------------------------


@given(predicted())
def test_brier_and_log_loss_are_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = case
    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    classes = np.arange(probabilities.shape[1])
    one_hot = np.eye(len(classes))[labels]
    theirs = brier_score_loss(one_hot, probabilities, scale_by_half=False)
    assert brier(labels, probabilities) == pytest.approx(theirs)
    clipped = np.clip(probabilities, 1e-7, 1)
    expected = -np.log(clipped[np.arange(len(labels)), labels]).mean()
    assert log_loss(labels, probabilities) == pytest.approx(expected)
    if probabilities.min() > 1e-6:
        assert expected == pytest.approx(their_log_loss(labels, probabilities, labels=classes))


def test_brier_by_hand() -> None:
    probabilities = np.array([[0.7, 0.3], [0.0, 1.0]])
    assert brier(np.array([0, 0]), probabilities) == pytest.approx((2 * 0.3**2 + 2) / 2)


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.95, 0.05], [0.1, 0.9], [0.55, 0.45], [0.6, 0.4]])
    labels = np.array([0, 0, 0, 0])
    # Of five bins, .8 to 1 has .95 and .9, one of them correct; .4 to .6 has the others.
    low, high = reliability(labels, probabilities, bins=5)
    assert (low.count, high.count) == (2, 2)
    assert (low.confidence, low.accuracy) == pytest.approx((0.575, 1))
    assert (high.confidence, high.accuracy) == pytest.approx((0.925, 0.5))
    result = expected_calibration_error(labels, probabilities, bins=5)
    assert result == pytest.approx((0.425 + 0.425) / 2)


@given(predicted(), st.integers(1, 20))
def test_every_image_is_in_one_bin(case: tuple[np.ndarray, np.ndarray], bins: int) -> None:
    labels, probabilities = case
    rows = reliability(labels, probabilities, bins)
    assert sum(row.count for row in rows) == len(labels)
    confidences = [row.confidence for row in rows]
    assert confidences == sorted(confidences)
    right = sum(row.count * row.accuracy for row in rows)
    assert right == pytest.approx((probabilities.argmax(axis=1) == labels).sum())
    result = expected_calibration_error(labels, probabilities, bins)
    assert 0 <= result <= 1 + 1e-6
    if bins == 1:
        accuracy = (probabilities.argmax(axis=1) == labels).mean()
        expected = abs(accuracy - probabilities.max(axis=1).astype(float).mean())
        assert result == pytest.approx(expected)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_an_upper_end_belongs_to_its_bin(bins: int) -> None:
    (row,) = reliability(np.array([0, 1]), np.eye(2, dtype=np.float32), bins)
    assert (row.count, row.confidence, row.accuracy) == (2, 1, 1)


def test_the_calibration_error_of_the_truth_is_small_and_softening_helps() -> None:
    labels, probabilities = overconfident(20_000)
    before = expected_calibration_error(labels, probabilities)
    fitted = soften(probabilities, fit_temperature(probabilities, labels))
    assert before > 0.1
    assert expected_calibration_error(labels, fitted) < 0.02
    assert log_loss(labels, fitted) < log_loss(labels, probabilities)
    assert brier(labels, fitted) < brier(labels, probabilities)


# --- flags -------------------------------------------------------------------------------------


def test_the_least_sure_are_flagged() -> None:
    confidence = np.array([0.9, 0.55, 0.8, 0.6, 0.7])
    probabilities = np.column_stack([confidence, 1 - confidence])
    labels = np.array([1, 1, 0, 0, 0])
    assert flag(labels, probabilities, 0.4) == {"flagged": 2, "caught": 1, "errors": 2}
    assert flag(labels, probabilities, 0.2) == {"flagged": 1, "caught": 1, "errors": 2}
    assert flag(labels, probabilities, 0.0)["flagged"] == 0


def test_flags_keep_the_budget_where_many_are_equally_sure() -> None:
    probabilities = np.eye(2)[np.zeros(10, dtype=int)]
    labels = np.ones(10, dtype=int)
    assert flag(labels, probabilities, 0.5) == {"flagged": 0, "caught": 0, "errors": 10}
    probabilities[0] = 0.5
    assert flag(labels, probabilities, 0.5) == {"flagged": 1, "caught": 1, "errors": 10}


@given(predicted(), st.floats(0, 0.99))
def test_flags_are_consistent(case: tuple[np.ndarray, np.ndarray], share: float) -> None:
    labels, probabilities = case
    flagged, caught, errors = flag(labels, probabilities, share).values()
    confidence, wrong = probabilities.max(axis=1), probabilities.argmax(axis=1) != labels
    least, others = np.split(np.argsort(confidence, kind="stable"), [flagged])
    assert flagged <= share * len(labels) + 1e-6
    assert confidence[least].max(initial=0) < confidence[others].min()
    assert caught == wrong[least].sum() <= errors == wrong.sum()


@pytest.mark.parametrize("images", [50, 100, 1000])
def test_shares_are_of_whole_images(images: int) -> None:
    confidence = np.linspace(0.5, 1, images)
    probabilities = np.column_stack([confidence, 1 - confidence])
    for percent in range(0, 100, 2):
        result = flag(np.zeros(images, dtype=int), probabilities, percent / 100)
        assert result["flagged"] == images * percent // 100


@pytest.mark.parametrize(("images", "sharpness"), [(60, 1.0), (240, 1.0), (240, 4.0), (2400, 2.0)])
def test_the_error_by_chance_is_that_of_labels_drawn_from_the_probabilities(
    images: int, sharpness: float
) -> None:
    rng = np.random.default_rng(0)
    probabilities = softmax(rng.normal(0, sharpness, (images, 8)), axis=1)
    cumulative, errors = probabilities.cumsum(axis=1), []
    for _ in range(200):
        labels = (rng.random((images, 1)) > cumulative).sum(axis=1)
        errors.append(expected_calibration_error(labels, probabilities))
    assert calibration_error_by_chance(probabilities) == pytest.approx(np.mean(errors), rel=0.06)


def test_certain_predictions_have_no_error_by_chance() -> None:
    assert calibration_error_by_chance(np.eye(3)) == 0
