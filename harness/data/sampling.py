"""Which training images an epoch goes through: each once, or rare classes oversampled."""

from __future__ import annotations

import numpy as np

from harness.schema.protocol import Loss


def sample_indices(loss: Loss, targets: np.ndarray, seed: int) -> np.ndarray:
    """Positions of the training images (m,) that an epoch goes through: each, or some again."""
    match loss.oversampling:
        case False:
            return np.arange(len(targets))
        case True:
            return oversampled(targets, seed, targets.sum(axis=0, dtype=np.float64).max())
        case count:
            return oversampled(targets, seed, count)


def oversampled(targets: np.ndarray, seed: int, goal: float) -> np.ndarray:
    """Positions of the training images (m,), m >= n: all of them, then the repeats.

    Every class comes ``goal`` times, to the image, unless it has more of its own: a rare one's
    images all the same number of times, but for a random few that come once more. Of soft targets
    (n, K), an image is repeated as the mix of its classes deserves, and the shares of classes
    below the goal come out alike.
    """
    mass = targets.sum(axis=0, dtype=np.float64)
    goals = np.maximum(goal, mass)
    wanted = targets @ np.divide(goals, mass, out=np.zeros_like(mass), where=mass > 0)
    shuffled = np.random.default_rng([seed, *b"oversampling"]).permutation(len(targets))
    order = shuffled[np.argsort(targets[shuffled].argmax(axis=1), kind="stable")]
    # Systematic resampling: one threshold an image's length along the line of what is wanted.
    marks = np.floor(np.cumsum(wanted[order]) + 0.5 + 1e-9).astype(np.int64)
    times = np.maximum(np.diff(marks, prepend=0), 1)
    extra = np.repeat(order, times - 1)
    return np.concatenate([np.arange(len(targets)), np.sort(extra)])
