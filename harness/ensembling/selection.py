"""Selection of members by the macro F1 of their soft vote on validation: greedy, or exhaustive.

Probabilities are (m, n, K): members, images, classes.
"""

from __future__ import annotations

import numpy as np

from harness.evaluation.metrics import confusion_matrix, cross_entropy, macro_f1
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
    members, _, classes = probabilities.shape
    targets = np.eye(classes)[labels]

    def score(total: np.ndarray, size: int) -> tuple[float, float]:
        mean = total / size
        f1 = macro_f1(labels, mean.argmax(axis=1), classes)
        return round(f1, 12), -cross_entropy(targets, mean)

    counts, total = np.zeros(members, int), np.zeros(probabilities.shape[1:])
    best_score, best_counts = (-1.0, -np.inf), counts
    for size in range(1, GREEDY_STEPS + 1):
        scores = [score(total + member, size) for member in probabilities]
        selected = max(range(members), key=lambda j: scores[j])
        counts[selected] += 1
        total = total + probabilities[selected]
        if scores[selected] > best_score:
            best_score, best_counts = scores[selected], counts.copy()
    return best_counts


def best_subset(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The subset (m,) bool whose soft vote has the best macro F1 on these images, of all subsets.

    Among equals the smallest wins, then the one whose last member comes first. Images on which
    all members agree are counted once for all subsets; for the others the sums over subsets of
    the first and of the last members are computed once and added pairwise.
    """
    from joblib import Parallel, delayed

    members, _, classes = probabilities.shape
    y_pred = probabilities.argmax(axis=2)
    unanimous = (y_pred == y_pred[0]).all(axis=0)
    confusion = confusion_matrix(labels[unanimous], y_pred[0, unanimous], classes)
    # (K, n) per member: the largest class is then found by comparing whole rows.
    tables = probabilities[:, ~unanimous].transpose(0, 2, 1).astype(np.float32, order="C")
    bits = min(BLOCK_MEMBERS, members)
    first, last = _subset_sums(tables[:bits]), _subset_sums(tables[bits:])

    def best_of_block(block: int) -> tuple[float, int, int]:
        """(macro F1, -size, -index) of the best subset with these last members."""
        scores = _macro_f1(first + last[block], labels[~unanimous], confusion)
        if block == 0:
            scores[0] = -1.0  # The empty subset.
        best = scores.max()
        equals = (block << bits) + np.flatnonzero(scores >= best - 1e-12)
        size, index = max((-index.bit_count(), -index) for index in equals.tolist())
        return round(float(best), 12), size, index

    blocks = (delayed(best_of_block)(block) for block in range(len(last)))
    *_, index = max(Parallel(n_jobs=-1, prefer="threads")(blocks))
    return (-index >> np.arange(members) & 1).astype(bool)


def _subset_sums(tables: np.ndarray) -> np.ndarray:
    """(m, K, n) -> (2**m, K, n): the sum over every subset, whose index has a bit per member."""
    sums = np.zeros((1, *tables.shape[1:]), np.float32)
    for table in tables:
        sums = np.concatenate([sums, sums + table])
    return sums


def _macro_f1(sums: np.ndarray, labels: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """Macro F1 (s,) of subsets' summed probabilities (s, K, n), added to counts (K, K)."""
    subsets, classes, images = sums.shape
    largest, y_pred = sums[:, 0].copy(), np.zeros((subsets, images), np.int16)
    for k in range(1, classes):
        larger = sums[:, k] > largest
        np.copyto(largest, sums[:, k], where=larger)
        np.copyto(y_pred, k, where=larger)
    cells = np.arange(subsets)[:, None] * classes**2 + labels.astype(np.int64) * classes + y_pred
    counts = np.bincount(cells.ravel(), minlength=subsets * classes**2)
    counts = counts.reshape(subsets, classes, classes) + confusion
    hits = np.diagonal(counts, axis1=1, axis2=2)
    return f1_scores(hits, counts.sum(axis=1), counts.sum(axis=2)).mean(axis=1)
