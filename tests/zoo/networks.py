"""What the tests of real networks share."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from zoo.recipe import Recipe
from zoo.registry import RECIPES

BIG = 10_000_000
EACH_RECIPE = [
    pytest.param(recipe, id=recipe.name, marks=[pytest.mark.slow] * (recipe.parameters > BIG))
    for recipe in RECIPES
]
FROM_KERAS = [each for each in EACH_RECIPE if not str(each.id).startswith("lite")]


def constructor(recipe: Recipe) -> Callable[..., keras.Model]:
    module, name = recipe.constructor.split(":")
    function: Callable[..., keras.Model] = getattr(importlib.import_module(module), name)
    return function


def keras_preprocess(recipe: Recipe, pixels: np.ndarray) -> np.ndarray:
    """What keras.applications' own function makes of the pixels; nothing for the Lite networks."""
    module = importlib.import_module(constructor(recipe).__module__)
    if not hasattr(module, "preprocess_input"):
        return pixels
    return np.asarray(module.preprocess_input(pixels.copy()))


@contextmanager
def instead_of_downloading(answer: Callable[..., Any]) -> Iterator[None]:
    """Lets Keras ask ``answer`` where it would fetch a file."""
    with patch("keras.src.utils.file_utils.get_file", answer):
        yield


def scramble(model: keras.Model, images: np.ndarray) -> None:
    """Gives every vector of weights a value that shows when it is lost or misplaced.

    As they come, biases and moving means are 0, moving variances 1 and ConvNeXt's scales 1e-6.
    Batch normalisation then takes its statistics from the (preprocessed) images: without that
    the signal of random weights fades away long before the last layer.
    """
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) == 1:
            centred = not np.any(np.asarray(variable))
            low, high = (-0.2, 0.2) if centred else (0.5, 1.5)
            variable.assign(rng.uniform(low, high, variable.shape))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with a copy of its weights
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)


def save_as_keras_publishes(model: keras.Model, path: Path) -> None:
    """In the older HDF5 layout, layer after layer, as Keras's own files are."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def pixels(size: int, count: int = 2, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, uint8; white noise looks alike to every filter."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3))
    steps = -(-size // 4)
    blocks = coarse.repeat(steps, axis=1).repeat(steps, axis=2)[:, :size, :size]
    return np.clip(blocks + rng.normal(0, 20, blocks.shape), 0, 255).astype(np.uint8)
