"""What a network costs: parameters, multiply-adds, images a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from harness.augmentation.test_time import apply_view
from harness.execution.locks import DeviceLock
from harness.execution.other_load import OtherLoad
from harness.schema.records import Throughput
from harness.training.compilation import to_numpy
from zoo.factory import backbone_layers

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
    def alone(self, device_lock: DeviceLock) -> Iterator[None]:
        """Around all that is timed: alone on the device, as far as that can be had."""
        with device_lock.exclusive() as exclusive, OtherLoad() as others:
            yield
        self.exclusive = exclusive and not (device_lock.device == "cpu" and others.disturbs)

    def enough(self) -> bool:
        return not self.short and sum(self.seconds) >= MINIMUM_SECONDS

    @property
    def short(self) -> bool:
        return len(self.seconds) < MINIMUM_BATCHES

    def measure(self, forward: Callable[[Any], Any], batch: np.ndarray) -> np.ndarray:
        """Time a batch of images on the host; returns its features in the first view.

        The views are made within that time. One batch is done before the next begins. On a GPU the
        transfers of its pixels and of its features are included: all recipes pay for the same
        pixels.
        """
        features, seconds = self._time(forward, batch)
        self.seconds.append(seconds)
        return features

    def measure_further(self, forward: Callable[[Any], Any], batch: np.ndarray) -> None:
        """Time warm batches of another size."""
        seconds: list[float] = []
        while len(seconds) < MINIMUM_BATCHES or sum(seconds) < FURTHER_SECONDS:
            seconds.append(self._time(forward, batch)[1])
        self.further[len(batch)] = float(np.median(seconds))

    def _time(self, forward: Callable[[Any], Any], batch: np.ndarray) -> tuple[np.ndarray, float]:
        start = time.perf_counter()
        features = to_numpy(forward(batch))
        for view in range(1, self.views):
            to_numpy(forward(apply_view(batch, view)))
        return features, time.perf_counter() - start

    def latency_ms(self) -> float | None:
        """Of a batch of one image; None where it was not measured."""
        return 1000 * self.further[1] if 1 in self.further else None

    def best(self, batch_size: int) -> tuple[float, int]:
        """Images per second at the fastest batch size, and that size."""
        medians = {**self.further, batch_size: float(np.median(self.seconds))}
        return max((size / seconds, size) for size, seconds in medians.items())

    def result(self, batch_size: int, precision: str, device: str) -> Throughput:
        rates = batch_size / np.array(self.seconds)
        p5, median, p95 = np.percentile(rates, [5, 50, 95])
        return Throughput(
            median=float(median),
            p5=float(p5),
            p95=float(p95),
            batches=len(rates),
            batch_size=batch_size,
            precision=precision,
            device=device,
            exclusive=self.exclusive,
        )
