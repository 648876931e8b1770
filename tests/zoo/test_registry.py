"""The recipes state what Keras and the papers state."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.zoo.networks import EACH_RECIPE, FROM_KERAS, constructor, instead_of_downloading
from zoo.errors import UnknownName
from zoo.recipe import KerasFile, Recipe
from zoo.registry import RECIPES, REPORT_RECIPES, find
from zoo.weights import KERAS_STORE

EVERY = (*RECIPES, *REPORT_RECIPES)
PUBLISHED_MILLIONS = {
    "vgg16": 14.71,
    "vgg19": 20.02,
    "resnet50": 23.59,
    "densenet121": 7.04,
    "inceptionv3": 21.80,
    "mobilenet": 3.23,
    "mobilenetv2": 2.26,
    "mobilenetv3large": 3.00,
    "efficientnetb0": 4.05,
    "efficientnetv2s": 20.33,
    "efficientnetv2m": 53.15,
    "efficientnetv2l": 117.75,
    "convnextsmall": 49.45,
    "convnextbase": 87.57,
    "convnextlarge": 196.23,
    "lite0": 3.41,
    "lite1": 4.19,
    "lite2": 4.87,
}


def test_names_and_aliases_are_unique() -> None:
    spellings = [spelling for recipe in EVERY for spelling in (recipe.name, *recipe.aliases)]
    assert len(set(spellings)) == len(spellings)
    assert all(re.fullmatch("[a-z0-9]+", spelling) for spelling in spellings)
    assert len({recipe.title for recipe in EVERY}) == len(EVERY)


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_is_found_under_every_name(recipe: Recipe) -> None:
    for name in (recipe.name, recipe.name.upper(), *recipe.aliases, recipe.title):
        assert find(name) is recipe


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("ConvNeXt_Base", "convnextbase"), ("V2-M", "efficientnetv2m"), (" r50 ", "resnet50")],
)
def test_spelling_is_free(spelling: str, name: str) -> None:
    assert find(spelling).name == name


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'resnet50'"):
        find("resnet59")


def test_parameters_are_the_published_ones() -> None:
    assert {
        recipe.name: round(recipe.parameters / 1e6, 2) for recipe in RECIPES
    } == PUBLISHED_MILLIONS
    assert find("v2m").parameters == 53_150_388


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_cites_a_paper(recipe: Recipe) -> None:
    assert re.search(r", 20\d\d, arXiv:\d{4}\.\d{5}|, 2014, arXiv:1409\.1556", recipe.citation)
    assert recipe.minimum_size <= recipe.native_size


class _Asked(Exception):
    """Carries what Keras requested; raised so that nothing is downloaded."""


@pytest.mark.parametrize("recipe", FROM_KERAS)
@pytest.mark.filterwarnings("ignore:`input_shape` is undefined")
def test_keras_would_fetch_the_same_file(recipe: Recipe) -> None:
    def refuse(fname: str, origin: str, file_hash: str = "", **_: Any) -> None:
        raise _Asked(fname, origin, file_hash)

    with instead_of_downloading(refuse), pytest.raises(_Asked) as caught:
        constructor(recipe)(weights="imagenet", include_top=False)
    file = recipe.imagenet
    assert isinstance(file, KerasFile)
    bare = (file.digest or "").partition(":")[2]
    assert caught.value.args == (file.filename, KERAS_STORE + file.path, bare)


@pytest.mark.parametrize("recipe", FROM_KERAS)
def test_keras_rejects_anything_smaller(recipe: Recipe) -> None:
    size = recipe.minimum_size - 1
    with pytest.raises(ValueError, match=f"at least {recipe.minimum_size}"):
        constructor(recipe)(weights=None, include_top=False, input_shape=(size, size, 3))


@pytest.mark.parametrize("recipe", EACH_RECIPE)
def test_the_smallest_size_gives_a_feature_map(recipe: Recipe) -> None:
    size = recipe.minimum_size
    network = constructor(recipe)(weights=None, include_top=False, input_shape=(size, size, 3))
    assert network.output_shape == (None, 1, 1, recipe.feature_width)
