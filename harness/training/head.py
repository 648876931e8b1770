"""The classifier on pooled features, in numpy: dense layers, then softmax.

A head is so small that a framework spends its time between the operations. Here 15,000 steps take
seconds, an ensemble trains one without loading a framework, and the numbers are Keras's own: the
tests compare every optimizer, penalty and layer with it step by step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.evaluation.calibration import softmax
from harness.schema.protocol import Head, Loss, Optimizer
from harness.training.loop import PhaseName, TrainState
from harness.training.losses import class_weights, loss_targets

EPSILON = 1e-7
"""Of the optimizers, Keras's default."""
NORM_EPSILON, NORM_MOMENTUM = 1e-3, 0.99
"""Of batch normalisation, Keras's defaults."""


@dataclass(frozen=True)
class Standardizer:
    """(x - mean) * scale of each feature, from the training features."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(
        cls, features: np.ndarray, damping: float = 0.0, widths: Sequence[int] = ()
    ) -> Standardizer:
        """Of features (n, width), whose scale is that of one network.

        ``damping``: see harness.schema.protocol.Head. ``widths``: of the features of
        several networks that lie side by side.
        """
        mean = features.mean(axis=0, dtype=np.float64)
        variance = features.var(axis=0, dtype=np.float64)
        # A feature that never moves says nothing; it must not become a division by zero.
        moves = np.sqrt(variance) > 1e-6 * np.maximum(np.abs(mean), 1e-30)
        for block in np.split(np.arange(len(mean)), np.cumsum(widths)[:-1]):
            if moves[block].any():
                variance[block] += damping * variance[block[moves[block]]].mean()
        scale = np.divide(1.0, np.sqrt(variance), out=np.zeros_like(variance), where=moves)
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) * self.scale


def shapes(head: Head, width: int, classes: int) -> list[tuple[int, ...]]:
    """Of the trainable weights, in Keras's order: kernel, bias, then gamma, beta where normed."""
    found: list[tuple[int, ...]] = []
    for units in head.units:
        found += [(width, units), (units,)]
        if head.batch_norm:
            found += [(units,), (units,)]
        width = units
    return [*found, (width, classes), (classes,)]


class HeadLearner:
    """A head that learns from features (n, width) and targets (n, K). See harness.training.loop.

    ``dropout`` and the first weights come from the seed alone. ``widths``: of the features of
    several networks that lie side by side.
    """

    def __init__(
        self,
        settings: tuple[Head, Loss, Optimizer],
        train: tuple[np.ndarray, np.ndarray],
        validation: np.ndarray,
        seed: int,
        widths: Sequence[int] = (),
    ) -> None:
        self.head, loss, optimizer = settings
        features, targets = train
        self._widths = tuple(widths)
        self.standard = self._standard(features)
        self._smoothing, self._class_weights = loss.label_smoothing, class_weights(loss, targets)
        self._epochs: tuple[_Lesson, ...] = (self._lesson(features, targets),)
        self._now = self._epochs[0]
        self._plain_validation, self._validation = validation, self._prepared(validation)
        self._rng = np.random.default_rng([seed, *b"head"])
        self._shapes = shapes(self.head, features.shape[1], targets.shape[1])
        self.vector = np.concatenate(
            [self._first(shape, i) for i, shape in enumerate(self._shapes)]
        )
        self.moving = [
            np.stack([np.zeros(u, np.float32), np.ones(u, np.float32)])
            for u in (self.head.units if self.head.batch_norm else ())
        ]
        self._penalised = np.concatenate(
            [np.full(math.prod(s), len(s) == 2, np.float32) for s in self._shapes]
        )
        self._gradient = np.empty_like(self.vector)
        self._optimizer = HeadOptimizer(optimizer, len(self.vector))

    # The learner

    def vary(self, epochs: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Learn from these features and soft targets, one pair an epoch, over and over.

        Features are standardised by the first pair; class weights stay those of the plain images.
        """
        lessons: list[_Lesson] = []
        for features, targets in epochs:
            if not lessons:
                self.standard = self._standard(features)
            lessons.append(self._lesson(features, targets))
        self._epochs, self._now = tuple(lessons), lessons[0]
        self._validation = self._prepared(self._plain_validation)

    def begin(self, epoch: int) -> None:
        self._now = self._epochs[epoch % len(self._epochs)]

    def step(self, order: np.ndarray, learning_rate: float) -> float:
        cache, now = _Cache(), self._now
        probabilities = self._forward(now.features[order], cache)
        logs = np.log(np.clip(probabilities, EPSILON, 1.0))
        loss = float(-(now.targets[order] * logs).sum(axis=1).mean())
        aimed = now.loss_targets[order]
        pull = probabilities * aimed.sum(axis=1, keepdims=True) - aimed
        self._backward(pull * np.float32(1 / len(order)), cache)
        if self.head.l1 or self.head.l2:
            penalty = 2 * self.head.l2 * self.vector + self.head.l1 * np.sign(self.vector)
            self._gradient += self._penalised * penalty
        self._optimizer.step(self.vector, self._gradient, learning_rate)
        return loss

    def validate(self) -> np.ndarray:
        return self._forward(self._validation, None)

    def state(self) -> tuple[np.ndarray, list[np.ndarray]]:
        return self.vector.copy(), [moving.copy() for moving in self.moving]

    def restore(self, state: tuple[np.ndarray, list[np.ndarray]]) -> None:
        self.vector[:] = state[0]
        self.moving = [moving.copy() for moving in state[1]]

    def recall(self, name: PhaseName) -> TrainState | None:
        """Never: a head is seconds of work, and comes out the same again."""
        return None

    def keep(self, name: PhaseName, stage: TrainState) -> None:
        """Nothing."""

    # What others need of it

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Probabilities float32 (n, K) of raw features (n, width)."""
        return self._forward(self._prepared(features), None)

    @property
    def parameters(self) -> int:
        return len(self.vector)

    def keras_weights(self) -> list[np.ndarray]:
        """Every weight in the order of a Keras model of the same layers."""
        weights, moving = iter(self._views(self.vector)), iter(self.moving)
        ordered = []
        for _ in self.head.units:
            ordered += [next(weights), next(weights)]
            if self.head.batch_norm:
                ordered += [next(weights), next(weights), *next(moving)]
        return [*ordered, *weights]

    # The network

    def _lesson(self, features: np.ndarray, targets: np.ndarray) -> _Lesson:
        return _Lesson(
            self._prepared(features),
            targets.astype(np.float32),
            loss_targets(targets, self._class_weights, self._smoothing),
        )

    def _standard(self, features: np.ndarray) -> Standardizer | None:
        if not self.head.standardise:
            return None
        return Standardizer.of(features, self.head.damping, self._widths)

    def _prepared(self, features: np.ndarray) -> np.ndarray:
        features = features.astype(np.float32)
        return self.standard(features) if self.standard else features

    def _first(self, shape: tuple[int, ...], i: int) -> np.ndarray:
        """Glorot-uniform kernels (Glorot and Bengio 2010), zero biases and betas, one gammas."""
        if len(shape) == 2:
            limit = math.sqrt(6 / sum(shape))
            return self._rng.uniform(-limit, limit, shape).astype(np.float32).ravel()
        gamma = self.head.batch_norm and i % 4 == 2 and i < 4 * len(self.head.units)
        return np.full(shape, float(gamma), np.float32)

    def _views(self, vector: np.ndarray) -> list[np.ndarray]:
        views, at = [], 0
        for shape in self._shapes:
            size = math.prod(shape)
            views.append(vector[at : at + size].reshape(shape))
            at += size
        return views

    def _forward(self, x: np.ndarray, cache: _Cache | None) -> np.ndarray:
        """Probabilities; with a cache, in training mode, keeping what the way back needs."""
        weights = iter(self._views(self.vector))
        for i in range(len(self.head.units)):
            if cache is not None:
                cache.inputs.append(x)
            x = x @ next(weights) + next(weights)
            if self.head.batch_norm:
                x = self._norm(x, i, (next(weights), next(weights)), cache)
            x = np.maximum(x, 0)
            if cache is not None:
                keep = np.float32(1 - self.head.dropout)
                gate = (x > 0).astype(np.float32)
                if self.head.dropout:
                    gate *= (self._rng.random(x.shape, dtype=np.float32) < keep) / keep
                x = x * gate
                cache.gates.append(gate)
        if cache is not None:
            cache.inputs.append(x)
        return softmax(x @ next(weights) + next(weights))

    def _norm(
        self, x: np.ndarray, i: int, affine: tuple[np.ndarray, np.ndarray], cache: _Cache | None
    ) -> np.ndarray:
        gamma, beta = affine
        if cache is None:
            mean, variance = self.moving[i]
        else:
            mean, variance = x.mean(axis=0), x.var(axis=0)
            self.moving[i] *= NORM_MOMENTUM
            self.moving[i] += (1 - NORM_MOMENTUM) * np.stack([mean, variance])
        scale = 1 / np.sqrt(variance + NORM_EPSILON)
        normal = (x - mean) * scale
        if cache is not None:
            cache.norms.append((normal, scale))
        return gamma * normal + beta

    def _backward(self, delta: np.ndarray, cache: _Cache) -> None:
        """The gradient of the logits (n, K) -> the gradient of every weight."""
        weights, gradients = self._views(self.vector), self._views(self._gradient)
        at = len(weights) - 2
        for i in range(len(self.head.units), -1, -1):
            np.matmul(cache.inputs[i].T, delta, out=gradients[at])
            np.sum(delta, axis=0, out=gradients[at + 1])
            if i == 0:
                return
            delta = (delta @ weights[at].T) * cache.gates[i - 1]
            if self.head.batch_norm:
                at -= 2
                normal, scale = cache.norms[i - 1]
                gradients[at][:] = (delta * normal).sum(axis=0)
                gradients[at + 1][:] = delta.sum(axis=0)
                inner = delta * weights[at]
                centred = inner - inner.mean(axis=0) - normal * (inner * normal).mean(axis=0)
                delta = centred * scale
            at -= 2


@dataclass(frozen=True)
class _Lesson:
    """The training images of one epoch, as steps want them."""

    features: np.ndarray
    targets: np.ndarray
    loss_targets: np.ndarray


@dataclass
class _Cache:
    """What the way forward leaves for the way back, layer by layer."""

    inputs: list[np.ndarray] = field(default_factory=list)
    gates: list[np.ndarray] = field(default_factory=list)
    norms: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


class HeadOptimizer:
    """One optimizer on one flat vector of weights, with Keras's arithmetic."""

    def __init__(self, settings: Optimizer, size: int) -> None:
        self.settings = settings
        self.count = 0
        self.first = np.zeros(size, np.float32)
        self.second = np.zeros(size, np.float32)
        self._nadam_product = 1.0

    def step(self, vector: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        """Move ``vector`` in place against ``gradient`` at this learning rate."""
        self.count += 1
        if self.settings.weight_decay:
            vector *= np.float32(1 - self.settings.weight_decay * rate)
        match self.settings.name:
            case "adam" | "adamw":
                self._adam(vector, gradient, rate)
            case "nadam":
                self._nadam(vector, gradient, rate)
            case "lion":
                vector -= np.float32(rate) * np.sign(0.9 * self.first + 0.1 * gradient)
                self._average(self.first, gradient, 0.99)
            case "sgd":
                momentum = np.float32(self.settings.momentum)
                self.first *= momentum
                self.first -= np.float32(rate) * gradient
                vector += momentum * self.first - np.float32(rate) * gradient

    def _adam(self, vector: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        self._average(self.first, gradient, 0.9)
        self._average(self.second, np.square(gradient), 0.999)
        rate *= math.sqrt(1 - 0.999**self.count) / (1 - 0.9**self.count)
        vector -= np.float32(rate) * self.first / (np.sqrt(self.second) + np.float32(EPSILON))

    def _nadam(self, vector: np.ndarray, gradient: np.ndarray, rate: float) -> None:
        """Dozat 2016, with Keras's momentum schedule."""
        now = 0.9 * (1 - 0.5 * 0.96**self.count)
        after = 0.9 * (1 - 0.5 * 0.96 ** (self.count + 1))
        self._nadam_product *= now
        self._average(self.first, gradient, 0.9)
        self._average(self.second, np.square(gradient), 0.999)
        momentum = self.first * np.float32(after / (1 - self._nadam_product * after))
        momentum += gradient * np.float32((1 - now) / (1 - self._nadam_product))
        variance = self.second / np.float32(1 - 0.999**self.count)
        vector -= np.float32(rate) * momentum / (np.sqrt(variance) + np.float32(EPSILON))

    @staticmethod
    def _average(moving: np.ndarray, value: np.ndarray, keep: float) -> None:
        moving *= np.float32(keep)
        moving += np.float32(1 - keep) * value
