"""Stored predictions -> what the shifted test says: of a row, of a kind of harm, of a choice.

Pure functions of arrays. Which image was harmed how is dealt again from the run's data and split
(see harness.data.shifted_test), so that every number here can be told from what a run has stored.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np

from harness.data.corruptions import CORRUPTIONS, SEVERITIES
from harness.data.shifted_test import PAIRS, assign_corruptions
from harness.evaluation import significance
from harness.evaluation.metrics import confusion_matrix, macro_f1, ranks
from harness.evaluation.significance import Paired
from harness.schema.predictions import EVERY_SHIFT, PLAIN, SHIFTED, Predictions
from harness.schema.run import Run

RESAMPLES = 2000
FEWEST_RANKED = 3
"""Rows below which a correlation of ranks says nothing."""


# --- a row ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """The images of one kind, or of one severity: macro F1 of the classes that are among them."""

    name: str
    images: int
    macro_f1: float
    low: float
    high: float
    """Of its 95 % interval, by the bootstrap of harness.evaluation.significance."""


@dataclass(frozen=True)
class Robustness:
    """What harm costs a network. Fractions 0-1; ``kinds`` and ``severities`` in their order."""

    clean: float
    """Macro F1 on the test images as they are."""
    shifted: float
    kinds: tuple[Group, ...]
    severities: tuple[Group, ...]

    @property
    def gap(self) -> float:
        return self.clean - self.shifted

    @property
    def worst(self) -> Group:
        """The kind with the lowest macro F1, of those that have images; the first of several."""
        asked = [group for group in self.kinds if group.images] or self.kinds
        return min(asked, key=lambda group: group.macro_f1)


def robustness(
    test: Predictions,
    shifted: Predictions,
    run: Run,
    *,
    part: str = SHIFTED,
    intervals: bool = True,
) -> Robustness:
    """Of one run or ensemble, from its predictions of the test images and of their shifted copy.

    ``part`` says which copy: the mixed one, or ``every-shift``. ``run``: whose data and split
    they are; of an ensemble the first member's. Without ``intervals`` their ends are NaN: they
    are most of the work.
    """
    pairs = pairs_of(part, shifted.labels, run)
    kind, severity = pairs // len(SEVERITIES), pairs % len(SEVERITIES)
    return Robustness(
        clean=_macro_f1(test, np.ones(len(test.labels), bool)),
        shifted=_macro_f1(shifted, np.ones(len(shifted.labels), bool)),
        kinds=tuple(
            _group(name, shifted, kind == i, intervals) for i, name in enumerate(CORRUPTIONS)
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
    """Over the seeds of a row: every number averaged, the ends of the intervals too."""
    return Robustness(
        clean=fmean(row.clean for row in rows),
        shifted=fmean(row.shifted for row in rows),
        kinds=tuple(map(_mean_group, zip(*(row.kinds for row in rows), strict=True))),
        severities=tuple(map(_mean_group, zip(*(row.severities for row in rows), strict=True))),
    )


def _mean_group(groups: tuple[Group, ...]) -> Group:
    score, low, high = (
        fmean(getattr(group, name) for group in groups) for name in ("macro_f1", "low", "high")
    )
    return Group(groups[0].name, groups[0].images, score, low, high)


def _group(name: str, part: Predictions, which: np.ndarray, intervals: bool) -> Group:
    if not which.any():
        return Group(name, 0, math.nan, math.nan, math.nan)
    score = _macro_f1(part, which)
    if not intervals:
        return Group(name, int(which.sum()), score, math.nan, math.nan)
    labels, guess = part.labels[which], part.probabilities[which].argmax(axis=1)
    classes = part.probabilities.shape[1]
    confusion = confusion_matrix(labels, guess, classes)
    # The bootstrap counts absent classes as zero, as scikit-learn does; here they do not count.
    present = classes / len(np.unique(labels))
    ends = np.array(significance.interval(significance.bootstrap(confusion, RESAMPLES).macro_f1))
    # An image that is there in five severities is still one image: five times the variance, at
    # most, of as many different ones.
    again = len(labels) / len(np.unique(part.ids[which]))
    low, high = np.clip(score + (ends * present - score) * math.sqrt(again), 0, 1)
    return Group(name, len(labels), score, float(low), float(high))


def _macro_f1(part: Predictions, which: np.ndarray) -> float:
    """Over the classes that have an image: a small group may lack one, which is nobody's fault."""
    labels, classes = part.labels[which], part.probabilities.shape[1]
    score = macro_f1(labels, part.probabilities[which].argmax(axis=1), classes)
    return score * classes / len(np.unique(labels))


# --- the views -----------------------------------------------------------------------------------


def effect_of_views(parts: Mapping[str, Predictions]) -> dict[str, Paired]:
    """What averaging over views adds on either test, from one run's parts, paired.

    Empty for a run with one view, which has stored no plain part.
    """
    found = {}
    for name in ("test", SHIFTED):
        if name in parts and PLAIN + name in parts:
            part, plain = parts[name], parts[PLAIN + name]
            averaged, single = (p.probabilities.argmax(axis=1) for p in (part, plain))
            classes = part.probabilities.shape[1]
            found[name] = significance.paired(part.labels, averaged, single, classes, RESAMPLES)
    return found


# --- a table of rows -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How alike two columns order the rows: Spearman's rho and Kendall's tau-b."""

    first: str
    second: str
    rows: int
    spearman: float
    kendall: float


def rank_agreement(scores: Mapping[str, Sequence[float]]) -> tuple[Agreement, ...]:
    """Every two columns of scores (one number a row), in the order of the mapping.

    Empty below three rows; NaN where a column does not tell its rows apart.
    """
    found = []
    for (first, a), (second, b) in combinations(scores.items(), 2):
        if len(a) != len(b):
            raise ValueError(f"{first} has {len(a)} rows, {second} {len(b)}")
        if len(a) < FEWEST_RANKED:
            continue
        one, other = np.asarray(a, float), np.asarray(b, float)
        rho = _correlation(ranks(one), ranks(other))
        order = [np.sign(x[:, None] - x).ravel() for x in (one, other)]
        found.append(Agreement(first, second, len(a), rho, _cosine(*order)))
    return tuple(found)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return _cosine(a - a.mean(), b - b.mean())


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """NaN where either is zero. Of the orders of all pairs it is Kendall's tau-b."""
    length = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / length if length else math.nan


@dataclass(frozen=True)
class Choice:
    """What choosing by validation costs on a test. Names as the table has them."""

    where: str
    """``test`` or ``shifted test``."""
    chosen: str
    best: str
    chosen_f1: float
    best_f1: float
    p: float
    """That the best is no better than the chosen one, for having been picked among the rows."""
    rows: int

    @property
    def regret(self) -> float:
        """Macro F1 that the choice gives away, 0 where it is the best."""
        return self.best_f1 - self.chosen_f1

    @property
    def wrong(self) -> bool:
        """Whether the images say that another row is better, and not merely may be."""
        return self.chosen != self.best and self.p < 0.05

    @property
    def sentence(self) -> str:
        """In words, a warning where the choice is wrong."""
        score, points = f"{100 * self.chosen_f1:.2f} %", f"{100 * self.regret:.2f} points"
        if self.chosen == self.best:
            return (
                f"Choosing by validation picks {self.chosen}, "
                f"which is also the best on the {self.where} (macro F1 {score})."
            )
        lost = f"{self.best} is {points} better there"
        picked = f"Choosing by validation picks {self.chosen} (macro F1 {score} on the {self.where}"
        if self.wrong:
            return f"Warning: {_lower(picked)}), but {lost} (p = {self.p:.2g}): the wrong network."
        return f"{picked}); {lost}, which these images do not tell from chance (p = {self.p:.2g})."


def choice(
    where: str,
    names: Sequence[str],
    validation: Sequence[float],
    labels: np.ndarray,
    guesses: Sequence[np.ndarray],
) -> Choice:
    """The row with the highest validation score against the best row of a test.

    ``labels`` (n,) and every row's ``guesses``, (n,) or (seeds, n), are of that test. The p is
    ``statistics.paired``'s (of several seeds ``pairwise``'s), times the number of other rows,
    any of which might have come out best by chance (Bonferroni).
    """
    classes = int(max(labels.max(), *(guess.max() for guess in guesses))) + 1
    f1 = [
        fmean(macro_f1(labels, guess, classes) for guess in np.atleast_2d(row)) for row in guesses
    ]
    chosen, best = int(np.argmax(validation)), int(np.argmax(f1))
    p = 1.0 if f1[chosen] == f1[best] else _p(labels, guesses[best], guesses[chosen], classes)
    return Choice(
        where=where,
        chosen=names[chosen],
        best=names[chosen] if f1[chosen] == f1[best] else names[best],
        chosen_f1=f1[chosen],
        best_f1=f1[best],
        p=min(1.0, p * max(1, len(names) - 1)),
        rows=len(names),
    )


def _p(labels: np.ndarray, a: np.ndarray, b: np.ndarray, classes: int) -> float:
    one, other = np.atleast_2d(a), np.atleast_2d(b)
    if len(one) == len(other) == 1:
        return significance.paired(labels, one[0], other[0], classes, RESAMPLES).p
    return float(significance.pairwise(labels, (one, other), classes).p[0, 1])


def _lower(words: str) -> str:
    return words[0].lower() + words[1:]


# --- what the training has seen ------------------------------------------------------------------

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
"""Operation of an augmentation -> the kinds of harm that it resembles. None is the same: kinds
scale values where augmentations add, turn contrast about grey where those take each channel's
mean, add to the saturation where those blend with grey."""


def overlap(operations: Collection[str]) -> tuple[str, ...]:
    """The kinds that an augmentation with these operations has partly shown in training.

    A network trained with it is not surprised by them, so the table must say which they are.
    """
    seen = {kind for operation in operations for kind in RESEMBLES.get(operation, ())}
    return tuple(kind for kind in CORRUPTIONS if kind in seen)
