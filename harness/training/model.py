"""Parts of a network in training: its head, its optimizer, and which layers are trainable."""

from __future__ import annotations

import os
import random
import sys
from typing import Any

import keras
import numpy as np

from harness.errors import ConfigError
from harness.schema.protocol import Head, Phase
from harness.schema.protocol import Optimizer as OptimizerSettings
from harness.training.head import Standardizer
from zoo.factory import backbone_layers, branches, flatten_layers, layers_as_keras_lists

XLA_STEPS = 13_000
"""Training steps after which XLA has saved what its compiling took. ConvNeXt-Small on an H200 (JAX)
compiles for 69 s and then takes 10 ms a step; timm's published rates are about 1.5 times as high
where networks are compiled. Not measured with TensorFlow."""

_xla = False


def seed_everything(seed: int) -> None:
    """Seed the global generators that first weights and dropout come from.

    Keras's own function does this, but loads TensorFlow on every backend.
    """
    if keras.backend.backend() == "tensorflow":
        keras.utils.set_random_seed(seed)
        return
    random.seed(seed)  # Layers and initializers take their own seeds from here.
    np.random.seed(seed)
    if keras.backend.backend() == "torch":
        import torch

        torch.manual_seed(seed)


def xla_pays(phase: Phase | None, rows: int) -> bool:
    """Whether on TensorFlow XLA saves more than its compiling costs in a phase on ``rows`` images.

    ``phase``: None where the backbone is frozen. Planned epochs count, as if none stopped early.
    """
    return phase is not None and phase.epochs * max(1, rows // phase.batch_size) >= XLA_STEPS


def set_xla(on: bool) -> None:
    """Whether XLA compiles TensorFlow's steps on a GPU, in this process from now on."""
    global _xla
    _xla = on


def jit() -> bool:
    """Whether XLA compiles the steps: always on JAX, on a GPU with TensorFlow after ``set_xla``.

    It costs more than it gives on TensorFlow's CPU kernels, and minutes for a deep network;
    PyTorch's compiler wants a C++ compiler on the machine.
    """
    backend = keras.backend.backend()
    on_cpu = os.environ.get("CUDA_VISIBLE_DEVICES", "") == "-1"
    return backend == "jax" or (backend == "tensorflow" and not on_cpu and _xla)


def build_head(
    head: Head, features: int, classes: int, standardizer: Standardizer | None
) -> keras.Model:
    """The classifier as a Keras model: (B, features) to (B, classes) probabilities.

    The same layers, weight for weight, as those of harness.training.head_network, and in float32
    as there, whatever the policy.
    """
    layers = keras.layers
    inputs = keras.Input((features,), dtype="float32")
    x = inputs
    if standardizer is not None:
        x = _Standardise(standardizer, name="standardise")(x)
    policy = {"dtype": "float32"}
    dense = policy | {"kernel_regularizer": keras.regularizers.L1L2(head.l1, head.l2)}
    if head.input_batch_norm:
        x = layers.BatchNormalization(name="batch_norm_0", **policy)(x)
    if head.input_dropout:
        x = layers.Dropout(head.input_dropout, name="dropout_0", **policy)(x)
    activation = {"relu": "relu", "hard-swish": "hard_silu"}[head.activation]
    for i, layer in enumerate(head.layers, start=1):
        x = layers.Dense(layer.units, name=f"dense_{i}", **dense)(x)
        if layer.batch_norm:
            x = layers.BatchNormalization(name=f"batch_norm_{i}", **policy)(x)
        x = layers.Activation(activation, name=f"{activation}_{i}", **policy)(x)
        if layer.dropout:
            x = layers.Dropout(layer.dropout, name=f"dropout_{i}", **policy)(x)
    x = layers.Dense(classes, name="logits", **dense)(x)
    outputs = layers.Softmax(name="probabilities", **policy)(x)
    return keras.Model(inputs, outputs, name="head")


class _Standardise(keras.layers.Layer):  # type: ignore[misc]
    """(x - mean) * scale, in float32 whatever the policy.

    Its constants are no weights, but saved with them.
    """

    def __init__(self, standardizer: Standardizer, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self._constants = standardizer.mean, standardizer.scale

    def call(self, inputs: Any) -> Any:
        mean, scale = map(keras.ops.convert_to_tensor, self._constants)
        return (inputs - mean) * scale

    def save_own_variables(self, store: Any) -> None:
        store["mean"], store["scale"] = self._constants

    def load_own_variables(self, store: Any) -> None:
        """Raises KeyError for a file of an older version, which lacks them."""
        self._constants = np.array(store["mean"]), np.array(store["scale"])

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape


def build_optimizer(settings: OptimizerSettings, micro_batches: int = 1) -> keras.Optimizer:
    """The optimizer; it steps after every ``micro_batches`` gradients, along their mean."""
    optimizers = keras.optimizers
    kinds = {
        "adam": optimizers.Adam,
        "adamw": optimizers.AdamW,
        "nadam": optimizers.Nadam,
        "lion": optimizers.Lion,
        "sgd": optimizers.SGD,
    }
    options: dict[str, Any] = {
        "weight_decay": settings.weight_decay or None,
        "gradient_accumulation_steps": micro_batches if micro_batches > 1 else None,
    }
    if settings.name == "adamw":
        options["weight_decay"] = settings.weight_decay  # It does not accept None.
    if settings.name == "sgd":
        options |= {"momentum": settings.momentum, "nesterov": settings.momentum > 0}
    return kinds[settings.name](settings.learning_rate, **options)


def equal_micro_batches(batch_size: int, at_least: int) -> int:
    """The smallest number of equal micro-batches of a batch that is at least ``at_least``."""
    counts = range(min(at_least, batch_size), batch_size + 1)
    return next(count for count in counts if batch_size % count == 0)


def unfreeze(
    network: keras.Model, last: float | int, pretrained: bool, frozen_layers: int | None = None
) -> None:
    """Make only the last layers of each backbone trainable: a fraction of all, or a number.

    With ``frozen_layers`` all but the first ones, as Keras lists them; raises ConfigError where
    none is left. A number counts the layers that can learn. Pretrained BatchNorm cannot: it stays
    frozen, and thus in inference mode, since its statistics are better than those of a small set.
    """
    network.trainable = True
    for branch in branches(network):
        layers = backbone_layers(branch)
        can_learn = [layer for layer in layers if _can_learn(layer, pretrained)]
        if frozen_layers is not None:
            part = _after(branch, frozen_layers)
        elif isinstance(last, float):
            part = layers[len(layers) - round(last * len(layers)) :]
        else:
            part = can_learn[-last:]
        chosen = {id(layer) for layer in part} & {id(layer) for layer in can_learn}
        for layer in layers:
            layer.trainable = id(layer) in chosen


def _after(branch: keras.Model, frozen_layers: int) -> list[keras.layers.Layer]:
    """The layers after the first ones; those of nested blocks one by one."""
    listed = layers_as_keras_lists(branch)
    if frozen_layers >= len(listed):
        raise ConfigError(
            f"fine_tuning.frozen_layers = {frozen_layers}: nothing is left to train, "
            f"{branch.name} has {len(listed)} layers"
        )
    last = listed[frozen_layers:]
    return [
        inner
        for layer in last
        for inner in (flatten_layers(layer) if isinstance(layer, keras.Model) else [layer])
    ]


def _can_learn(layer: keras.layers.Layer, pretrained: bool) -> bool:
    if isinstance(layer, keras.layers.BatchNormalization):
        return not pretrained
    return bool(layer.trainable_weights)


def backend_version() -> str:
    """Name and version, as records have them."""
    backend = keras.backend.backend()
    return f"{backend} {sys.modules[backend].__version__}"


def make_deterministic(backend: str) -> None:
    """Make the backend compute the same sums in the same order each time."""
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    if backend == "torch":
        import torch

        torch.use_deterministic_algorithms(True, warn_only=True)
