"""How far probabilities can be trusted: temperature scaling, calibration error, flagged images.

A temperature is fitted on validation and applied to test. Confidence is the largest probability
of an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TEMPERATURES = (0.1, 10.0)
"""Bounds of a fitted temperature: where every image is right, the optimum would be 0."""
FLAT = 1e-9
"""The fit stops where the mean log loss has a slope below this, in nats."""
EPSILON = 1e-7
"""Smallest probability in a log loss."""
BINS = 15


def soften(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log(probabilities) / temperature), float64 (n, K); above 1 is less confident."""
    return softmax(log_probabilities(probabilities) / temperature)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the lowest log loss for probabilities (n, K) and labels (n,).

    Guo et al. 2017 (ICML). The loss is convex in 1/temperature: Newton steps, bisection where a
    step would leave the bracket. 1 where all temperatures are equally good.
    """
    logs = log_probabilities(probabilities)
    true_class = logs[np.arange(len(labels)), labels].mean()
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    inverse = 1.0
    for _ in range(60):
        powers = softmax(inverse * logs)
        means = np.einsum("nk,nk->n", powers, logs)
        slope = float(means.mean() - true_class)
        if abs(slope) < FLAT or high - low < FLAT:
            break
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        curvature = float((np.einsum("nk,nk,nk->n", powers, logs, logs) - means**2).mean())
        step = inverse - slope / curvature if curvature > 0 else math.inf
        inverse = step if low < step < high else (low + high) / 2
    return 1 / inverse


def log_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Log probabilities, none below that of EPSILON; float64."""
    return np.log(np.clip(probabilities.astype(np.float64), EPSILON, 1.0))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, without overflow."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean -log of the true class's probability, in nats."""
    return float(-log_probabilities(probabilities)[np.arange(len(labels)), labels].mean())


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over images of the squared error summed over classes, 0 to 2. Brier 1950."""
    targets = np.eye(probabilities.shape[1])[labels]
    return float(np.square(probabilities - targets).sum(axis=1).mean())


@dataclass(frozen=True)
class Bin:
    """The images with a confidence in one interval; mean confidence and accuracy."""

    count: int
    confidence: float
    accuracy: float


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> tuple[Bin, ...]:
    """Accuracy against confidence in equally wide bins, each with its upper end.

    Lowest confidence first; empty bins are left out. Guo et al. 2017.
    """
    confidence, index = _bins(probabilities, bins)
    correct = probabilities.argmax(axis=1) == labels
    counts, confidences, accuracies = (
        np.bincount(index, weights=weights, minlength=bins)
        for weights in (None, confidence, correct)
    )
    return tuple(
        Bin(int(counts[i]), float(confidences[i] / counts[i]), float(accuracies[i] / counts[i]))
        for i in np.flatnonzero(counts)
    )


def _bins(probabilities: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """The confidence of each image (n,), and the index of its bin."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    return confidence, np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS
) -> float:
    """Mean of |accuracy - confidence| over ``reliability``'s bins, weighted by their images.

    Naeini et al. 2015 (AAAI); Guo et al. 2017.
    """
    curve = reliability(labels, probabilities, bins)
    return sum(bin.count * abs(bin.accuracy - bin.confidence) for bin in curve) / len(labels)


def calibration_error_by_chance(probabilities: np.ndarray, bins: int = BINS) -> float:
    """The calibration error to be expected of a perfectly calibrated network on as many images.

    Its number of correct images in a bin is binomial with the bin's mean confidence; the mean
    absolute deviation of a binomial is de Moivre's (Diaconis and Zabell 1991, Statistical Science
    6). For probabilities (n, K).
    """
    confidence, index = _bins(probabilities, bins)
    counts = np.bincount(index, minlength=bins)
    sums = np.bincount(index, weights=confidence, minlength=bins)
    deviations = (
        _mean_deviation(int(count), float(total / count))
        for count, total in zip(counts, sums, strict=True)
        if count
    )
    return sum(deviations) / len(probabilities)


def _mean_deviation(n: int, p: float) -> float:
    """E|X - n p| of a binomial X: 2 v C(n, v) p**v (1 - p)**(n - v + 1), v = floor(n p) + 1."""
    if p >= 1:
        return 0.0
    v = math.floor(n * p) + 1
    logs = math.lgamma(n + 1) - math.lgamma(v + 1) - math.lgamma(n - v + 1)
    return 2 * v * math.exp(logs + v * math.log(p) + (n - v + 1) * math.log1p(-p))


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Log loss, Brier score and calibration error, by their names in a record."""
    return {
        "log_loss": log_loss(labels, probabilities),
        "brier": brier(labels, probabilities),
        "calibration_error": expected_calibration_error(labels, probabilities),
    }


def flag(labels: np.ndarray, probabilities: np.ndarray, share: float = 0.02) -> dict[str, int]:
    """The least confident images, at most ``share`` (0 to below 1), and errors, by their names.

    A person would look at these again. Images exactly at the threshold stay unflagged, so that the
    share is never exceeded.
    """
    confidence = probabilities.max(axis=1)
    wrong = probabilities.argmax(axis=1) != labels
    most = int(share * len(labels) + 1e-9)
    flagged = confidence < np.partition(confidence, most)[most]
    return {
        "flagged": int(flagged.sum()),
        "caught": int((flagged & wrong).sum()),
        "errors": int(wrong.sum()),
    }
