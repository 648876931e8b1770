"""What the zoo's rewrites of Keras's networks bring: the same weights and outputs, other kernels.

    python benchmarks/rewrites.py [--size 80] [--batch 32] [--rounds 8] [RECIPE ...]

Depthwise: ConvNeXt as Keras writes it, with grouped convolutions, against zoo.factory's; forward
and training step. Folded: a network as it was built against
zoo.batchnorm_folding's; forward. Old and new
take turns, and each figure is the median of the ratios of turns; ``cpu`` is the same of processor
seconds, which other work on the machine disturbs less. Last, how far the features are apart, as a
share of the largest.
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

from harness.execution.devices import Device, visible

if visible()[0].id == "cpu":
    for _key, _value in Device("cpu", "CPU").environment.items():
        os.environ.setdefault(_key, _value)

import keras

from harness.training.model import jit
from zoo.batchnorm_folding import fold_batchnorm
from zoo.factory import build
from zoo.recipe import Recipe
from zoo.registry import RECIPES, find

Step = Callable[[], object]


def seconds(step: Step) -> np.ndarray:
    """Of the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    step()
    return np.array([time.perf_counter() - clock, time.process_time() - processor])


def faster(old: Step, new: Step, rounds: int) -> tuple[float, float]:
    """How many times as fast the new one is, by the clock and by the processor's."""
    old(), new()  # The first call traces.
    turns = [seconds(old) / seconds(new) for _ in range(rounds)]
    clock, processor = (statistics.median(each) for each in zip(*turns, strict=True))
    return float(clock), float(processor)


def forward(network: keras.Model, pixels: np.ndarray) -> Step:
    network.jit_compile = jit()
    return lambda: network.predict_on_batch(pixels)


def training(network: keras.Model, pixels: np.ndarray) -> Step:
    network.trainable = True
    network.compile(keras.optimizers.Adam(1e-4), "mse", jit_compile=jit())
    wanted = np.zeros((len(pixels), network.output.shape[-1]), np.float32)
    return lambda: network.train_on_batch(pixels, wanted)


def line(name: str, what: str, ratios: tuple[float, float], apart: float | None = None) -> None:
    clock, processor = ratios
    end = "" if apart is None else f"   apart {apart:.0e}"
    print(f"{name:18s} {what:24s} {clock:6.2f}x  cpu {processor:6.2f}x{end}", flush=True)


def distance(one: keras.Model, other: keras.Model, pixels: np.ndarray) -> float:
    found, expected = other.predict_on_batch(pixels), one.predict_on_batch(pixels)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def measure(recipe: Recipe, pixels: np.ndarray, rounds: int) -> None:
    keras.utils.set_random_seed(0)
    ours = build(recipe, pixels.shape[1])
    swift = fold_batchnorm(ours)
    if swift is not ours:
        ratios = faster(forward(ours, pixels), forward(swift, pixels), rounds)
        line(recipe.name, "folded, forward", ratios, distance(ours, swift, pixels))
    if recipe.name.startswith("convnext"):
        with patch("zoo.factory._speed_up_depthwise", lambda model: None):
            grouped = build(recipe, pixels.shape[1])
        grouped.set_weights(ours.get_weights())
        ratios = faster(forward(grouped, pixels), forward(ours, pixels), rounds)
        line(recipe.name, "depthwise, forward", ratios, distance(grouped, ours, pixels))
        ratios = faster(training(grouped, pixels), training(ours, pixels), rounds)
        line(recipe.name, "depthwise, training step", ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("recipes", nargs="*")
    asked = parser.parse_args()
    print(f"{visible()[0].name}; {asked.size} px, batches of {asked.batch}; new against old")
    for recipe in [find(name) for name in asked.recipes] or RECIPES:
        size = max(asked.size, recipe.minimum_size)
        shape = (asked.batch, size, size, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        measure(recipe, pixels, asked.rounds)
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
