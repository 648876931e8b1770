"""The layers of the classifier in numpy, forward and backward, with Keras's arithmetic.

A head is so small that a framework spends its time between the operations: here 15,000 steps take
seconds, and an ensemble trains a head without loading a framework. The tests compare every layer
and penalty with Keras step by step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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
    """Of each dense layer."""
    gates: list[np.ndarray | None] = field(default_factory=list)
    """Derivatives of activation and dropout, first those of the features; None: 1."""
    norms: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    """Normalised values, and 1 / deviation."""


class HeadNetwork:
    """Dense, BatchNorm, activation and dropout for each hidden layer, then dense and softmax.

    ``weights`` are all trainable ones in one float32 vector, in Keras's order. ``moving`` are the
    mean and variance of each BatchNorm, first that of the features; empty where there is none.
    First weights and dropout come from the seed alone.
    """

    def __init__(self, head: Head, width: int, classes: int, seed: int) -> None:
        self._head = head
        self._rng = np.random.default_rng([seed, *b"head"])
        self._norms = (head.input_batch_norm, *(layer.batch_norm for layer in head.layers))
        self._dropouts = (head.input_dropout, *(layer.dropout for layer in head.layers))
        layers = self._initial_layers(width, classes)
        arrays = [array for layer in layers for array in layer]
        self.weights = np.concatenate([array.ravel() for array in arrays])
        self.gradient = np.empty_like(self.weights)
        self._layers, self._gradients = _views(self.weights, layers), _views(self.gradient, layers)
        kernels = [np.full(array.size, array.ndim == 2, np.float32) for array in arrays]
        self._penalised = np.concatenate(kernels)
        self.moving = [
            np.stack([np.zeros(n, np.float32), np.ones(n, np.float32)]) if norm else np.empty(0)
            for norm, n in zip(self._norms, (width, *head.units), strict=True)
        ]

    def forward(self, x: np.ndarray, activations: Activations | None = None) -> np.ndarray:
        """Probabilities (n, K) of features (n, width); in training mode with ``activations``."""
        for i, (kernel, bias) in self._dense_layers():
            x = self._transform(x, i - 1, activations)
            if activations is not None:
                activations.inputs.append(x)
            x = x @ kernel + bias
        return softmax(x)

    def backward(self, delta: np.ndarray, activations: Activations) -> None:
        """Set ``gradient``, penalties included, from the gradient of the logits (n, K)."""
        for i, (kernel, _) in reversed(list(self._dense_layers())):
            d_kernel, d_bias = self._gradients[i][:2]
            np.matmul(activations.inputs[i - 1].T, delta, out=d_kernel)
            np.sum(delta, axis=0, out=d_bias)
            if i > 1 or self._norms[0]:
                delta = self._transform_backward(delta @ kernel.T, i - 1, activations)
        if self._head.l1 or self._head.l2:
            penalty = 2 * self._head.l2 * self.weights + self._head.l1 * np.sign(self.weights)
            self.gradient += self._penalised * penalty

    def estimate_batchnorm(self, x: np.ndarray) -> None:
        """Set the mean and variance of each BatchNorm to those of features (n, width).

        Of a training set: moving averages lag behind the weights (see harness.training.batchnorm).
        """
        for i, (kernel, bias) in self._dense_layers():
            if self._norms[i - 1]:
                self.moving[i - 1] = np.stack([x.mean(axis=0), x.var(axis=0)])
            x = self._transform(x, i - 1, None) @ kernel + bias

    def keras_weights(self) -> list[np.ndarray]:
        """Every weight in the order of a Keras model of the same layers."""
        moving = [*self.moving, np.empty(0)]
        pairs = zip(self._layers, moving, strict=True)
        return [array for layer, statistics in pairs for array in (*layer, *statistics)]

    def _dense_layers(self) -> Iterator[tuple[int, list[np.ndarray]]]:
        """Index, kernel and bias; index 0 is that of the features' BatchNorm."""
        return ((i, layer[:2]) for i, layer in enumerate(self._layers) if i)

    def _initial_layers(self, width: int, classes: int) -> list[list[np.ndarray]]:
        """Glorot-uniform kernels (Glorot and Bengio 2010), zero biases and betas, one gammas."""
        layers: list[list[np.ndarray]] = [[]]
        for units in (*self._head.units, classes):
            limit = math.sqrt(6 / (width + units))
            kernel = self._rng.uniform(-limit, limit, (width, units)).astype(np.float32)
            layers.append([kernel, np.zeros(units, np.float32)])
            width = units
        for layer, norm, n in zip(
            layers, self._norms, (len(layers[1][0]), *self._head.units), strict=False
        ):
            if norm:
                layer += [np.ones(n, np.float32), np.zeros(n, np.float32)]
        return layers

    def _transform(self, x: np.ndarray, i: int, activations: Activations | None) -> np.ndarray:
        """BatchNorm, activation (not of the features) and dropout of a layer's outputs."""
        gate = None
        if self._norms[i]:
            x = self._normalise(x, i, activations)
        if i:
            x, gate = self._activate(x)
        if activations is not None:
            if rate := self._dropouts[i]:
                retain = np.float32(1 - rate)
                mask = (self._rng.random(x.shape, dtype=np.float32) < retain) / retain
                x, gate = x * mask, mask if gate is None else gate * mask
            activations.gates.append(gate)
        return x

    def _activate(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The activation and its derivative."""
        if self._head.activation == "relu":
            return np.maximum(x, 0), (x > 0).astype(np.float32)
        ramp = np.clip(x + 3, 0, 6) / 6
        return x * ramp, ramp + x / 6 * (np.abs(x) < 3)

    def _transform_backward(
        self, delta: np.ndarray, i: int, activations: Activations
    ) -> np.ndarray:
        gate = activations.gates[i]
        if gate is not None:
            delta = delta * gate
        return self._normalise_backward(delta, i, activations) if self._norms[i] else delta

    def _normalise(self, x: np.ndarray, i: int, activations: Activations | None) -> np.ndarray:
        gamma, beta = self._layers[i][-2:]
        if activations is None:
            mean, variance = self.moving[i]
        else:
            mean, variance = x.mean(axis=0), x.var(axis=0)
            self.moving[i] *= NORM_MOMENTUM
            self.moving[i] += (1 - NORM_MOMENTUM) * np.stack([mean, variance])
        scale = 1 / np.sqrt(variance + NORM_EPSILON)
        normal = (x - mean) * scale
        if activations is not None:
            activations.norms[i] = normal, scale
        return gamma * normal + beta

    def _normalise_backward(
        self, delta: np.ndarray, i: int, activations: Activations
    ) -> np.ndarray:
        normal, scale = activations.norms[i]
        d_gamma, d_beta = self._gradients[i][-2:]
        d_gamma[:] = (delta * normal).sum(axis=0)
        d_beta[:] = delta.sum(axis=0)
        inner = delta * self._layers[i][-2]
        centred = inner - inner.mean(axis=0) - normal * (inner * normal).mean(axis=0)
        return centred * scale


def _views(vector: np.ndarray, layers: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """The arrays of each layer as views of one vector."""
    arrays = [array for layer in layers for array in layer]
    pieces = iter(np.split(vector, np.cumsum([array.size for array in arrays])[:-1]))
    return [[next(pieces).reshape(array.shape) for array in layer] for layer in layers]
