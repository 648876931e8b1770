"""Forward images a second of every recipe, and its share of the matrix-multiply rate.

python benchmarks/forward.py [--size 96] [--batch 32] [RECIPE ...]
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from harness.devices import Device, visible
from zoo.table import RECIPES, find

if visible()[0].id == "cpu":
    for _key, _value in Device("cpu", "CPU").environment.items():
        os.environ.setdefault(_key, _value)


def matmul_rate(side: int = 1536, seconds: float = 2.0) -> float:
    """Multiply-adds a second of a float32 matrix product in the framework that runs the zoo."""
    from keras import ops

    a = ops.convert_to_tensor(np.random.default_rng(0).random((side, side), dtype=np.float32))
    np.asarray(ops.matmul(a, a))
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        np.asarray(ops.matmul(a, a))
        count += 1
    return count * side**3 / (time.perf_counter() - begin)


def main() -> None:
    import keras

    from harness.steps import Forward, numbers
    from harness.throughput import Meter, multiply_adds
    from zoo.build import build

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("recipes", nargs="*")
    asked = parser.parse_args()

    device, rate = visible()[0], matmul_rate()
    print(f"{device.name}; matrix product {rate / 1e9:.0f} G multiply-adds/s; {asked.size} px")
    pixels = np.random.default_rng(0).integers(
        0, 256, (asked.batch, asked.size, asked.size, 3), dtype=np.uint8
    )
    print(f"{'recipe':18s} {'build s':>8s} {'first s':>8s} {'images/s':>9s} {'of matmul':>9s}")
    for recipe in [find(name) for name in asked.recipes] or RECIPES:
        keras.utils.set_random_seed(0)
        begin = time.perf_counter()
        network = build(recipe, max(asked.size, recipe.minimum_size))
        built, forward = time.perf_counter(), Forward(network)
        numbers(forward(pixels))
        first, meter = time.perf_counter(), Meter()
        while not meter.enough():
            meter.measure(forward, pixels)
        images = meter.result(asked.batch, "float32", device.name, True).median
        share = images * multiply_adds(network) / rate
        seconds = f"{built - begin:8.1f} {first - built:8.1f}"
        print(f"{recipe.name:18s} {seconds} {images:9.1f} {share:9.0%}", flush=True)
        del network, forward
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
