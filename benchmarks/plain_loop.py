"""A sweep over the zoo, against the plain loop that people write for it.

    python benchmarks/plain_loop.py [RECIPE ...] [--policy none|randaugment] [--data SOURCE]
                                    [--train N] [--validation N] [--test N] [--epochs N]

Ours is the whole command ``wbc-bench run`` in the quick profile, with its processes, records,
tables and figures, without the shifted test. The plain loop is one process: for each
network ``fit`` on the frozen backbone plus head with Keras's own early stopping and plateau
callbacks, fed by ``tf.data``, so that every epoch runs the backbone again, then the test images.
Both get the same images, first weights, head, optimizer, batch size, patience and most epochs. A
run's seconds are those of its process, with another at work beside it; the total is the command's.

Three things differ. The plain loop has no features to standardise by before it starts, so it has
a BatchNorm there; the features of some random networks are so small that its epsilon drowns them,
and the plain loop learns little then. Its augmentation is keras-cv's layers in ``tf.data``, fresh
every epoch, where ours goes round ``frozen_epochs`` epochs. And its shuffles are TensorFlow's. So
both macro F1s are compared: p is of the paired test on the same images; the last line corrects
over all recipes (Holm).

The sizes below are cut for both alike: the whole zoo takes about a quarter of an hour on two
cores; starting and building then weighs more than it does with the sizes of the quick profile
(``--train 320 --validation 80 --test 240 --epochs 60``), about 35 minutes by the recorded rates.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from harness.commands.data import prepare
from harness.commands.settings import DataOptions, load_settings
from harness.config import load
from harness.data.splitting import split_indices
from harness.evaluation.metrics import macro_f1
from harness.evaluation.significance import holm, paired
from harness.schema.augmentation import Augmentation
from harness.schema.dataset import Dataset
from harness.schema.records import Finished
from harness.storage.records import Store
from harness.sweep import planner
from harness.sweep.planner import PlannedRun
from harness.sweep.weights import resolve_weights


@dataclass(frozen=True)
class Side:
    """One network by one way: wall seconds, epochs of training, guesses on the test images."""

    seconds: float
    epochs: int
    guesses: np.ndarray


def ours(
    planned: Sequence[PlannedRun], config: Path, folder: Path, source: str
) -> tuple[float, list[Side]]:
    """Wall seconds of the whole command, and what its records tell."""
    names = [one.recipe.name for one in planned]
    command = [sys.executable, "-m", "harness.cli", "run", *names, "--profile", "quick"]
    options = ["--config", config, "--data", source, "--results", folder, "--shift", "none"]
    begin = time.perf_counter()
    subprocess.run([*command, *map(str, options)], check=True, stdout=subprocess.DEVNULL)
    taken, store, sides = time.perf_counter() - begin, Store(folder), []
    for one in planned:
        record = store.find(one.run)
        assert record is not None
        assert isinstance(record.result, Finished)
        guesses = store.predictions(one.run)["test"].probabilities.argmax(axis=1)
        sides.append(Side(record.result.timings.total, len(record.result.history), guesses))
    return taken, sides


def plain(one: PlannedRun, data: Dataset) -> Side:
    """Build, fit and predict, as it is written by hand."""
    import keras

    from harness.training.model import build_head, build_optimizer
    from zoo.factory import build

    begin = time.perf_counter()
    protocol, phase = one.run.protocol, one.run.protocol.frozen
    size, parts, classes = protocol.image_size, split_indices(one.run.split, data), data.class_names
    keras.backend.clear_session()
    keras.utils.set_random_seed(one.run.seed)
    backbone = build(one.recipe, size, one.weights_files)
    backbone.trainable = False
    inputs = keras.Input((size, size, 3))
    features = keras.layers.BatchNormalization()(backbone(inputs, training=False))
    head = build_head(protocol.head, backbone.output.shape[-1], len(classes), None)
    model = keras.Model(inputs, head(features))
    # XLA takes longer to compile these networks for a CPU than it then saves.
    model.compile(build_optimizer(phase.optimizer), "categorical_crossentropy", jit_compile=False)
    curve = model.fit(
        stream(data, parts.train, phase.batch_size, protocol.augmentation),
        validation_data=stream(data, parts.validation, phase.batch_size),
        epochs=phase.epochs,
        shuffle=False,  # The stream is shuffled.
        callbacks=[
            keras.callbacks.EarlyStopping(patience=phase.patience, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau(
                factor=phase.schedule.factor,
                patience=phase.schedule.patience,
                min_lr=phase.schedule.minimum,
            ),
        ],
        verbose=0,
    )
    probabilities = model.predict(stream(data, parts.test, phase.batch_size), verbose=0)
    epochs = len(curve.history["loss"])
    return Side(time.perf_counter() - begin, epochs, probabilities.argmax(axis=1))


def stream(
    data: Dataset, ids: np.ndarray, size: int, augmentation: Augmentation | None = None
) -> Any:
    """Batches of images and one-hot labels; to train on where ``augmentation`` is told."""
    import tensorflow as tf

    labels = np.eye(len(data.class_names), dtype=np.float32)[data.labels[ids]]
    pairs = tf.data.Dataset.from_tensor_slices((data.images[ids], labels))
    if augmentation is not None:
        pairs = pairs.shuffle(len(ids))
    pairs = pairs.batch(size)
    if augmentation is not None and augmentation.policy:
        pairs = pairs.map(varying(augmentation), num_parallel_calls=tf.data.AUTOTUNE)
    return pairs.prefetch(tf.data.AUTOTUNE)


def varying(augmentation: Augmentation) -> Callable[[Any, Any], tuple[Any, Any]]:
    """keras-cv's layers for the policy's steps, on a batch."""
    from harness.augmentation.keras_cv import apply_layers, layers

    return partial(apply_layers, [layer for step in augmentation.policy for layer in layers(step)])


def settings(asked: argparse.Namespace, folder: Path) -> Path:
    """The same for both."""
    path = folder / "settings.toml"
    path.write_text(
        f"[profile.quick.split.subset]\ntrain = {asked.train}\nvalidation = {asked.validation}\n"
        f"test = {asked.test}\n"
        f"[profile.quick.protocol.frozen]\nepochs = {asked.epochs}\n"
        f'[profile.quick.protocol.augmentation]\npolicy = "{asked.policy}"\n'
    )
    return path


def row(name: str, one: Side, other: Side, p: float, truth: tuple[np.ndarray, int]) -> str:
    labels, classes = truth
    scores = [100 * macro_f1(labels, side.guesses, classes) for side in (one, other)]
    return (
        f"{name:18s} {one.seconds:8.1f} {other.seconds:8.1f} {other.seconds / one.seconds:6.1f}"
        f" {one.epochs:6d} {other.epochs:6d} {scores[0]:9.2f} {scores[1]:7.2f} {p:7.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", help="all, unless named")
    parser.add_argument("--data", default="smear")
    parser.add_argument("--policy", choices=("none", "randaugment"), default="none")
    parser.add_argument("--train", type=int, default=80)
    parser.add_argument("--validation", type=int, default=40)
    parser.add_argument("--test", type=int, default=120)
    parser.add_argument("--epochs", type=int, default=10)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = settings(asked, Path(folder))
        benchmark = load(config, "quick")
        data = prepare(load_settings(DataOptions(asked.data, config, "quick"))).dataset
        wanted = planner.select_recipes(benchmark, asked.recipes)
        planned = planner.plan_runs(
            benchmark, wanted, data, resolve_weights(benchmark.weights, wanted)
        )
        whole, first = ours(planned, config, Path(folder) / "results", asked.data)
    labels = data.labels[split_indices(benchmark.split, data).test]
    truth = labels, len(data.class_names)
    print(
        f"{data.name}, {asked.train} training, {asked.validation} validation, {asked.test} test "
        f"images at {benchmark.protocol.image_size} px, policy {asked.policy}, "
        f"at most {asked.epochs} epochs"
    )
    print(f"{'':18s} {'seconds':^24s} {'epochs':^13s} {'macro F1, %':^17s}")
    print(f"{'':18s} {'ours':>8s} {'plain':>8s} {'ratio':>6s} {'ours':>6s} {'plain':>6s}"
          f" {'ours':>9s} {'plain':>7s} {'p':>7s}", flush=True)  # fmt: skip
    alone, loop = [], 0.0
    for one, mine in zip(planned, first, strict=True):
        begin = time.perf_counter()
        theirs = plain(one, data)
        loop += time.perf_counter() - begin
        alone.append(paired(labels, mine.guesses, theirs.guesses, truth[1]).p)
        print(row(one.recipe.name, mine, theirs, alone[-1], truth), flush=True)
    print(f"{'the whole':18s} {whole:8.1f} {loop:8.1f} {loop / whole:6.1f}")
    names = [one.recipe.name for one, p in zip(planned, holm(alone), strict=True) if p < 0.05]
    print("the F1 of all is the same within noise" if not names else f"differ: {', '.join(names)}")


if __name__ == "__main__":
    main()
