"""Probabilities -> how far they can be believed. Pure functions of arrays.

A temperature is fitted on validation; the measures are then taken on test. Confidence is the
probability of the guess, the largest of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.metrics import cross_entropy

TEMPERATURES = (0.1, 10.0)
"""Bounds of a fitted temperature: where every image is right the likelihood asks for 0."""
FLAT = 1e-9
"""Slope of the mean log loss, in nats, below which a temperature is not moved any more."""
EPSILON = 1e-7
"""A probability is at least this, as in the log loss."""


def soften(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log(probabilities) / temperature), float64 (n, K); above 1 is less sure."""
    powers = np.clip(probabilities.astype(np.float64), EPSILON, 1.0) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of least log loss on validation's probabilities (n, K) and labels (n,).

    Guo et al. 2017 (ICML). The loss is convex in 1/temperature, so its slope is followed by
    bisection, within ``TEMPERATURES``; where every temperature is as good, 1.
    """
    logs = np.log(np.clip(probabilities.astype(np.float64), EPSILON, 1.0))
    right = logs[np.arange(len(labels)), labels]
    low, high = (math.log(bound) for bound in TEMPERATURES)
    for _ in range(50):
        middle = (low + high) / 2
        expected = (soften(probabilities, math.exp(middle)) * logs).sum(axis=1)
        slope = float((expected - right).sum())
        if abs(slope) < FLAT * len(labels):
            break
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp((low + high) / 2)


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean -log of the probability of the true class, in nats."""
    classes = probabilities.shape[1]
    return cross_entropy(np.eye(classes)[labels], probabilities.astype(np.float64))


def brier(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over images of the sum over classes of the squared error, 0 to 2. Brier 1950."""
    targets = np.eye(probabilities.shape[1])[labels]
    return float(np.square(probabilities - targets).sum(axis=1).mean())


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in one stretch."""

    count: int
    confidence: float
    """Mean."""
    accuracy: float


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> tuple[Bin, ...]:
    """Accuracy against confidence in ``bins`` equally wide stretches, each with its upper end.

    Least confident first; those without images are left out. Guo et al. 2017.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    counts = np.bincount(place, minlength=bins)
    held = np.flatnonzero(counts)
    confidences = np.bincount(place, weights=confidence, minlength=bins)[held] / counts[held]
    accuracies = np.bincount(place, weights=right, minlength=bins)[held] / counts[held]
    rows = zip(counts[held].tolist(), confidences.tolist(), accuracies.tolist(), strict=True)
    return tuple(Bin(*row) for row in rows)


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> float:
    """Mean distance of accuracy from confidence over ``reliability``'s bins, weighted by images.

    Of the guessed class only. Naeini et al. 2015 (AAAI); Guo et al. 2017.
    """
    held = reliability(labels, probabilities, bins)
    gaps = sum(row.count * abs(row.accuracy - row.confidence) for row in held)
    return gaps / len(labels)


@dataclass(frozen=True)
class Flagged:
    """What a person would be asked to look at again, and what that finds."""

    threshold: float
    """An image is flagged when its confidence is below this."""
    flagged: int
    caught: int
    """Errors among the flagged."""
    errors: int
    """Errors in all."""


def flag(labels: np.ndarray, probabilities: np.ndarray, share: float = 0.02) -> Flagged:
    """Flag the least sure of the images, at most ``share`` (0 to below 1), and count its errors.

    Images exactly as sure as the threshold stay unflagged together, so that the person's budget
    holds. Labels count the errors; they choose nothing.
    """
    confidence = probabilities.max(axis=1)
    wrong = probabilities.argmax(axis=1) != labels
    budget = int(share * len(labels) + 1e-9)
    threshold = np.partition(confidence, budget)[budget]
    below = confidence < threshold
    return Flagged(
        threshold=float(threshold),
        flagged=int(below.sum()),
        caught=int((below & wrong).sum()),
        errors=int(wrong.sum()),
    )
