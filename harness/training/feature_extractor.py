"""Passes of a backbone over images: pooled features, and the measurement of its throughput."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np

from harness.execution.locks import DeviceLock
from harness.training.compilation import CompileTimer, to_numpy
from harness.training.throughput import Meter
from harness.training.train_step import Forward

QUEUED = 16
"""Batches that a GPU of the run's own computes ahead of the features that are fetched."""


class FeatureExtractor:
    """A backbone in inference. Each batch holds the device lock, so that others can measure.

    All batches have ``batch_size`` images, so that nothing recompiles: a short one is filled up
    with repeated images.
    """

    def __init__(
        self,
        network: keras.Model,
        device_lock: DeviceLock,
        batch_size: int,
        compile_timer: CompileTimer | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.width = network.output.shape[-1]
        self._input_shape = network.input.shape[1:]
        self._device_lock = device_lock
        self._forward = Forward(network, compile_timer)

    def programs(self, *sizes: int) -> tuple[Callable[[], None], ...]:
        """What compiles the pass of a batch of each size before the first one."""
        shapes = ((size, *self._input_shape) for size in sizes)
        return tuple(partial(self._forward.compile_ahead, shape) for shape in shapes)

    def extract(
        self,
        take: Callable[[np.ndarray], Any],
        rows: np.ndarray,
        on_batch_end: Callable[[int], object] = lambda _: None,
    ) -> np.ndarray:
        """Pooled features float32 (n, width) of the images in ``rows`` (n,).

        ``take`` returns the batch of images in some rows, on the host or the device;
        ``on_batch_end`` receives the number of images of each batch.
        """
        features = np.empty((len(rows), self.width), np.float32)
        starts = range(0, len(rows), self.batch_size)
        batches = (take(self._fill_up(rows[start:])) for start in starts)
        for start, batch in zip(starts, self.predict_batches(batches), strict=True):
            count = min(self.batch_size, len(rows) - start)
            features[start : start + count] = batch[:count]
            on_batch_end(count)
        return features

    def predict_batches(self, batches: Iterable[Any]) -> Iterator[np.ndarray]:
        """The features of one batch after another.

        On a device of the run's own, later batches are queued before the features are fetched.
        """
        most_queued = QUEUED if self._device_lock.own else 0
        queue: deque[Any] = deque()
        source = iter(batches)
        more = True
        while more or queue:
            features = None
            with self._device_lock.shared():
                batch = next(source, None)
                more = batch is not None
                if more:
                    queue.append(self._forward(batch))
                if queue and (not more or len(queue) > most_queued):
                    features = to_numpy(queue.popleft())
            if features is not None:
                yield features

    def measure(self, images: np.ndarray, rows: np.ndarray, meter: Meter) -> np.ndarray:
        """Measure batches of these images from the host until that is enough.

        Returns the features of the first rows, as many as it took.
        """
        starts = range(0, len(rows), self.batch_size)
        batches = (np.asarray(images[self._fill_up(rows[start:])]) for start in starts)
        features = meter.measure(
            self._forward,
            batches,
            lambda size: np.asarray(images[np.resize(rows, size)]),
            self._device_lock,
        )
        return np.concatenate(features)[: len(rows)]

    def _fill_up(self, rows: np.ndarray) -> np.ndarray:
        return np.resize(rows[: self.batch_size], self.batch_size)
