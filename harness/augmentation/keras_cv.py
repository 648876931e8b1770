"""The same policies by keras-cv's own layers, slower. The only file that imports keras-cv.

keras-cv 0.9.0 was the last release. Its layers draw from TensorFlow's global generator and from
functions like ``tf.random.uniform``, whose seeds a compiled graph would keep for every batch. Here
all draw from one generator that is seeded for every batch, so a batch follows from its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any
from unittest import mock

import keras_cv
import numpy as np
import tensorflow as tf

from harness.augmentation import engine
from harness.augmentation.engine import Batch
from harness.schema.augmentation import (
    AugMix,
    CutMix,
    CutOut,
    Enlarged,
    GridMask,
    MixUp,
    Noise,
    RandAugment,
    Sharpness,
    SplitAndRotate,
    Step,
    Traditional,
)

WHITE = 255
RANGE = (0, WHITE)


def augment(steps: Sequence[Step], images: np.ndarray, targets: np.ndarray, seed: Any) -> Batch:
    """As harness.augmentation.engine.augment, by keras-cv. Pixels are rounded once, at the end.

    keras-cv has no split-and-rotate: the engine's is used.
    """
    if any(isinstance(step, Enlarged) for step in steps):
        return _enlarge(steps[0], images, targets, seed)  # type: ignore[arg-type]
    seeds = np.random.SeedSequence(seed).generate_state(len(steps) + 1).tolist()
    batch = images, np.asarray(targets, np.float32)
    pending: list[Step] = []
    for step, step_seed in zip(steps, seeds, strict=False):
        if isinstance(step, SplitAndRotate):
            batch = _apply_steps(tuple(pending), batch, step_seed)
            batch, pending = engine.augment([step], *batch, step_seed), []
        else:
            pending.append(step)
    return _apply_steps(tuple(pending), batch, seeds[-1])


def _enlarge(step: Enlarged, images: np.ndarray, targets: np.ndarray, seed: Any) -> Batch:
    seeds = np.random.SeedSequence(seed).generate_state(len(step.copies)).tolist()
    copies = [
        augment([copy], images, targets, copy_seed)
        for copy, copy_seed in zip(step.copies, seeds, strict=True)
    ]
    return engine.concatenate_batches([(images, np.asarray(targets, np.float32)), *copies])


def _apply_steps(steps: tuple[Step, ...], batch: Batch, seed: int) -> Batch:
    if not steps:
        return batch
    images, targets = batch
    tf.random.set_global_generator(_generator())
    _generator().reset_from_seed(seed)
    pixels, labels = _graph(steps)(tf.constant(images), tf.constant(targets))
    return pixels.numpy(), labels.numpy()


@lru_cache(maxsize=1)
def _generator() -> tf.random.Generator:
    """One for all layers: a graph keeps the generator that it was traced with."""
    return tf.random.Generator.from_seed(0)


def _seed() -> tf.Tensor:
    return _generator().make_seeds(1)[:, 0]


def _uniform(
    shape: Any, minval: Any = 0, maxval: Any = 1, dtype: Any = tf.float32, seed: Any = None
) -> tf.Tensor:
    return tf.random.stateless_uniform(shape, _seed(), minval, maxval, dtype)


def _normal(
    shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = tf.float32, seed: Any = None
) -> tf.Tensor:
    return tf.random.stateless_normal(shape, _seed(), mean, stddev, dtype)


def _gamma(
    shape: Any, alpha: Any, beta: Any = None, dtype: Any = tf.float32, seed: Any = None
) -> tf.Tensor:
    shape = tf.concat([shape, tf.shape(alpha)], axis=0)
    return tf.random.stateless_gamma(shape, _seed(), alpha, beta, dtype)


def _shuffle(value: tf.Tensor, seed: Any = None) -> tf.Tensor:
    return tf.random.experimental.stateless_shuffle(value, _seed())


DRAWS: dict[str, Any] = {
    "uniform": _uniform,
    "normal": _normal,
    "gamma": _gamma,
    "shuffle": _shuffle,
}
"""What keras-cv calls of ``tf.random``, here with seeds from the generator."""


@lru_cache(maxsize=32)
def _graph(
    steps: tuple[Step, ...],
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    in_order = [_map_in_order(layer) for step in steps for layer in layers(step)]

    @tf.function(reduce_retracing=True)
    def graph(images: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with mock.patch.multiple(tf.random, **DRAWS):  # While it is traced.
            pixels, labels = apply_layers(in_order, images, targets)
        return tf.cast(tf.round(pixels), tf.uint8), labels

    return graph


def apply_layers(
    layers: Sequence[Any], images: tf.Tensor, targets: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Apply layers to a batch; images float32 in 0-255, not rounded, and labels."""
    batch = {"images": tf.cast(images, tf.float32), "labels": targets}
    for layer in layers:
        batch = layer(batch)
    return tf.clip_by_value(batch["images"], 0, WHITE), batch["labels"]


def _map_in_order(layer: Any) -> Any:
    """Images mapped in parallel would draw from one generator in no order."""
    if isinstance(layer, keras_cv.layers.BaseImageAugmentationLayer) and not layer.auto_vectorize:
        layer._map_fn = lambda function, batch: tf.map_fn(function, batch, parallel_iterations=1)
    return layer


def layers(step: Step) -> list[Any]:
    """keras-cv's layers for one step, from {"images", "labels"} to the same."""
    cv = keras_cv.layers
    match step:
        case Traditional():
            return _traditional(step)
        case RandAugment():
            return [
                cv.RandAugment(
                    RANGE, step.operations, step.magnitude, step.deviation, step.rate,
                    step.geometric,
                )
            ]  # fmt: skip
        case MixUp():
            return [cv.MixUp(step.alpha)]
        case CutMix():
            return [cv.CutMix(step.alpha)]
        case GridMask():
            return [cv.GridMask((0, step.ratio), step.rotation)]
        case CutOut():
            return [cv.RandomCutout((0, step.size), (0, step.size))]
        case AugMix():
            return [cv.AugMix(RANGE, step.severity, step.chains, list(step.depth), step.alpha)]
        case Sharpness():
            return [cv.RandomSharpness((0, step.factor), RANGE)]
        case Noise():
            return [_noise(step.deviation)]
        case _:
            raise NotImplementedError(step.name)


def _traditional(step: Traditional) -> list[Any]:
    cv = keras_cv.layers
    flips = {"both": "horizontal_and_vertical"}
    candidates = [
        step.flip != "none" and cv.RandomFlip(flips.get(step.flip, step.flip)),
        step.rotation and cv.RandomRotation(step.rotation),
        step.zoom and cv.RandomZoom(step.zoom),
        step.shift and cv.RandomTranslation(step.shift, step.shift),
        step.brightness and cv.RandomBrightness(step.brightness, RANGE),
        step.contrast and cv.RandomContrast(RANGE, step.contrast),
    ]
    return [layer for layer in candidates if layer]


def _noise(deviation: float) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
    def noisy(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        images = batch["images"]
        images += tf.random.normal(tf.shape(images), stddev=deviation)
        return {**batch, "images": tf.clip_by_value(images, 0.0, float(WHITE))}

    return noisy
