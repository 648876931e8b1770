"""Guesses -> intervals, paired tests, tied ranks and diversity. Pure functions of arrays.

Every statement is about the test images: had other images of the same classes been drawn, each
class as often as now, how would the numbers differ? What other seeds would have trained is not
asked here; ``split_spread`` keeps the two apart. Every resampling is a function of its seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median, stdev

import numpy as np

PSEUDO_IMAGES = 0.25
"""Images a class of an unseen kind that a resample may draw, besides those that were seen.

Without them a class without errors never errs in a resample, and 95 % intervals of a macro F1 of
.995 on 400 images hold the truth in 83 % of cases; with them in 95 %. Adding a little to each
count is Agresti and Coull's remedy for one proportion (1998, American Statistician 52).
"""


# --- one row -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bootstrap:
    """Resampled scores, (resamples,) each."""

    macro_f1: np.ndarray
    accuracy: np.ndarray


def bootstrap(confusion: np.ndarray, resamples: int = 10_000, seed: int = 0) -> Bootstrap:
    """Scores of test sets drawn again from a confusion matrix (K, K), rows the true classes.

    Each row is a multinomial of its own total, so every class keeps its number of images;
    ``PSEUDO_IMAGES`` are spread evenly over its cells first. Classes without images and guesses
    count zero, as in scikit-learn. Efron and Tibshirani 1993, An Introduction to the Bootstrap.
    """
    rng = np.random.default_rng(seed)
    totals, classes = confusion.sum(axis=1), len(confusion)
    hits, guessed = np.zeros((2, resamples, classes))
    for k in np.flatnonzero(totals):
        chances = confusion[k] + PSEUDO_IMAGES / classes
        draws = rng.multinomial(totals[k], chances / chances.sum(), size=resamples)
        hits[:, k] = draws[:, k]
        guessed += draws
    return Bootstrap(
        macro_f1=f1_scores(hits, guessed, totals).mean(axis=1),
        accuracy=hits.sum(axis=1) / max(1, totals.sum()),
    )


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrapped numbers (resamples,).

    On ``bootstrap`` of eight classes a 95 % interval holds a macro F1 of .7 to .995 in 92 to 94 %
    of test sets of 100 images, in 94 to 95 % from 400 images on. Without the pseudo-images neither
    this nor the basic, normal or BCa interval does so near 1.
    """
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def split_spread(
    scores_per_seed: Sequence[float], bootstrap_sd_per_seed: Sequence[float]
) -> tuple[float | None, float]:
    """How far a mean over seeds is due to training, and how far to the test images, as two sds.

    The first is the sample sd of the scores over the seeds, None for one seed: what another
    training would change. All seeds are scored on the same images, so an easy test set is easy
    for all of them: that noise is not in their spread, and does not shrink with their number.
    The second, the test images' sd of the mean score, is therefore the mean of the seeds'
    bootstrap sds, not that over sqrt(seeds): an upper bound whatever their correlation (the sd of
    a mean is at most the mean of the sds), reached where all seeds err on the same images.
    """
    seeds = len(scores_per_seed)
    return (stdev(scores_per_seed) if seeds > 1 else None), fmean(bootstrap_sd_per_seed)


# --- two rows ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """Macro F1 of the first minus that of the second, its 95 % interval, and two-sided p."""

    difference: float
    low: float
    high: float
    p: float


def mcnemar(labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Exact two-sided p that two guesses (n,) of the same images are right equally often.

    McNemar 1947 (Psychometrika 12): of the images that only one guesses right, half are each's.
    """
    only_a = int(((a == labels) & (b != labels)).sum())
    only_b = int(((b == labels) & (a != labels)).sum())
    count, ways, tail = only_a + only_b, 1, 0
    for i in range(min(only_a, only_b) + 1):
        tail += ways
        ways = ways * (count - i) // (i + 1)
    return min(1.0, 2 * tail / 2**count)


def paired(
    labels: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    classes: int,
    resamples: int = 10_000,
    seed: int = 0,
) -> Paired:
    """The difference in macro F1 of two guesses (n,) of the same images, and whether it is real.

    Interval: percentiles of a bootstrap of the images, stratified by true class, on the counts
    of (true, a, b), with ``PSEUDO_IMAGES`` where one is right and the other not: two rows that
    agreed everywhere might yet differ elsewhere. p: the two guesses of an image swapped at random
    (approximate randomisation; Yeh 2000, COLING), which is exact where a bootstrap's p is too
    small, with few disagreements; (1 + as extreme) / (1 + resamples). So the two can part by a
    hair at the limit.
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
    """Differences in macro F1 (resamples,) of counts (K, K, K) drawn again class by class."""
    classes = len(joint)
    tally = np.zeros((resamples, 4 * classes), dtype=np.int64)
    for k in np.flatnonzero(joint.sum(axis=(1, 2))):
        chances = joint[k].astype(float)
        others = np.flatnonzero(np.arange(classes) != k)
        chances[k, others] += PSEUDO_IMAGES / max(1, 2 * len(others))
        chances[others, k] += PSEUDO_IMAGES / max(1, 2 * len(others))
        a, b = np.nonzero(chances)
        seen = chances[a, b] / chances.sum()
        draws = rng.multinomial(joint[k].sum(), seen, size=resamples)
        tally += draws @ _columns(np.column_stack([np.full_like(a, k), a, b]), classes)
    return _difference(tally, joint)


def _swapped(joint: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Differences in macro F1 (resamples,) when the guesses of each image may change places."""
    classes = len(joint)
    either = joint + joint.transpose(0, 2, 1)
    agreed, cells = np.argwhere(np.eye(classes, dtype=bool) & (joint > 0)), np.argwhere(either)
    cells = cells[cells[:, 1] < cells[:, 2]]
    counts = either[tuple(cells.T)]
    kept = rng.binomial(counts, 0.5, size=(resamples, len(counts)))
    tally = kept @ _columns(cells, classes)
    tally += (counts - kept) @ _columns(cells[:, [0, 2, 1]], classes)
    tally += joint[tuple(agreed.T)] @ _columns(agreed, classes)
    return _difference(tally, joint)


def _columns(cells: np.ndarray, classes: int) -> np.ndarray:
    """What an image in each cell (true, a, b) adds to a's hits, b's, a's guesses, b's."""
    true, a, b = cells.T
    # Whole numbers: products this small lose more to a matrix library's threads than they gain.
    one = np.eye(classes, dtype=np.int64)
    hit_a, hit_b = one[true] * (a == true)[:, None], one[true] * (b == true)[:, None]
    return np.concatenate([hit_a, hit_b, one[a], one[b]], axis=1)


def _difference(tally: np.ndarray, joint: np.ndarray) -> np.ndarray:
    hits_a, hits_b, guessed_a, guessed_b = np.split(tally, 4, axis=-1)
    totals = joint.sum(axis=(1, 2))
    f1_a, f1_b = f1_scores(hits_a, guessed_a, totals), f1_scores(hits_b, guessed_b, totals)
    return f1_a.mean(axis=-1) - f1_b.mean(axis=-1)


def f1_scores(hits: np.ndarray, guessed: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """F1 of each class (..., K) from its right guesses, all its guesses and its images.

    Zero for a class without images and guesses.
    """
    either = guessed + totals
    return np.divide(2 * hits, either, out=np.zeros(either.shape), where=either > 0)


# --- a table of rows ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairwise:
    """Of m rows: macro F1 row minus column, its sd were they equal, two-sided p; (m, m) each."""

    difference: np.ndarray
    sd: np.ndarray
    p: np.ndarray


def pairwise(labels: np.ndarray, guesses: Sequence[np.ndarray], classes: int) -> Pairwise:
    """Every row of a table against every other, without resampling.

    A row's guesses are (n,), or (seeds, n) and then scored by their mean macro F1. This is the
    limit of ``paired``'s p for many images, in closed form, so that small p are not rounded to
    1/resamples: swapping an image's two guesses moves the difference, to first order, by d, and
    the sd is the root of the sum of d**2. For accuracy the same argument gives McNemar's
    chi-squared without continuity correction, which keeps its level (Fagerland et al. 2013, BMC
    Medical Research Methodology 13).
    """
    shares = np.stack([np.eye(classes)[np.atleast_2d(row)].mean(axis=0) for row in guesses])
    totals = np.bincount(labels, minlength=classes)
    guessed = shares.sum(axis=1)
    hits = np.stack([shares[:, labels == k, k].sum(axis=1) for k in range(classes)], axis=1)
    scores = np.array([_mean_macro_f1(labels, row, totals) for row in guesses])
    # The pair's common precision-and-recall balance: F1 and the images it is taken over.
    either = totals + (guessed[:, None] + guessed) / 2
    either = np.maximum(either, 1)
    cost = (hits[:, None] + hits) / either / either
    variance = np.zeros((len(shares), len(shares)))
    mixed = (shares != shares[0]).any(axis=(0, 2))
    for k in range(classes):
        worth = -cost
        worth[..., k] += 2 / either[..., k]
        variance += _moved(shares[:, mixed & (labels == k)], worth)
    sd = np.sqrt(np.maximum(variance, 0)) / classes
    difference = scores[:, None] - scores
    z = np.abs(difference) / np.maximum(sd, 1e-9)
    return Pairwise(difference, sd, p=np.vectorize(math.erfc)(z / math.sqrt(2)))


def _moved(shares: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Sum over images of (worth . (share of row - share of column))**2, (m, m).

    ``shares`` (m, images, K) of one class, ``worth`` (m, m, K) of a guess, symmetric in the rows.
    """
    m, images, classes = shares.shape
    flat = shares.transpose(1, 0, 2).reshape(images, m * classes)
    products = (flat.T @ flat).reshape(m, classes, m, classes)
    rows = np.arange(m)
    # Matrix products: einsum takes longer to plan these than to sum them.
    own = ((worth @ products[rows, :, rows]) * worth).sum(axis=2)
    cross = (worth[:, :, None] @ products.transpose(0, 2, 1, 3))[:, :, 0]
    cross = (cross * worth).sum(axis=2)
    return own + own.T - 2 * cross


def _mean_macro_f1(labels: np.ndarray, row: np.ndarray, totals: np.ndarray) -> float:
    classes = len(totals)
    return fmean(
        f1_scores(
            np.bincount(labels[guess == labels], minlength=classes),
            np.bincount(guess, minlength=classes),
            totals,
        ).mean()
        for guess in np.atleast_2d(row)
    )


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """p values adjusted for their number, step down. Holm 1979 (Scandinavian J. Statistics 6)."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def rank_groups(
    guesses: Sequence[np.ndarray],
    labels: np.ndarray,
    classes: int,
    alpha: float = 0.05,
    pairs: Pairwise | None = None,
) -> list[int]:
    """Ranks of rows, best first, where rows that cannot be told apart share one: 1, 1, 1, 4, ...

    Each row is compared with the leader of the group so far, at first the best row. A row with a
    lower macro F1 and an adjusted p below ``alpha`` leads a new group, and its rank is its place.
    So nothing is said of two followers, and a row may share the rank of one that it differs from;
    ranks never fall. Guesses are (n,) or (seeds, n), as in ``pairwise``.

    p is adjusted by Holm over all pairs of rows, not over the comparisons that were looked at:
    the leaders are chosen by the same images, and the best of many equal rows differs from the
    worst more than two rows named beforehand would. So the chance of even one wrong boundary is
    at most ``alpha``, whichever rows are equal: measured, 1 to 3 % in tables of 16 equal rows,
    where adjusting for the leader's comparisons alone gave 13 to 22 %. ``pairs``: their
    ``pairwise``, where it is known.
    """
    rows = len(guesses)
    if rows < 2:
        return [1] * rows
    pairs = pairs or pairwise(labels, guesses, classes)
    adjusted = np.ones((rows, rows))
    upper = np.triu_indices(rows, 1)
    adjusted[upper] = holm(pairs.p[upper])
    ranks, leader = [1], 0
    for row in range(1, rows):
        if pairs.difference[leader, row] > 0 and adjusted[leader, row] < alpha:
            leader = row
        ranks.append(leader + 1)
    return ranks


def smallest_difference(
    labels: np.ndarray,
    guesses: Sequence[np.ndarray],
    classes: int,
    alpha: float = 0.05,
    power: float = 0.8,
    pairs: Pairwise | None = None,
) -> float:
    """The smallest difference in macro F1 that this test set shows, as its rows are.

    Two rows that differ by it are told apart (two-sided p < alpha, one comparison planned
    beforehand) in ``power`` of test sets: (z_{1-alpha/2} + z_power) * sd, the minimum detectable
    effect of Bloom 1995 (Evaluation Review 19). The sd is ``pairwise``'s, the median over
    neighbouring rows of the table: the less they disagree, the less they need to differ. NaN for
    fewer than two rows. ``pairs``: as of ``rank_groups``.
    """
    if len(guesses) < 2:
        return math.nan
    sds = np.diagonal((pairs or pairwise(labels, guesses, classes)).sd, 1)
    normal = NormalDist()
    return float((normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * median(sds.tolist()))


# --- an ensemble's members ---------------------------------------------------------------------


@dataclass(frozen=True)
class Diversity:
    """How differently m members err. (m, m) matrices; the oracle's scores."""

    disagreement: np.ndarray
    """Share of images that exactly one of the two guesses right."""
    q_statistic: np.ndarray
    """Yule's Q of being right: 1 the same errors, 0 independent, -1 never the same; or NaN."""
    oracle: float
    """Accuracy of an oracle that is right where any member is."""
    oracle_macro_f1: float
    """Where none is right it guesses as the first."""


def diversity(labels: np.ndarray, guesses: Sequence[np.ndarray], classes: int) -> Diversity:
    """Pairwise diversity of members' guesses (n,) and the bound on any choice among them.

    Q is NaN where it is undefined: both terms zero, as with a member that is always right.
    Kuncheva and Whitaker 2003 (Machine Learning 51), equations 1 and 4.
    """
    right = (np.stack(guesses) == labels).astype(float)
    wrong = 1 - right
    both, neither, only_row = right @ right.T, wrong @ wrong.T, right @ wrong.T
    same, differ = both * neither, only_row * only_row.T
    undefined = np.full(both.shape, np.nan)
    any_right = right.any(axis=0)
    return Diversity(
        disagreement=(only_row + only_row.T) / len(labels),
        q_statistic=np.divide(same - differ, same + differ, out=undefined, where=same + differ > 0),
        oracle=float(any_right.mean()),
        oracle_macro_f1=_mean_macro_f1(
            labels,
            np.where(any_right, labels, guesses[0]),
            np.bincount(labels, minlength=classes),
        ),
    )


def pareto(points: np.ndarray) -> np.ndarray:
    """Which points (n, 2), larger better in both, no other point beats; bool (n,).

    One point beats another when it is nowhere worse and somewhere better: equal points stand or
    fall together. A point with a NaN is not on the front.
    """
    no_worse = (points[:, None] >= points).all(axis=2)
    better = (points[:, None] > points).any(axis=2)
    return ~(no_worse & better).any(axis=0) & ~np.isnan(points).any(axis=1)
