"""Fold batch normalisation into convolutions, for faster inference with the same weights."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers, ops

BATCH = 32
"""Expected batch size: a fold pays where scaling the kernel costs less than scaling the maps."""

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)


def fold_batchnorm(model: keras.Model) -> keras.Model:
    """A network that predicts what ``model`` predicts, with each BatchNorm inside its convolution.

    The kernel times the norm's scale, plus one vector, is the same function up to rounding, with
    two or three passes over the feature maps fewer. The network shares the model's weights and
    scales them in every batch, so it follows training at once. Folds only in float32, and only
    where it pays; returns ``model`` where nothing can be folded.
    """
    convolutions: dict[int, tuple[Any, keras.layers.Layer, Any]] = {}
    folded = 0

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        nonlocal folded
        inputs = args[0]
        if isinstance(layer, layers.BatchNormalization) and id(inputs) in convolutions:
            _, convolution, convolution_inputs = convolutions[id(inputs)]
            folded += 1
            return _Folded(convolution, layer)(convolution_inputs)
        if isinstance(layer, keras.Model) and (inner := fold_batchnorm(layer)) is not layer:
            folded += 1
            return inner(*args, **kwargs)
        outputs = layer(*args, **kwargs)
        if _is_foldable(layer) and _is_worth_folding(layer, outputs):
            convolutions[id(outputs)] = outputs, layer, inputs
        return outputs

    if not any(
        isinstance(layer, layers.BatchNormalization | keras.Model) for layer in model.layers
    ):
        return model
    clone = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)
    return clone if folded else model


def _is_foldable(layer: keras.layers.Layer) -> bool:
    return (
        isinstance(layer, CONVOLUTIONS)
        and layer.activation in (None, keras.activations.linear)
        and layer.data_format == "channels_last"
        and layer.compute_dtype == "float32"
    )


def _is_worth_folding(convolution: keras.layers.Layer, outputs: keras.KerasTensor) -> bool:
    """Whether the kernel is smaller than the feature maps that two operations would pass over."""
    _, height, width, channels = outputs.shape
    return math.prod(convolution.kernel.shape) <= 2 * BATCH * height * width * channels


class _Folded(layers.Layer):  # type: ignore[misc]
    """A convolution and the BatchNorm after it, for inference; it has no weights of its own."""

    def __init__(self, convolution: keras.layers.Layer, norm: layers.BatchNormalization) -> None:
        super().__init__(name=norm.name)
        self.convolution, self.norm = convolution, norm
        self.built = True

    def call(self, inputs: Any) -> Any:
        convolution, norm = self.convolution, self.norm
        scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale = scale * norm.gamma
        mean = norm.moving_mean - convolution.bias if convolution.use_bias else norm.moving_mean
        shift = norm.beta - mean * scale if norm.center else -mean * scale
        return self._convolve(inputs, scale) + shift

    def _convolve(self, inputs: Any, scale: Any) -> Any:
        convolution = self.convolution
        kernel = convolution.kernel
        if isinstance(convolution, layers.Conv2D):
            return convolution.convolution_op(inputs, kernel * scale)
        return ops.depthwise_conv(
            inputs,
            kernel * ops.reshape(scale, kernel.shape[-2:]),  # (h, w, channels, multiplier)
            strides=tuple(convolution.strides),
            padding=convolution.padding,
            dilation_rate=convolution.dilation_rate,
            data_format=convolution.data_format,
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        return self.convolution.compute_output_shape(input_shape)
