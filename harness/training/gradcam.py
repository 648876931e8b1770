"""Grad-CAM (Selvaraju et al. 2017): which places of an image a network's score rests on.

The maps are those of the last feature map before pooling, weighted by the mean gradient of the
score. In a network of several backbones each has one, and they are added at the largest's size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from harness.errors import UserError
from harness.training.compilation import to_numpy
from zoo.factory import branches

Scores = Callable[[Any], Any]
"""Pooled features (n, width) -> the score (n,) of each image that is explained."""


class GradCam:
    """The Grad-CAM maps of a backbone; its head is in the scores.

    Raises UserError where the last feature map is a single place.
    """

    def __init__(self, network: keras.Model) -> None:
        self._parts = [_split(branch) for branch in branches(network)]
        self.size = max(after.input.shape[1] for _, after in self._parts)
        """Places of a map, on each side."""
        if self.size == 1:
            size = network.input.shape[1]
            raise UserError(
                f"the last feature map of {network.name} is one place at {size} px: "
                "a larger image_size is needed for Grad-CAM"
            )

    def maps(self, images: np.ndarray, scores: Scores) -> np.ndarray:
        """Signed maps float32 (n, size, size); what is below 0 speaks against the score."""
        feature_maps = [ops.cast(before(images), "float32") for before, _ in self._parts]

        def total(inputs: list[Any]) -> Any:
            pooled = [after(one) for (_, after), one in zip(self._parts, inputs, strict=True)]
            return ops.sum(scores(ops.cast(ops.concatenate(pooled, axis=-1), "float32")))

        gradients = _gradients(total, feature_maps)
        pairs = zip(feature_maps, gradients, strict=True)
        return np.sum([self._weighted(*map(to_numpy, pair)) for pair in pairs], axis=0)

    def _weighted(self, feature_map: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        import cv2

        weights = gradient.mean(axis=(1, 2), keepdims=True)
        maps = (weights * feature_map).sum(axis=-1)
        size = (self.size, self.size)
        return np.stack([cv2.resize(one, size, interpolation=cv2.INTER_LINEAR) for one in maps])


def class_scores(head: keras.Model, classes: np.ndarray) -> Scores:
    """The logit of one class (n,) for each image."""
    logits = keras.Model(head.input, head.get_layer("logits").output)
    one_hot = np.eye(head.output.shape[-1], dtype=np.float32)[classes]
    return lambda features: ops.sum(logits(features, training=False) * one_hot, axis=-1)


def feature_scores(features: Any) -> Any:
    """Half the squared length of the pooled features: what a network without its head shows."""
    return ops.sum(ops.square(features), axis=-1) / 2


def _split(backbone: keras.Model) -> tuple[keras.Model, keras.Model]:
    """A backbone before and after its last feature map."""
    pooling = next(
        layer
        for layer in reversed(backbone.layers)
        if len(layer.input.shape) == 4 and len(layer.output.shape) == 2
    )
    return (
        keras.Model(backbone.input, pooling.input),
        keras.Model(pooling.input, backbone.output),
    )


def _gradients(function: Callable[[list[Any]], Any], inputs: list[Any]) -> list[Any]:
    """The gradients of a scalar function in the backend's tensors."""
    match keras.backend.backend():
        case "jax":
            import jax

            return list(jax.grad(function)(inputs))
        case "torch":
            import torch

            leaves = [one.detach().requires_grad_() for one in inputs]
            return list(torch.autograd.grad(function(leaves), leaves))
        case _:
            import tensorflow as tf

            with tf.GradientTape() as tape:
                tape.watch(inputs)
                score = function(inputs)
            return list(tape.gradient(score, inputs))
