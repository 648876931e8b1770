"""Networks trained from scratch, by the statistics that their BatchNorm layers predict with.

    python benchmarks/batchnorm.py [RECIPE ...] [--data SOURCE] [--train N] [--size PIXELS]

"moving": Keras's moving averages, with each network's own momentum; "moving .9": with a momentum of
.9 in all of them; "estimated": anew before each validation, as wbc-bench does. Printed are the
validation macro F1 after each epoch, the test macro F1 of the best epoch, and the share of the
training time that the estimation takes. Each in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

STATISTICS = ("moving", "moving .9", "estimated")


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
    from zoo.factory import build, flatten_layers

    (recipe,), statistics = arguments.recipes, arguments.statistics
    seconds, estimate = [0.0], BatchNormEstimator.estimate

    def timed(*given: Any) -> None:
        start = time.perf_counter()
        if statistics == "estimated":
            estimate(*given)
        seconds[0] += time.perf_counter() - start

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
            f"test = {arguments.test} }}\n[protocol]\nimage_size = {arguments.size}\n"
            f"[protocol.from_scratch]\nepochs = {arguments.epochs}\n"
        )
        settings = load_settings(DataOptions(arguments.data, config, "full"))
        data, benchmark = prepare(settings).dataset, settings.benchmark
        run = Run(
            recipe=recipe, weights=Weights(source="random"), protocol=benchmark.protocol,
            data=data.fingerprint, split=benchmark.split,
        )  # fmt: skip
        with (
            patch.object(BatchNormEstimator, "estimate", timed),
            patch.object(trainer, "build", built),
        ):
            result = trainer.train(
                run, data, None, DeviceLock("cpu", Path(folder)), Callbacks(), TrainOptions()
            )
    test = result.predictions["test"]
    f1 = macro_f1(test.labels, test.probabilities.argmax(axis=1), len(data.class_names))
    curve = " ".join(f"{100 * line.validation_f1:.0f}" for line in result.history)
    share = seconds[0] / sum(line.seconds for line in result.history)
    print(
        f"{recipe:18} {statistics:10} test {100 * f1:5.1f}  {share:5.1%} of the time  "
        f"validation {curve}",
        flush=True,
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
    parser.add_argument("--statistics", choices=STATISTICS)
    arguments = parser.parse_args()
    if arguments.statistics:
        train(arguments)
        return
    options = [word for word in sys.argv[1:] if word not in arguments.recipes]
    for recipe in arguments.recipes:
        for statistics in STATISTICS:
            command = [sys.executable, __file__, recipe, *options, "--statistics", statistics]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
