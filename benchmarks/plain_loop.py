"""A sweep over the zoo, against the plain loop that people write for it.

    python benchmarks/plain_loop.py [RECIPE ...] [--policy none|randaugment] [--data SOURCE]
                                    [--train N] [--validation N] [--test N] [--epochs N]

Ours is the whole command ``wbc-bench run`` in the quick profile, with its processes, records,
tables and figures, without the shifted test. The plain loop is one process:
for each network ``fit`` on the frozen backbone plus head with Keras's own early stopping and
plateau callbacks, fed by ``tf.data``, so that every epoch runs the backbone again, then the test
images. Both get the same images, first weights, head, optimizer, batch size, patience and number of
epochs. A run's seconds are those of its process, with another one running at the same time; the
total is the command's.

Three things differ. The plain loop has no features to standardise by before it starts, so it has a
BatchNorm there; the features of some random networks are so small that its epsilon dominates them,
and the plain loop learns little then. Its augmentation is keras-cv's layers in ``tf.data``, fresh
every epoch, where ours cycles through ``frozen_epochs`` epochs. And its shuffles are TensorFlow's.
So both macro F1s are compared: p is of the paired test on the same images; the last line corrects
over all recipes (Holm).

The default sizes are small: the whole zoo takes about a quarter of an hour on two
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
from rich.console import Console

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
class Result:
    """The result of one network: wall seconds, epochs of training, predicted test classes."""

    seconds: float
    epochs: int
    y_pred: np.ndarray


def run_ours(
    planned: Sequence[PlannedRun], config: Path, folder: Path, source: str
) -> tuple[float, list[Result]]:
    """Wall seconds of the whole command, and the results in its records."""
    names = [run.recipe.name for run in planned]
    command = [sys.executable, "-m", "harness.cli", "run", *names, "--profile", "quick"]
    options = ["--config", config, "--data", source, "--results", folder, "--shift", "none"]
    start = time.perf_counter()
    subprocess.run([*command, *map(str, options)], check=True, stdout=subprocess.DEVNULL)
    seconds, store, results = time.perf_counter() - start, Store(folder), []
    for run in planned:
        record = store.find(run.run)
        assert record is not None
        assert isinstance(record.result, Finished)
        y_pred = store.predictions(run.run)["test"].probabilities.argmax(axis=1)
        results.append(Result(record.result.timings.total, len(record.result.history), y_pred))
    return seconds, results


def run_plain(planned: PlannedRun, data: Dataset) -> Result:
    """Build, fit and predict, as it is usually written by hand."""
    import keras

    from harness.training.model import build_head, build_optimizer
    from zoo.factory import build

    start = time.perf_counter()
    protocol, phase = planned.run.protocol, planned.run.protocol.frozen
    size, classes = protocol.image_size, data.class_names
    parts = split_indices(planned.run.split, data)
    keras.backend.clear_session()
    keras.utils.set_random_seed(planned.run.seed)
    backbone = build(planned.recipe, size, planned.weights_files)
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
    return Result(time.perf_counter() - start, epochs, probabilities.argmax(axis=1))


def stream(
    data: Dataset, ids: np.ndarray, size: int, augmentation: Augmentation | None = None
) -> Any:
    """Batches of images and one-hot labels; shuffled, to train on, with an ``augmentation``."""
    import tensorflow as tf

    labels = np.eye(len(data.class_names), dtype=np.float32)[data.labels[ids]]
    pairs = tf.data.Dataset.from_tensor_slices((data.images[ids], labels))
    if augmentation is not None:
        pairs = pairs.shuffle(len(ids))
    pairs = pairs.batch(size)
    if augmentation is not None and augmentation.policy:
        pairs = pairs.map(augmenting(augmentation), num_parallel_calls=tf.data.AUTOTUNE)
    return pairs.prefetch(tf.data.AUTOTUNE)


def augmenting(augmentation: Augmentation) -> Callable[[Any, Any], tuple[Any, Any]]:
    """keras-cv's layers for the policy's steps, on a batch."""
    from harness.augmentation.keras_cv import apply_layers, layers

    return partial(apply_layers, [layer for step in augmentation.policy for layer in layers(step)])


def settings(arguments: argparse.Namespace, folder: Path) -> Path:
    """The settings file, the same for both."""
    path = folder / "settings.toml"
    path.write_text(
        f"[profile.quick.split.subset]\ntrain = {arguments.train}\n"
        f"validation = {arguments.validation}\ntest = {arguments.test}\n"
        f"[profile.quick.protocol.frozen]\nepochs = {arguments.epochs}\n"
        f'[profile.quick.protocol.augmentation]\npolicy = "{arguments.policy}"\n'
    )
    return path


def row(name: str, ours: Result, plain: Result, p: float, truth: tuple[np.ndarray, int]) -> str:
    labels, classes = truth
    scores = [100 * macro_f1(labels, result.y_pred, classes) for result in (ours, plain)]
    return (
        f"{name:18s} {ours.seconds:8.1f} {plain.seconds:8.1f} {plain.seconds / ours.seconds:6.1f}"
        f" {ours.epochs:6d} {plain.epochs:6d} {scores[0]:9.2f} {scores[1]:7.2f} {p:7.3f}"
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
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = settings(arguments, Path(folder))
        benchmark = load(config, "quick")
        data = prepare(load_settings(DataOptions(arguments.data, config, "quick"))).dataset
        recipes = planner.select_recipes(benchmark, arguments.recipes)
        weights = resolve_weights(benchmark.weights, recipes, console=Console())
        planned_runs = planner.plan_runs(benchmark, recipes, data, weights)
        total, results = run_ours(planned_runs, config, Path(folder) / "results", arguments.data)
    labels = data.labels[split_indices(benchmark.split, data).test]
    truth = labels, len(data.class_names)
    print(
        f"{data.name}, {arguments.train} training, {arguments.validation} validation, "
        f"{arguments.test} test images at {benchmark.protocol.image_size} px, "
        f"policy {arguments.policy}, at most {arguments.epochs} epochs"
    )
    print(f"{'':18s} {'seconds':^24s} {'epochs':^13s} {'macro F1, %':^17s}")
    print(f"{'':18s} {'ours':>8s} {'plain':>8s} {'ratio':>6s} {'ours':>6s} {'plain':>6s}"
          f" {'ours':>9s} {'plain':>7s} {'p':>7s}", flush=True)  # fmt: skip
    p_values, plain_total = [], 0.0
    for planned, ours in zip(planned_runs, results, strict=True):
        start = time.perf_counter()
        plain = run_plain(planned, data)
        plain_total += time.perf_counter() - start
        p_values.append(paired(labels, ours.y_pred, plain.y_pred, truth[1]).p)
        print(row(planned.recipe.name, ours, plain, p_values[-1], truth), flush=True)
    print(f"{'total':18s} {total:8.1f} {plain_total:8.1f} {plain_total / total:6.1f}")
    corrected = zip(planned_runs, holm(p_values), strict=True)
    names = [planned.recipe.name for planned, p in corrected if p < 0.05]
    print(f"F1 differs: {', '.join(names)}" if names else "no F1 differs significantly")


if __name__ == "__main__":
    main()
