"""Intervals, paired tests, tied ranks and diversity of predicted classes.

Every statement is about the test images: how would the numbers differ on other images of the same
classes, each class as often as now? What other seeds would have trained is a different question;
``split_spread`` keeps the two apart. Every resampling is a function of its seed.

The leaderboard of a thousand records computes all of this; so it is numpy, and Holm's correction
is not statsmodels', whose import alone takes a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median, stdev

import numpy as np

PSEUDO_IMAGES = 0.25
"""Images per class that are added to the counts before resampling.

Without them a class without errors never errs in a resample, and 95 % intervals of a macro F1 of
.995 on 400 images cover the truth in 83 % of cases; with them in 95 %. Agresti and Coull add a
little to each count in the same way (1998, American Statistician 52).
"""


# --- one row -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bootstrap:
    """Resampled scores, (resamples,) each."""

    macro_f1: np.ndarray
    accuracy: np.ndarray


def bootstrap(confusion: np.ndarray, resamples: int = 10_000, seed: int = 0) -> Bootstrap:
    """Scores of test sets resampled from a confusion matrix (K, K), rows the true classes.

    Each row is a multinomial of its own total, so every class keeps its number of images, after
    ``PSEUDO_IMAGES`` are spread evenly over its cells. Classes without images and predictions
    count zero, as in scikit-learn. Efron and Tibshirani 1993, An Introduction to the Bootstrap.
    """
    rng = np.random.default_rng(seed)
    support, classes = confusion.sum(axis=1), len(confusion)
    hits, predicted = np.zeros((2, resamples, classes))
    for k in np.flatnonzero(support):
        chances = confusion[k] + PSEUDO_IMAGES / classes
        counts = rng.multinomial(support[k], chances / chances.sum(), size=resamples)
        hits[:, k] = counts[:, k]
        predicted += counts
    return Bootstrap(
        macro_f1=f1_scores(hits, predicted, support).mean(axis=1),
        accuracy=hits.sum(axis=1) / max(1, support.sum()),
    )


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrapped scores (resamples,).

    With ``bootstrap`` and eight classes a 95 % interval covers a macro F1 of .7 to .995 in 92 to
    94 % of test sets of 100 images, and in 94 to 95 % from 400 images on.
    """
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def split_spread(
    scores_per_seed: Sequence[float], bootstrap_sd_per_seed: Sequence[float]
) -> tuple[float | None, float]:
    """Two standard deviations of a mean over seeds: due to training, and to the test images.

    The first is the sample sd of the scores over the seeds, None for one seed. All seeds are
    scored on the same images, so the images' noise is not in that spread and does not shrink with
    more seeds; the second is therefore the mean of the seeds' bootstrap sds, not that over
    sqrt(seeds): an upper bound, reached where all seeds err on the same images.
    """
    seeds = len(scores_per_seed)
    return (stdev(scores_per_seed) if seeds > 1 else None), fmean(bootstrap_sd_per_seed)


# --- two rows ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """Macro F1 of the first minus the second, its 95 % interval, and the two-sided p."""

    difference: float
    low: float
    high: float
    p: float


def mcnemar(labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Exact two-sided p that two predictions (n,) of the same images are right equally often.

    McNemar 1947 (Psychometrika 12): a binomial test of the images that only one gets right.
    """
    from scipy.stats import binomtest

    only_a = int(((a == labels) & (b != labels)).sum())
    only_b = int(((b == labels) & (a != labels)).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired(
    labels: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    classes: int,
    resamples: int = 10_000,
    seed: int = 0,
) -> Paired:
    """The difference in macro F1 of two predictions (n,) of the same images, tested.

    Interval: percentiles of a bootstrap of the images, stratified by true class, on the counts
    of (true, a, b), with ``PSEUDO_IMAGES`` where one is right and the other wrong: two rows that
    agree everywhere might differ on other images. p: the two predictions of an image swapped at
    random (approximate randomisation; Yeh 2000, COLING), exact for few disagreements too, where a
    bootstrap's p is too small; (1 + as extreme) / (1 + resamples). Near the limit the interval and
    p can therefore disagree.
    """
    joint = np.bincount((labels * classes + a) * classes + b, minlength=classes**3)
    joint = joint.reshape(classes, classes, classes)
    rng = np.random.default_rng(seed)
    cells = np.argwhere(joint)
    tally = joint[tuple(cells.T)] @ _columns(cells, classes)
    difference = float(_difference(tally, joint))
    low, high = interval(_resampled(joint, resamples, rng))
    extreme = np.abs(_swapped(joint, resamples, rng)) >= abs(difference) - 1e-12
    return Paired(difference, low, high, p=float((1 + extreme.sum()) / (1 + resamples)))


def _resampled(joint: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Differences in macro F1 (resamples,) of counts (K, K, K) resampled class by class."""
    classes = len(joint)
    tally = np.zeros((resamples, 4 * classes), dtype=np.int64)
    for k in np.flatnonzero(joint.sum(axis=(1, 2))):
        chances = joint[k].astype(float)
        others = np.flatnonzero(np.arange(classes) != k)
        chances[k, others] += PSEUDO_IMAGES / max(1, 2 * len(others))
        chances[others, k] += PSEUDO_IMAGES / max(1, 2 * len(others))
        a, b = np.nonzero(chances)
        counts = rng.multinomial(joint[k].sum(), chances[a, b] / chances.sum(), size=resamples)
        tally += counts @ _columns(np.column_stack([np.full_like(a, k), a, b]), classes)
    return _difference(tally, joint)


def _swapped(joint: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Differences in macro F1 (resamples,) with the two predictions of images swapped at random."""
    classes = len(joint)
    either = joint + joint.transpose(0, 2, 1)
    agreed, cells = np.argwhere(np.eye(classes, dtype=bool) & (joint > 0)), np.argwhere(either)
    cells = cells[cells[:, 1] < cells[:, 2]]
    counts = either[tuple(cells.T)]
    unswapped = rng.binomial(counts, 0.5, size=(resamples, len(counts)))
    tally = unswapped @ _columns(cells, classes)
    tally += (counts - unswapped) @ _columns(cells[:, [0, 2, 1]], classes)
    tally += joint[tuple(agreed.T)] @ _columns(agreed, classes)
    return _difference(tally, joint)


def _columns(cells: np.ndarray, classes: int) -> np.ndarray:
    """What an image of each cell (true, a, b) adds to a's hits, b's hits, a's predictions, b's."""
    true, a, b = cells.T
    # Integers, because BLAS threads cost more than they gain on products this small.
    one_hot = np.eye(classes, dtype=np.int64)
    hits_a, hits_b = (one_hot[true] * (y_pred == true)[:, None] for y_pred in (a, b))
    return np.concatenate([hits_a, hits_b, one_hot[a], one_hot[b]], axis=1)


def _difference(tally: np.ndarray, joint: np.ndarray) -> np.ndarray:
    hits_a, hits_b, predicted_a, predicted_b = np.split(tally, 4, axis=-1)
    support = joint.sum(axis=(1, 2))
    f1_a, f1_b = f1_scores(hits_a, predicted_a, support), f1_scores(hits_b, predicted_b, support)
    return f1_a.mean(axis=-1) - f1_b.mean(axis=-1)


def f1_scores(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """F1 per class (..., K) from counts per class: true positives, predictions, images.

    Zero for a class without images and predictions.
    """
    total = predicted + support
    return np.divide(2 * hits, total, out=np.zeros(total.shape), where=total > 0)


# --- a table of rows ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairwise:
    """Every row against every other, (m, m) each: macro F1 of row minus column, and its test."""

    difference: np.ndarray
    sd: np.ndarray
    """Of the difference, if the two rows were equally good."""
    p: np.ndarray
    """Two-sided, for each pair by itself."""


def pairwise(labels: np.ndarray, y_preds: Sequence[np.ndarray], classes: int) -> Pairwise:
    """Compare every row of a table with every other, without resampling.

    Each of ``y_preds`` is (n,), or (seeds, n) and scored by its mean macro F1. This is the limit
    of ``paired``'s p for many images, in closed form, so that small p are not rounded to
    1/resamples: swapping the two predictions of an image moves the difference, to first order, by
    d, and the sd is the root of the sum of d**2. For accuracy the same argument gives McNemar's
    chi-squared without continuity correction, which keeps its level (Fagerland et al. 2013, BMC
    Medical Research Methodology 13).
    """
    if not len(y_preds):
        return Pairwise(*np.zeros((3, 0, 0)))
    # How often each row predicts each class for each image, (m, n, K): over the seeds.
    rates = np.stack([np.eye(classes)[np.atleast_2d(row)].mean(axis=0) for row in y_preds])
    support = np.bincount(labels, minlength=classes)
    predicted = rates.sum(axis=1)
    hits = np.stack([rates[:, labels == k, k].sum(axis=1) for k in range(classes)], axis=1)
    scores = np.array([_mean_macro_f1(labels, row, support) for row in y_preds])
    # F1's denominator and derivative by a prediction, at the mean of the two rows.
    total = np.maximum(support + (predicted[:, None] + predicted) / 2, 1)
    cost = (hits[:, None] + hits) / total / total
    variance = np.zeros((len(rates), len(rates)))
    disputed = (rates != rates[0]).any(axis=(0, 2))
    for k in range(classes):
        gain = -cost
        gain[..., k] += 2 / total[..., k]
        variance += _sum_of_squares(rates[:, disputed & (labels == k)], gain)
    sd = np.sqrt(np.maximum(variance, 0)) / classes
    difference = scores[:, None] - scores
    z = np.abs(difference) / np.maximum(sd, 1e-9)
    return Pairwise(difference, sd, p=np.vectorize(math.erfc)(z / math.sqrt(2)))


def _sum_of_squares(rates: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Sum over images of (gain . (rates of row - rates of column))**2, (m, m).

    ``rates`` (m, images, K) of one true class, ``gain`` (m, m, K) of a prediction, symmetric.
    """
    m, images, classes = rates.shape
    flat = rates.transpose(1, 0, 2).reshape(images, m * classes)
    products = (flat.T @ flat).reshape(m, classes, m, classes)
    rows = np.arange(m)
    # Matrix products: einsum takes longer to plan these than to sum them.
    own = ((gain @ products[rows, :, rows]) * gain).sum(axis=2)
    cross = (gain[:, :, None] @ products.transpose(0, 2, 1, 3))[:, :, 0]
    cross = (cross * gain).sum(axis=2)
    return own + own.T - 2 * cross


def _mean_macro_f1(labels: np.ndarray, row: np.ndarray, support: np.ndarray) -> float:
    classes = len(support)
    return fmean(
        f1_scores(
            np.bincount(labels[y_pred == labels], minlength=classes),
            np.bincount(y_pred, minlength=classes),
            support,
        ).mean()
        for y_pred in np.atleast_2d(row)
    )


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """p values (m,) adjusted for their number. Holm 1979 (Scandinavian J. of Statistics 6)."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def rank_groups(pairs: Pairwise, alpha: float = 0.05) -> list[int]:
    """Ranks of rows, best first, where rows that cannot be told apart share one: 1, 1, 1, 4, ...

    Each row is compared with the leader of the current group, at first the best row. A row with a
    lower macro F1 and an adjusted p below ``alpha`` leads a new group; its rank is its place. Two
    followers are not compared, and a row may share the rank of one that it differs from.

    p is adjusted by Holm over all pairs of rows, not only over the comparisons made: the leaders
    are chosen by the same images, and the best of many equal rows differs from the worst more than
    two rows named beforehand would. So the chance of even one wrong boundary is at most ``alpha``,
    whichever rows are equal: measured, 1 to 3 % in tables of 16 equal rows, where adjusting for
    the leader's comparisons alone gave 13 to 22 %.
    """
    rows = len(pairs.p)
    upper, adjusted = np.triu_indices(rows, 1), np.ones((rows, rows))
    adjusted[upper] = holm(pairs.p[upper])
    ranks, leader = [], 0
    for row in range(rows):
        if pairs.difference[leader, row] > 0 and adjusted[leader, row] < alpha:
            leader = row
        ranks.append(leader + 1)
    return ranks


def smallest_difference(pairs: Pairwise, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference in macro F1 that this test set shows between rows like these.

    Two rows that differ by it are told apart (two-sided p < alpha, one planned comparison) in
    ``power`` of test sets: (z_{1-alpha/2} + z_power) * sd, the minimum detectable effect of Bloom
    1995 (Evaluation Review 19). The sd is the median over neighbouring rows of the table. NaN for
    fewer than two rows.
    """
    if len(pairs.sd) < 2:
        return math.nan
    z = NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)
    return float(z * median(np.diagonal(pairs.sd, 1).tolist()))


# --- an ensemble's members ---------------------------------------------------------------------


@dataclass(frozen=True)
class Diversity:
    """How differently m members err; matrices are (m, m)."""

    disagreement: np.ndarray
    """Share of images that exactly one of the two predicts correctly."""
    q_statistic: np.ndarray
    """Yule's Q of being correct: 1 the same errors, 0 independent, -1 never the same; or NaN."""
    oracle_macro_f1: float
    """Of an oracle that is correct where any member is, and predicts as the first elsewhere."""


def diversity(labels: np.ndarray, y_preds: Sequence[np.ndarray], classes: int) -> Diversity:
    """Pairwise diversity of members' predictions (n,), and the bound on any choice among them.

    Q is NaN where both terms are zero, as with a member that is always correct. Kuncheva and
    Whitaker 2003 (Machine Learning 51), equations 1 and 4.
    """
    correct = (np.stack(y_preds) == labels).astype(float)
    wrong = 1 - correct
    both, neither, only_row = correct @ correct.T, wrong @ wrong.T, correct @ wrong.T
    same, differ = both * neither, only_row * only_row.T
    undefined = np.full(both.shape, np.nan)
    oracle = np.where(correct.any(axis=0), labels, y_preds[0])
    return Diversity(
        disagreement=(only_row + only_row.T) / len(labels),
        q_statistic=np.divide(same - differ, same + differ, out=undefined, where=same + differ > 0),
        oracle_macro_f1=_mean_macro_f1(labels, oracle, np.bincount(labels, minlength=classes)),
    )


def pareto(points: np.ndarray) -> np.ndarray:
    """Which points (n, 2), larger better in both, are on the Pareto front; bool (n,).

    A point is dominated by one that is nowhere worse and somewhere better; equal points are on or
    off the front together. A point with a NaN is off.
    """
    no_worse = (points[:, None] >= points).all(axis=2)
    better = (points[:, None] > points).any(axis=2)
    return ~(no_worse & better).any(axis=0) & ~np.isnan(points).any(axis=1)
