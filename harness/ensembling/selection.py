"""Selection of members by the macro F1 of their soft vote on validation: greedy, or exhaustive.

Probabilities are (m, n, K): members, images, classes.
"""

from __future__ import annotations

import numpy as np

from harness.evaluation.significance import f1_scores

GREEDY_STEPS = 40
"""Members added by the greedy selection; the best prefix counts."""
BLOCK_MEMBERS = 7
"""Subsets are scored 2**7 at a time: a block of sums that fits the processor's cache."""


def greedy_selection(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How often each member is selected, (m,), by forward selection with replacement.

    Adds, step by step, the member that gives the vote the best macro F1 (among equals the lowest
    log loss), and returns the best prefix, which is never worse than the best single member on
    these images. Caruana et al. 2004 (ICML).
    """
    tables = _class_rows(probabilities, np.float64)
    images = np.arange(len(labels))
    counts, total = np.zeros(len(tables), int), np.zeros(tables.shape[1:])
    best_score, best_counts = (-1.0, -np.inf), counts
    for size in range(1, GREEDY_STEPS + 1):
        sums = total + tables
        f1 = _macro_f1(_confusions(sums, labels)).round(12)
        true_class = sums[:, labels, images] / size
        log_likelihood = np.log(np.clip(true_class, 1e-7, 1.0)).mean(axis=1)
        scores = list(zip(f1.tolist(), log_likelihood.tolist(), strict=True))
        selected = max(range(len(tables)), key=lambda j: scores[j])
        counts[selected] += 1
        total = sums[selected]
        if scores[selected] > best_score:
            best_score, best_counts = scores[selected], counts.copy()
    return best_counts


def best_subsets(probabilities: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """The subsets whose soft vote has the best macro F1: on all images, then without each fold.

    bool (1 + folds, m). Among equals the smallest wins, then the one whose last member comes first.
    Every subset is scored once, on each fold by itself: the counts of all images, and of all but
    a fold, are sums of these. Images on which all members agree are counted once for all subsets;
    for the others the sums over subsets of the first and of the last members are computed once
    and added pairwise.
    """
    from joblib import Parallel, delayed

    members, _, classes = probabilities.shape
    y_pred = probabilities.argmax(axis=2)
    unanimous = (y_pred == y_pred[0]).all(axis=0)
    shape = (folds.max() + 1, classes, classes)
    rows = folds * classes + labels
    agreed = np.bincount(rows[unanimous] * classes + y_pred[0, unanimous], minlength=np.prod(shape))
    tables = _class_rows(probabilities[:, ~unanimous], np.float32)
    bits = min(BLOCK_MEMBERS, members)
    first, last = _subset_sums(tables[:bits]), _subset_sums(tables[bits:])

    def best_of_block(block: int) -> list[tuple[float, int, int]]:
        """(macro F1, -size, -index) of the best subsets with these last members."""
        disputed = _confusions(first + last[block], rows[~unanimous], classes * shape[0])
        counts = disputed.reshape(-1, *shape) + agreed.reshape(shape)
        total, start = counts.sum(axis=1), block << bits
        without = (total - counts[:, fold] for fold in range(shape[0]))
        return [_best(_macro_f1(confusions), start) for confusions in (total, *without)]

    blocks = (delayed(best_of_block)(block) for block in range(len(last)))
    found = zip(*Parallel(n_jobs=-1, prefer="threads")(blocks), strict=True)
    indices = np.array([-max(best)[2] for best in found])
    return (indices[:, None] >> np.arange(members) & 1).astype(bool)


def _best(scores: np.ndarray, start: int) -> tuple[float, int, int]:
    """(score, -size, -index) of the best subset; the indices of ``scores`` begin at ``start``."""
    if start == 0:
        scores[0] = -1.0  # The empty subset.
    best = scores.max()
    equals = start + np.flatnonzero(scores >= best - 1e-12)
    size, index = max((-index.bit_count(), -index) for index in equals.tolist())
    return round(float(best), 12), size, index


def _class_rows(probabilities: np.ndarray, dtype: type) -> np.ndarray:
    """(m, n, K) -> (m, K, n): the largest class is found by comparing whole rows."""
    return probabilities.transpose(0, 2, 1).astype(dtype, order="C")


def _subset_sums(tables: np.ndarray) -> np.ndarray:
    """(m, K, n) -> (2**m, K, n): the sum over every subset, whose index has a bit per member."""
    sums = np.zeros((1, *tables.shape[1:]), np.float32)
    for table in tables:
        sums = np.concatenate([sums, sums + table])
    return sums


def _confusions(sums: np.ndarray, rows: np.ndarray, size: int | None = None) -> np.ndarray:
    """Counts (s, size, K) of images in ``rows`` (n,) that summed probabilities (s, K, n) predict.

    By default the rows are the classes.
    """
    subsets, classes, images = sums.shape
    size = size or classes
    largest, y_pred = sums[:, 0].copy(), np.zeros((subsets, images), np.int16)
    for k in range(1, classes):
        larger = sums[:, k] > largest
        np.copyto(largest, sums[:, k], where=larger)
        np.copyto(y_pred, k, where=larger)
    cells = np.arange(subsets)[:, None] * (size * classes) + rows * classes + y_pred
    counts = np.bincount(cells.ravel(), minlength=subsets * size * classes)
    return counts.reshape(subsets, size, classes)


def _macro_f1(counts: np.ndarray) -> np.ndarray:
    """Macro F1 (s,) of confusion matrices (s, K, K)."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    return f1_scores(hits, counts.sum(axis=1), counts.sum(axis=2)).mean(axis=1)
