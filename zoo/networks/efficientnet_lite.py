"""EfficientNet-Lite0, 1 and 2: EfficientNet without squeeze-and-excitation, with ReLU6.

Keras has no such constructors. Source: Tan, Le: EfficientNet, 2019, arXiv:1905.11946, and the
Lite variant in TensorFlow's TPU models (fixed stem and head, SAME padding, (pixel - 127) / 128).
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from zoo.checkpoints import read_state_dict
from zoo.errors import WeightsError


class Stage(NamedTuple):
    """Blocks of one width: the first applies the stride, the others are residual."""

    kernel: int
    stride: int
    expansion: int
    filters: int
    blocks: int


def _stages(filters: tuple[int, ...], blocks: tuple[int, ...]) -> tuple[Stage, ...]:
    """The seven stages; only their widths and numbers of blocks differ between the networks."""
    kernels, strides, expansions = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), (1, *6 * (6,))
    return tuple(map(Stage, kernels, strides, expansions, filters, blocks))


LITE0 = _stages((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1))
LITE1 = _stages((16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1))
LITE2 = _stages((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1))
STEM_FILTERS, HEAD_FILTERS, CLASSES = 32, 1280, 1000
DROP_RATE = 0.2
"""Dropout rate of residual branches in training; grows linearly up to this, block by block."""


def _build(
    network: tuple[str, tuple[Stage, ...], int],
    include_top: bool = False,
    weights: Path | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: tuple[int, int, int] | None = None,
    pooling: str | None = None,
) -> keras.Model:
    """A network on raw RGB pixels 0-255, with the arguments of ``keras.applications``.

    Out: with the top, ImageNet probabilities (B, 1000); with ``pooling="avg"``, features
    (B, 1280); else the last feature map. ``weights`` is a torch state dict. Raises WeightsError
    when it does not fit.
    """
    name, stages, native_size = network
    inputs = input_tensor
    if inputs is None:
        inputs = layers.Input(input_shape or (native_size, native_size, 3))
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="rescaling")(inputs)
    x = _convolve(x, STEM_FILTERS, "conv_stem", kernel=3, stride=2)
    x = _activate(x, "bn0")
    blocks = [(stage, repeat) for stage in stages for repeat in range(stage.blocks)]
    for index, (stage, repeat) in enumerate(blocks):
        drop = DROP_RATE * index / len(blocks)
        x = _block(x, stage, repeat, drop, f"blocks_{index}")
    x = _convolve(x, HEAD_FILTERS, "conv_head")
    x = _activate(x, "bn1")
    if include_top or pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    if include_top:
        x = layers.Dropout(DROP_RATE, name="top_dropout")(x)
        x = layers.Dense(CLASSES, activation="softmax", name="fc")(x)
    model = keras.Model(keras.utils.get_source_inputs(inputs)[0], x, name=name)
    if weights is not None:
        load_torch_weights(model, weights)
    return model


EfficientNetLite0 = partial(_build, ("efficientnetlite0", LITE0, 224))
EfficientNetLite1 = partial(_build, ("efficientnetlite1", LITE1, 240))
EfficientNetLite2 = partial(_build, ("efficientnetlite2", LITE2, 260))


def load_torch_weights(model: keras.Model, path: Path) -> None:
    """Load a torch state dict, torch's or safetensors, into the network by the layers' names.

    Raises WeightsError unless there is exactly one array for each weight, of the right shape;
    those of the classifier may be left over.
    """
    state = read_state_dict(path)
    variables = {
        torch_name: getattr(layer, attribute)
        for layer in model.layers
        for torch_name, attribute in _torch_names(layer).items()
    }
    ignored = {name for name in state if name.startswith("_fc.") or name.endswith("_tracked")}
    missing, extra = variables.keys() - state.keys(), state.keys() - variables.keys() - ignored
    if missing or extra:
        name = min(missing or extra)
        raise WeightsError(f"{path}: {'lacks' if missing else 'has an unknown'} array {name!r}")
    arrays = {name: _keras_order(state[name], variable) for name, variable in variables.items()}
    for name, variable in variables.items():
        if arrays[name].shape != tuple(variable.shape):
            raise WeightsError(f"{path}: array {name!r} is of shape {state[name].shape}")
        if not np.isfinite(arrays[name]).all():
            raise WeightsError(f"{path}: array {name!r} holds numbers that are not finite")
        variable.assign(arrays[name])


def _block(
    x: keras.KerasTensor, stage: Stage, repeat: int, drop: float, name: str
) -> keras.KerasTensor:
    """Inverted residual block: expansion, depthwise convolution, projection."""
    inputs, stride = x, stage.stride if repeat == 0 else 1
    if stage.expansion > 1:
        x = _convolve(x, x.shape[-1] * stage.expansion, f"{name}_expand_conv")
        x = _activate(x, f"{name}_bn0")
    x = layers.DepthwiseConv2D(
        stage.kernel,
        stride,
        "same",
        use_bias=False,
        depthwise_initializer=_initial(),
        name=f"{name}_depthwise_conv",
    )(x)
    x = _activate(x, f"{name}_bn1")
    x = _convolve(x, stage.filters, f"{name}_project_conv")
    x = _normalise(x, f"{name}_bn2")
    if repeat == 0:
        return x
    # One sample an image: its branch is kept or dropped as a whole.
    x = layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x)
    return layers.Add(name=f"{name}_add")([x, inputs])


def _convolve(
    x: keras.KerasTensor, filters: int, name: str, kernel: int = 1, stride: int = 1
) -> keras.KerasTensor:
    return layers.Conv2D(
        filters,
        kernel,
        stride,
        "same",
        use_bias=False,
        kernel_initializer=_initial(),
        name=name,
    )(x)


def _initial() -> keras.initializers.Initializer:
    return keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal")


def _normalise(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.BatchNormalization(epsilon=1e-3, name=name)(x)


def _activate(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.ReLU(6.0, name=f"{name}_relu6")(_normalise(x, name))


def _torch_names(layer: keras.layers.Layer) -> dict[str, str]:
    """Name in the state dict -> attribute of the layer, for each of its weights."""
    # blocks_3_bn1 is _blocks.3._bn1 in the state dict; bn1 alone is _bn1.
    name = re.sub(r"^(blocks)_(\d+)_", r"_\1.\2._", layer.name)
    name = name if name.startswith("_") else f"_{name}"
    if isinstance(layer, layers.BatchNormalization):
        return {
            f"{name}.weight": "gamma",
            f"{name}.bias": "beta",
            f"{name}.running_mean": "moving_mean",
            f"{name}.running_var": "moving_variance",
        }
    if isinstance(layer, layers.Dense):
        return {f"{name}.weight": "kernel", f"{name}.bias": "bias"}
    return {f"{name}.weight": "kernel"} if layer.weights else {}


def _keras_order(array: np.ndarray, variable: keras.Variable) -> np.ndarray:
    """Torch's (out, in, height, width) to Keras's (height, width, in, out), if it has four axes."""
    if array.ndim == 4:
        # Depthwise: torch (channels, 1, h, w), Keras (h, w, channels, 1).
        depthwise = array.shape[1] == 1 and variable.shape[-1] == 1
        return array.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    return array.T
