"""Predictions -> every metric of a record: scikit-learn's, with bootstrap intervals.

A class without images or without predictions counts zero. ``confusion_matrix`` and ``macro_f1``
stay numpy: training calls them every epoch, and scikit-learn takes a second to import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.evaluation import calibration, significance
from harness.schema.metrics import Calibrated, ClassMetrics, Evaluation, Metrics
from harness.schema.predictions import FROZEN, SHIFTED, Predictions, digest
from harness.schema.tuning import TrialOutcome

RESAMPLES = 2000
"""The error of an interval's ends is then about a twentieth of its width."""


def evaluate(parts: Mapping[str, Predictions], class_names: Sequence[str]) -> Evaluation:
    """Every number of a record that follows from its predictions; only ``test`` is required."""
    validation, test = parts.get("validation"), parts["test"]
    shifted, frozen = parts.get(SHIFTED), parts.get(FROZEN)
    return Evaluation(
        validation=score(validation, class_names) if validation else None,
        test=score(test, class_names),
        shifted=score(shifted, class_names) if shifted else None,
        frozen=score(frozen, class_names) if frozen else None,
        calibrated=calibrate(validation, test) if validation else None,
        predictions_sha256=digest(parts),
    )


def calibrate(validation: Predictions, test: Predictions) -> Calibrated:
    """Fit a temperature on the validation images and apply it to the test images."""
    temperature = calibration.fit_temperature(validation.probabilities, validation.labels)
    probabilities = calibration.soften(test.probabilities, temperature)
    return Calibrated(
        temperature=temperature,
        **calibration.flag(test.labels, test.probabilities),
        **calibration.scores(test.labels, probabilities),
    )


def score(predictions: Predictions, class_names: Sequence[str]) -> Metrics:
    """Every metric of one part, from its labels (n,) and probabilities (n, K)."""
    from sklearn.metrics import precision_recall_fscore_support

    labels, probabilities = predictions.labels, predictions.probabilities.astype(np.float64)
    y_pred = probabilities.argmax(axis=1)
    classes = np.arange(len(class_names))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, y_pred, labels=classes, zero_division=0
    )
    confusion = confusion_matrix(labels, y_pred, len(classes))
    resampled = significance.bootstrap(confusion, RESAMPLES)
    per_class = zip(class_names, support, precision, recall, f1, strict=True)
    return Metrics(
        images=len(labels),
        macro_f1=float(f1.mean()),
        accuracy=float((y_pred == labels).mean()),
        balanced_accuracy=float(recall[support > 0].mean()),
        macro_precision=float(precision.mean()),
        macro_recall=float(recall.mean()),
        auc=auc(labels, probabilities),
        macro_f1_interval=significance.interval(resampled.macro_f1),
        macro_f1_sd=float(resampled.macro_f1.std()),
        accuracy_interval=significance.interval(resampled.accuracy),
        per_class=tuple(
            ClassMetrics(name=n, support=int(s), precision=float(p), recall=float(r), f1=float(f))
            for n, s, p, r, f in per_class
        ),
        confusion=tuple(map(tuple, confusion.tolist())),
        **calibration.scores(labels, probabilities),
    )


def worst_recall_interval(hits: np.ndarray, support: np.ndarray) -> tuple[float, float]:
    """95 % interval of the lowest true recall of several classes, from counts (K,) each.

    The lowest of many measured recalls is too low by chance. Clopper and Pearson's limits (1934,
    Biometrika 26): the lower one need hold for the class whose true recall is lowest, the upper
    one for all classes at once (Sidak). Classes without images do not count.
    """
    from scipy.special import betaincinv

    hits, support = hits[support > 0], support[support > 0]
    if not len(hits):
        return 0.0, 1.0
    misses = support - hits
    # Beta distributions need parameters above 0; the limit is then 0 or 1.
    low = np.where(hits, betaincinv(np.maximum(hits, 1), misses + 1, 0.025), 0)
    level = 0.975 ** (1 / len(hits))
    high = np.where(misses, betaincinv(hits + 1, np.maximum(misses, 1), level), 1)
    return float(low.min()), float(high.min())


def auc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Area under the ROC curve, one against the rest, macro mean; None if a class is absent."""
    from sklearn.metrics import roc_auc_score

    one_hot = np.eye(probabilities.shape[1], dtype=int)[labels]
    if not one_hot.any(axis=0).all():
        return None
    return float(roc_auc_score(one_hot, probabilities))


def cross_entropy(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of -sum(targets * log(probabilities)), both (n, K); probabilities clipped at 1e-7."""
    logs = np.log(np.clip(probabilities, 1e-7, 1.0))
    return float(-(targets * logs).sum(axis=1).mean())


def trial_outcome(targets: np.ndarray, probabilities: np.ndarray) -> TrialOutcome:
    """The score of a trial on images of one-hot ``targets`` (n, K)."""
    labels, classes = targets.argmax(axis=1), targets.shape[1]
    return TrialOutcome(
        macro_f1=macro_f1(labels, probabilities.argmax(axis=1), classes),
        log_loss=cross_entropy(targets, probabilities),
    )


def macro_f1(labels: np.ndarray, y_pred: np.ndarray, classes: int) -> float:
    """Macro F1 of labels (n,) and predicted classes (n,), over all classes."""
    confusion = confusion_matrix(labels, y_pred, classes)
    hits, predicted, support = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    return float(significance.f1_scores(hits, predicted, support).mean())


def confusion_matrix(labels: np.ndarray, y_pred: np.ndarray, classes: int) -> np.ndarray:
    """Counts (K, K): rows the true classes, columns the predicted ones."""
    counts = np.bincount(labels * classes + y_pred, minlength=classes**2)
    return counts.reshape(classes, classes)
