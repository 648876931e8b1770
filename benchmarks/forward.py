"""Forward images a second of every recipe, and its share of the matrix-multiply rate.

    python benchmarks/forward.py [--size 80] [--batch 32] [--kernels] [RECIPE ...]

The share: the network's multiply-adds a second, of those of a large matrix product, measured right
before and after it, in turns; the median of five. ``--kernels`` prints what a batch spends its
time in (TensorFlow only).

Where the worst fall short, on two AVX2 cores at 80 pixels. As Keras builds them, EfficientNetB0
reaches 27 % of the matrix product's rate, EfficientNet-Lite0 44 %, MobileNetV3-Large 47 %,
MobileNetV2 59 %; all others 65 to 120 %. These four have large maps for their multiply-adds.

- Keras writes BatchNorm outside of training as a product and a sum over the maps, and TensorFlow
  keeps both, and a ReLU6 behind them, as kernels of their own: a fifth to a third of their time.
  Mended: zoo.batchnorm_folding folds them, for 1.1 to 1.35 times the images a second
  (benchmarks/rewrites.py).
- What remains in EfficientNetB0: its swish is a kernel of its own, a fifth of the time, and
  squeeze-and-excitation goes over each map twice more, a tenth. TensorFlow's convolutions take a
  ReLU with them, but no swish. MobileNetV3's hard swish is four kernels, up to a fifth.
- What remains in all four: convolutions of few channels and depthwise ones, which move much and
  multiply little. They already run in oneDNN's AVX2 kernels.
- XLA is more than ten times slower here, so it stays off. ``predict_on_batch`` costs nothing to
  speak of: a bare ``tf.function`` takes as long.
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

from harness.execution.devices import Device, visible
from zoo.registry import RECIPES, find

if visible()[0].id == "cpu":
    for _key, _value in Device("cpu", "CPU").environment.items():
        os.environ.setdefault(_key, _value)

Step = Callable[[np.ndarray], Any]
ROUNDS = 5
SIDE = 1024


def matmul_rate(seconds: float = 0.3) -> float:
    """Multiply-adds a second of a float32 matrix product in the framework that runs the zoo."""
    square = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    a = keras.ops.convert_to_tensor(square)
    np.asarray(keras.ops.matmul(a, a))
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        np.asarray(keras.ops.matmul(a, a))
        count += 1
    return count * SIDE**3 / (time.perf_counter() - begin)


def image_rate(forward: Step, pixels: np.ndarray, seconds: float = 0.5) -> float:
    begin, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - begin < seconds:
        np.asarray(forward(pixels))
        count += len(pixels)
    return count / (time.perf_counter() - begin)


def shares(forward: Step, pixels: np.ndarray, each: int) -> tuple[float, float]:
    """Median images a second, and median share of the matrix product's rate.

    ``each``: multiply-adds of an image.
    """
    rates, parts, before = [], [], matmul_rate()
    for _ in range(ROUNDS):
        rates.append(image_rate(forward, pixels))
        after = matmul_rate()
        parts.append(rates[-1] * each / ((before + after) / 2))
        before = after
    return statistics.median(rates), statistics.median(parts)


def kernels(forward: Step, pixels: np.ndarray) -> dict[str, tuple[int, float]]:
    """Calls and milliseconds a batch of every kernel, by TensorFlow's own profiler."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

    space, calls, taken = XSpace(), Counter[str](), Counter[str]()
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
            # The executor's own events, around those of the kernels, have no such name.
            if colon and "CPU" in plane.name and kind.isidentifier() and "/" in name:
                calls[kind] += 1
                taken[kind] += event.duration_ps
    return {
        kind: (calls[kind] // ROUNDS, picoseconds / 1e9 / ROUNDS)
        for kind, picoseconds in taken.most_common()
    }


def print_kernels(forward: Step, pixels: np.ndarray) -> None:
    found = kernels(forward, pixels)
    total = sum(milliseconds for _, milliseconds in found.values())
    for kind, (calls, milliseconds) in list(found.items())[:10]:
        print(f"    {kind:40s} {calls:4d} calls {milliseconds:8.1f} ms {milliseconds / total:5.0%}")


def main() -> None:
    from harness.training.throughput import multiply_adds
    from harness.training.train_step import Forward, to_numpy
    from zoo.factory import build

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("recipes", nargs="*")
    asked = parser.parse_args()

    print(f"{visible()[0].name}; matrix product {matmul_rate() / 1e9:.0f} G multiply-adds/s")
    print(f"{'recipe':18s} {'px':>4s} {'build s':>8s} {'first s':>8s} {'images/s':>9s} of matmul")
    for recipe in [find(name) for name in asked.recipes] or RECIPES:
        size = max(asked.size, recipe.minimum_size)
        shape = (asked.batch, size, size, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        keras.utils.set_random_seed(0)
        begin = time.perf_counter()
        network = build(recipe, size)
        built, forward = time.perf_counter(), Forward(network)
        to_numpy(forward(pixels))
        first = time.perf_counter()
        images, share = shares(forward, pixels, multiply_adds(network))
        seconds = f"{built - begin:8.1f} {first - built:8.1f}"
        print(f"{recipe.name:18s} {size:4d} {seconds} {images:9.1f} {share:9.0%}", flush=True)
        if asked.kernels:
            print_kernels(forward, pixels)
        del network, forward
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
