"""Recipe -> Keras model: raw RGB pixels in, pooled features out."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import dropwhile
from pathlib import Path
from typing import Any

import h5py
import keras
from keras import layers, ops

from zoo.errors import ImageSizeError, WeightsError
from zoo.networks.efficientnet_lite import load_torch_weights
from zoo.recipe import PackageFile, Preprocessing, Recipe

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)

PREPROCESSING_LAYERS = (layers.InputLayer, layers.Rescaling, layers.Normalization)


WeightsFiles = Path | None | Sequence[Path | None]
"""One file, or none for random weights; of a joint network one a branch."""


def build(recipe: Recipe, image_size: int, weights: WeightsFiles = None) -> keras.Model:
    """The recipe's backbone, from raw pixels to globally average-pooled features.

    In: RGB pixels 0-255 of any dtype, (B, image_size, image_size, 3). Out: (B, feature_width).
    The preprocessing is part of the graph, in float32 whatever the global policy. Without a
    weights file the weights are random, drawn from Keras's global seed. Raises ImageSizeError when
    the image is too small for the network, WeightsError when the file does not fit it.
    """
    count = len(recipe.branches) or 1
    files = weights if isinstance(weights, Sequence) else (weights,) * count
    if not recipe.branches:
        (file,) = files
        return _build_one(recipe, image_size, file)
    pixels = keras.Input((image_size, image_size, 3), dtype="float32", name="pixels")
    each = zip(recipe.branches, files, strict=True)
    features = [_build_one(branch, image_size, file)(pixels) for branch, file in each]
    return keras.Model(pixels, layers.Concatenate(name="features")(features), name="joint")


def branches(model: keras.Model) -> list[keras.Model]:
    """The backbones of a built model: itself, or those of a joint network."""
    return [layer for layer in model.layers if model.name == "joint" and _is_model(layer)] or [
        model
    ]


def _is_model(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.Model)


def _build_one(recipe: Recipe, image_size: int, weights: Path | None) -> keras.Model:
    if image_size < recipe.minimum_size:
        raise ImageSizeError(
            f"image_size {image_size} is too small for {recipe.name}; "
            f"it needs at least {recipe.minimum_size}"
        )
    shape = (image_size, image_size, 3)
    pixels = keras.Input(shape, dtype="float32", name="pixels")
    network = _constructor(recipe)(
        include_top=False,
        weights=None,
        input_tensor=_preprocess(pixels, recipe.preprocessing),
        input_shape=shape,
        pooling="avg",
    )
    if recipe.name == "efficientnetb0":
        network = _with_imagenet_rescaling(network)
    model = keras.Model(network.inputs[0], network.outputs[0], name=recipe.name)
    _preprocess_in_float32(model)
    _speed_up_depthwise(model)
    if weights is not None:
        _load(model, recipe, weights)
    return model


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The network's layers from first to last, without input and preprocessing.

    Layers of nested blocks (ConvNeXt's stem and downsampling) come one by one.
    """
    flat = _flatten(model)
    return list(dropwhile(lambda layer: isinstance(layer, PREPROCESSING_LAYERS), flat))


def _flatten(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flatten(layer)
        else:
            yield layer


def _constructor(recipe: Recipe) -> Callable[..., keras.Model]:
    module, name = recipe.constructor.split(":")
    constructor: Callable[..., keras.Model] = getattr(importlib.import_module(module), name)
    return constructor


def _preprocess(pixels: keras.KerasTensor, contract: Preprocessing) -> keras.KerasTensor:
    if contract == "caffe":
        centre = layers.Normalization(
            mean=CAFFE_MEAN_BGR, variance=(1.0, 1.0, 1.0), dtype="float32", name="minus_mean"
        )
        return centre(ops.flip(pixels, axis=-1))
    if contract == "torch":
        standardise = layers.Normalization(
            mean=[255 * mean for mean in IMAGENET_MEAN],
            variance=[(255 * deviation) ** 2 for deviation in IMAGENET_DEVIATION],
            dtype="float32",
            name="standardised",
        )
        return standardise(pixels)
    if contract == "tf":
        return layers.Rescaling(1 / 127.5, offset=-1, dtype="float32", name="rescaled")(pixels)
    return pixels


def _preprocess_in_float32(model: keras.Model) -> None:
    """Takes the constructor's own preprocessing layers out of a mixed-precision policy."""
    for layer in model.layers:
        if isinstance(layer, PREPROCESSING_LAYERS):
            layer.dtype_policy = keras.DTypePolicy("float32")
            if isinstance(layer, layers.Normalization) and layer.input_mean is not None:
                layer.build(model.input_shape)  # its constants had been rounded already


def _with_imagenet_rescaling(network: keras.Model) -> keras.Model:
    """EfficientNetB0 as Keras builds it for ImageNet weights, whatever weights it gets here.

    Keras adds one more division, by the square root of the deviations, only when it is asked for
    its own file by name; without it the file's weights see a wrong scale.
    """

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        if not isinstance(layer, layers.Normalization):
            return outputs
        return layers.Rescaling([1 / math.sqrt(each) for each in IMAGENET_DEVIATION])(outputs)

    return keras.models.clone_model(network, call_function=call)


def _speed_up_depthwise(model: keras.Model) -> None:
    """Computes grouped convolutions of one channel a group as depthwise ones.

    Same weights and numbers; TensorFlow's CPU kernel for groups is 25-35 times slower.
    """
    for layer in _flatten(model):
        if not isinstance(layer, layers.Conv2D):
            continue
        channels_per_group, filters = layer.kernel.shape[-2:]
        if channels_per_group == 1 and 1 < layer.groups == filters:
            layer.convolution_op = partial(_depthwise, layer)


def _depthwise(layer: keras.layers.Conv2D, inputs: Any, kernel: Any) -> Any:
    return ops.depthwise_conv(
        inputs,
        ops.transpose(kernel, (0, 1, 3, 2)),  # (h, w, 1, channels) -> (h, w, channels, 1)
        strides=tuple(layer.strides),
        padding=layer.padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )


def _load(model: keras.Model, recipe: Recipe, path: Path) -> None:
    try:
        if isinstance(recipe.imagenet, PackageFile) and not h5py.is_hdf5(path):
            load_torch_weights(model, path)
            return
        held = _numbers_in(path)
        if held != model.count_params():
            raise ValueError(f"the file holds {held:,} numbers, not {model.count_params():,}")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # "will retain freshly initialized ..."
            model.load_weights(path)
    except (KeyError, OSError, TypeError, ValueError, UserWarning, WeightsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{recipe.name}: weights {path} do not fit: {reason}") from error


def _numbers_in(path: Path) -> int:
    """How many weights an HDF5 file holds, read from its headers alone; links are not followed."""
    total = 0

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise ValueError(f"{name} points out of the file")
            if not {"optimizer", "optimizer_weights", "seed_generator"} & set(name.split("/")):
                total += math.prod(item.shape)

    with h5py.File(path) as file:
        file.visititems(add)
    return total
