"""A built network for passes in which nothing learns: the same weights, fewer steps."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers, ops

BATCH = 32
"""Images that are expected at once, where folding is weighed against leaving a norm alone."""

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)


def for_inference(model: keras.Model) -> keras.Model:
    """A network that predicts what ``model`` predicts, with each BatchNorm inside its convolution.

    A convolution's kernel times the norm's scale, plus one vector, is the same function up to
    rounding, with two passes over the feature maps fewer, or three where the kernel also takes the
    ReLU. The weights are the model's own, scaled anew at every batch: what it learns is in here at
    once. Only in float32, and only where there is less to scale in the weights than in the maps;
    where nothing can be folded, ``model`` itself.
    """
    made: dict[int, tuple[Any, keras.layers.Layer, Any]] = {}
    folded = 0

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        nonlocal folded
        inputs = args[0]
        if isinstance(layer, layers.BatchNormalization) and id(inputs) in made:
            _, convolution, seen = made[id(inputs)]
            folded += 1
            return _Folded(convolution, layer)(seen)
        if isinstance(layer, keras.Model) and (inner := for_inference(layer)) is not layer:
            folded += 1
            return inner(*args, **kwargs)
        outputs = layer(*args, **kwargs)
        if _is_plain(layer) and _is_light(layer, outputs):
            made[id(outputs)] = outputs, layer, inputs
        return outputs

    if not any(
        isinstance(layer, layers.BatchNormalization | keras.Model) for layer in model.layers
    ):
        return model
    again = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)
    return again if folded else model


def _is_plain(layer: keras.layers.Layer) -> bool:
    """Whether it is a convolution, channels last, with nothing between it and what follows."""
    return (
        isinstance(layer, CONVOLUTIONS)
        and layer.activation in (None, keras.activations.linear)
        and layer.data_format == "channels_last"
        and layer.compute_dtype == "float32"
    )


def _is_light(convolution: keras.layers.Layer, outputs: keras.KerasTensor) -> bool:
    """Whether its weights are fewer than the numbers that two operations on its maps go through."""
    _, height, width, channels = outputs.shape
    return math.prod(convolution.kernel.shape) <= 2 * BATCH * height * width * channels


class _Folded(layers.Layer):  # type: ignore[misc]
    """A convolution and the BatchNorm after it, outside of training; owns no weights itself."""

    def __init__(self, convolution: keras.layers.Layer, norm: layers.BatchNormalization) -> None:
        super().__init__(name=norm.name)
        self.convolution, self.norm = convolution, norm
        self.built = True

    def call(self, inputs: Any) -> Any:
        convolution, norm = self.convolution, self.norm
        scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale = scale * norm.gamma
        middle = norm.moving_mean - convolution.bias if convolution.use_bias else norm.moving_mean
        shift = norm.beta - middle * scale if norm.center else -middle * scale
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
