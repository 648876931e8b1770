"""Oversampling: which training images an epoch uses, and how often."""

from __future__ import annotations

import numpy as np

from harness.schema.protocol import Loss


def sample_indices(loss: Loss, targets: np.ndarray, seed: int) -> np.ndarray:
    """Positions (m,) of the training images of an epoch: each once, then the repeats.

    With oversampling, every class has as many images as the largest, or the number given, unless
    it has more of its own; the images of a class are repeated equally often, but for a random few
    that come once more. With soft targets (n, K), an image is repeated by the mixture of its
    classes, and the totals of rare classes come out about equal.
    """
    counts = targets.sum(axis=0, dtype=np.float64)
    match loss.oversampling:
        case False:
            return np.arange(len(targets))
        case True:
            goal = counts.max()
        case number:
            goal = number
    factors = np.divide(
        np.maximum(goal, counts), counts, out=np.zeros_like(counts), where=counts > 0
    )
    expected = targets @ factors
    shuffled = np.random.default_rng([seed, *b"oversampling"]).permutation(len(targets))
    order = shuffled[np.argsort(targets[shuffled].argmax(axis=1), kind="stable")]
    # Systematic resampling: differences of the rounded cumulative sum.
    cumulative = np.floor(np.cumsum(expected[order]) + 0.5 + 1e-9).astype(np.int64)
    repeats = np.maximum(np.diff(cumulative, prepend=0), 1) - 1
    return np.concatenate([np.arange(len(targets)), np.sort(np.repeat(order, repeats))])
