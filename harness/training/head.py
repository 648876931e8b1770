"""The classifier on pooled features as a Learner: standardised features, dense layers, softmax."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.schema.protocol import Head, Loss, Optimizer, Protocol
from harness.training.head_network import Activations, HeadNetwork
from harness.training.head_optimizer import EPSILON, HeadOptimizer
from harness.training.loop import BatchResults, Learner, fit
from harness.training.losses import class_weights, loss_targets

ESTIMATION_ROWS = 1024
"""Of the training features, at most, on which BatchNorm statistics are estimated."""


@dataclass(frozen=True)
class Standardizer:
    """(x - mean) * scale of each feature, from the training features."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(
        cls, features: np.ndarray, damping: float = 0.0, widths: Sequence[int] = ()
    ) -> Standardizer:
        """Mean and scale of features (n, width).

        ``damping``: see harness.schema.protocol.Head. ``widths``: of the blocks of columns that
        come from different networks, which are damped apart.
        """
        mean = features.mean(axis=0, dtype=np.float64)
        variance = features.var(axis=0, dtype=np.float64)
        # The scale of a constant feature is 0, not a division by zero.
        varies = np.sqrt(variance) > 1e-6 * np.maximum(np.abs(mean), 1e-30)
        for block in np.split(np.arange(len(mean)), np.cumsum(widths)[:-1]):
            if varies[block].any():
                variance[block] += damping * variance[block[varies[block]]].mean()
        scale = np.divide(1.0, np.sqrt(variance), out=np.zeros_like(variance), where=varies)
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) * self.scale


@dataclass(frozen=True)
class _EpochData:
    """The training data of one epoch: standardised features, targets, and loss targets."""

    features: np.ndarray
    targets: np.ndarray
    loss_targets: np.ndarray


class HeadLearner(Learner):
    """Trains a head on features (n, width) and targets (n, K), given as ``train``.

    ``validation``: features alone. ``widths``: of the blocks of columns that come from different
    networks. Everything random comes from the seed.
    """

    def __init__(
        self,
        settings: tuple[Head, Loss, Optimizer],
        train: tuple[np.ndarray, np.ndarray],
        validation: np.ndarray,
        seed: int,
        widths: Sequence[int] = (),
    ) -> None:
        self._head, loss, optimizer = settings
        features, targets = train
        self._widths = widths
        self._label_smoothing = loss.label_smoothing
        self._class_weights = class_weights(loss, targets)
        self._raw_validation = validation
        self.set_epochs([train])
        self._network = HeadNetwork(self._head, features.shape[1], targets.shape[1], seed)
        self._optimizer = HeadOptimizer(optimizer, self.parameters)

    def set_epochs(self, epochs: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Train on these (features, soft targets) of augmented epochs, in turns.

        The first epoch standardises the features; class weights stay those of the plain images.
        """
        self._epochs: list[_EpochData] = []
        for features, targets in epochs:
            if not self._epochs:
                self.standardizer = self._fit_standardizer(features)
            self._epochs.append(
                _EpochData(
                    self._standardise(features),
                    targets.astype(np.float32),
                    loss_targets(targets, self._class_weights, self._label_smoothing),
                )
            )
        self._epoch = self._epochs[0]
        self._validation = self._standardise(self._raw_validation)

    @property
    def sample_count(self) -> int:
        return len(self._epoch.targets)

    def on_epoch_begin(self, epoch: int) -> None:
        self._epoch = self._epochs[epoch % len(self._epochs)]

    def train_on_batches(self, batches: np.ndarray, learning_rate: float) -> BatchResults:
        steps = [self._train_on_batch(indices, learning_rate) for indices in batches]
        losses, y_pred = zip(*steps, strict=True)
        y_true = self._epoch.targets[batches.ravel()].argmax(axis=1)
        return BatchResults(np.array(losses), y_true, np.concatenate(y_pred))

    def _train_on_batch(
        self, indices: np.ndarray, learning_rate: float
    ) -> tuple[float, np.ndarray]:
        activations = Activations()
        probabilities = self._network.forward(self._epoch.features[indices], activations)
        logs = np.log(np.clip(probabilities, EPSILON, 1.0))
        loss = float(-(self._epoch.targets[indices] * logs).sum(axis=1).mean())
        targets = self._epoch.loss_targets[indices]
        delta = probabilities * targets.sum(axis=1, keepdims=True) - targets
        self._network.backward(delta * np.float32(1 / len(indices)), activations)
        self._optimizer.step(self._network.weights, self._network.gradient, learning_rate)
        return loss, probabilities.argmax(axis=1)

    def predict_validation(self) -> np.ndarray:
        if self._head.has_batch_norm:
            features = self._epoch.features
            self._network.estimate_batchnorm(features[:: -(-len(features) // ESTIMATION_ROWS)])
        return self._network.forward(self._validation)

    def get_weights(self) -> tuple[np.ndarray, list[np.ndarray]]:
        return self._network.weights.copy(), [moving.copy() for moving in self._network.moving]

    def set_weights(self, weights: tuple[np.ndarray, list[np.ndarray]]) -> None:
        self._network.weights[:] = weights[0]
        self._network.moving = [moving.copy() for moving in weights[1]]

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Probabilities float32 (n, K) of raw features (n, width)."""
        return self._network.forward(self._standardise(features))

    @property
    def parameters(self) -> int:
        return len(self._network.weights)

    def keras_weights(self) -> list[np.ndarray]:
        """Every weight in the order of a Keras model of the same layers."""
        return self._network.keras_weights()

    def _fit_standardizer(self, features: np.ndarray) -> Standardizer | None:
        if not self._head.standardise:
            return None
        return Standardizer.fit(features, self._head.damping, self._widths)

    def _standardise(self, features: np.ndarray) -> np.ndarray:
        features = features.astype(np.float32)
        return self.standardizer(features) if self.standardizer else features


FeaturesAndTargets = tuple[np.ndarray, np.ndarray]
"""(n, width) and one-hot (n, K)."""


def fit_head(
    train: FeaturesAndTargets,
    validation: FeaturesAndTargets,
    protocol: Protocol,
    seed: int,
    widths: Sequence[int],
) -> HeadLearner:
    """A head trained as in the frozen phase; early stopping watches the validation images.

    ``widths``: of the features of each network, which are damped apart. Raises Diverged.
    """
    from threadpoolctl import threadpool_limits

    settings = (protocol.head, protocol.loss, protocol.frozen.optimizer)
    head = HeadLearner(settings, train, validation[0], seed, widths)
    with threadpool_limits(1):  # Matrices so small that threads only wait for each other.
        fit(head, "frozen", protocol.frozen, validation[1], seed)
    return head
