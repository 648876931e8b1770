"""Cross-fitting: validation images predicted by a rule that was fitted on the others.

A rule's score on the images it was fitted on is too high, the more so the more it fits. Stone 1974
(J. of the Royal Statistical Society B 36). Probabilities are (m, n, K): members, images, classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from harness.errors import UserError
from harness.evaluation.voting import soft_vote

FOLDS = 5


def stratified_folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """The fold of each image (n,), 0 to at most 4: scikit-learn's StratifiedKFold, shuffled.

    As few folds as the largest class has images. Raises UserError where no class has two.
    """
    from sklearn.model_selection import StratifiedKFold

    count = min(FOLDS, int(np.bincount(labels).max(initial=0)))
    if count < 2:
        raise UserError("too few validation images to fit on some and score on others")
    folds = np.empty(len(labels), int)
    with warnings.catch_warnings():
        # A class of fewer images than folds is absent from some folds, which does no harm.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        splits = StratifiedKFold(count, shuffle=True, random_state=seed).split(labels, labels)
        for fold, (_, held_out) in enumerate(splits):
            folds[held_out] = fold
    return folds


def fit_without_each_fold(
    fit: Callable[[np.ndarray, np.ndarray], np.ndarray],
    probabilities: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
) -> np.ndarray:
    """Weights (1 + folds, m): fitted on all images, then without each fold."""
    kept = [folds >= 0, *(folds != fold for fold in range(folds.max() + 1))]
    return np.stack([fit(probabilities[:, rows], labels[rows]) for rows in kept])


def cross_fitted_vote(
    probabilities: np.ndarray, folds: np.ndarray, fold_weights: np.ndarray
) -> np.ndarray:
    """Each image's vote (n, K) by the weights (folds, m) fitted without its fold."""
    votes = np.empty(probabilities.shape[1:])
    for fold, weights in enumerate(fold_weights):
        votes[folds == fold] = soft_vote(probabilities[:, folds == fold], weights)
    return votes
