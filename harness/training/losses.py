"""Targets of the cross-entropy loss: class weights and label smoothing."""

from __future__ import annotations

import numpy as np

from harness.schema.protocol import Loss


def class_weights(loss: Loss, targets: np.ndarray) -> np.ndarray:
    """One weight a class (K,): ones, balanced (n / (K n_k)) by the training targets, or given."""
    count, classes = targets.shape
    if loss.class_weight == "none":
        return np.ones(classes)
    if loss.class_weight == "balanced":
        return count / (classes * np.maximum(targets.sum(axis=0), 1e-9))
    return np.asarray(loss.class_weight)


def loss_targets(targets: np.ndarray, weights: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """Weighted, smoothed targets, float32 (n, K), of targets (n, K) and class weights (K,).

    A mix of classes costs what its classes would cost one by one, each at its own weight and
    smoothed as a hard label is (Szegedy 2015, arXiv:1512.00567). So balanced weights give every
    class the same pull, with mixed labels too; a weight for the whole image would not.
    """
    weighted = targets * weights
    spread = smoothing / targets.shape[1] * weighted.sum(axis=1, keepdims=True)
    return np.asarray(weighted * (1 - smoothing) + spread, dtype=np.float32)
