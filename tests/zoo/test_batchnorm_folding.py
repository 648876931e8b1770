"""The network for inference predicts what the network predicts, with fewer operations."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from tests.zoo.networks import EACH_RECIPE, pixels, scramble
from zoo.batchnorm_folding import fold_batchnorm
from zoo.factory import backbone_layers, build
from zoo.recipe import Recipe
from zoo.registry import find

layers = keras.layers


def _norms(model: keras.Model) -> list[str]:
    return [x.name for x in backbone_layers(model) if isinstance(x, layers.BatchNormalization)]


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _steady(model: keras.Model, images: np.ndarray) -> keras.Model:
    """As much of a network, from its begin, as does not magnify rounding.

    Of EfficientNetV2-M and L with random weights, the input's last bit changes half of the output.
    """
    inside = backbone_layers(model)
    for length in (len(inside), len(inside) // 2, len(inside) // 4, len(inside) // 8):
        part = model if length == len(inside) else keras.Model(model.input, inside[length].output)
        expected, nudged = (
            part.predict_on_batch(images * np.float32(by)) for by in (1, 1 + 2**-23)
        )  # fmt: skip
        if _distance(nudged, expected) < 2e-5:
            return part
    raise AssertionError(f"{model.name} is chaos from the first layers on")


@pytest.mark.parametrize("recipe", EACH_RECIPE)
def test_every_recipe_gives_the_same_features(recipe: Recipe) -> None:
    size = max(64, recipe.minimum_size)
    keras.utils.set_random_seed(0)
    whole = build(recipe, size)
    images = pixels(size, count=16).astype("float32")
    scramble(whole, images)
    model = _steady(whole, images)
    layers_of_it = [layer.name for layer in model.layers]
    weights = [id(weight) for weight in model.weights]
    expected = model.predict_on_batch(images)
    inference = fold_batchnorm(model)
    assert _distance(inference.predict_on_batch(images), expected) <= 1e-4
    assert {id(weight) for weight in inference.weights} == set(weights)
    # The model is what it was, to the last bit.
    np.testing.assert_array_equal(model.predict_on_batch(images), expected)
    assert [layer.name for layer in model.layers] == layers_of_it
    assert [id(weight) for weight in model.weights] == weights
    assert (inference is model) == (not _norms(model))
    assert len(_norms(inference)) < len(_norms(model)) or inference is model
    keras.backend.clear_session()


def _network() -> keras.Model:
    """Every kind of convolution with a BatchNorm after it, and some that cannot be folded."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, 2, "same")(x)
    x = layers.BatchNormalization(name="biased")(x)
    x = layers.ReLU()(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(x)
    x = layers.BatchNormalization(scale=False, name="depthwise")(x)
    x = layers.Conv2D(12, 3, padding="same", groups=4, dilation_rate=2)(x)
    x = layers.BatchNormalization(center=False, name="grouped")(x)
    twice = layers.Conv2D(12, 1)(x)
    x = layers.Add()([layers.BatchNormalization(name="used_twice")(twice), twice])
    x = layers.BatchNormalization(name="after_add")(x)
    x = layers.Conv2D(8, 1, activation="relu")(x)
    x = layers.BatchNormalization(name="after_relu")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def test_folds_what_can_be_folded_and_follows_training(tmp_path: Path) -> None:
    model = _network()
    inference = fold_batchnorm(model)
    assert _norms(inference) == ["after_add", "after_relu"]
    rng = np.random.default_rng(0)
    images, answers = rng.normal(size=(16, 12, 12, 3)), rng.normal(size=(16, 8))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    before = inference.predict_on_batch(images)
    model.fit(images, answers, epochs=3, batch_size=8, verbose=0)
    expected = model.predict_on_batch(images)
    assert _distance(before, expected) > 0.1
    assert _distance(inference.predict_on_batch(images), expected) <= 1e-5
    # What was folded leaves no trace in a weights file.
    path = tmp_path / "mine.weights.h5"
    model.save_weights(path)
    again = _network()
    again.load_weights(path)
    np.testing.assert_array_equal(again.predict_on_batch(images), expected)


def test_learns_the_same_with_a_network_for_inference_beside_it() -> None:
    rng = np.random.default_rng(0)
    images, answers = rng.normal(size=(16, 12, 12, 3)), rng.normal(size=(16, 8))
    learnt = []
    for with_inference in (False, True):
        model = _network()
        inference = fold_batchnorm(model) if with_inference else model
        model.get_layer("biased").trainable = False
        model.compile("sgd", "mse", jit_compile=False)
        for _ in range(3):
            inference.predict_on_batch(images)
            model.train_on_batch(images, answers)
        learnt.append(model.get_weights())
    for one, other in zip(*learnt, strict=True):
        np.testing.assert_array_equal(one, other)


def test_scales_no_weights_that_outnumber_the_maps() -> None:
    inputs = keras.Input((1, 1, 65))
    light = layers.BatchNormalization(name="light")(layers.Conv2D(65, 1)(inputs[..., :64]))
    heavy = layers.BatchNormalization(name="heavy")(layers.Conv2D(65, 1)(light))
    assert _norms(fold_batchnorm(keras.Model(inputs, heavy))) == ["heavy"]


def test_half_precision_stays_as_it_is() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build(find("lite0"), 32)
        assert fold_batchnorm(model) is model
    finally:
        keras.config.set_dtype_policy("float32")
