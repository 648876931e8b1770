"""What a network costs: parameters, multiply-adds, images a second."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import keras
import numpy as np

from harness.augmentation.test_time import apply_view
from harness.schema.records import Throughput
from harness.training.train_step import Forward, to_numpy

MINIMUM_BATCHES = 5
ENOUGH_SECONDS = 3.0


def multiply_adds(network: keras.Model) -> int:
    """Multiply-adds of one image through convolutions and dense layers.

    Additions of biases, normalisations, activations and pooling are not counted, as is usual.
    """
    return sum(_layer_multiply_adds(layer) for layer in flat_layers(network))


def flat_layers(network: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            yield from flat_layers(layer)
        else:
            yield layer


def _layer_multiply_adds(layer: keras.layers.Layer) -> int:
    layers = keras.layers
    if isinstance(layer, layers.SeparableConv2D):
        area = math.prod(layer.output.shape[1:3])
        inputs = layer.input.shape[-1] * layer.depth_multiplier
        return int(area * inputs * (math.prod(layer.kernel_size) + layer.filters))
    if isinstance(layer, layers.DepthwiseConv2D):
        positions = math.prod(layer.output.shape[1:])
        return int(positions * math.prod(layer.kernel_size))
    if isinstance(layer, layers.Conv2D):
        positions = math.prod(layer.output.shape[1:])
        inputs = layer.input.shape[-1] // layer.groups
        return int(positions * math.prod(layer.kernel_size) * inputs)
    if isinstance(layer, layers.Dense):
        return int(math.prod(layer.output.shape[1:]) * layer.input.shape[-1])
    return 0


def count(weights: list[keras.Variable]) -> int:
    """Numbers in a list of variables."""
    return sum(math.prod(weight.shape) for weight in weights)


@dataclass
class Meter:
    """Collects the seconds of warm, equal batches until they are enough for a median."""

    views: int = 1
    """Of test-time augmentation: an image is done when it was seen in all of them."""
    seconds: list[float] = field(default_factory=list)

    def enough(self) -> bool:
        return len(self.seconds) >= MINIMUM_BATCHES and sum(self.seconds) >= ENOUGH_SECONDS

    @property
    def short(self) -> bool:
        return len(self.seconds) < MINIMUM_BATCHES

    def measure(self, forward: Forward, batch: np.ndarray) -> np.ndarray:
        """The features of the first view.

        One batch is done before the next begins. On a GPU its way there, as the bytes of its
        pixels, and that of its features back count: all recipes pay for the same pixels.
        """
        begin = time.perf_counter()
        features = to_numpy(forward(batch))
        for view in range(1, self.views):
            to_numpy(forward(apply_view(batch, view)))
        self.seconds.append(time.perf_counter() - begin)
        return features

    def result(self, batch_size: int, precision: str, device: str, exclusive: bool) -> Throughput:
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
            exclusive=exclusive,
        )


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def device_memory_mb(which: Literal["peak", "current"] = "peak") -> float | None:
    """Memory taken on the first GPU, MiB, at its largest or now; None where it is not told."""
    peak = which == "peak"
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.config.list_logical_devices("GPU"):
            return float(tf.config.experimental.get_memory_info("GPU:0")[which]) / 1024**2
    if keras.backend.backend() == "jax":
        import jax

        stats = jax.devices()[0].memory_stats()
        key = "peak_bytes_in_use" if peak else "bytes_in_use"
        if stats and key in stats:
            return float(stats[key]) / 1024**2
    if keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            taken = torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
            return float(taken) / 1024**2
    return None
