"""The shifted test in numbers: scores by corruption and severity, agreement of ranks.

Pure functions of stored predictions: which image was corrupted in which way follows from the
run's data and split (see harness.data.shifted_test).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist, fmean, variance

import numpy as np

from harness.data.corruptions import CORRUPTIONS, SEVERITIES
from harness.data.shifted_test import PAIRS, assign_corruptions
from harness.evaluation import significance
from harness.evaluation.metrics import confusion_matrix, macro_f1
from harness.evaluation.significance import Paired
from harness.schema.predictions import EVERY_SHIFT, PLAIN, SHIFTED, Predictions
from harness.schema.run import Run

RESAMPLES = 2000
Z = NormalDist().inv_cdf(0.975)
FEWEST_RANKED = 3
"""Fewer rows have no meaningful rank correlation."""


# --- a row ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """The images of one corruption or severity: macro F1 of their classes, 95 % interval."""

    name: str
    images: int
    macro_f1: float
    low: float
    high: float
    sd: float
    """Of the score over other images."""


@dataclass(frozen=True)
class Robustness:
    """Macro F1 on the test images and on their shifted copy, by corruption and by severity."""

    clean: float
    shifted: float
    corruptions: tuple[Group, ...]
    severities: tuple[Group, ...]

    @property
    def worst(self) -> Group | None:
        """The corruption with the lowest macro F1, if that is significantly below the next lowest.

        None where the two cannot be told apart (two-sided, 5 %). One comparison is enough: the
        lowest is then below all others too (Gutmann and Maymin 1987, Annals of Statistics 15).
        """
        with_images = [group for group in self.corruptions if group.images]
        lowest, *others = sorted(with_images, key=lambda group: group.macro_f1)
        if not others:
            return None
        difference = others[0].macro_f1 - lowest.macro_f1
        return lowest if difference > Z * math.hypot(lowest.sd, others[0].sd) else None


def robustness(
    test: Predictions,
    shifted: Predictions,
    run: Run,
    *,
    part: str = SHIFTED,
    intervals: bool = True,
) -> Robustness:
    """Compare one run's or ensemble's predictions of the test images and of their shifted copy.

    ``part`` names the copy: mixed, or ``every-shift``. ``run`` has the data and split; of an
    ensemble the first member's. Without ``intervals``, which are most of the work, their ends are
    NaN.
    """
    pairs = pairs_of(part, shifted.labels, run)
    corruption, severity = pairs // len(SEVERITIES), pairs % len(SEVERITIES)
    return Robustness(
        clean=_score(test),
        shifted=_score(shifted),
        corruptions=tuple(
            _group(name, shifted, corruption == i, intervals) for i, name in enumerate(CORRUPTIONS)
        ),
        severities=tuple(
            _group(str(s), shifted, severity == i, intervals) for i, s in enumerate(SEVERITIES)
        ),
    )


def pairs_of(part: str, labels: np.ndarray, run: Run) -> np.ndarray:
    """The index in ``PAIRS`` (m,) of the corruption and severity of each row of a shifted part."""
    if part.removeprefix(PLAIN) == EVERY_SHIFT:
        return np.repeat(np.arange(len(PAIRS)), len(labels) // len(PAIRS))
    return assign_corruptions(labels, run.data, run.split)


def mean(rows: Sequence[Robustness]) -> Robustness:
    """The mean over the seeds of a row, also of the ends of the intervals."""
    return Robustness(
        clean=fmean(row.clean for row in rows),
        shifted=fmean(row.shifted for row in rows),
        corruptions=tuple(map(_mean_group, zip(*(row.corruptions for row in rows), strict=True))),
        severities=tuple(map(_mean_group, zip(*(row.severities for row in rows), strict=True))),
    )


def _mean_group(groups: tuple[Group, ...]) -> Group:
    score, low, high = (
        fmean(getattr(group, name) for group in groups) for name in ("macro_f1", "low", "high")
    )
    # All seeds have the same images, whose noise more seeds do not lessen.
    seeds = variance(group.macro_f1 for group in groups) / len(groups) if len(groups) > 1 else 0.0
    sd = math.sqrt(fmean(group.sd**2 for group in groups) + seeds)
    return Group(groups[0].name, groups[0].images, score, low, high, sd)


def _group(name: str, part: Predictions, rows: np.ndarray, intervals: bool) -> Group:
    if not rows.any():
        return Group(name, 0, math.nan, math.nan, math.nan, math.nan)
    labels, y_pred = part.labels[rows], part.probabilities[rows].argmax(axis=1)
    images, classes = len(labels), part.probabilities.shape[1]
    score = _macro_f1(labels, y_pred, classes)
    confusion = confusion_matrix(labels, y_pred, classes)
    # An image in five severities is still one image: at most five times the variance.
    copies = math.sqrt(images / len(np.unique(part.ids[rows])))
    sd = _sd(confusion) * copies
    if not intervals:
        return Group(name, images, score, math.nan, math.nan, sd)
    # The bootstrap counts absent classes as zero; here they do not count.
    scale = classes / len(np.unique(labels))
    ends = np.array(significance.interval(significance.bootstrap(confusion, RESAMPLES).macro_f1))
    low, high = np.clip(score + (ends * scale - score) * copies, 0, 1)
    return Group(name, images, score, float(low), float(high), sd)


def _sd(confusion: np.ndarray) -> float:
    """Of the macro F1 of the classes with images, of other images with the same class counts.

    The delta method: each class's images are a multinomial over the predicted classes, whose
    chances include pseudo-images as in ``significance.bootstrap``.
    """
    support, classes = confusion.sum(axis=1), len(confusion)
    gains = significance.gain_of_predictions(np.diag(confusion), confusion.sum(axis=0), support)
    chances = confusion + significance.PSEUDO_IMAGES / classes / classes
    chances /= chances.sum(axis=1, keepdims=True)
    means = (chances * gains).sum(axis=1, keepdims=True)
    per_image = (chances * (gains - means) ** 2).sum(axis=1)
    return float(np.sqrt(support @ per_image) * classes / np.count_nonzero(support))


def _score(part: Predictions) -> float:
    return _macro_f1(part.labels, part.probabilities.argmax(axis=1), part.probabilities.shape[1])


def _macro_f1(labels: np.ndarray, y_pred: np.ndarray, classes: int) -> float:
    """Over the classes that have an image: a small group may lack one."""
    return macro_f1(labels, y_pred, classes) * classes / len(np.unique(labels))


# --- test-time views -----------------------------------------------------------------------------


def effect_of_views(seeds: Sequence[Mapping[str, Predictions]]) -> dict[str, Paired]:
    """What averaging over views adds on either test, from the parts of each seed, paired.

    Empty for runs with one view, which store no plain part.
    """
    effects = {}
    for name in ("test", SHIFTED):
        if all(name in parts and PLAIN + name in parts for parts in seeds):
            averaged, single = (
                np.stack([parts[part].probabilities.argmax(axis=1) for parts in seeds])
                for part in (name, PLAIN + name)
            )
            part = seeds[0][name]
            classes = part.probabilities.shape[1]
            effects[name] = significance.paired(
                part.labels, averaged, single, classes, same_networks=True
            )
    return effects


# --- a table of rows -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How similarly two columns order the rows: Spearman's rho."""

    first: str
    second: str
    spearman: float


def rank_agreement(scores: Mapping[str, Sequence[float]]) -> tuple[Agreement, ...]:
    """Every two columns of scores (one number per row), in the order of the mapping.

    Empty for fewer than three rows; NaN where all scores of a column are equal.
    """
    import pandas as pd

    table = pd.DataFrame(scores)
    if len(table) < FEWEST_RANKED:
        return ()
    rho = table.corr(method="spearman").to_numpy()
    pairs = combinations(enumerate(scores), 2)
    return tuple(Agreement(a, b, float(rho[i, j])) for (i, a), (j, b) in pairs)


# --- overlap with augmentation -------------------------------------------------------------------

RESEMBLES: dict[str, tuple[str, ...]] = {
    "brightness": ("brighter", "darker"),
    "contrast": ("less contrast", "more contrast"),
    "auto contrast": ("more contrast",),
    "equalize": ("more contrast",),
    "color degeneration": ("saturation",),
    "saturation": ("saturation",),
    "sharpness": ("defocus",),
    "blur": ("defocus", "motion"),
}
"""Operation of an augmentation -> similar corruptions. None is the same: corruptions scale values
where augmentations add, change contrast about grey where those use each channel's mean, and add to
the saturation where those blend with grey."""


def overlap(operations: Collection[str]) -> tuple[str, ...]:
    """The corruptions that resemble these operations of an augmentation.

    A network trained with it has met something similar, so the table names them.
    """
    similar = {name for operation in operations for name in RESEMBLES.get(operation, ())}
    return tuple(name for name in CORRUPTIONS if name in similar)
