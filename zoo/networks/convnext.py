"""ConvNeXt's pointwise convolutions, in the form for which TensorFlow has a fast kernel."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import keras
from keras import layers, ops


def fuse_pointwise(network: Iterable[keras.layers.Layer]) -> None:
    """Compute dense layers on maps, with the activation after them, as products of two matrices.

    Weights and results stay, to rounding. TensorFlow's CPU kernel computes bias and GELU with the
    product in this form alone; other backends fuse them anyway. ``network``: first layer to last.
    """
    if keras.backend.backend() != "tensorflow":
        return
    for layer in network:
        if isinstance(layer, layers.Dense) and len(layer.input.shape) > 2 and layer.use_bias:
            layer.call = partial(_pointwise, layer)
        elif isinstance(layer, layers.Activation):
            before = layer.input._keras_history.operation
            if "call" in vars(before) and before.activation is keras.activations.linear:
                before.activation, layer.activation = layer.activation, before.activation


def _pointwise(layer: keras.layers.Dense, inputs: Any, training: bool | None = None) -> Any:
    import tensorflow as tf

    rows = ops.matmul(ops.reshape(inputs, (-1, inputs.shape[-1])), layer.kernel)
    outputs = layer.activation(tf.nn.bias_add(rows, ops.convert_to_tensor(layer.bias)))
    return ops.reshape(outputs, (-1, *inputs.shape[1:-1], layer.units))
