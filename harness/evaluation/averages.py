"""Averages over the classes that reports print, with intervals: functions of counts.

Support-weighted and macro averages are scikit-learn's; precision and recall of predictions with a
probability above .5 are those of ``keras.metrics.Precision`` and ``Recall`` on one-hot labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from harness.evaluation.significance import PSEUDO_IMAGES, interval
from harness.schema.predictions import Predictions

RESAMPLES = 2000
HALF = 0.5


class Average(NamedTuple):
    """A score, 0 to 1, its 95 % interval, and the standard deviation over the classes."""

    value: float
    low: float
    high: float
    deviation: float | None
    """None for a score that is no mean over classes."""


def averages(part: Predictions) -> dict[str, Average]:
    """Every average of a part, by its name.

    The interval is that of test sets with the same number of images of each class, as in
    ``harness.evaluation.significance.bootstrap``.
    """
    counts = tally(part.labels, part.probabilities)
    values, deviations = scores(counts)
    resampled, _ = scores(_resample(counts), of=counts)
    return {
        name: Average(float(value), *interval(resampled[name]), deviations.get(name))
        for name, value in values.items()
    }


def tally(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Counts (K, K, 2): by true class, predicted class, and whether its probability is above .5."""
    classes = probabilities.shape[1]
    y_pred = probabilities.argmax(axis=1)
    above = probabilities.max(axis=1) > HALF
    cells = (labels * classes + y_pred) * 2 + above
    return np.bincount(cells, minlength=2 * classes**2).reshape(classes, classes, 2)


def scores(
    counts: np.ndarray, of: np.ndarray | None = None
) -> tuple[Mapping[str, np.ndarray], dict[str, float]]:
    """Every average of counts (..., K, K, 2), each of shape (...); and deviations over classes.

    A class without images or predictions counts zero. ``of``: the counts that these are resampled
    from; what is never predicted there has a precision of zero here too, since one prediction more
    would make it anything from 0 to 1.
    """
    confusion = counts.sum(axis=-1)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    total = np.maximum(support.sum(axis=-1), 1)
    original = counts if of is None else of
    is_predicted = original.sum(axis=(-3, -1)) > 0
    per_class = {
        "precision": hits / np.maximum(predicted, 1) * is_predicted,
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(predicted + support, 1),
    }
    above = counts[..., 1]
    hits_above = np.trace(above, axis1=-2, axis2=-1)
    found = {"accuracy": hits.sum(axis=-1) / total}
    found |= {f"macro_{name}": values.mean(axis=-1) for name, values in per_class.items()}
    found |= {
        f"weighted_{name}": (values * support).sum(axis=-1) / total
        for name, values in per_class.items()
    }
    precision_above = hits_above / np.maximum(above.sum(axis=(-2, -1)), 1)
    found["precision_above_half"] = precision_above * original[..., 1].any(axis=(-2, -1))
    found["recall_above_half"] = hits_above / total
    if counts.ndim > 3:
        return found, {}
    return found, {f"macro_{name}": float(values.std()) for name, values in per_class.items()}


def _resample(counts: np.ndarray) -> np.ndarray:
    """Counts (RESAMPLES, K, K, 2) of test sets with the same number of images of each class."""
    rng, classes = np.random.default_rng(0), len(counts)
    rows = []
    for row in counts.reshape(classes, -1):
        chances = row + PSEUDO_IMAGES / classes / row.size
        rows.append(rng.multinomial(row.sum(), chances / chances.sum(), size=RESAMPLES))
    return np.stack(rows, axis=1).reshape(RESAMPLES, *counts.shape)
