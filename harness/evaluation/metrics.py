"""Arrays -> numbers. Everything a table prints about predictions is computed here.

Scores mean what scikit-learn means by them, and tests hold them to it, on random and on degenerate
input; absent classes and those that are never predicted count as zero, as there. To load
scikit-learn would take longer than all that the verbs do that read records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.evaluation import calibration, significance
from harness.schema.metrics import Calibrated, ClassMetrics, Evaluation, Metrics
from harness.schema.predictions import SHIFTED, Predictions, digest

RESAMPLES = 2000
"""Of the intervals: their ends are then good to about a twentieth of their width."""


def evaluate(parts: Mapping[str, Predictions], class_names: Sequence[str]) -> Evaluation:
    """Everything that a record says of its predictions; all but ``test`` may be absent."""
    validation, test, shifted = parts.get("validation"), parts["test"], parts.get(SHIFTED)
    return Evaluation(
        validation=score(validation, class_names) if validation else None,
        test=score(test, class_names),
        shifted=score(shifted, class_names) if shifted else None,
        calibrated=calibrate(validation, test) if validation else None,
        predictions_sha256=digest(parts),
    )


def calibrate(validation: Predictions, test: Predictions) -> Calibrated:
    """A temperature from the validation images, and what it does to the test images."""
    temperature = calibration.fit_temperature(validation.probabilities, validation.labels)
    softened = calibration.soften(test.probabilities, temperature)
    flagged = calibration.flag(test.labels, test.probabilities)
    return Calibrated(
        temperature=temperature,
        log_loss=calibration.log_loss(test.labels, softened),
        brier=calibration.brier(test.labels, softened),
        calibration_error=calibration.expected_calibration_error(test.labels, softened),
        flagged=flagged.flagged,
        caught=flagged.caught,
        errors=flagged.errors,
    )


def score(predictions: Predictions, class_names: Sequence[str]) -> Metrics:
    """Every metric of one part, from its labels (n,) and probabilities (n, K)."""
    labels, probabilities = predictions.labels, predictions.probabilities.astype(np.float64)
    classes = len(class_names)
    guess = probabilities.argmax(axis=1)
    confusion = confusion_matrix(labels, guess, classes)
    hit, support, guessed = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = _share(hit, guessed), _share(hit, support)
    f1 = significance.f1_scores(hit, guessed, support)
    present = support > 0
    drawn = significance.bootstrap(confusion, RESAMPLES)
    return Metrics(
        images=len(labels),
        macro_f1=float(f1.mean()),
        accuracy=float((guess == labels).mean()),
        balanced_accuracy=float(recall[present].mean()),
        macro_precision=float(precision.mean()),
        macro_recall=float(recall.mean()),
        auc=auc(labels, probabilities),
        log_loss=calibration.log_loss(labels, probabilities),
        brier=calibration.brier(labels, probabilities),
        calibration_error=calibration.expected_calibration_error(labels, probabilities),
        macro_f1_interval=significance.interval(drawn.macro_f1),
        macro_f1_sd=float(drawn.macro_f1.std()),
        accuracy_interval=significance.interval(drawn.accuracy),
        per_class=tuple(
            ClassMetrics(name=n, support=int(s), precision=float(p), recall=float(r), f1=float(f))
            for n, s, p, r, f in zip(class_names, support, precision, recall, f1, strict=True)
        ),
        confusion=tuple(tuple(int(c) for c in row) for row in confusion),
    )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, zero where there is nothing to have a share of."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def auc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Area under the ROC curve, one against the rest, macro mean; None if a class is absent.

    The share of pairs, one image of the class and one of another, that the class's probability
    puts in the right order, ties counted half (Hanley and McNeil 1982, Radiology 143).
    """
    classes, images = probabilities.shape[1], len(labels)
    areas = []
    for k in range(classes):
        own = labels == k
        count = int(own.sum())
        if count in {0, images}:
            return None
        above = ranks(probabilities[:, k])[own].sum() - count * (count + 1) / 2
        areas.append(above / (count * (images - count)))
    return float(np.mean(areas))


def ranks(values: np.ndarray) -> np.ndarray:
    """1 for the smallest of (n,) values; equal ones share the mean of their places."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def cross_entropy(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of -sum(targets * log(probabilities)), both (n, K); probabilities clipped at 1e-7."""
    logs = np.log(np.clip(probabilities, 1e-7, 1.0))
    return float(-(targets * logs).sum(axis=1).mean())


def macro_f1(labels: np.ndarray, guess: np.ndarray, classes: int) -> float:
    """Macro F1 of (n,) labels and guesses, every class counted; cheap."""
    confusion = confusion_matrix(labels, guess, classes)
    hit, guessed, support = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    return float(significance.f1_scores(hit, guessed, support).mean())


def confusion_matrix(labels: np.ndarray, guess: np.ndarray, classes: int) -> np.ndarray:
    """Counts (K, K), rows the true classes, columns the guessed ones."""
    counts = np.bincount(labels * classes + guess, minlength=classes**2)
    return counts.reshape(classes, classes)
