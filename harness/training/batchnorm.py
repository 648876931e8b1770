"""Population statistics of the BatchNorm layers that are trained.

Keras predicts with moving averages. Their momentum differs between networks (.9 to .999), and on a
few thousand images they lag behind the weights for many epochs. Here means and variances are
estimated anew, with the weights as they are, on some training images (Wu and Johnson 2021,
Rethinking "Batch" in BatchNorm, arXiv:2105.07576, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from harness.execution.locks import DeviceLock
from harness.training.compilation import CompileTimer, Inference, to_numpy
from zoo.factory import flatten_layers


class BatchNormEstimator:
    """Estimates the statistics of a model's trainable BatchNorm layers; ``layers`` may be none."""

    def __init__(
        self, model: keras.Model, device_lock: DeviceLock, compile_timer: CompileTimer
    ) -> None:
        layers = list(flatten_layers(model))
        batch_norm = keras.layers.BatchNormalization
        self.layers = [x for x in layers if isinstance(x, batch_norm) and x.trainable]
        self._dropouts = [x for x in layers if isinstance(x, keras.layers.Dropout)]
        self._model, self._device_lock = model, device_lock
        self._step = Inference(self._batch_statistics, model.variables, compile_timer)

    def estimate(self, take: Callable[[np.ndarray], Any], batches: Iterable[np.ndarray]) -> None:
        """Set means and variances to those of some training images.

        ``batches``: rows of the images of each batch, all of one size; ``take`` returns the images
        in some rows. The variance is that within the batches and between their means.
        """
        statistics = []
        with self._training_mode():
            for rows in batches:
                with self._device_lock.shared():
                    of_batch = self._step(take(rows))
                    # On a device of the run's own it is read when all batches are queued.
                    statistics.append(of_batch if self._device_lock.own else to_numpy(of_batch))
        with self._device_lock.shared():
            self._set(np.array([*map(to_numpy, statistics)], float))

    def _set(self, statistics: np.ndarray) -> None:
        """``statistics``: of each batch the means, then the variances, at all layers."""
        means, variances = np.split(statistics, 2, axis=1)
        mean, variance = means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0)
        ends = np.cumsum([layer.moving_mean.shape[0] for layer in self.layers])[:-1]
        for layer, *values in zip(
            self.layers, np.split(mean, ends), np.split(variance, ends), strict=True
        ):
            layer.moving_mean.assign(values[0].astype(np.float32))
            layer.moving_variance.assign(values[1].astype(np.float32))

    def compile_ahead(self, shape: tuple[int, ...]) -> None:
        """Compile for uint8 images of this shape (B, S, S, 3) before the first estimate."""
        if self.layers:
            with self._training_mode():
                self._step.compile_ahead(shape)

    @contextmanager
    def _training_mode(self) -> Iterator[None]:
        """Without momentum a layer's averages are the statistics of the last batch; no dropout."""
        momenta = [layer.momentum for layer in self.layers]
        rates = [layer.rate for layer in self._dropouts]
        try:
            for layer in self.layers:
                layer.momentum = 0.0
            for layer in self._dropouts:
                layer.rate = 0.0
            yield
        finally:
            for layer, momentum in zip(self.layers, momenta, strict=True):
                layer.momentum = momentum
            for layer, rate in zip(self._dropouts, rates, strict=True):
                layer.rate = rate

    def _batch_statistics(self, images: Any) -> Any:
        """The means of a batch at all layers, then the variances, in one vector."""
        self._model(images, training=True)
        means = [layer.moving_mean for layer in self.layers]
        variances = [layer.moving_variance for layer in self.layers]
        return ops.concatenate([ops.convert_to_tensor(v) for v in means + variances])
