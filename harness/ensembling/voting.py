"""Votes: the mean of the members' probabilities, equal or with weights fitted on validation.

Probabilities are (m, n, K): members, images, classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EM_STEPS = 500
"""Of the fit of voting weights, which has settled long before."""


def soft_vote(
    probabilities: np.ndarray, weights: Sequence[float] | np.ndarray | None = None
) -> np.ndarray:
    """The members' mean probabilities, (m, n, K) -> float64 (n, K); equal weights by default."""
    members = len(probabilities)
    weights = np.full(members, 1 / members) if weights is None else np.asarray(weights, float)
    return np.einsum("m,mnk->nk", weights / weights.sum(), probabilities.astype(np.float64))


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
