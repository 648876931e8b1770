"""Many steps in one call on JAX: the run that one step after the other makes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.training.test_trainer import smear

__all__ = ["smear"]

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from pathlib import Path

import jax
import keras
import numpy as np

from harness.data.image_cache import open_dataset
from harness.execution.locks import DeviceLock
from harness.schema.protocol import Head, Optimizer, Phase, Schedule
from harness.schema.run import Weights
from harness.training import compilation, context, train_step, trainer
from harness.training.checkpoint import CheckpointManager
from harness.training.context import Callbacks, TrainOptions
from tests.harness.training.test_trainer import made_run, protocol

data, folder = open_dataset(Path(sys.argv[1])), Path(sys.argv[2])
compiled, progress = [], []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, fun_name="", **__: compiled.append(fun_name) if "backend" in event else None
)


def build(*_):
    layers = keras.layers
    pixels = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=4)(layers.Rescaling(1 / 255)(pixels))
    x = layers.Dropout(0.2)(layers.ReLU()(layers.BatchNormalization()(x)))
    return keras.Model(pixels, layers.GlobalAveragePooling2D()(x))


def train(chunks, optimizer="adamw", precision="float32", own=True, saved=None, killed=None):
    phase = Phase(
        epochs=6, batch_size=12, patience=2,
        optimizer=Optimizer(name=optimizer, learning_rate=0.02),
        schedule=Schedule(name="plateau", factor=0.3, patience=1),
    )
    head = Head(units=(8,), batch_norm=True)
    chosen = protocol(from_scratch=phase, precision=precision, head=head)
    run = made_run(data, "mobilenet", Weights(source="random"), chosen)

    def on_epoch_end(line):
        if line.epoch == killed:
            raise KeyboardInterrupt

    callbacks = Callbacks(
        on_batch_end=lambda *done: progress.append(done), on_epoch_end=on_epoch_end
    )
    context.memory_budget = lambda: 10**9 if chunks else 0
    compiled.clear()
    progress.clear()
    options = TrainOptions(checkpoints=saved)
    lock = DeviceLock("cpu", folder, own)
    result = trainer.train(trainer.build_context(run, data, None, lock, callbacks, options))
    names = [name for name in compiled if "_jax_step" in name or "_jax_loop" in name]
    assert names == ["jit(_jax_loop)" if chunks else "jit(_jax_step)"], compiled
    assert "jit(matmul)" not in compiled, "the head is one program too, for every part"
    return result


def same(one, other, tolerance):
    for x, y in zip(one.history, other.history, strict=True):
        assert (x.epoch, x.learning_rate, x.samples) == (y.epoch, y.learning_rate, y.samples)
        np.testing.assert_allclose(x.train_loss, y.train_loss, rtol=tolerance)
        np.testing.assert_allclose(x.validation_loss, y.validation_loss, rtol=tolerance)
    for part, predicted in one.predictions.items():
        np.testing.assert_allclose(
            predicted.probabilities, other.predictions[part].probabilities, atol=tolerance
        )


trainer.build = build
train_step.CHUNK = 3  # Of five steps an epoch: three, then two.
for options in ({}, {"optimizer": "sgd", "own": False}, {"precision": "mixed_bfloat16"}):
    many = train(True, **options)
    assert progress[:2] == [(36, 64), (60, 64)]
    same(train(False, **options), many, 0.02 if "precision" in options else 1e-4)

whole = train(True)
zeros_like, executed = train_step.zeros_like, []
train_step.zeros_like = lambda argument: executed.append(argument) or zeros_like(argument)
compilation.device_memory = lambda: "as on a GPU"
for chunks in (True, False):
    same(train(chunks), whole, 0 if chunks else 1e-4)
    assert executed, "a program is executed once, before the training, and leaves no trace"
    executed.clear()
compilation.device_memory = lambda: None

checkpoints = CheckpointManager(folder, {}, 0.0, print)
try:
    train(True, saved=checkpoints, killed=3)
except KeyboardInterrupt:
    same(whole, train(True, saved=checkpoints), 0)
assert checkpoints.resumed
print("alike")
"""


@pytest.mark.slow
def test_chunks_of_steps_make_the_same_run(smear: Path, tmp_path: Path) -> None:
    """Dropout, BatchNorm, optimizers, precisions, plateau, early stopping, progress and resume."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    environment = {
        **os.environ, "KERAS_BACKEND": "jax", "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, str(smear), str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert answer.stdout.endswith("alike\n"), answer.stderr[-3000:]
