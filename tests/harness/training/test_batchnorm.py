"""Statistics of trained BatchNorm layers: those of the training images, whatever came before."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from harness.execution.locks import DeviceLock
from harness.schema.protocol import Head, Loss, Optimizer, Phase
from harness.schema.run import Weights
from harness.training.head import HeadLearner
from harness.training.head_network import HeadNetwork
from tests.harness.training.test_trainer import protocol, smear, train
from tests.zoo.networks import EACH_RECIPE, pixels
from zoo.recipe import Recipe

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

__all__ = ["smear"]
RANDOM = Weights(source="random")


def test_statistics_are_those_of_all_images(tmp_path: Path) -> None:
    import keras

    from harness.training.batchnorm import BatchNormEstimator
    from harness.training.compilation import CompileTimer, to_numpy

    layers = keras.layers
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="first")(inputs)
    x = layers.BatchNormalization(momentum=0.999)(x)
    x = layers.Dropout(0.5)(x)
    frozen = layers.BatchNormalization(momentum=0.9)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(frozen(x)))
    frozen.trainable = False
    images = np.random.default_rng(0).normal(100, 30, (64, 8, 8, 3)).astype(np.float32)
    estimator = BatchNormEstimator(model, DeviceLock("cpu", tmp_path), CompileTimer())
    estimator.estimate(lambda rows: images[rows], np.arange(64).reshape(4, 16))
    (trained,) = estimator.layers
    outputs = to_numpy(model.get_layer("first")(images))
    np.testing.assert_allclose(to_numpy(trained.moving_mean), outputs.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(to_numpy(trained.moving_variance), outputs.var((0, 1, 2)), rtol=1e-4)
    np.testing.assert_array_equal(to_numpy(frozen.moving_mean), 0)
    np.testing.assert_array_equal(to_numpy(frozen.moving_variance), 1)
    assert trained.momentum == 0.999
    assert next(x.rate for x in model.layers if isinstance(x, layers.Dropout)) == 0.5


# VGG and ConvNeXt have no BatchNorm; EfficientNetV2-M and L have the layers of S.
OTHERS = ("vgg", "convnext", "efficientnetv2m", "efficientnetv2l")


@pytest.mark.parametrize(
    "recipe", [each for each in EACH_RECIPE if not str(each.id).startswith(OTHERS)]
)
def test_no_network_remembers_earlier_statistics(recipe: Recipe, tmp_path: Path) -> None:
    """The same weights after a very different history predict the same."""
    from harness.training.batchnorm import BatchNormEstimator
    from harness.training.compilation import CompileTimer, to_numpy
    from harness.training.model import seed_everything, unfreeze
    from zoo.factory import build

    seed_everything(0)
    network = build(recipe, recipe.minimum_size)
    unfreeze(network, 1.0, pretrained=False)
    estimator = BatchNormEstimator(network, DeviceLock("cpu", tmp_path), CompileTimer())
    assert estimator.layers
    images, batches = pixels(recipe.minimum_size, 8), np.arange(8).reshape(2, 4)
    predictions = []
    for history in (0.0, 50.0):
        for layer in estimator.layers:
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(np.full(shape, history, np.float32))
            layer.moving_variance.assign(np.full(shape, 1 + history, np.float32))
        before = to_numpy(network(images, training=False))
        estimator.estimate(lambda rows: images[rows], batches)
        predictions.append(to_numpy(network(images, training=False)))
    assert not np.allclose(before, predictions[1])
    np.testing.assert_array_equal(*predictions)


@pytest.mark.slow
def test_validation_follows_training_from_the_first_epochs(
    smear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a momentum of .999 the moving averages of a few dozen steps are those of no network."""
    from harness.training.batchnorm import BatchNormEstimator

    phase = Phase(epochs=6, batch_size=16, optimizer=Optimizer(name="adamw", learning_rate=1e-3))
    chosen = protocol(from_scratch=phase)
    estimated = train(smear, "mobilenetv3large", RANDOM, chosen, tmp_path)
    monkeypatch.setattr(BatchNormEstimator, "estimate", lambda *_: None)
    moving = train(smear, "mobilenetv3large", RANDOM, chosen, tmp_path)
    losses = [[line.validation_loss for line in result.history] for result in (estimated, moving)]
    trained = [[line.train_loss for line in result.history] for result in (estimated, moving)]
    assert trained[0] == trained[1], "the statistics of inference are no part of training"
    assert min(losses[0]) < min(losses[1])


def test_a_head_estimates_its_statistics_on_the_training_features() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (60, 5)).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[np.arange(60) % 3]
    head = Head(units=(8,), dropout=0.0, batch_norm=True, standardise=False)
    learner = HeadLearner((head, Loss(), Optimizer()), (features, labels), features[:9], 0)
    learner.predict_validation()
    kernel, bias, *_, mean, variance = learner.keras_weights()[:6]
    hidden = features @ kernel + bias
    np.testing.assert_allclose(mean, hidden.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(variance, hidden.var(axis=0), rtol=1e-5)
    network = HeadNetwork(head, 5, 3, 0)
    network.estimate_batchnorm(features)
    np.testing.assert_array_equal(network.forward(features[:9]), learner.predict_validation())
