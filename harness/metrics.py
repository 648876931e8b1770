"""Arrays -> numbers. Everything a table prints about predictions is computed here.

All of it comes from scikit-learn, so that it means what the field means by it; classes that are
absent or never predicted count as zero, as there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from harness.nouns import ClassMetrics, Metrics, Predictions


def score(predictions: Predictions, class_names: Sequence[str]) -> Metrics:
    """Every metric of one part, from its labels (n,) and probabilities (n, K)."""
    from sklearn import metrics as sk

    labels, probabilities = predictions.labels, predictions.probabilities.astype(np.float64)
    classes = np.arange(len(class_names))
    guess = probabilities.argmax(axis=1)
    confusion = sk.confusion_matrix(labels, guess, labels=classes)
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, guess, labels=classes, zero_division=0
    )
    present = support > 0
    return Metrics(
        images=len(labels),
        macro_f1=float(f1.mean()),
        accuracy=float((guess == labels).mean()),
        balanced_accuracy=float(recall[present].mean()),
        macro_precision=float(precision.mean()),
        macro_recall=float(recall.mean()),
        auc=auc(labels, probabilities),
        log_loss=float(cross_entropy(np.eye(len(classes))[labels], probabilities)),
        per_class=tuple(
            ClassMetrics(name=n, support=int(s), precision=float(p), recall=float(r), f1=float(f))
            for n, s, p, r, f in zip(class_names, support, precision, recall, f1, strict=True)
        ),
        confusion=tuple(tuple(int(c) for c in row) for row in confusion),
    )


def auc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Area under the ROC curve, one against the rest, macro mean; None if a class is absent."""
    from sklearn.metrics import roc_auc_score

    one_hot = np.eye(probabilities.shape[1])[labels]
    if not one_hot.any(axis=0).all() or one_hot.all(axis=0).any():
        return None
    return float(roc_auc_score(one_hot, probabilities, average="macro"))


def cross_entropy(targets: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of -sum(targets * log(probabilities)), both (n, K); probabilities clipped at 1e-7."""
    logs = np.log(np.clip(probabilities, 1e-7, 1.0))
    return float(-(targets * logs).sum(axis=1).mean())


def macro_f1(labels: np.ndarray, guess: np.ndarray, classes: int) -> float:
    """Macro F1 of (n,) labels and guesses, every class counted; cheap."""
    confusion = np.bincount(labels * classes + guess, minlength=classes**2).reshape(
        classes, classes
    )
    hit = np.diag(confusion)
    either = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float(np.divide(2 * hit, either, out=np.zeros(classes), where=either > 0).mean())


def digest(parts: Mapping[str, Predictions]) -> str:
    """sha256 over ids, labels and probabilities of every part, bit for bit."""
    sha = hashlib.sha256()
    for name in sorted(parts):
        part = parts[name]
        sha.update(f"{name}:{part.probabilities.shape}".encode())
        sha.update(np.ascontiguousarray(part.ids, dtype="<i8").tobytes())
        sha.update(np.ascontiguousarray(part.labels, dtype="<i8").tobytes())
        sha.update(np.ascontiguousarray(part.probabilities, dtype="<f4").tobytes())
    return sha.hexdigest()
