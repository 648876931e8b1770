"""The compiled steps equal Keras's own on every backend, with images on the host or device."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.schema.protocol import Phase

ROOT = Path(__file__).parents[3]
PROGRAM = """
import keras
import numpy as np

from harness.training.model import build_head, build_optimizer, seed_everything
from harness.schema.protocol import Head
from harness.schema.protocol import Optimizer
from harness.training.device_images import DeviceImages, memory_budget
from harness.training.compilation import CompileTimer, to_numpy
from harness.training.train_step import Forward, TrainStep

rng = np.random.default_rng(0)
images = rng.integers(0, 256, (24, 12, 12, 3), dtype=np.uint8)
targets = np.eye(4, dtype=np.float32)[rng.integers(0, 4, 24)]
weights = rng.random(24, dtype=np.float32)
loss_targets = weights[:, None] * (0.9 * targets + 0.1 / 4)


def model():
    seed_everything(5)
    pixels = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(6, 3, name="frozen")(keras.layers.Rescaling(1 / 255)(pixels))
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    whole = keras.Model(pixels, build_head(Head(units=(5,), dropout=0), 6, 4, None)(x))
    whole.get_layer("frozen").trainable = False
    return whole


def optimizer():
    return build_optimizer(Optimizer(name="adamw", learning_rate=9.0, weight_decay=1e-3))


loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
theirs, ours = model(), model()
plain = keras.metrics.CategoricalCrossentropy(name="plain")
theirs.compile(optimizer(), loss, metrics=[plain, "categorical_accuracy"])
timer = CompileTimer()
step = TrainStep(ours, optimizer(), timer)
forward = Forward(ours, timer)
on_device, on_host = (DeviceImages(images, n) for n in (images.nbytes, images.nbytes - 1))
assert on_device.on_device and not on_host.on_device
assert isinstance(on_host.take(np.arange(2)), np.ndarray)
assert memory_budget() == 0, "a CPU keeps images with the host"

for i in range(9):
    rate = 0.01 if i < 5 else 0.002
    ids = np.random.default_rng(i).permutation(24)[:8]
    theirs.optimizer.learning_rate = rate
    expected = theirs.train_on_batch(images[ids], targets[ids], weights[ids], return_dict=True)
    step.set_learning_rate(rate)
    source = on_device if i % 2 else on_host
    batch = source.take(ids)
    np.testing.assert_array_equal(to_numpy(batch), images[ids])
    loss, *classes = to_numpy(step(batch, targets[ids], loss_targets[ids]))
    np.testing.assert_allclose(loss, expected["plain"], rtol=1e-5)
    right = np.mean(classes == targets[ids].argmax(axis=1))
    np.testing.assert_allclose(right, expected["categorical_accuracy"])
step.sync_variables()
for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)
first = model().get_layer("frozen").get_weights()
np.testing.assert_array_equal(ours.get_layer("frozen").get_weights()[0], first[0])
assert int(to_numpy(step.optimizer.iterations)) == 9

expected = theirs.predict_on_batch(images)
np.testing.assert_allclose(to_numpy(forward(images)), expected, rtol=1e-4, atol=1e-6)
ours.trainable = False
ours.set_weights([0 * value for value in ours.get_weights()])
np.testing.assert_allclose(to_numpy(forward(on_device.take(np.arange(24)))), 0.25)
assert timer.seconds >= 0
print("alike")
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_steps_are_those_of_keras(backend: str) -> None:
    """Against train_on_batch and predict_on_batch: losses, weights, frozen layers, features."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {
        **os.environ, "KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert answer.stdout.endswith("alike\n"), answer.stderr[-2000:]


@pytest.mark.parametrize(
    ("backend", "devices", "always"),
    [
        ("jax", "0", True),
        ("jax", "-1", True),
        ("tensorflow", "0", None),
        ("tensorflow", None, None),
        ("tensorflow", "-1", False),
        ("torch", "0", False),
    ],
)
def test_xla_compiles_on_jax_and_where_it_pays_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, backend: str, devices: str | None, always: bool | None
) -> None:
    import keras

    from harness.training import model

    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if devices is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    for pays in (True, False):
        monkeypatch.setattr(model, "_xla", pays)
        assert model.jit() is (pays if always is None else always)


def test_xla_pays_from_many_steps_on() -> None:
    """Of the phase that trains on images, as planned; never for passes of a frozen network."""
    from harness.training.model import XLA_STEPS, xla_pays

    assert not xla_pays(None, 10**9)
    assert xla_pays(Phase(epochs=60, batch_size=32), 8371)
    assert not xla_pays(Phase(epochs=20, batch_size=32), 8371)
    assert not xla_pays(Phase(epochs=XLA_STEPS - 1, batch_size=32), 20), "one step an epoch"
    assert xla_pays(Phase(epochs=XLA_STEPS, batch_size=32), 20)


def test_timer_is_the_first_call_beyond_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each step and shape; later calls are not timed."""
    from harness.training.compilation import CompileTimer

    now, spans = 0.0, iter([5.0, 1.0, 100.0, 3.0, 0.5, 2.0])

    def step(batch: Any) -> np.ndarray:
        nonlocal now
        now += next(spans)
        return np.zeros(1)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    timer, small, large = CompileTimer(), np.zeros((2, 3)), np.zeros((4, 3))
    for _ in range(3):
        timer.call(step, small)
    assert timer.seconds == 4
    timer.call(step, large)
    assert timer.seconds == 4 + 3
    timer.call(step, large)
    assert timer.seconds == 4 + 2.5
    other = step.__call__
    timer.call(other, large)
    assert timer.seconds == 4 + 2.5 + 2
