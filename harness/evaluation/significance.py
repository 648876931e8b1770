"""Intervals, the paired test of two rows, and diversity of predicted classes.

Every statement is about the test images: how would the numbers differ on other images of the same
classes, each class as often as now? Where two rows have several seeds, the test also asks how the
difference would vary with other seeds. Every resampling is a function of its seed.

The leaderboard of a thousand records computes all of this; so it is numpy, and Holm's correction
is not statsmodels', whose import alone takes a second.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TypeVar

import numpy as np

from harness.schema.predictions import Predictions

K = TypeVar("K", bound=Hashable)

PSEUDO_IMAGES = 2.0
"""Images that are added to the counts before resampling, spread evenly over all cells.

Without them a class without errors never errs in a resample, and 95 % intervals of a macro F1 of
.995 on 400 images cover the truth in 83 % of cases; with them in 95 %. Agresti and Coull add a
little to each count in the same way (1998, American Statistician 52).
"""
SIGNIFICANT = 0.05
FEW_IMAGES = 10
"""Per class: with fewer, or with fewer than classes, resampled scores are corrected.

The noise of a macro F1 averages out over classes, the bias of its estimate does not: at 12 images
in each of 20 classes and a macro F1 of .5 the correction raises coverage from 92 to 94 %.
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
    ``PSEUDO_IMAGES`` are spread evenly over all cells. Classes without images and predictions
    count zero, as in scikit-learn. Efron and Tibshirani 1993, An Introduction to the Bootstrap.
    """
    rng = np.random.default_rng(seed)
    support, classes = confusion.sum(axis=1), len(confusion)
    hits, predicted = np.zeros((2, resamples, classes))
    for k in np.flatnonzero(support):
        chances = confusion[k] + PSEUDO_IMAGES / classes / classes
        counts = rng.multinomial(support[k], chances / chances.sum(), size=resamples)
        hits[:, k] = counts[:, k]
        predicted += counts
    macro_f1 = f1_scores(hits, predicted, support).mean(axis=1)
    accuracy = hits.sum(axis=1) / max(1, support.sum())
    present = support[support > 0]
    if support.sum() < len(present) * max(FEW_IMAGES, len(present)):
        observed = f1_scores(np.diag(confusion), confusion.sum(axis=0), support).mean()
        # Resampling n images shows (n - 1) / n of their variance, and their bias a second time.
        # Macro F1 weights classes equally, accuracy by their images.
        of_images = math.sqrt(present.sum() / max(1, present.sum() - len(present)))
        of_classes = max(of_images, math.sqrt((present / np.maximum(present - 1, 0.5)).mean()))
        macro_f1 = observed + of_classes * (macro_f1 - macro_f1.mean())
        accuracy = accuracy.mean() + of_images * (accuracy - accuracy.mean())
    return Bootstrap(np.clip(macro_f1, 0, len(present) / classes), np.clip(accuracy, 0, 1))


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrapped scores (resamples,).

    With ``bootstrap`` it covers the truth as often as ``benchmarks/error_rates.py`` prints.
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
    seeds: int = 1
    """Of the row with more; 1: what other seeds would give is not in interval and p."""

    @property
    def significant(self) -> bool:
        return self.p < SIGNIFICANT


def mcnemar(labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Exact two-sided p that two predictions (n,) of the same images are right equally often.

    McNemar 1947 (Psychometrika 12): a binomial test of the images that only one gets right.
    """
    from scipy.stats import binomtest

    only_a = int(((a == labels) & (b != labels)).sum())
    only_b = int(((b == labels) & (a != labels)).sum())
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def paired(
    labels: np.ndarray, a: np.ndarray, b: np.ndarray, classes: int, *, same_networks: bool = False
) -> Paired:
    """Test the difference in macro F1 of two rows on the same images, in closed form.

    ``a`` and ``b``: predicted classes (n,), or (seeds, n) and scored by their mean macro F1. To
    first order, swapping the two predictions of an image moves the difference by d; if the rows
    were equally good, the sd due to the images would be the root of the sum of d**2, to which
    ``PSEUDO_IMAGES`` add where one row is right and the other wrong: rows that agree everywhere
    might differ on other images. For accuracy this is McNemar's test.

    With several seeds the variance of the means over seeds is added, pooled over both rows as in
    Student's test with 2 (seeds - 1) degrees of freedom. As the images' part is known better, p is
    that of t for the seeds' share of the variance and of the normal distribution for the rest
    (Cochran and Cox 1950, Experimental Designs). With ``same_networks`` both rows are predictions
    of the same networks, whose seeds are not chance.
    """
    a, b, support = np.atleast_2d(a), np.atleast_2d(b), np.bincount(labels, minlength=classes)
    counts = [counts_per_class(labels, y_pred, classes) for y_pred in (a, b)]
    scores = [f1_scores(*count, support).mean(axis=1) for count in counts]
    hits, predicted = np.mean([[part.mean(axis=0) for part in count] for count in counts], axis=0)
    gains = gain_of_predictions(hits, predicted, support)
    d = gains[labels, a].mean(axis=0) - gains[labels, b].mean(axis=0)
    seed_variance, freedom = (0.0, 0) if same_networks else _variance(scores)
    variance = float(d @ d) + pseudo_variance(gains, support) + seed_variance
    sd, share = math.sqrt(variance), seed_variance / variance
    difference = float(scores[0].mean() - scores[1].mean())
    p, width = two_sided(abs(difference) / sd, share, freedom), critical_value(share, freedom) * sd
    return Paired(difference, difference - width, difference + width, p, max(len(a), len(b)))


def paired_predictions(
    ours: Sequence[Predictions], theirs: Sequence[Predictions], *, same_networks: bool = False
) -> Paired:
    """``paired`` of two rows' predictions of the same images, one for each seed."""
    a, b = (np.stack([part.y_pred for part in parts]) for parts in (ours, theirs))
    classes = ours[0].probabilities.shape[1]
    return paired(ours[0].labels, a, b, classes, same_networks=same_networks)


def _variance(samples: Sequence[np.ndarray]) -> tuple[float, int]:
    """Of the sum of the samples' means, the variance pooled; and its degrees of freedom.

    0 and 0 where no sample has two values.
    """
    freedom = sum(len(sample) - 1 for sample in samples)
    if not freedom:
        return 0.0, 0
    squares = sum(((sample - sample.mean()) ** 2).sum() for sample in samples)
    return float(squares / freedom * sum(1 / len(sample) for sample in samples)), freedom


def two_sided(t: float, share: float, freedom: int) -> float:
    """p of a difference over its sd; a share of its variance has so many degrees of freedom."""
    normal = math.erfc(t / math.sqrt(2))
    if not freedom:
        return normal
    from scipy.special import stdtr

    return (1 - share) * normal + share * 2 * float(stdtr(freedom, -t))


def critical_value(share: float, freedom: int, alpha: float = 0.05) -> float:
    """The t whose ``two_sided`` p is ``alpha``."""
    low, high = 0.0, 1.0
    while two_sided(high, share, freedom) > alpha:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, share, freedom) > alpha else (low, middle)
    return high


# --- macro F1 and its derivative ----------------------------------------------------------------


def f1_scores(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """F1 per class (..., K) from counts per class: true positives, predictions, images.

    Zero for a class without images and predictions.
    """
    total = predicted + support
    return np.divide(2 * hits, total, out=np.zeros(total.shape), where=total > 0)


def counts_per_class(
    labels: np.ndarray, y_pred: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of predictions (seeds, n) the true positives and the predictions, (seeds, K) each."""
    hits = [np.bincount(labels[row == labels], minlength=classes) for row in y_pred]
    return np.array(hits), np.array([np.bincount(row, minlength=classes) for row in y_pred])


def gain_of_predictions(hits: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> np.ndarray:
    """(..., K, K): what a prediction (last axis) of an image of a class adds to the macro F1.

    The derivative at counts (..., K) per class: true positives, predictions, images.
    """
    total = np.maximum(predicted + support, 1)
    classes = total.shape[-1]
    of_any = (-2 * hits / total / total)[..., None, :]
    return (of_any + np.eye(classes) * (2 / total)[..., None, :]) / classes


def pseudo_variance(gains: np.ndarray, support: np.ndarray) -> float:
    """Of a difference in macro F1: ``PSEUDO_IMAGES`` that one row predicts correctly, one wrong."""
    squares = (np.diag(gains)[:, None] - gains) ** 2
    classes = len(gains)
    mean = squares[support > 0].sum() / max(1, classes - 1)  # A class without images has no share.
    return float(PSEUDO_IMAGES / classes * mean)


# --- several comparisons ------------------------------------------------------------------------


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """p values (m,) adjusted for their number. Holm 1979 (Scandinavian J. of Statistics 6)."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def adjusted(tests: Mapping[K, Paired]) -> dict[K, Paired]:
    """The tests with their p adjusted by ``holm`` for their number."""
    p_values = map(float, holm([test.p for test in tests.values()]))
    return {key: replace(tests[key], p=p) for key, p in zip(tests, p_values, strict=True)}


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
        oracle_macro_f1=float(
            f1_scores(
                *counts_per_class(labels, oracle[None], classes),
                np.bincount(labels, minlength=classes),
            ).mean()
        ),
    )


def pareto(points: np.ndarray) -> np.ndarray:
    """Which points (n, 2), larger better in both, are on the Pareto front; bool (n,).

    A point is dominated by one that is nowhere worse and somewhere better; equal points are on or
    off the front together. A point with a NaN is off.
    """
    no_worse = (points[:, None] >= points).all(axis=2)
    better = (points[:, None] > points).any(axis=2)
    return ~(no_worse & better).any(axis=0) & ~np.isnan(points).any(axis=1)
