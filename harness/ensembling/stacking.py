"""Stacking: a regression on the members' log probabilities, shrunk towards their soft vote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.evaluation.calibration import EPSILON, fit_temperature, log_probabilities, softmax
from harness.evaluation.voting import soft_vote

INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
"""As scikit-learn's C; the one with the lowest cross-validated log loss counts."""

Predict = Callable[[np.ndarray], np.ndarray]
"""Members' probabilities (m, i, K) -> (i, K)."""


def fit_stacking(
    probabilities: np.ndarray, labels: np.ndarray, folds: np.ndarray
) -> tuple[Predict, np.ndarray]:
    """Fit on probabilities (m, n, K) and labels (n,); also predicts each of these images (n, K).

    The logits are those of the members' temperature-scaled soft vote, plus a linear function of
    the members' standardised log probabilities. Its weights are L2-penalised, so that stacking is
    the soft vote where the images do not show that another combination is better. Wolpert 1992
    (Neural Networks 5). ``folds`` (n,) are those of the cross-validation. The images of a fold are
    predicted by the fit without them, with the penalty that is best on the other folds.
    """
    from threadpoolctl import threadpool_limits

    # Threads cost more than they gain on matrices this small: up to twenty times the fit.
    with threadpool_limits(1):
        held_out = _predict_folds(probabilities, labels, folds)
        losses = -np.log(np.maximum(held_out[:, np.arange(len(labels)), labels], EPSILON))
        best_penalty = INVERSE_PENALTIES[losses.mean(axis=1).argmin()]
        regression = _fit(probabilities, labels, best_penalty)
    cross_fitted = np.empty(probabilities.shape[1:])
    for fold in range(folds.max() + 1):
        best = losses[:, folds != fold].mean(axis=1).argmin()
        cross_fitted[folds == fold] = held_out[best, folds == fold]
    return regression.predict, cross_fitted


def _predict_folds(probabilities: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Each image (penalties, n, K) by the fits without its fold, each begun at the one before."""
    held_out = np.empty((len(INVERSE_PENALTIES), *probabilities.shape[1:]))
    for fold in range(folds.max() + 1):
        rows, regression = folds == fold, None
        for i, penalty in enumerate(INVERSE_PENALTIES):
            regression = _fit(probabilities[:, ~rows], labels[~rows], penalty, regression)
            held_out[i, rows] = regression.predict(probabilities[:, rows])
    return held_out


@dataclass(frozen=True)
class _Regression:
    temperature: float
    mean: np.ndarray
    sd: np.ndarray
    weights: np.ndarray
    """(m K + 1, K); the last row is the intercept."""

    def predict(self, probabilities: np.ndarray) -> np.ndarray:
        return softmax(self.offset(probabilities) + self.inputs(probabilities) @ self.weights)

    def offset(self, probabilities: np.ndarray) -> np.ndarray:
        return log_probabilities(soft_vote(probabilities)) / self.temperature

    def inputs(self, probabilities: np.ndarray) -> np.ndarray:
        """(n, m K + 1): standardised log probabilities, and ones."""
        columns = (_columns(probabilities) - self.mean) / self.sd
        return np.column_stack([columns, np.ones(len(columns))])


def _fit(
    probabilities: np.ndarray,
    labels: np.ndarray,
    inverse_penalty: float,
    start: _Regression | None = None,
) -> _Regression:
    """Minimise the penalised log loss, which is convex; ``start`` is a fit of the same images."""
    from scipy.optimize import minimize

    columns, classes = _columns(probabilities), probabilities.shape[2]
    sd = columns.std(axis=0)
    regression = start or _Regression(
        temperature=fit_temperature(soft_vote(probabilities), labels),
        mean=columns.mean(axis=0),
        sd=np.where(sd > 0, sd, 1.0),
        weights=np.zeros((columns.shape[1] + 1, classes)),
    )
    inputs, offset = regression.inputs(probabilities), regression.offset(probabilities)
    targets, scale = np.eye(classes)[labels], 1 / (inverse_penalty * len(labels))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(regression.weights.shape)
        logits = offset + inputs @ weights
        logits -= logits.max(axis=1, keepdims=True)
        powers = np.exp(logits)
        total = powers.sum(axis=1, keepdims=True)
        value = (np.log(total[:, 0]) - (targets * logits).sum(axis=1)).mean()
        slope = inputs.T @ (powers / total - targets) / len(labels) + scale * weights
        return float(value + scale / 2 * (flat @ flat)), slope.ravel()

    options = {"maxiter": 1000, "gtol": 1e-6, "ftol": 1e-10}
    start_at = regression.weights.ravel()
    found = minimize(loss, start_at, jac=True, method="L-BFGS-B", options=options)
    weights = found.x.reshape(regression.weights.shape)
    return _Regression(regression.temperature, regression.mean, regression.sd, weights)


def _columns(probabilities: np.ndarray) -> np.ndarray:
    """(m, n, K) -> (n, m K) of log probabilities."""
    return log_probabilities(probabilities).transpose(1, 0, 2).reshape(probabilities.shape[1], -1)
