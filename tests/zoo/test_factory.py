"""Each built backbone is the network of keras.applications, with its own preprocessing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import zoo
from tests.zoo.networks import (
    EACH_RECIPE,
    constructor,
    instead_of_downloading,
    keras_preprocess,
    pixels,
    save_as_keras_publishes,
    scramble,
)
from zoo.errors import ImageSizeError, UserError, WeightsError
from zoo.factory import (
    PREPROCESSING_LAYERS,
    _speed_up_depthwise,
    backbone_layers,
    build,
    build_layer,
)
from zoo.networks.convnext import fuse_pointwise
from zoo.recipe import KerasFile, Recipe
from zoo.registry import find

pytestmark = pytest.mark.filterwarnings("ignore:`input_shape` is undefined")


@dataclass(frozen=True)
class Case:
    recipe: Recipe
    size: int
    published: Path
    """Weights in the layout of Keras's own files."""
    reference: keras.Model
    """What keras.applications builds when it loads its ImageNet file."""
    built: keras.Model


@pytest.fixture(scope="module", params=EACH_RECIPE)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    recipe: Recipe = request.param
    size = max(64, recipe.minimum_size)
    arguments = {"include_top": False, "input_shape": (size, size, 3), "pooling": "avg"}
    keras.utils.set_random_seed(0)
    reference = constructor(recipe)(weights=None, **arguments)
    published = tmp_path_factory.mktemp(recipe.name) / "published.h5"
    if isinstance(recipe.imagenet, KerasFile):
        save_as_keras_publishes(reference, published)
        with instead_of_downloading(lambda *_, **__: str(published)):
            reference = constructor(recipe)(weights="imagenet", **arguments)
    scramble(reference, keras_preprocess(recipe, pixels(size, count=16).astype("float32")))
    save_as_keras_publishes(reference, published)
    yield Case(recipe, size, published, reference, build(recipe, size, published))
    published.unlink()
    keras.backend.clear_session()


def _features(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(model(images, training=False)))


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_counts_parameters_to_the_last_digit(case: Case) -> None:
    assert case.built.count_params() == case.recipe.parameters
    assert case.reference.count_params() == case.recipe.parameters


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_raw_pixels_give_kerass_own_features(case: Case, dtype: str) -> None:
    images = pixels(case.size)
    expected = _features(case.reference, keras_preprocess(case.recipe, images.astype("float32")))
    found = _features(case.built, images.astype(dtype))
    assert found.shape == (len(images), case.recipe.feature_width)
    assert found.dtype == np.float32
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()  # sees the pictures
    # Where Keras preprocesses in NumPy, its last digit differs, and a deep network multiplies that.
    assert _distance(found, expected) <= (1e-5 if case.recipe.preprocessing == "inside" else 1e-4)


def test_weights_make_a_round_trip(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "mine.weights.h5"
    case.reference.save_weights(path)
    again = build(case.recipe, case.size, path)
    images = pixels(case.size)
    np.testing.assert_array_equal(_features(again, images), _features(case.built, images))


def test_layers_are_the_whole_network_and_nothing_else(case: Case) -> None:
    layers = backbone_layers(case.built)
    assert not any(isinstance(layer, (keras.Model, *PREPROCESSING_LAYERS)) for layer in layers)
    assert len({id(layer) for layer in layers}) == len(layers)
    weights = {id(weight) for layer in layers for weight in layer.trainable_weights}
    assert weights == {id(weight) for weight in case.built.trainable_weights}
    for layer in layers:
        layer.trainable = False
    assert case.built.trainable_weights == []
    layers[-1].trainable = layers[0].trainable = True
    assert (
        case.built.trainable_weights == layers[0].trainable_weights + layers[-1].trainable_weights
    )


def test_bfloat16_starts_after_the_preprocessing(case: Case) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        halved = build(case.recipe, case.size, case.published)
    finally:
        keras.config.set_dtype_policy("float32")
    ahead = [layer for layer in halved.layers if isinstance(layer, PREPROCESSING_LAYERS)]
    assert all(layer.compute_dtype == "float32" for layer in ahead)
    assert all(layer.compute_dtype == "bfloat16" for layer in backbone_layers(halved))
    images = pixels(case.size)
    assert np.isfinite(_features(halved, images)).all()

    # Deep random networks magnify any rounding, so look early: what was prepared, and a quarter on.
    def early(model: keras.Model) -> list[np.ndarray]:
        at = (len(ahead) - 1, len(model.layers) // 4)
        probe = keras.Model(model.input, [model.layers[index].output for index in at])
        return [np.asarray(keras.ops.cast(output, "float32")) for output in probe(images)]

    (prepared, found), (exact, expected) = early(halved), early(case.built)
    np.testing.assert_array_equal(prepared, exact)
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("recipe", EACH_RECIPE)
def test_rejects_images_below_the_smallest_size(recipe: Recipe) -> None:
    with pytest.raises(
        ImageSizeError, match=f"too small for {recipe.name}.* is {recipe.minimum_size} pixels"
    ):
        build(recipe, recipe.minimum_size - 1)


def test_random_weights_come_from_kerass_seed() -> None:
    found = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        found.append(build(find("lite0"), 32).get_weights()[0])
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 0


# --- files that do not fit ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fitting") / "lite0.weights.h5"
    build(find("lite0"), 32).save_weights(path)
    return path


def _rejection(path: Path, recipe: str = "lite0") -> str:
    with pytest.raises(WeightsError) as caught:
        build(find(recipe), 32, path)
    message = str(caught.value)
    assert path.name in message
    assert recipe in message
    assert "\n" not in message
    return message


def test_weights_of_another_network_do_not_fit(fitting: Path) -> None:
    assert "3,413,024" in _rejection(fitting, "mobilenet")


def test_weights_of_another_shape_do_not_fit(fitting: Path) -> None:
    """The same number of weights, but one array is transposed."""
    path = fitting.with_name("turned.weights.h5")
    path.write_bytes(fitting.read_bytes())
    with h5py.File(path, "a") as file:
        kernel = file["layers/conv2d/vars/0"]
        turned = kernel[()].T
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars/0"] = turned
    _rejection(path)


def test_damaged_weights_do_not_fit(fitting: Path) -> None:
    path = fitting.with_name("damaged.weights.h5")
    path.write_bytes(fitting.read_bytes()[:-1000])
    _rejection(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    _rejection(path)
    path.unlink()
    _rejection(path)


def test_weights_that_point_to_another_file_are_rejected(fitting: Path) -> None:
    path = fitting.with_name("pointing.weights.h5")
    path.write_bytes(fitting.read_bytes())
    with h5py.File(path, "a") as file:
        shape = file["layers/conv2d/vars/0"].shape
        del file["layers/conv2d/vars/0"]
        outside = [(__file__, 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("layers/conv2d/vars/0", shape, "f4", external=outside)
    assert "points to another file" in _rejection(path)


# --- the depthwise rewrite ---------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "padding"), [(1, "same"), (2, "same"), (2, "valid")])
def test_depthwise_rewrite_learns_the_same(stride: int, padding: str) -> None:
    rng = np.random.default_rng(0)
    images, answers = rng.normal(size=(4, 9, 9, 3)), rng.normal(size=(4, 6))
    trained = []
    for fast in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((9, 9, 3)),
                keras.layers.Conv2D(6, 1),
                keras.layers.Conv2D(6, 3, stride, padding, groups=6),
                keras.layers.GlobalAveragePooling2D(),
            ]
        )
        if fast:
            _speed_up_depthwise(model)
            assert "convolution_op" in vars(model.layers[1])
        model.compile(optimizer="sgd", loss="mse", jit_compile=False)
        model.fit(images, answers, epochs=3, verbose=0)
        trained.append([*model.get_weights(), _features(model, images)])
    for slow, fast in zip(*trained, strict=True):
        np.testing.assert_allclose(fast, slow, atol=1e-6)


def test_depthwise_rewrite_leaves_other_convolutions_alone() -> None:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            keras.layers.Conv2D(4, 3),
            keras.layers.Conv2D(4, 3, groups=2),
            keras.layers.Conv2D(8, 3, groups=4),  # two filters a channel
        ]
    )
    _speed_up_depthwise(model)
    assert not any("convolution_op" in vars(layer) for layer in model.layers)


def test_fused_pointwise_layers_learn_the_same() -> None:
    rng = np.random.default_rng(0)
    images, answers = rng.normal(size=(4, 5, 5, 3)), rng.normal(size=(4, 6))
    trained = []
    for fused in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((5, 5, 3)),
                keras.layers.Dense(8, bias_initializer="normal"),
                keras.layers.Activation("gelu"),
                keras.layers.Dense(6),
                keras.layers.GlobalAveragePooling2D(),
            ]
        )
        if fused:
            fuse_pointwise(model.layers)
            assert model.layers[0].activation is keras.activations.gelu
        model.compile(optimizer="sgd", loss="mse", jit_compile=False)
        model.fit(images, answers, epochs=3, verbose=0)
        trained.append([*model.get_weights(), _features(model, images)])
    for slow, fast in zip(*trained, strict=True):
        np.testing.assert_allclose(fast, slow, atol=1e-6)


# --- the source --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted(Path(zoo.__file__).parent.glob("*.py")), ids=lambda p: p.name
)
def test_source_is_neutral_of_the_backend(path: Path) -> None:
    backends = {"tensorflow", "tf", "jax", "torch"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not backends & {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in backends
        elif isinstance(node, ast.Name):
            assert node.id not in backends


@pytest.mark.slow
def test_a_layer_of_the_network_and_one_of_its_classifier(tmp_path: Path) -> None:
    whole, without = tmp_path / "whole.weights.h5", tmp_path / "without.weights.h5"
    network = keras.applications.MobileNet(weights=None)
    network.save_weights(whole)
    recipe = find("mobilenet")
    top = build_layer(recipe, 224, whole, "conv_preds")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.float32)
    expected = keras.Model(network.input, network.get_layer("conv_preds").output)
    np.testing.assert_allclose(
        top(pixels), np.asarray(expected(pixels / 127.5 - 1)).mean(axis=(1, 2)), atol=1e-5
    )
    build(recipe, 64).save_weights(without)
    inner = build_layer(recipe, 64, without, "conv_pw_3_relu")
    assert inner.output.shape == (None, 128)
    assert build_layer(recipe, 64, without, "").output.shape == (None, 1024)
    with pytest.raises(UserError, match=r"no layer 'conv_preds'.*whole weights and 224 px"):
        build_layer(recipe, 64, without, "conv_preds")
