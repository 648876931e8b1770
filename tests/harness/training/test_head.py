"""The numpy head against Keras, step by step."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from harness.evaluation.calibration import softmax
from harness.schema.protocol import Head, Loss, Optimizer, Phase
from harness.training.head import HeadLearner, Standardizer
from harness.training.head_network import Activations, HeadNetwork
from harness.training.loop import fit, shuffled_batches
from harness.training.losses import class_weights, loss_targets

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

WIDTH, CLASSES, COUNT = 12, 4, 64


def some_data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, COUNT)
    centres = np.random.default_rng(99).normal(0, 2, (CLASSES, WIDTH))
    features = (centres[labels] + rng.normal(0, 1, (COUNT, WIDTH))).astype(np.float32)
    return features, np.eye(CLASSES, dtype=np.float32)[labels]


def learner(
    head: Head, loss: Loss | None = None, optimizer: Optimizer | None = None
) -> HeadLearner:
    train, validation = some_data(), some_data(1)[0]
    settings = (head, loss or Loss(), optimizer or Optimizer())
    return HeadLearner(settings, train, validation, seed=5)


HEADS = {
    "linear": Head(units=(), dropout=0),
    "one layer": Head(units=(16,), dropout=0, l2=1e-2),
    "two layers, both penalties": Head(units=(16, 8), dropout=0, l1=1e-2, l2=1e-2),
    "batch norm": Head(units=(16, 8), dropout=0, batch_norm=True),
    "not standardised": Head(units=(16,), dropout=0, standardise=False),
    "hard-swish": Head(units=(16, 8), dropout=0, activation="hard-swish"),
    "batch norm of one layer": Head(units=(16, 8), dropout=0, batch_norm=(False, True)),
    "batch norm of the features": Head(units=(16,), dropout=0, input_batch_norm=True),
    "linear, batch norm of the features": Head(units=(), dropout=0, input_batch_norm=True),
}
LOSSES = {
    "plain": Loss(),
    "smoothed": Loss(label_smoothing=0.2),
    "weighted": Loss(class_weight=(1.0, 2.0, 0.5, 3.0)),
}


def keras_model(head: Head, ours: HeadLearner, loss: Loss, optimizer: Optimizer) -> Any:
    import keras

    from harness.training.model import build_head, build_optimizer

    model = build_head(head, WIDTH, CLASSES, ours.standardizer)
    model.set_weights(ours.keras_weights())
    crossentropy = keras.losses.CategoricalCrossentropy(label_smoothing=loss.label_smoothing)
    model.compile(build_optimizer(optimizer), crossentropy, jit_compile=False)
    return model


def compare_steps(head: Head, loss: Loss, optimizer: Optimizer, steps: int = 6) -> None:
    ours = learner(head, loss, optimizer)
    theirs = keras_model(head, ours, loss, optimizer)
    features, targets = some_data()
    weights = targets @ class_weights(loss, targets)  # Of hard labels, Keras's are ours.
    for epoch in range(steps):
        rate = optimizer.learning_rate / (1 + epoch)
        indices = shuffled_batches("frozen", 0, epoch, 16, COUNT)[0]
        ours.train_on_batches(indices[None], rate)
        theirs.optimizer.learning_rate = rate
        theirs.train_on_batch(features[indices], targets[indices], weights[indices])
        for array, expected in zip(ours.keras_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_allclose(array, expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(ours.predict(features), np.asarray(theirs(features)), atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_layer_and_loss_is_keras_own(head: str, loss: str) -> None:
    optimizer = Optimizer(name="sgd", learning_rate=0.05, momentum=0.5)
    compare_steps(HEADS[head], LOSSES[loss], optimizer)


@pytest.mark.parametrize("name", ["adam", "adamw", "nadam", "lion", "sgd"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_every_optimizer_is_keras_own(name: Any, decay: float) -> None:
    optimizer = Optimizer(name=name, learning_rate=0.01, weight_decay=decay)
    compare_steps(Head(units=(16,), dropout=0), Loss(), optimizer)


def test_dropout_drops_its_share_while_training_only() -> None:
    network = HeadNetwork(Head(units=(4096,), dropout=0.3), WIDTH, CLASSES, seed=5)
    features, activations = some_data()[0], Activations()
    network.forward(features, activations)
    (_, gate), kernel = activations.gates, network.keras_weights()[0]
    assert gate is not None
    share = (gate > 0).sum() / (features @ kernel > 0).sum()
    assert share == pytest.approx(0.7, abs=0.01)
    assert gate.max() == pytest.approx(1 / 0.7)
    np.testing.assert_array_equal(network.forward(features), network.forward(features))


def test_each_layer_drops_its_own_share_and_the_features_too() -> None:
    head = Head(units=(512, 512), dropout=(0.0, 0.5), input_dropout=0.25)
    network, activations = HeadNetwork(head, 400, CLASSES, seed=5), Activations()
    network.forward(np.ones((64, 400), np.float32), activations)
    features, first, second = (np.asarray(gate) for gate in activations.gates)
    assert (features == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert set(np.unique(first)) == {0, 1}
    assert set(np.unique(second)) == {0, 2}


@pytest.mark.parametrize("name", ["dropout", "batch_norm"])
def test_values_must_be_as_many_as_layers(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has 1 values, but units has 2 layers"):
        Head.model_validate({"units": (16, 8), name: (0,)})


def test_fitting_learns_and_restores_the_best_weights() -> None:
    ours = learner(Head(units=(16,)))
    targets = some_data(1)[1]
    fast = Optimizer(learning_rate=0.05)
    phase = Phase(epochs=200, batch_size=16, patience=10, optimizer=fast)
    curve = fit(ours, "frozen", phase, targets, seed=0).history
    losses = [line.validation_loss for line in curve]
    assert len(curve) < 200
    assert min(losses) < 0.5 * losses[0]
    from harness.evaluation.metrics import cross_entropy

    assert cross_entropy(targets, ours.predict_validation()) == min(losses)


def test_fitting_is_the_same_twice_and_not_for_another_seed() -> None:
    phase = Phase(epochs=5, batch_size=16)
    weights = []
    for seed in (0, 0, 1):
        ours = HeadLearner((Head(), Loss(), Optimizer()), some_data(), some_data(1)[0], seed)
        fit(ours, "frozen", phase, some_data(1)[1], seed)
        weights.append(ours.get_weights()[0])
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_a_constant_feature_becomes_zero() -> None:
    features = np.random.default_rng(0).normal(5, 1e-4, (50, 3)).astype(np.float32)
    features[:, 1] = 0.7
    standard = Standardizer.fit(features)(features)
    assert np.abs(standard[:, 1]).max() == 0
    np.testing.assert_allclose(standard[:, [0, 2]].std(axis=0), 1, rtol=0.05)


def test_damping_keeps_features_that_hardly_vary_small_at_any_scale() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(5, [0.01, 1, 1, 1], (2000, 4)).astype(np.float32)
    features[:, 3] = 0.7
    for scale in (1e-6, 1, 1e6):
        damped = Standardizer.fit(scale * features, damping=1.0)(scale * features)
        expected = np.array([0.01, 1, 1]) / np.sqrt(np.array([1e-4, 1, 1]) + 2.0001 / 3)
        np.testing.assert_allclose(damped[:, :3].std(axis=0), expected, rtol=0.05)
        assert np.abs(damped[:, 3]).max() == 0


def test_each_network_is_damped_by_its_own_features() -> None:
    """Features of two networks, side by side, at scales a million times apart."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(500, 3)), 1e-6 * rng.normal(size=(500, 2))
    together = Standardizer.fit(np.hstack([one, other]), 1.0, [3, 2])
    for part, alone in ((slice(3), one), (slice(3, 5), other)):
        np.testing.assert_allclose(
            together.scale[part], Standardizer.fit(alone, 1.0).scale, rtol=1e-5
        )


def test_softmax_does_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0]])), [[1.0, 0.0]])


def test_batches_depend_on_phase_seed_and_epoch_alone() -> None:
    first = [batch.tolist() for batch in shuffled_batches("frozen", 1, 0, 4, 10)]
    assert [len(batch) for batch in first] == [4, 4]
    assert first == [batch.tolist() for batch in shuffled_batches("frozen", 1, 0, 4, 10)]
    assert first != [batch.tolist() for batch in shuffled_batches("frozen", 1, 1, 4, 10)]
    assert first != [batch.tolist() for batch in shuffled_batches("frozen", 2, 0, 4, 10)]
    assert first != [batch.tolist() for batch in shuffled_batches("fine-tuning", 1, 0, 4, 10)]
    assert [len(batch) for batch in shuffled_batches("frozen", 1, 0, 32, 10)] == [10]


def test_class_weights_balance_and_mix_with_soft_labels() -> None:
    targets = np.eye(2)[[0, 0, 0, 1]]
    np.testing.assert_allclose(class_weights(Loss(class_weight="balanced"), targets), [4 / 6, 2.0])
    np.testing.assert_allclose(class_weights(Loss(), targets), 1)
    soft = np.array([[1.0, 0.0], [0.25, 0.75]])
    given = class_weights(Loss(class_weight=(1.0, 3.0)), soft)
    np.testing.assert_allclose(loss_targets(soft, given), [[1, 0], [0.25, 2.25]])
