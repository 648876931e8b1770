"""Recipe -> Keras model: raw RGB pixels in, pooled features out."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import dropwhile
from pathlib import Path
from typing import Any

import h5py
import keras
from keras import layers, ops

from zoo.errors import ImageSizeError, UserError, WeightsError, did_you_mean
from zoo.networks.convnext import fuse_pointwise
from zoo.networks.efficientnet_lite import load_torch_weights
from zoo.recipe import PackageFile, Preprocessing, Recipe

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)

PREPROCESSING_LAYERS = (layers.InputLayer, layers.Rescaling, layers.Normalization)

WeightsFiles = Path | None | Sequence[Path | None]
"""A weights file, or None for random weights; for a joint network one of these per branch."""


def build(recipe: Recipe, image_size: int, weights: WeightsFiles = None) -> keras.Model:
    """The recipe's backbone, from raw pixels to globally average-pooled features.

    In: RGB pixels 0-255 of any dtype, (B, image_size, image_size, 3). Out: (B, features).
    Preprocessing is part of the graph, in float32 under any global policy. Random weights are
    drawn from Keras's global seed. Raises ImageSizeError when the network cannot take images of
    this size, WeightsError when a file does not fit it.
    """
    count = len(recipe.branches) or 1
    files = weights if isinstance(weights, Sequence) else (weights,) * count
    if not recipe.branches:
        (file,) = files
        return _build_backbone(recipe, image_size, file)
    pixels = keras.Input((image_size, image_size, 3), dtype="float32", name="pixels")
    features = [
        _build_backbone(branch, image_size, file)(pixels)
        for branch, file in zip(recipe.branches, files, strict=True)
    ]
    return keras.Model(pixels, layers.Concatenate(name="features")(features), name="joint")


def build_layer(recipe: Recipe, image_size: int, weights: Path, layer: str) -> keras.Model:
    """The recipe's network up to a layer, whose outputs are averaged where they are maps.

    An empty ``layer`` is that of the pooled features. One of the classifier, as ``fc1`` of VGG16,
    needs the ``weights`` of the network with its classifier, at the size it was made for. Raises
    UnknownName for a layer that the network does not have, and errors as ``build``.
    """
    if not layer:
        return build(recipe, image_size, weights)
    top = image_size == recipe.native_size and _holds_top(recipe, weights)
    network = _with_top(recipe, weights) if top else build(recipe, image_size, weights)
    if layer not in (names := [inner.name for inner in network.layers]):
        without = (
            ""
            if top
            else (f"; layers of its classifier need its whole weights and {recipe.native_size} px")
        )
        raise UserError(
            f"{recipe.name} has no layer {layer!r}{did_you_mean(layer, names)}{without}"
        )
    output = network.get_layer(layer).output
    if len(output.shape) == 4:
        output = layers.GlobalAveragePooling2D()(output)
    return keras.Model(network.inputs[0], output, name=recipe.name)


def _holds_top(recipe: Recipe, path: Path) -> bool:
    """Whether a file holds more weights than the network without its classifier."""
    return h5py.is_hdf5(path) and _count_weights(path) > recipe.parameters


def _with_top(recipe: Recipe, path: Path) -> keras.Model:
    """The network with its ImageNet classifier, from raw pixels."""
    pixels = keras.Input((recipe.native_size, recipe.native_size, 3), dtype="float32")
    module, name = recipe.constructor.split(":")
    network = getattr(importlib.import_module(module), name)(
        weights=None, input_tensor=_preprocess(pixels, recipe.preprocessing)
    )
    load_weights(network, path)
    return network


def branches(model: keras.Model) -> list[keras.Model]:
    """The backbones of a joint network; of any other model, the model itself."""
    if model.name != "joint":
        return [model]
    return [layer for layer in model.layers if isinstance(layer, keras.Model)]


def _build_backbone(recipe: Recipe, image_size: int, weights: Path | None) -> keras.Model:
    if problem := recipe.size_problem(image_size):
        raise ImageSizeError(f"image_size {image_size} is {problem}")
    shape = (image_size, image_size, 3)
    pixels = keras.Input(shape, dtype="float32", name="pixels")
    module, name = recipe.constructor.split(":")
    network = getattr(importlib.import_module(module), name)(
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
    fuse_pointwise(flatten_layers(model))
    if weights is not None:
        load_weights(model, weights, package_file=isinstance(recipe.imagenet, PackageFile))
    return model


def backbone_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The network's layers from first to last, without input and preprocessing.

    Nested blocks (ConvNeXt's stem and downsampling) are flattened.
    """
    return list(
        dropwhile(lambda layer: isinstance(layer, PREPROCESSING_LAYERS), flatten_layers(model))
    )


def layers_as_keras_lists(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a backbone as ``keras.applications`` lists those of its network without top.

    The input and the network's own preprocessing are counted, pooling and our preprocessing are
    not; a nested block is one layer.
    """
    ours = ("minus_mean", "standardised", "rescaled")
    pools = [x for x in model.layers if isinstance(x, layers.GlobalAveragePooling2D)]
    return [x for x in model.layers if x.name not in ours and x is not next(reversed(pools), None)]


def flatten_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from flatten_layers(layer)
        else:
            yield layer


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
    """Exempt the constructor's own preprocessing layers from a mixed-precision policy."""
    for layer in model.layers:
        if isinstance(layer, PREPROCESSING_LAYERS):
            layer.dtype_policy = keras.DTypePolicy("float32")
            if isinstance(layer, layers.Normalization) and layer.input_mean is not None:
                layer.build(model.input_shape)  # Its constants were rounded.


def _with_imagenet_rescaling(network: keras.Model) -> keras.Model:
    """EfficientNetB0 with the rescaling that its ImageNet weights need.

    Keras adds this division by the square root of the deviations only when it loads its own file.
    """

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        if not isinstance(layer, layers.Normalization):
            return outputs
        scale = [1 / math.sqrt(deviation) for deviation in IMAGENET_DEVIATION]
        return layers.Rescaling(scale)(outputs)

    return keras.models.clone_model(network, call_function=call)


def _speed_up_depthwise(model: keras.Model) -> None:
    """Compute grouped convolutions with one channel a group as depthwise ones.

    Weights and results stay; TensorFlow's CPU kernel for groups is 25-35 times slower.
    """
    for layer in flatten_layers(model):
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


def load_weights(
    model: keras.Model, path: Path, *, package_file: bool = False, constants: int = 0
) -> None:
    """Load a weights file into a model, all of it. Raises WeightsError where it does not fit.

    ``package_file``: it may also be of PyTorch's layout. ``constants``: numbers in the file that
    are no weights.
    """
    try:
        if package_file and not h5py.is_hdf5(path):
            load_torch_weights(model, path)
            return
        count, expected = _count_weights(path), model.count_params() + constants
        if count != expected:
            raise ValueError(f"the file holds {count:,} numbers, not {expected:,}")
        with warnings.catch_warnings():
            # Keras only warns of layers that keep their random weights.
            warnings.simplefilter("error", UserWarning)
            model.load_weights(path)
    except (KeyError, OSError, TypeError, ValueError, UserWarning, WeightsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{model.name}: weights {path} do not fit: {reason}") from error


def _count_weights(path: Path) -> int:
    """The number of weights in an HDF5 file, from its headers; rejects links to other files."""
    total = 0

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise ValueError(f"{name} points to another file")
            if not {"optimizer", "optimizer_weights", "seed_generator"} & set(name.split("/")):
                total += math.prod(item.shape)

    with h5py.File(path) as file:
        file.visititems(add)
    return total
