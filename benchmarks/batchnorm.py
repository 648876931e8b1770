"""Networks trained from scratch, by the statistics that their BatchNorm layers predict with.

    python benchmarks/batchnorm.py [RECIPE ...] [--data SOURCE] [--train N] [--size PIXELS]
                                   [--statistics KIND ...]

"moving": Keras's moving averages, with each network's own momentum; "moving .9": with a momentum of
.9 in all of them; "estimated": anew before each validation, as wbc-bench does. Printed are, after
each epoch, the training loss, the validation loss and the validation macro F1 in percent, then the
test macro F1 of the best epoch, and which share of the CPU time of an epoch of 8,371 images the
estimation takes, from the seconds of a batch in both after the first epoch. Each in a process of
its own; "all" names every recipe with a BatchNorm.

Until early stopping, on 2,000 real cells: ``mobilenetv3large --data training_set.npz --clean
--train 2000 --test 2000 --size 64 --epochs 60``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

from zoo.registry import RECIPES, find

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

STATISTICS = ("moving", "moving .9", "estimated")
EPOCH = 8371
"""Images of the epoch of which the share is computed: 70 % of all cleaned real cells."""
WITHOUT = ("vgg16", "vgg19", "convnextsmall", "convnextbase", "convnextlarge")
"""Recipes that have no BatchNorm."""


def train(arguments: argparse.Namespace) -> None:
    """Train one recipe with one kind of statistics and print its learning curve."""
    from harness.commands.data import prepare
    from harness.commands.settings import DataOptions, load_settings
    from harness.evaluation.metrics import macro_f1
    from harness.execution.locks import DeviceLock
    from harness.schema.run import Run, Weights
    from harness.training import trainer
    from harness.training.batchnorm import BatchNormEstimator
    from harness.training.context import Callbacks, TrainOptions
    from harness.training.network_learner import ESTIMATION_SHARE, NetworkLearner
    from zoo.factory import build, flatten_layers

    (recipe,), (statistics,) = arguments.recipes, arguments.statistics
    steps, batches = [], []
    size = max(arguments.size, find(recipe).minimum_size)
    estimate, fit = BatchNormEstimator.estimate, NetworkLearner.train_on_batches

    def timed_estimate(estimator: Any, take: Any, rows: Any) -> None:
        start = time.process_time()
        if statistics == "estimated":
            estimate(estimator, take, rows)
        batches.append((time.process_time() - start) / len(rows))

    def timed_fit(learner: Any, rows: Any, learning_rate: float) -> Any:
        start = time.process_time()
        losses = fit(learner, rows, learning_rate)
        steps.append((time.process_time() - start) / len(rows))
        return losses

    def built(*given: Any) -> Any:
        network = build(*given)
        for layer in flatten_layers(network):
            if statistics == "moving .9" and hasattr(layer, "momentum"):
                layer.momentum = 0.9
        return network

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "benchmark.toml"
        config.write_text(
            f"[split]\nsubset = {{ train = {arguments.train}, validation = {arguments.train // 4}, "
            f"test = {arguments.test} }}\n[protocol]\nimage_size = {size}\n"
            f"[protocol.from_scratch]\nepochs = {arguments.epochs}\n"
        )
        settings = load_settings(DataOptions(arguments.data, config, "full", arguments.clean))
        data, benchmark = prepare(settings).dataset, settings.benchmark
        run = Run(
            recipe=recipe, weights=Weights(source="random"), protocol=benchmark.protocol,
            data=data.fingerprint, split=benchmark.split,
        )  # fmt: skip
        with (
            patch.object(BatchNormEstimator, "estimate", timed_estimate),
            patch.object(NetworkLearner, "train_on_batches", timed_fit),
            patch.object(trainer, "build", built),
        ):
            lock, options = DeviceLock("cpu", Path(folder)), TrainOptions()
            context = trainer.build_context(run, data, None, lock, Callbacks(), options)
            result = trainer.train(context)
    test = result.predictions["test"]
    f1 = macro_f1(test.labels, test.probabilities.argmax(axis=1), len(data.class_names))
    for line in result.history:
        print(
            f"{recipe:18} {statistics:10} epoch {line.epoch:2}  training loss "
            f"{line.train_loss:6.3f}  validation loss {line.validation_loss:6.3f}  "
            f"F1 {100 * line.validation_f1:5.1f}"
        )
    count = round(ESTIMATION_SHARE * EPOCH / 32)
    share = count * sum(batches[1:]) / (EPOCH // 32 * sum(steps[1:]))
    print(
        f"{recipe:18} {statistics:10} test F1 {100 * f1:5.1f}  {share:5.1%} of an epoch", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=["mobilenetv3large"])
    parser.add_argument("--data", default="smear@700")
    parser.add_argument("--train", type=int, default=320)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--clean", action="store_true")
    parser.add_argument("--statistics", nargs="+", choices=STATISTICS, default=STATISTICS)
    arguments = parser.parse_args()
    recipes = arguments.recipes
    if recipes == ["all"]:
        recipes = [recipe.name for recipe in RECIPES if recipe.name not in WITHOUT]
    elif len(recipes) == len(arguments.statistics) == 1:
        train(arguments)
        return
    for recipe, kind in product(recipes, arguments.statistics):
        command = [sys.executable, __file__, recipe, "--statistics", kind, "--data", arguments.data]
        for option in ("train", "test", "size", "epochs"):
            command += [f"--{option}", str(getattr(arguments, option))]
        subprocess.run([*command, *(["--clean"] if arguments.clean else [])], check=True)


if __name__ == "__main__":
    main()
