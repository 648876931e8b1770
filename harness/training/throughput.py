"""What a network costs: parameters, multiply-adds, images a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from harness.augmentation.test_time import apply_view
from harness.execution.child import failure_status
from harness.execution.locks import DeviceLock
from harness.execution.other_load import OtherLoad
from harness.schema.records import Rates, Throughput
from harness.training.compilation import to_numpy
from zoo.factory import backbone_layers

GPU_BATCH = 256
"""With which a GPU is busy."""
MINIMUM_BATCHES = 5
MINIMUM_SECONDS, FURTHER_SECONDS = 3.0, 0.3
"""Of the protocol's batch size, and of each further one."""


def multiply_adds(network: keras.Model) -> int:
    """Multiply-adds of one image through convolutions and dense layers.

    Additions of biases, normalisations, activations and pooling are not counted, as is usual.
    """
    return sum(map(_layer_multiply_adds, backbone_layers(network)))


def _layer_multiply_adds(layer: keras.layers.Layer) -> int:
    layers = keras.layers
    if isinstance(layer, layers.SeparableConv2D):
        area = math.prod(layer.output.shape[1:3])
        inputs = layer.input.shape[-1] * layer.depth_multiplier
        return int(area * inputs * (math.prod(layer.kernel_size) + layer.filters))
    if isinstance(layer, layers.DepthwiseConv2D):
        return int(math.prod(layer.output.shape[1:]) * math.prod(layer.kernel_size))
    if isinstance(layer, layers.Conv2DTranspose):
        inputs = math.prod(layer.input.shape[1:])
        return int(inputs * math.prod(layer.kernel_size) * layer.filters)
    if isinstance(layer, layers.Conv2D):
        inputs = layer.input.shape[-1] // layer.groups
        return int(math.prod(layer.output.shape[1:]) * math.prod(layer.kernel_size) * inputs)
    if isinstance(layer, layers.Dense):
        return int(math.prod(layer.output.shape[1:]) * layer.input.shape[-1])
    return 0


def count_parameters(weights: list[keras.Variable]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def further_sizes(batch_size: int, *, gpu: bool) -> tuple[int, ...]:
    """Batch sizes whose rate is measured besides ``batch_size``, as memory allows."""
    return tuple(sorted(({1, GPU_BATCH} if gpu else {1}) - {batch_size}))


@dataclass
class Meter:
    """Collects the seconds of warm, equal batches until they are enough for a median."""

    views: int = 1
    """Of test-time augmentation: an image is done when it has passed in all of them."""
    seconds: list[float] = field(default_factory=list)
    exclusive: bool = False
    """Whether no other run used the device meanwhile, and on a CPU no other program."""
    further_sizes: tuple[int, ...] = ()
    """Batch sizes to measure besides, ascending, while memory allows."""
    further: dict[int, float] = field(default_factory=dict)
    """Batch size -> median seconds of a batch."""

    @contextmanager
    def _alone(self, device_lock: DeviceLock) -> Iterator[None]:
        """Around all that is timed: alone on the device, as far as that can be had."""
        with device_lock.exclusive() as exclusive, OtherLoad() as others:
            yield
        self.exclusive = exclusive and not (device_lock.device == "cpu" and others.disturbs)

    def _enough(self) -> bool:
        return not self._short and sum(self.seconds) >= MINIMUM_SECONDS

    @property
    def _short(self) -> bool:
        return len(self.seconds) < MINIMUM_BATCHES

    def measure(
        self,
        forward: Callable[[Any], Any],
        batches: Iterable[np.ndarray],
        sample: Callable[[int], np.ndarray],
        device_lock: DeviceLock,
    ) -> list[np.ndarray]:
        """Time equal batches of images until they are enough, then one of each further size.

        Alone on the device, the images on the host; ``forward`` has passed such a batch before.
        ``sample`` makes a batch of any size. Where there are too few, the last one is repeated.
        Returns the features of each batch in the first view.
        """
        features, further = [], self._warm(forward, sample, device_lock)
        with self._alone(device_lock):
            for batch in batches:
                if self._enough():
                    break
                features.append(self._measure(forward, batch))
            while self._short:
                self._measure(forward, batch)
            for batch in further:
                self.further[len(batch)] = self._median_seconds(forward, batch)
        return features

    def _warm(
        self,
        forward: Callable[[Any], Any],
        sample: Callable[[int], np.ndarray],
        device_lock: DeviceLock,
    ) -> list[np.ndarray]:
        """A batch of each further size that fits in memory, passed once."""
        batches = []
        for batch in map(sample, self.further_sizes):
            try:
                with device_lock.shared():
                    to_numpy(forward(batch))
            except Exception as error:  # Each backend has its own.
                if failure_status(error) != "out of memory":
                    raise
                break
            batches.append(batch)
        return batches

    def _measure(self, forward: Callable[[Any], Any], batch: np.ndarray) -> np.ndarray:
        features, seconds = self._time(forward, batch)
        self.seconds.append(seconds)
        return features

    def _median_seconds(self, forward: Callable[[Any], Any], batch: np.ndarray) -> float:
        seconds: list[float] = []
        while len(seconds) < MINIMUM_BATCHES or sum(seconds) < FURTHER_SECONDS:
            seconds.append(self._time(forward, batch)[1])
        return float(np.median(seconds))

    def _time(self, forward: Callable[[Any], Any], batch: np.ndarray) -> tuple[np.ndarray, float]:
        """The views are made within that time. One batch is done before the next begins.

        On a GPU the transfers of its pixels and of its features are included: all recipes pay for
        the same pixels.
        """
        start = time.perf_counter()
        features = to_numpy(forward(batch))
        for view in range(1, self.views):
            to_numpy(forward(apply_view(batch, view)))
        return features, time.perf_counter() - start

    def rates(self, batch_size: int, precision: str, device: str) -> Rates:
        rates = batch_size / np.array(self.seconds)
        p5, median, p95 = np.percentile(rates, [5, 50, 95])
        throughput = Throughput(
            median=float(median),
            p5=float(p5),
            p95=float(p95),
            batches=len(rates),
            batch_size=batch_size,
            precision=precision,
            device=device,
            exclusive=self.exclusive,
        )
        best, size = self.best(batch_size)
        return Rates(
            throughput=throughput,
            latency_ms=self.latency_ms(),
            best_images_per_second=best,
            best_batch_size=size,
        )

    def latency_ms(self) -> float | None:
        """Of a batch of one image; None where it was not measured."""
        return 1000 * self.further[1] if 1 in self.further else None

    def best(self, batch_size: int) -> tuple[float, int]:
        """Images per second at the fastest batch size, and that size."""
        medians = {**self.further, batch_size: float(np.median(self.seconds))}
        return max((size / seconds, size) for size, seconds in medians.items())
