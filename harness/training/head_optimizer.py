"""The optimizers of the numpy head, with Keras's arithmetic."""

from __future__ import annotations

import math

import numpy as np

from harness.schema.protocol import Optimizer

EPSILON = 1e-7
"""Keras's default."""


class HeadOptimizer:
    """One optimizer on one flat vector of weights."""

    def __init__(self, settings: Optimizer, size: int) -> None:
        self._settings = settings
        self._steps = 0
        self._first = np.zeros(size, np.float32)
        self._second = np.zeros(size, np.float32)
        self._nadam_product = 1.0

    def step(self, weights: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        """Move ``weights`` in place against ``gradient`` at this learning rate."""
        self._steps += 1
        if self._settings.weight_decay:
            weights *= np.float32(1 - self._settings.weight_decay * rate)
        match self._settings.name:
            case "adam" | "adamw":
                self._adam(weights, gradient, rate)
            case "nadam":
                self._nadam(weights, gradient, rate)
            case "lion":
                weights -= np.float32(rate) * np.sign(0.9 * self._first + 0.1 * gradient)
                _average(self._first, gradient, 0.99)
            case "sgd":
                momentum = np.float32(self._settings.momentum)
                self._first *= momentum
                self._first -= np.float32(rate) * gradient
                weights += momentum * self._first - np.float32(rate) * gradient

    def _adam(self, weights: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        _average(self._first, gradient, 0.9)
        _average(self._second, np.square(gradient), 0.999)
        rate *= math.sqrt(1 - 0.999**self._steps) / (1 - 0.9**self._steps)
        weights -= np.float32(rate) * self._first / (np.sqrt(self._second) + np.float32(EPSILON))

    def _nadam(self, weights: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        """Dozat 2016, with Keras's momentum schedule."""
        current = 0.9 * (1 - 0.5 * 0.96**self._steps)
        following = 0.9 * (1 - 0.5 * 0.96 ** (self._steps + 1))
        self._nadam_product *= current
        _average(self._first, gradient, 0.9)
        _average(self._second, np.square(gradient), 0.999)
        momentum = self._first * np.float32(following / (1 - self._nadam_product * following))
        momentum += gradient * np.float32((1 - current) / (1 - self._nadam_product))
        variance = self._second / np.float32(1 - 0.999**self._steps)
        weights -= np.float32(rate) * momentum / (np.sqrt(variance) + np.float32(EPSILON))


def _average(moving: np.ndarray, value: np.ndarray, momentum: float) -> None:
    moving *= np.float32(momentum)
    moving += np.float32(1 - momentum) * value
