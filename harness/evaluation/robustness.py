"""The shifted test in numbers: scores by corruption and severity, agreement of ranks.

Pure functions of stored predictions: which image was corrupted in which way follows from the
run's data and split (see harness.data.shifted_test).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from statistics import NormalDist, fmean, variance

import numpy as np

from harness.data.corruptions import CORRUPTIONS, SEVERITIES
from harness.data.shifted_test import assign_corruptions
from harness.evaluation import significance
from harness.evaluation.metrics import macro_f1
from harness.evaluation.significance import Paired
from harness.schema.dataset import Split
from harness.schema.predictions import PLAIN, SHIFTED, Predictions
from harness.schema.run import Run

RESAMPLES = 2000
Z = NormalDist().inv_cdf(0.975)
FEWEST_RANKED = 3
"""Fewer rows have no meaningful rank correlation."""


# --- a row ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """The images of one corruption or severity: macro F1 of the classes that are among them."""

    name: str
    images: int
    macro_f1: float
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

        None where the difference is not significant (two-sided, 5 %). One comparison is enough: the
        lowest is then below all others too (Gutmann and Maymin 1987, Annals of Statistics 15).
        """
        with_images = [group for group in self.corruptions if group.images]
        lowest, *others = sorted(with_images, key=lambda group: group.macro_f1)
        if not others:
            return None
        difference = others[0].macro_f1 - lowest.macro_f1
        return lowest if difference > Z * math.hypot(lowest.sd, others[0].sd) else None


def robustness(test: Predictions, shifted: Predictions, run: Run) -> Robustness:
    """Compare one run's or ensemble's predictions of the test images and of their shifted copy.

    ``run`` has the data and split; of an ensemble the first member's.
    """
    confusions = _confusions(shifted, run)
    by_group = np.concatenate([confusions.sum(axis=1), confusions.sum(axis=0)])
    groups, count = _groups((*CORRUPTIONS, *map(str, SEVERITIES)), by_group), len(CORRUPTIONS)
    return Robustness(_score(test), _score(shifted), groups[:count], groups[count:])


def mean(rows: Sequence[Robustness]) -> Robustness:
    """The mean over the seeds of a row."""
    return Robustness(
        clean=fmean(row.clean for row in rows),
        shifted=fmean(row.shifted for row in rows),
        corruptions=tuple(map(_mean_group, zip(*(row.corruptions for row in rows), strict=True))),
        severities=tuple(map(_mean_group, zip(*(row.severities for row in rows), strict=True))),
    )


def half_width(shifted: Predictions, run: Run) -> float:
    """Half the widest 95 % bootstrap interval of a corruption's macro F1."""
    widths = [0.0]
    for confusion in _confusions(shifted, run).sum(axis=1):
        present = np.count_nonzero(confusion.sum(axis=1))
        if present:
            resampled = significance.bootstrap(confusion, RESAMPLES).macro_f1
            # The bootstrap counts absent classes as zero; here they do not count.
            ends = np.array(significance.interval(resampled)) * len(confusion) / present
            widths.append(float(np.diff(np.clip(ends, 0, 1))[0]))
    return max(widths) / 2


def _confusions(shifted: Predictions, run: Run) -> np.ndarray:
    """Counts (corruptions, severities, K, K) of the mixed copy, true classes before predicted."""
    y_pred, classes = shifted.y_pred, shifted.probabilities.shape[1]
    pairs = _pairs(shifted.labels.tobytes(), run.data, run.split)
    cells = (pairs * classes + shifted.labels) * classes + y_pred
    shape = (len(CORRUPTIONS), len(SEVERITIES), classes, classes)
    return np.bincount(cells, minlength=math.prod(shape)).reshape(shape)


@cache
def _pairs(labels: bytes, data: str, split: Split) -> np.ndarray:
    """The same for all rows of a board."""
    return assign_corruptions(np.frombuffer(labels, np.int64), data, split)


def _mean_group(groups: tuple[Group, ...]) -> Group:
    # All seeds have the same images, whose noise more seeds do not lessen.
    seeds = variance(group.macro_f1 for group in groups) / len(groups) if len(groups) > 1 else 0.0
    sd = math.sqrt(fmean(group.sd**2 for group in groups) + seeds)
    score = fmean(group.macro_f1 for group in groups)
    return Group(groups[0].name, groups[0].images, score, sd)


def _groups(names: Sequence[str], confusions: np.ndarray) -> tuple[Group, ...]:
    """One for each confusion matrix (groups, K, K); NaN for a group without images.

    The sd, of other images with the same class counts, is the delta method's: each class's images
    are a multinomial over the predicted classes, whose chances include pseudo-images as in
    ``significance.bootstrap``.
    """
    support, predicted = confusions.sum(axis=2), confusions.sum(axis=1)
    hits, classes = np.diagonal(confusions, axis1=1, axis2=2), confusions.shape[-1]
    chances = confusions + significance.PSEUDO_IMAGES / classes / classes
    chances /= chances.sum(axis=2, keepdims=True)
    gains = significance.gain_of_predictions(hits, predicted, support)
    means = (chances * gains).sum(axis=2, keepdims=True)
    per_image = (chances * (gains - means) ** 2).sum(axis=2)
    scores = significance.f1_scores(hits, predicted, support).mean(axis=1)
    sds = np.sqrt((support * per_image).sum(axis=1))
    # Over the classes that have an image: a small group may lack one.
    present = np.count_nonzero(support, axis=1)
    scale = np.divide(classes, present, out=np.full(len(present), np.nan), where=present > 0)
    columns = (support.sum(axis=1), scores * scale, sds * scale)
    return tuple(map(Group, names, *(column.tolist() for column in columns)))


def _score(part: Predictions) -> float:
    """Macro F1 of the classes that have an image."""
    classes = part.probabilities.shape[1]
    return macro_f1(part.labels, part.y_pred, classes) * classes / len(np.unique(part.labels))


# --- test-time views -----------------------------------------------------------------------------


def effect_of_views(seeds: Sequence[Mapping[str, Predictions]]) -> dict[str, Paired]:
    """What averaging over views adds on either test, from the parts of each seed, paired.

    Empty for runs with one view, which store no plain part.
    """
    effects = {}
    for name in ("test", SHIFTED):
        if all(name in parts and PLAIN + name in parts for parts in seeds):
            averaged, single = ([parts[n] for parts in seeds] for n in (name, PLAIN + name))
            effects[name] = significance.paired_predictions(averaged, single, same_networks=True)
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
