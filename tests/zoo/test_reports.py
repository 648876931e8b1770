"""The networks of reports 002 and 003 have the numbers of parameters that the reports print."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import pytest

from harness.schema.protocol import Head
from harness.training.model import build_head
from tests.zoo.networks import BIG, pixels
from zoo.errors import ImageSizeError, WeightsError
from zoo.factory import PREPROCESSING_LAYERS, backbone_layers, build
from zoo.recipe import Recipe
from zoo.registry import REPORT_RECIPES, find
from zoo.weights import imagenet_file

LINEAR, DENSE_256 = Head(units=(), dropout=0.0), Head(units=(256,), activation="hard-swish")
REPORTED = {
    "basic": (LINEAR, 314_312, "314k"),
    "mnv3light": (DENSE_256, 1_728_600, "1.7M"),
    "mnv3heavy": (DENSE_256, 42_334_440, "42.3M"),
    "unet": (LINEAR, 31_032_200, "31.0M"),
}
"""The report's head, parameters with it at 96 pixels and eight classes, and as printed; report 003
prints none."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(recipe, id=recipe.name, marks=[pytest.mark.slow] * (recipe.parameters > BIG))
        for recipe in REPORT_RECIPES
    ],
)
def built(request: pytest.FixtureRequest) -> Iterator[tuple[Recipe, keras.Model]]:
    yield request.param, build(request.param, 96)
    keras.backend.clear_session()


def test_counts_parameters_to_the_last_digit(built: tuple[Recipe, keras.Model]) -> None:
    recipe, network = built
    head, parameters, printed = REPORTED[recipe.name]
    assert network.count_params() == recipe.parameters
    assert network.output.shape[-1] == recipe.feature_width == recipe.features_at(96)
    whole = recipe.parameters + build_head(head, recipe.feature_width, 8, None).count_params()
    assert whole == parameters
    assert printed in (f"{whole / 1e3:.0f}k", f"{whole / 1e6:.1f}M")


def test_every_layer_is_trained_on_pixels_from_minus_one_to_one(
    built: tuple[Recipe, keras.Model],
) -> None:
    _, network = built
    (rescaling,) = (x for x in network.layers if isinstance(x, keras.layers.Rescaling))
    np.testing.assert_allclose(rescaling(np.array([0.0, 255.0])), [-1, 1])
    layers = backbone_layers(network)
    assert not any(isinstance(layer, PREPROCESSING_LAYERS) for layer in layers)
    assert len(network.trainable_weights) == sum(len(x.trainable_weights) for x in layers)
    features = np.asarray(network(pixels(96), training=False))
    assert np.isfinite(features).all()
    assert np.ptp(features, axis=0).max() > 0


@pytest.mark.parametrize("recipe", REPORT_RECIPES, ids=lambda recipe: recipe.name)
def test_there_is_no_pretrained_one(recipe: Recipe) -> None:
    assert not recipe.pretrained
    with pytest.raises(WeightsError, match=f"{recipe.name}: there are no ImageNet weights"):
        imagenet_file(recipe)
    assert find(f"{recipe.name}+vgg16").pretrained


def test_flattened_features_grow_with_the_image() -> None:
    for size in (32, 64):
        basic = find("basic")
        assert build(basic, size).output.shape[-1] == basic.features_at(size) == 4 * size**2
    assert find("basic+vgg16").features_at(32) == 4096 + 512


def test_sizes_that_a_unet_cannot_halve_four_times_are_rejected() -> None:
    with pytest.raises(
        ImageSizeError, match=r"image_size 100 .* multiple of 16; 96 is the nearest"
    ):
        build(find("unet"), 100)
    assert "multiple of 16" in find("unet+basic").size_problem(72)
