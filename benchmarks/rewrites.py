"""The speed of the zoo's rewrites of Keras's networks: same weights and outputs, other kernels.

    python benchmarks/rewrites.py [--size 80] [--batch 32] [--rounds 8] [RECIPE ...]

Depthwise: ConvNeXt as Keras writes it, with grouped convolutions, against zoo.factory's; forward
and training step. Pointwise: its dense layers, biases and GELUs as separate kernels against one
(zoo.networks.convnext); forward. Folded: a network as it was built against
zoo.batchnorm_folding's; forward. Old and new alternate, and each figure is the median of the ratios
of pairs; ``cpu`` is the same in processor seconds, which other work on the machine disturbs less.
``apart`` is the largest difference of the features, as a share of the largest feature.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from harness.execution import devices
from harness.execution.devices import Device, visible

if visible()[0].id == "cpu":
    for _key, _value in devices.environment(Device("cpu", "CPU")).items():
        os.environ.setdefault(_key, _value)

import keras

from harness.training.model import jit
from zoo.batchnorm_folding import fold_batchnorm
from zoo.factory import build, flatten_layers
from zoo.recipe import Recipe
from zoo.registry import RECIPES, find

Step = Callable[[], object]


def seconds(step: Step) -> np.ndarray:
    """Wall seconds and processor seconds of a step."""
    clock, processor = time.perf_counter(), time.process_time()
    step()
    return np.array([time.perf_counter() - clock, time.process_time() - processor])


def faster(old: Step, new: Step, rounds: int) -> tuple[float, float]:
    """How many times as fast the new step is, in wall and in processor seconds."""
    old(), new()  # The first call traces.
    ratios = [seconds(old) / seconds(new) for _ in range(rounds)]
    clock, processor = (statistics.median(column) for column in zip(*ratios, strict=True))
    return float(clock), float(processor)


def forward(network: keras.Model, pixels: np.ndarray) -> Step:
    network.jit_compile = jit()
    return lambda: network.predict_on_batch(pixels)


def training(network: keras.Model, pixels: np.ndarray) -> Step:
    network.trainable = True
    network.compile(keras.optimizers.Adam(1e-4), "mse", jit_compile=jit())
    targets = np.zeros((len(pixels), network.output.shape[-1]), np.float32)
    return lambda: network.train_on_batch(pixels, targets)


def line(name: str, what: str, ratios: tuple[float, float], apart: float | None = None) -> None:
    clock, processor = ratios
    end = "" if apart is None else f"   apart {apart:.0e}"
    print(f"{name:18s} {what:24s} {clock:6.2f}x  cpu {processor:6.2f}x{end}", flush=True)


def distance(old: keras.Model, new: keras.Model, pixels: np.ndarray) -> float:
    features, expected = new.predict_on_batch(pixels), old.predict_on_batch(pixels)
    return float(np.abs(features - expected).max() / np.abs(expected).max())


def settle(network: keras.Model, pixels: np.ndarray) -> None:
    """Give BatchNorm the statistics of these pixels.

    With those that Keras begins with, a deep network with random weights amplifies rounding.
    """
    for layer in flatten_layers(network):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    network(pixels, training=True)


def measure(recipe: Recipe, pixels: np.ndarray, rounds: int) -> None:
    keras.utils.set_random_seed(0)
    network = build(recipe, pixels.shape[1])
    settle(network, pixels)
    folded = fold_batchnorm(network)
    if folded is not network:
        ratios = faster(forward(network, pixels), forward(folded, pixels), rounds)
        line(recipe.name, "folded, forward", ratios, distance(network, folded, pixels))
    if recipe.name.startswith("convnext"):
        with patch("zoo.factory._speed_up_depthwise", lambda model: None):
            grouped = build(recipe, pixels.shape[1])
        grouped.set_weights(network.get_weights())
        ratios = faster(forward(grouped, pixels), forward(network, pixels), rounds)
        line(recipe.name, "depthwise, forward", ratios, distance(grouped, network, pixels))
        ratios = faster(training(grouped, pixels), training(network, pixels), rounds)
        line(recipe.name, "depthwise, training step", ratios)
        with patch("zoo.factory.fuse_pointwise", lambda layers: None):
            apart = build(recipe, pixels.shape[1])
        apart.set_weights(network.get_weights())
        ratios = faster(forward(apart, pixels), forward(network, pixels), rounds)
        line(recipe.name, "pointwise, forward", ratios, distance(apart, network, pixels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("recipes", nargs="*")
    arguments = parser.parse_args()
    print(
        f"{visible()[0].name}; {arguments.size} px, batches of {arguments.batch}; new against old"
    )
    for recipe in [find(name) for name in arguments.recipes] or RECIPES:
        size = max(arguments.size, recipe.minimum_size)
        shape = (arguments.batch, size, size, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        measure(recipe, pixels, arguments.rounds)
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
