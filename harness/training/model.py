"""The pieces of a network in training: its head, its optimizer, and which layers learn."""

from __future__ import annotations

import os
import random
from typing import Any

import keras
import numpy as np

from harness.schema.protocol import Head
from harness.schema.protocol import Optimizer as OptimizerSettings
from harness.training.head import Standardizer
from zoo.batchnorm_folding import for_inference
from zoo.factory import backbone_layers, branches


def seed_everything(seed: int) -> None:
    """The global streams that first weights and dropout are drawn from.

    Keras's own function does this, but loads TensorFlow whatever computes.
    """
    if keras.backend.backend() == "tensorflow":
        keras.utils.set_random_seed(seed)
        return
    random.seed(seed)  # Layers and initializers draw their own seeds from here.
    np.random.seed(seed)
    if keras.backend.backend() == "torch":
        import torch

        torch.manual_seed(seed)


def jit() -> bool:
    """Whether XLA compiles the steps: always on JAX, on TensorFlow where a GPU is used.

    It costs more than it gives on TensorFlow's CPU kernels, and minutes for a deep network;
    PyTorch's compiler wants a C++ compiler on the machine.
    """
    backend = keras.backend.backend()
    on_cpu = os.environ.get("CUDA_VISIBLE_DEVICES", "") == "-1"
    return backend == "jax" or (backend == "tensorflow" and not on_cpu)


def folded_for_inference(network: keras.Model) -> keras.Model:
    """The network for passes in which nothing learns; it has the network's own weights.

    Only TensorFlow's CPU kernels leave each BatchNorm as two passes of its own over the maps.
    """
    bare = keras.backend.backend() == "tensorflow" and not jit()
    return for_inference(network) if bare else network


def build_head(
    head: Head, features: int, classes: int, standard: Standardizer | None
) -> keras.Model:
    """The classifier as a Keras model: (B, features) to (B, classes) probabilities in float32.

    The same layers, weight for weight, as harness.training.head's: fine-tuning goes on from there.
    """
    layers = keras.layers
    inputs = keras.Input((features,), dtype="float32")
    x = inputs
    if standard is not None:
        x = _Standardise(standard, name="standardise")(x)
    penalty = {"kernel_regularizer": keras.regularizers.L1L2(head.l1, head.l2)}
    for i, units in enumerate(head.units, start=1):
        x = layers.Dense(units, name=f"dense_{i}", **penalty)(x)
        if head.batch_norm:
            x = layers.BatchNormalization(name=f"batch_norm_{i}")(x)
        x = layers.ReLU(name=f"relu_{i}")(x)
        if head.dropout:
            x = layers.Dropout(head.dropout, name=f"dropout_{i}")(x)
    x = layers.Dense(classes, name="logits", **penalty)(x)
    outputs = layers.Softmax(dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, outputs, name="head")


class _Standardise(keras.layers.Layer):  # type: ignore[misc]
    """(x - mean) * scale, fixed and in float32 whatever the policy; carries no weights."""

    def __init__(self, standard: Standardizer, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self._standard = standard

    def call(self, inputs: Any) -> Any:
        mean, scale = map(keras.ops.convert_to_tensor, (self._standard.mean, self._standard.scale))
        return (inputs - mean) * scale

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


def build_optimizer(settings: OptimizerSettings, parts: int = 1) -> keras.Optimizer:
    """The optimizer, which steps once after every ``parts`` gradients, along their mean."""
    rate, optimizers = settings.learning_rate, keras.optimizers
    common: dict[str, Any] = {
        "weight_decay": settings.weight_decay or None,
        "gradient_accumulation_steps": parts if parts > 1 else None,
    }
    match settings.name:
        case "adam":
            return optimizers.Adam(rate, **common)
        case "adamw":
            return optimizers.AdamW(rate, **{**common, "weight_decay": settings.weight_decay})
        case "nadam":
            return optimizers.Nadam(rate, **common)
        case "lion":
            return optimizers.Lion(rate, **common)
        case "sgd":
            momentum = settings.momentum
            return optimizers.SGD(rate, momentum=momentum, nesterov=momentum > 0, **common)


def equal_micro_batches(batch: int, parts: int) -> int:
    """The smallest number of equal parts of a batch that is at least ``parts``."""
    return next(count for count in range(min(parts, batch), batch + 1) if batch % count == 0)


def unfreeze(network: keras.Model, part: float | int, pretrained: bool) -> None:
    """Leave only the last part of each backbone trainable, a fraction or a number of its layers.

    Pretrained BatchNorm stays frozen, and with it in inference mode: its statistics are worth
    more than what a small set could estimate.
    """
    network.trainable = True
    for branch in branches(network):
        layers = backbone_layers(branch)
        last = round(part * len(layers)) if isinstance(part, float) else min(part, len(layers))
        for i, layer in enumerate(layers):
            batch_norm = isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = i >= len(layers) - last and not (batch_norm and pretrained)


def make_deterministic(backend: str) -> None:
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    if backend == "torch":
        import torch

        torch.use_deterministic_algorithms(True, warn_only=True)
