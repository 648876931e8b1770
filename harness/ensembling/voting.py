"""Weights of a vote, fitted on validation.

Probabilities are (m, n, K): members, images, classes.
"""

from __future__ import annotations

import numpy as np

EM_STEPS = 500
"""Of the fit of voting weights, which has settled long before."""


def fit_weights(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Voting weights (m,), non-negative with sum 1, that minimise the log loss on these images.

    The likelihood of a mixture is concave in its weights; expectation-maximisation reaches the
    optimum without a step size (Dempster, Laird and Rubin 1977).
    """
    true_class = probabilities[:, np.arange(len(labels)), labels].astype(np.float64)
    true_class = np.clip(true_class, 1e-7, 1.0)
    weights = np.full(len(true_class), 1 / len(true_class))
    for _ in range(EM_STEPS):
        weights = weights * (true_class / (weights @ true_class)).mean(axis=1)
    return weights / weights.sum()
