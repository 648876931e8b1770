"""Networks of reports 002 and 003, trained from scratch there.

The reports describe them in words and by their number of parameters; neither has a layer table. A
network here fits the words and, with the report's own head, the number, which does not prove that
its layers are the report's.

Sources: MobileNetV3: Howard et al., 2019, arXiv:1905.02244. U-Net: Ronneberger, Fischer, Brox,
2015, arXiv:1505.04597.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
from keras import layers

MOBILENET_BLOCKS, MOBILENET_EXPANSION, MOBILENET_FEATURES = 4, 4, 1280
UNET_FILTERS, UNET_BOTTLENECK = (64, 128, 256, 512), 1024


def BasicCNN(input_tensor: keras.KerasTensor, pooling: str | None = None, **_: Any) -> keras.Model:
    """Two convolutions with max pooling, then flattened.

    Out: (B, 64 * (size // 4)^2); without ``pooling`` the last feature map.
    """
    x = input_tensor
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    return _model(input_tensor, layers.Flatten()(x) if pooling else x)


def UNetClassifier(
    input_tensor: keras.KerasTensor, pooling: str | None = None, **_: Any
) -> keras.Model:
    """A U-Net whose last feature map is pooled. Sizes must be a multiple of 16.

    Out: (B, 64); without ``pooling`` the map, as large as the image.
    """
    x, skipped = input_tensor, []
    for filters in UNET_FILTERS:
        x = _convolve_twice(x, filters)
        skipped.append(x)
        x = layers.MaxPooling2D()(x)
    x = _convolve_twice(x, UNET_BOTTLENECK)
    for filters, skip in zip(reversed(UNET_FILTERS), reversed(skipped), strict=True):
        x = layers.Conv2DTranspose(filters, 2, strides=2, padding="same")(x)
        x = _convolve_twice(layers.Concatenate()([x, skip]), filters)
    return _model(input_tensor, _pooled(x, pooling))


def _mobilenet_v3(
    width: int, input_tensor: keras.KerasTensor, pooling: str | None = None, **_: Any
) -> keras.Model:
    """Four stages of inverted residual blocks, the last two 5x5 with squeeze-and-excitation.

    The width doubles with each stage. Out: (B, 1280); without ``pooling`` a map.
    """
    x = _normalise(layers.Conv2D(width, 3, 2, "same", use_bias=False)(input_tensor), "hard_silu")
    for stage in range(4):
        for block in range(MOBILENET_BLOCKS):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _inverted_residual(x, width * 2**stage, stride, late=stage >= 2)
    x = layers.Conv2D(MOBILENET_FEATURES, 1, use_bias=False)(x)
    return _model(input_tensor, _pooled(_normalise(x, "hard_silu"), pooling))


MobileNetV3Light = partial(_mobilenet_v3, 16)
MobileNetV3Heavy = partial(_mobilenet_v3, 96)


def _inverted_residual(
    inputs: keras.KerasTensor, filters: int, stride: int, late: bool
) -> keras.KerasTensor:
    """Expansion, depthwise convolution, projection; added to the inputs where shapes agree."""
    activation, kernel = ("hard_silu", 5) if late else ("relu", 3)
    expanded = inputs.shape[-1] * MOBILENET_EXPANSION
    x = _normalise(layers.Conv2D(expanded, 1, use_bias=False)(inputs), activation)
    x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False)(x)
    x = _normalise(x, activation)
    if late:
        x = _squeeze_excite(x)
    x = _normalise(layers.Conv2D(filters, 1, use_bias=False)(x))
    return layers.Add()([x, inputs]) if x.shape == inputs.shape else x


def _squeeze_excite(inputs: keras.KerasTensor) -> keras.KerasTensor:
    channels = inputs.shape[-1]
    x = layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    x = layers.Conv2D(channels // 4, 1, activation="relu")(x)
    x = layers.Conv2D(channels, 1, activation="hard_sigmoid")(x)
    return layers.Multiply()([inputs, x])


def _normalise(x: keras.KerasTensor, activation: str | None = None) -> keras.KerasTensor:
    x = layers.BatchNormalization()(x)
    return layers.Activation(activation)(x) if activation else x


def _convolve_twice(x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
    for _ in range(2):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    return x


def _pooled(x: keras.KerasTensor, pooling: str | None) -> keras.KerasTensor:
    return layers.GlobalAveragePooling2D()(x) if pooling else x


def _model(input_tensor: keras.KerasTensor, outputs: keras.KerasTensor) -> keras.Model:
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], outputs)
