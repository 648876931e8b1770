"""The vote of several networks: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def soft_vote(
    probabilities: np.ndarray, weights: Sequence[float] | np.ndarray | None = None
) -> np.ndarray:
    """The members' mean probabilities, (m, n, K) -> float64 (n, K); equal weights by default."""
    members = len(probabilities)
    weights = np.full(members, 1 / members) if weights is None else np.asarray(weights, float)
    return np.einsum("m,mnk->nk", weights / weights.sum(), probabilities.astype(np.float64))
