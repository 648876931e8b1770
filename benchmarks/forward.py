"""Forward images a second of every recipe, and its share of the matrix-multiply rate.

    python benchmarks/forward.py [--size 80] [--batch 32] [--kernels] [RECIPE ...]

The share: the network's multiply-adds a second over those of a large matrix product, which is
measured right before and after; the median of five. ``--kernels`` prints in which kernels the time
of a batch goes (TensorFlow only).

What limits the slowest, on two AVX2 cores at 80 pixels. As Keras builds them, EfficientNetB0
reaches 27 % of the matrix product's rate, EfficientNet-Lite0 44 %, MobileNetV3-Large 47 %,
MobileNetV2 59 %; all others 65 to 120 %. These four have large maps for their multiply-adds.

- Keras writes BatchNorm outside of training as a product and a sum over the maps, and TensorFlow
  runs both, and a ReLU6 after them, as separate kernels: a fifth to a third of their time.
  zoo.batchnorm_folding avoids it, for 1.1 to 1.35 times the images a second
  (benchmarks/rewrites.py).
- What remains in EfficientNetB0: its swish is a separate kernel, a fifth of the time, and
  squeeze-and-excitation goes over each map twice more, a tenth. TensorFlow's convolutions take a
  ReLU with them, but no swish. MobileNetV3's hard swish is four kernels, up to a fifth.
- What remains in all four: convolutions of few channels and depthwise ones, which move much and
  multiply little. They already run in oneDNN's AVX2 kernels.
- ConvNeXt-Small: 88 % of its time is the matrix products of its pointwise layers, bias and GELU
  included since these run in one kernel (zoo.networks.convnext, 1.10 times the images a second);
  convolutions take 5 %, layer normalisation and scales the rest.
- XLA is more than ten times slower here, so it stays off. ``predict_on_batch`` adds nothing: a bare
  ``tf.function`` takes as long.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from harness.execution import devices
from harness.execution.devices import Device, visible
from zoo.registry import RECIPES, find

if visible()[0].id == "cpu":
    for _key, _value in devices.environment(Device("cpu", "CPU")).items():
        os.environ.setdefault(_key, _value)

Step = Callable[[np.ndarray], Any]
ROUNDS = 5
SIDE = 1024


def matmul_rate(seconds: float = 0.3) -> float:
    """Multiply-adds a second of a float32 matrix product in the framework that runs the zoo."""
    square = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    a = keras.ops.convert_to_tensor(square)
    np.asarray(keras.ops.matmul(a, a))
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        np.asarray(keras.ops.matmul(a, a))
        count += 1
    return count * SIDE**3 / (time.perf_counter() - start)


def image_rate(forward: Step, pixels: np.ndarray, seconds: float = 0.5) -> float:
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < seconds:
        np.asarray(forward(pixels))
        count += len(pixels)
    return count / (time.perf_counter() - start)


def shares(forward: Step, pixels: np.ndarray, multiply_adds: int) -> tuple[float, float]:
    """Median images a second, and median share of the matrix product's rate.

    ``multiply_adds``: of one image.
    """
    rates, ratios, before = [], [], matmul_rate()
    for _ in range(ROUNDS):
        rates.append(image_rate(forward, pixels))
        after = matmul_rate()
        ratios.append(rates[-1] * multiply_adds / ((before + after) / 2))
        before = after
    return statistics.median(rates), statistics.median(ratios)


def kernels(forward: Step, pixels: np.ndarray) -> dict[str, tuple[int, float]]:
    """Calls and milliseconds a batch of every kernel, by TensorFlow's own profiler."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    space, calls, durations = XSpace(), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(ROUNDS):
            np.asarray(forward(pixels))
        tf.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space.ParseFromString(path.read_bytes())
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            name, colon, kind = plane.event_metadata[event.metadata_id].name.rpartition(":")
            # The events of the executor, around those of the kernels, have no such name.
            if colon and "CPU" in plane.name and kind.isidentifier() and "/" in name:
                calls[kind] += 1
                durations[kind] += event.duration_ps
    return {
        kind: (calls[kind] // ROUNDS, picoseconds / 1e9 / ROUNDS)
        for kind, picoseconds in durations.most_common()
    }


def print_kernels(forward: Step, pixels: np.ndarray) -> None:
    times = kernels(forward, pixels)
    total = sum(milliseconds for _, milliseconds in times.values())
    for kind, (calls, milliseconds) in list(times.items())[:10]:
        print(f"    {kind:40s} {calls:4d} calls {milliseconds:8.1f} ms {milliseconds / total:5.0%}")


def main() -> None:
    from harness.training.compilation import to_numpy
    from harness.training.throughput import multiply_adds
    from harness.training.train_step import Forward
    from zoo.factory import build

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("recipes", nargs="*")
    arguments = parser.parse_args()

    print(f"{visible()[0].name}; matrix product {matmul_rate() / 1e9:.0f} G multiply-adds/s")
    print(f"{'recipe':18s} {'px':>4s} {'build s':>8s} {'first s':>8s} {'images/s':>9s} of matmul")
    for recipe in [find(name) for name in arguments.recipes] or RECIPES:
        size = max(arguments.size, recipe.minimum_size)
        shape = (arguments.batch, size, size, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        keras.utils.set_random_seed(0)
        start = time.perf_counter()
        network = build(recipe, size)
        built, forward = time.perf_counter(), Forward(network)
        to_numpy(forward(pixels))
        first = time.perf_counter()
        images, share = shares(forward, pixels, multiply_adds(network))
        seconds = f"{built - start:8.1f} {first - built:8.1f}"
        print(f"{recipe.name:18s} {size:4d} {seconds} {images:9.1f} {share:9.0%}", flush=True)
        if arguments.kernels:
            print_kernels(forward, pixels)
        del network, forward
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
