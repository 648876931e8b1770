"""Grad-CAM: exact where it can be computed by hand, and pointing to what a network uses."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from harness.errors import UserError
from harness.evaluation import deletion

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

SIDE, PLACES, CLASSES = 32, 8, 3


def backbone(pixels: Any = None) -> Any:
    """Random filters on patches of 4 x 4 pixels, pooled."""
    import keras

    pixels = keras.Input((SIDE, SIDE, 3)) if pixels is None else pixels
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.Conv2D(6, 4, strides=4, activation="relu")(x)
    return keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(x))


def linear_head(width: int) -> Any:
    import keras

    features = keras.Input((width,))
    logits = keras.layers.Dense(CLASSES, name="logits", bias_initializer="random_normal")(features)
    return keras.Model(features, keras.layers.Softmax()(logits))


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def test_the_maps_of_a_linear_head_add_up_to_its_logits() -> None:
    """Then Grad-CAM is CAM: each place's share of the logit, without the bias."""
    from harness.training.gradcam import GradCam, class_scores, feature_scores

    network, images, classes = backbone(), random_images(5), np.array([0, 2, 1, 1, 0])
    gradcam, head = GradCam(network), linear_head(6)
    assert gradcam.size == PLACES
    kernel, _ = head.get_layer("logits").get_weights()
    features = np.asarray(network(images))
    shares = gradcam.maps(images, class_scores(head, classes))
    expected = (features @ kernel)[np.arange(5), classes]
    np.testing.assert_allclose(shares.sum(axis=(1, 2)), expected, rtol=1e-4)
    lengths = gradcam.maps(images, feature_scores).sum(axis=(1, 2))
    np.testing.assert_allclose(lengths, (features**2).sum(axis=1), rtol=1e-4)


def test_the_branches_of_a_joint_network_are_added() -> None:
    import keras

    from harness.training.gradcam import GradCam, feature_scores

    pixels = keras.Input((SIDE, SIDE, 3))
    parts = [backbone(), backbone()]
    features = keras.layers.Concatenate()([part(pixels) for part in parts])
    joint, images = keras.Model(pixels, features, name="joint"), random_images(2)
    single = [GradCam(part).maps(images, feature_scores) for part in parts]
    together = GradCam(joint).maps(images, feature_scores)
    np.testing.assert_allclose(together, sum(single), rtol=1e-4)


def test_removing_the_hottest_pixels_hurts_more_than_removing_others() -> None:
    """A network that looks for blue, on grey images with one blue square."""
    import keras

    from harness.training.gradcam import GradCam, class_scores

    network, head = backbone(), linear_head(6)
    blue = np.zeros((4, 4, 3, 6), np.float32)
    blue[:, :, :, 0] = [-1, -1, 2]
    network.layers[-2].set_weights([blue, np.zeros(6, np.float32)])
    kernel = np.zeros((6, CLASSES), np.float32)
    kernel[0, 1] = 2
    head.get_layer("logits").set_weights([kernel, np.zeros(CLASSES, np.float32)])
    model = keras.Model(network.input, head(network.output))

    images = np.full((6, SIDE, SIDE, 3), 128, np.uint8)
    corners = [(0, 0), (4, 20), (24, 24), (12, 8), (16, 0), (8, 16)]
    for image, (top, left) in zip(images, corners, strict=True):
        image[top : top + 8, left : left + 8] = [60, 60, 250]
    maps = GradCam(network).maps(images, class_scores(head, np.ones(6, int)))
    for heat, (top, left) in zip(maps, corners, strict=True):
        hottest = np.unravel_index(heat.argmax(), heat.shape)
        assert top // 4 <= hottest[0] < top // 4 + 2
        assert left // 4 <= hottest[1] < left // 4 + 2
    copies = [c for i in range(6) for c in deletion.deletions(images[i], maps[i], [i])]
    start, removed = (np.asarray(model(np.stack(x)))[:, 1] for x in (images, copies))
    curves = deletion.curves(start, removed)
    hottest, others = curves.areas
    assert hottest < others - 0.1
    assert curves.lower == 6
    assert curves.informative


def test_a_map_of_one_place_shows_nothing() -> None:
    import keras

    from harness.training.gradcam import GradCam

    pixels = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(2, 4)(pixels)
    network = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(x), name="small")
    with pytest.raises(UserError, match=r"the last feature map of small is one place at 4 px"):
        GradCam(network)
