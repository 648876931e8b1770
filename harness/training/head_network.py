"""The layers of the classifier in numpy, forward and backward, with Keras's arithmetic.

A head is so small that a framework spends its time between the operations: here 15,000 steps take
seconds, and an ensemble trains a head without loading a framework. The tests compare every layer
and penalty with Keras step by step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from harness.evaluation.calibration import softmax
from harness.schema.protocol import Head

NORM_EPSILON, NORM_MOMENTUM = 1e-3, 0.99
"""Of batch normalisation, Keras's defaults."""


@dataclass
class Activations:
    """What the forward pass in training mode leaves for the backward pass, layer by layer."""

    inputs: list[np.ndarray] = field(default_factory=list)
    gates: list[np.ndarray] = field(default_factory=list)
    """Derivatives of ReLU and dropout."""
    norms: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """Normalised values, and 1 / deviation."""


class HeadNetwork:
    """Dense, BatchNorm, ReLU and dropout for each hidden layer, then dense and softmax.

    ``weights`` are all trainable ones in one float32 vector, in Keras's order; ``moving`` are the
    mean and variance of each BatchNorm. First weights and dropout come from the seed alone.
    """

    def __init__(self, head: Head, width: int, classes: int, seed: int) -> None:
        self._head = head
        self._rng = np.random.default_rng([seed, *b"head"])
        layers = self._initial_layers(width, classes)
        arrays = [array for layer in layers for array in layer]
        self.weights = np.concatenate([array.ravel() for array in arrays])
        self.gradient = np.empty_like(self.weights)
        self._layers, self._gradients = _views(self.weights, layers), _views(self.gradient, layers)
        kernels = [np.full(array.size, array.ndim == 2, np.float32) for array in arrays]
        self._penalised = np.concatenate(kernels)
        normed = head.units if head.batch_norm else ()
        self.moving = [np.stack([np.zeros(n, np.float32), np.ones(n, np.float32)]) for n in normed]

    def forward(self, x: np.ndarray, activations: Activations | None = None) -> np.ndarray:
        """Probabilities (n, K) of features (n, width); in training mode with ``activations``."""
        *hidden, (kernel, bias) = self._layers
        for i, (hidden_kernel, hidden_bias, *norm) in enumerate(hidden):
            if activations is not None:
                activations.inputs.append(x)
            x = x @ hidden_kernel + hidden_bias
            if norm:
                x = self._normalise(x, i, activations)
            x = np.maximum(x, 0)
            if activations is not None:
                gate = (x > 0).astype(np.float32)
                if self._head.dropout:
                    retain = np.float32(1 - self._head.dropout)
                    gate *= (self._rng.random(x.shape, dtype=np.float32) < retain) / retain
                x = x * gate
                activations.gates.append(gate)
        if activations is not None:
            activations.inputs.append(x)
        return softmax(x @ kernel + bias)

    def backward(self, delta: np.ndarray, activations: Activations) -> None:
        """Set ``gradient``, penalties included, from the gradient of the logits (n, K)."""
        last = len(self._layers) - 1
        for i in range(last, -1, -1):
            kernel, (d_kernel, d_bias, *_) = self._layers[i][0], self._gradients[i]
            if i < last:
                delta = delta * activations.gates[i]
                if self._head.batch_norm:
                    delta = self._normalise_backward(delta, i, activations)
            np.matmul(activations.inputs[i].T, delta, out=d_kernel)
            np.sum(delta, axis=0, out=d_bias)
            if i > 0:
                delta = delta @ kernel.T
        if self._head.l1 or self._head.l2:
            penalty = 2 * self._head.l2 * self.weights + self._head.l1 * np.sign(self.weights)
            self.gradient += self._penalised * penalty

    def estimate_batchnorm(self, x: np.ndarray) -> None:
        """Set the mean and variance of each BatchNorm to those of features (n, width).

        Of a training set: moving averages lag behind the weights (see harness.training.batchnorm).
        """
        for i, (kernel, bias, *norm) in enumerate(self._layers[:-1]):
            x = x @ kernel + bias
            if norm:
                self.moving[i] = np.stack([x.mean(axis=0), x.var(axis=0)])
                x = self._normalise(x, i, None)
            x = np.maximum(x, 0)

    def keras_weights(self) -> list[np.ndarray]:
        """Every weight in the order of a Keras model of the same layers."""
        moving = iter(self.moving)
        return [array for layer in self._layers for array in (*layer, *next(moving, ()))]

    def _initial_layers(self, width: int, classes: int) -> list[list[np.ndarray]]:
        """Glorot-uniform kernels (Glorot and Bengio 2010), zero biases and betas, one gammas."""
        layers = []
        for units in (*self._head.units, classes):
            limit = math.sqrt(6 / (width + units))
            kernel = self._rng.uniform(-limit, limit, (width, units)).astype(np.float32)
            layers.append([kernel, np.zeros(units, np.float32)])
            if self._head.batch_norm and len(layers) <= len(self._head.units):
                layers[-1] += [np.ones(units, np.float32), np.zeros(units, np.float32)]
            width = units
        return layers

    def _normalise(self, x: np.ndarray, i: int, activations: Activations | None) -> np.ndarray:
        gamma, beta = self._layers[i][2:]
        if activations is None:
            mean, variance = self.moving[i]
        else:
            mean, variance = x.mean(axis=0), x.var(axis=0)
            self.moving[i] *= NORM_MOMENTUM
            self.moving[i] += (1 - NORM_MOMENTUM) * np.stack([mean, variance])
        scale = 1 / np.sqrt(variance + NORM_EPSILON)
        normal = (x - mean) * scale
        if activations is not None:
            activations.norms.append((normal, scale))
        return gamma * normal + beta

    def _normalise_backward(
        self, delta: np.ndarray, i: int, activations: Activations
    ) -> np.ndarray:
        normal, scale = activations.norms[i]
        d_gamma, d_beta = self._gradients[i][2:]
        d_gamma[:] = (delta * normal).sum(axis=0)
        d_beta[:] = delta.sum(axis=0)
        inner = delta * self._layers[i][2]
        centred = inner - inner.mean(axis=0) - normal * (inner * normal).mean(axis=0)
        return centred * scale


def _views(vector: np.ndarray, layers: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """The arrays of each layer as views of one vector."""
    arrays = [array for layer in layers for array in layer]
    pieces = iter(np.split(vector, np.cumsum([array.size for array in arrays])[:-1]))
    return [[next(pieces).reshape(array.shape) for array in layer] for layer in layers]
