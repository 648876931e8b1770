"""A joint network concatenates the features of its branches, and all of them learn."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from tests.zoo.networks import pixels, save_as_keras_publishes
from zoo.errors import ImageSizeError, UnknownName, UserError
from zoo.factory import branches, build
from zoo.registry import find
from zoo.weights import imagenet_file


def test_a_joint_recipe_is_the_sum_of_its_branches() -> None:
    joint = find("mn2+l0+MN2")
    assert joint.name == "mobilenetv2+lite0"
    assert [branch.name for branch in joint.branches] == ["mobilenetv2", "lite0"]
    assert joint.parameters == find("mn2").parameters + find("l0").parameters
    assert joint.feature_width == 2560
    assert find("inc3+vgg16").minimum_size == 75
    with pytest.raises(UserError, match="at least two different branches"):
        find("v16+vgg16")
    assert find("v2s+v2m+v2l") == find("efficientnetv2s+efficientnetv2m+efficientnetv2l")
    with pytest.raises(UnknownName, match="did you mean 'vgg19'"):
        find("vgg17+lite0")


def test_its_features_are_those_of_its_branches(tmp_path: Path) -> None:
    one, other = find("mobilenetv2"), find("lite0")
    keras.utils.set_random_seed(1)
    file = tmp_path / "mine.h5"
    alone = build(one, 64)
    save_as_keras_publishes(alone, file)
    files = (file, imagenet_file(other))
    joint = build(find("mobilenetv2+lite0"), 64, files)
    images = pixels(64, count=4)
    expected = np.concatenate(
        [
            build(r, 64, f).predict_on_batch(images)
            for r, f in zip((one, other), files, strict=True)
        ],
        axis=1,
    )
    np.testing.assert_allclose(joint.predict_on_batch(images), expected, rtol=1e-5, atol=1e-5)
    assert joint.count_params() == one.parameters + other.parameters


def test_every_branch_is_unfrozen() -> None:
    from harness.training.model import unfreeze

    joint = build(find("mobilenetv2+lite0"), 32)
    unfreeze(joint, 0.2, pretrained=True)
    assert len(branches(joint)) == 2
    for branch in branches(joint):
        trained = {layer.trainable for layer in branch.layers if layer.weights}
        assert trained == {True, False}
        assert not any(
            layer.trainable
            for layer in branch.layers
            if isinstance(layer, keras.layers.BatchNormalization)
        )
    single = build(find("lite0"), 32)
    assert branches(single) == [single]


def test_too_small_an_image_for_one_branch_is_rejected() -> None:
    with pytest.raises(ImageSizeError, match="inceptionv3"):
        build(find("lite0+inc3"), 64)
