"""A table of rows on the same images: how their scores vary together, and which may be the best.

One joint bootstrap of all rows serves the confidence set and the bias of the best row's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.evaluation.significance import (
    counts_per_class,
    f1_scores,
    gain_of_predictions,
    pseudo_variance,
    quantile,
)

RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class JointScores:
    """Macro F1 of m rows, and its variation over test sets and over seeds."""

    scores: np.ndarray
    """(m,): means over the seeds."""
    covariance: np.ndarray
    """(m, m): over test sets, each class with as many images as here."""
    seed_variance: np.ndarray
    """(m,): of a mean over the row's seeds. From all rows with several seeds, 0 without any."""
    freedom: int
    """Degrees of freedom of that variance, 0 without any."""

    @cached_property
    def draws(self) -> np.ndarray:
        """(resamples, m): by how much the scores would differ on other images with other seeds.

        A bootstrap of the images to first order: the normal distribution with its covariance.
        """
        rng, rows = np.random.default_rng(0), len(self.scores)
        # Cholesky's root is unique: all processors draw the same.
        draws = rng.standard_normal((RESAMPLES, rows)) @ np.linalg.cholesky(self.covariance).T
        if self.freedom:
            scale = np.sqrt(self.freedom / rng.chisquare(self.freedom, (RESAMPLES, 1)))
            noise = rng.standard_normal((RESAMPLES, rows)) * np.sqrt(self.seed_variance)
            draws += scale * noise
        return draws


def joint_scores(labels: np.ndarray, y_preds: Sequence[np.ndarray], classes: int) -> JointScores:
    """Of rows of predicted classes, (n,) or (seeds, n) each, on the same images.

    The covariance is that of the stratified bootstrap to first order, in an image's effect on each
    score (the infinitesimal jackknife; Efron 1982), and ``significance.PSEUDO_IMAGES`` of each row.
    """
    support = np.bincount(labels, minlength=classes)
    means, freedom, squares = [], 0, 0.0
    effects, pseudo = np.empty((len(y_preds), len(labels))), np.empty(len(y_preds))
    for i, row in enumerate(map(np.atleast_2d, y_preds)):
        hits, predicted = counts_per_class(labels, row, classes)
        scores = f1_scores(hits, predicted, support).mean(axis=1)
        gains = gain_of_predictions(hits.mean(axis=0), predicted.mean(axis=0), support)
        effects[i] = gains[labels, row].mean(axis=0)
        pseudo[i] = pseudo_variance(gains, support) / 2
        means.append(scores.mean())
        squares += ((scores - means[-1]) ** 2).sum()
        freedom += len(row) - 1
    for k in np.flatnonzero(support):
        effects[:, labels == k] -= effects[:, labels == k].mean(axis=1, keepdims=True)
    seeds = np.array([len(np.atleast_2d(row)) for row in y_preds])
    return JointScores(
        scores=np.array(means),
        covariance=effects @ effects.T + np.diag(pseudo),
        seed_variance=squares / max(1, freedom) / seeds,
        freedom=freedom,
    )


def confidence_set(joint: JointScores, alpha: float = 0.05) -> np.ndarray:
    """Which rows may be the best, bool (m,): in 1 - ``alpha`` of test sets the best is among them.

    The model confidence set of Hansen, Lunde and Nason 2011 (Econometrica 79) with T_max: a row's
    distance from the mean of the rows that are left, over its sd, against the largest such ratio
    in each draw. Rows whose p is below ``alpha`` leave, and the others are compared again; here
    all such rows at once and not the worst alone, as the others would leave next.
    """
    left = np.arange(len(joint.scores))
    while len(left) > 1:
        distance = joint.scores[left].mean() - joint.scores[left]
        draws = joint.draws[:, left]
        draws = draws.mean(axis=1, keepdims=True) - draws
        sd = draws.std(axis=0)
        largest = np.sort((draws / sd).max(axis=1))
        p = 1 - np.searchsorted(largest, distance / sd) / len(largest)
        if not (p < alpha).any():
            break
        left = left[p >= alpha]
    return np.isin(np.arange(len(joint.scores)), left)


def selection_bias(joint: JointScores, among: np.ndarray) -> float:
    """By how much the score of the best of some rows, bool (m,), exceeds its true score at most.

    The mean of the largest draw, which is the bias where all of them are equally good.
    """
    return float(joint.draws[:, among].max(axis=1).mean()) if among.any() else 0.0


def smallest_difference(
    joint: JointScores, among: np.ndarray, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest true difference in macro F1 that ``power`` of test sets show, for two rows.

    (t_{1-alpha/2} + t_power) * sd for one planned comparison, the minimum detectable effect of
    Bloom 1995 (Evaluation Review 19), with the median sd over pairs of the rows ``among``, bool
    (m,). NaN for fewer than two.
    """
    rows = np.flatnonzero(among)
    if len(rows) < 2:
        return float("nan")
    variance = np.diag(joint.covariance) + joint.seed_variance
    pairs = variance[:, None] + variance - 2 * joint.covariance
    first, second = np.triu_indices(len(rows), 1)
    sd = np.sqrt(np.median(pairs[rows[first], rows[second]]))
    t = quantile(1 - alpha / 2, joint.freedom) + quantile(power, joint.freedom)
    return float(t * sd)
