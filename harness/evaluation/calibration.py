"""Probabilities -> how far they can be believed. Pure functions of arrays.

A temperature is fitted on validation; the measures are then taken on test. Confidence is the
probability of the guess, the largest of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TEMPERATURES = (0.1, 10.0)
"""Bounds of a fitted temperature: where every image is right the likelihood asks for 0."""
FLAT = 1e-9
"""Slope of the mean log loss, in nats, below which a temperature is not moved any more."""
EPSILON = 1e-7
"""A probability is at least this, as in the log loss."""


def soften(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(log(probabilities) / temperature), float64 (n, K); above 1 is less sure."""
    return softmax(_logs(probabilities) / temperature)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of least log loss on validation's probabilities (n, K) and labels (n,).

    Guo et al. 2017 (ICML). The loss is convex in 1/temperature: Newton's steps on it, or halving
    where a step would leave the bracket, within ``TEMPERATURES``; where all are as good, 1.
    """
    logs = _logs(probabilities)
    right = logs[np.arange(len(labels)), labels].mean()
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    sharpness = 1.0
    for _ in range(60):
        powers = softmax(sharpness * logs)
        means = np.einsum("nk,nk->n", powers, logs)
        slope = float(means.mean() - right)
        if abs(slope) < FLAT or high - low < FLAT:
            break
        low, high = (low, sharpness) if slope > 0 else (sharpness, high)
        curvature = float((np.einsum("nk,nk,nk->n", powers, logs, logs) - means**2).mean())
        step = sharpness - slope / curvature if curvature > 0 else math.inf
        sharpness = step if low < step < high else (low + high) / 2
    return 1 / sharpness


def _logs(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.clip(probabilities.astype(np.float64), EPSILON, 1.0))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, without overflow."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean -log of the probability of the true class, in nats."""
    return float(-_logs(probabilities)[np.arange(len(labels)), labels].mean())


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
