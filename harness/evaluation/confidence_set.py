"""A table of rows on the same images: how their scores vary together, and which may be the best.

One joint bootstrap of all rows serves the confidence set and the bias of the best row's score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from harness.evaluation.significance import (
    counts_per_class,
    critical_value,
    f1_scores,
    gain_of_predictions,
    pseudo_variance,
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
    seeds: np.ndarray
    """(m,): how many each row has."""
    support: np.ndarray
    """(classes,): images of each class."""

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the seeds' variance."""
        return int((self.seeds - 1).sum())

    @cached_property
    def sd(self) -> np.ndarray:
        """(m, m): of the difference of two rows; 1 on the diagonal."""
        variance = np.diag(self.covariance) + self.seed_variance
        pairs = variance[:, None] + variance - 2 * self.covariance
        np.fill_diagonal(pairs, 1)
        return np.sqrt(pairs)

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
    means, squares = [], 0.0
    effects, pseudo = np.empty((len(y_preds), len(labels))), np.empty(len(y_preds))
    for i, row in enumerate(map(np.atleast_2d, y_preds)):
        hits, predicted = counts_per_class(labels, row, classes)
        scores = f1_scores(hits, predicted, support).mean(axis=1)
        gains = gain_of_predictions(hits.mean(axis=0), predicted.mean(axis=0), support)
        effects[i] = gains[labels, row].mean(axis=0)
        pseudo[i] = pseudo_variance(gains, support) / 2
        means.append(scores.mean())
        squares += ((scores - means[-1]) ** 2).sum()
    for k in np.flatnonzero(support):
        effects[:, labels == k] -= effects[:, labels == k].mean(axis=1, keepdims=True)
    seeds = np.array([len(np.atleast_2d(row)) for row in y_preds], dtype=int)
    return JointScores(
        scores=np.array(means),
        covariance=effects @ effects.T + np.diag(pseudo),
        seed_variance=squares / max(1, (seeds - 1).sum()) / seeds,
        seeds=seeds,
        support=support,
    )


def confidence_set(joint: JointScores, alpha: float = 0.05) -> np.ndarray:
    """Which rows may be the best, bool (m,): in 1 - ``alpha`` of test sets the best is among them.

    The model confidence set of Hansen, Lunde and Nason 2011 (Econometrica 79) with T_R: every two
    of the rows that are left are compared by t, difference over sd, and a row leaves where another
    is better by more than the largest t of a draw is in 1 - ``alpha`` of the draws. Then the
    others are compared again. All such rows leave at once and not the worst alone: the critical
    value falls with every row that leaves, so they would be next.
    """
    left = np.arange(len(joint.scores))
    for largest_by_chance in (_bonferroni, _largest_of_draws):
        while len(left) > 1:
            t = (joint.scores[left, None] - joint.scores[left]) / joint.sd[np.ix_(left, left)]
            behind = t.max(axis=0) > largest_by_chance(joint, left, alpha)
            if not behind.any():
                break
            left = left[~behind]
    return np.isin(np.arange(len(joint.scores)), left)


def _bonferroni(joint: JointScores, left: np.ndarray, alpha: float) -> float:
    """Above the exact value and known at once: it thins out many rows."""
    pairs = len(left) * (len(left) - 1) / 2
    return critical_value(1.0, joint.freedom, alpha / pairs)


def _largest_of_draws(joint: JointScores, left: np.ndarray, alpha: float) -> float:
    draws, largest = joint.draws[:, left], np.zeros(len(joint.draws))
    for i in range(1, len(left)):
        t = np.abs(draws[:, :i] - draws[:, i, None]) / joint.sd[left[i], left[:i]]
        largest = np.maximum(largest, t.max(axis=1))
    return float(np.quantile(largest, 1 - alpha))


def selection_bias(joint: JointScores, among: np.ndarray) -> float:
    """By how much the score of the best of some rows, bool (m,), exceeds its true score at most.

    The mean of the largest draw, which is the bias where all of them are equally good.
    """
    return float(joint.draws[:, among].max(axis=1).mean()) if among.any() else 0.0


def smallest_difference(
    joint: JointScores, among: np.ndarray, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest true difference in macro F1 that at least ``power`` of test sets show.

    d = (critical value + z_power) * sd for one planned comparison by ``significance.paired``, the
    minimum detectable effect of Bloom 1995 (Evaluation Review 19), for the pair of the rows
    ``among``, bool (m,), whose sd is the median. sd is that of two rows that differ by d: the
    images that make the difference are discordant besides those that were so before (Connor 1987,
    Biometrics 43), unless the better row is worse on as many fewer. NaN for fewer than two.
    """
    rows = np.flatnonzero(among)
    if len(rows) < 2:
        return float("nan")
    first, second = (rows[side] for side in np.triu_indices(len(rows), 1))
    order = np.argsort(joint.sd[first, second], kind="stable")
    pair = [side[order[len(order) // 2]] for side in (first, second)]
    sd, freedom = joint.sd[tuple(pair)], int((joint.seeds[pair] - 1).sum())
    share = joint.seed_variance[pair].sum() / sd**2 if freedom else 0.0
    t = critical_value(share, freedom, alpha) + NormalDist().inv_cdf(power)
    # d / image more images that are discordant: d**2 = t**2 (sd**2 + d / image * image**2).
    held = joint.support[joint.support > 0]
    half = t**2 * float((1 / held).mean()) / len(held) / 2
    return half + math.sqrt(half**2 + (t * sd) ** 2)
