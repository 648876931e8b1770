"""The effect of damping a head's features: macro F1 of frozen networks at several strengths.

    python benchmarks/damping.py [RECIPE ...] [--data SOURCE] [--train N] [--splits N]

The features of a network are computed once; then the protocol's head is trained on several random
splits, the same for every strength. Each figure is the mean over the splits, in percent, with the
standard error of its difference from no damping: the splits are paired, and overlap.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rich.console import Console

from harness.commands.data import prepare
from harness.commands.settings import DataOptions, load_settings
from harness.config import load
from harness.evaluation.metrics import macro_f1
from harness.schema.dataset import Dataset
from harness.schema.protocol import Protocol
from harness.sweep import planner
from harness.sweep.downloads import Downloads
from harness.sweep.planner import PlannedRun
from harness.sweep.weights import resolve_weights
from harness.training.head import HeadLearner
from harness.training.loop import fit

STRENGTHS = (0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0)
TEST = 800


def embed(planned: PlannedRun, data: Dataset, ids: np.ndarray) -> np.ndarray:
    """Pooled features float32 (n, width) of the planned run's untrained or pretrained network."""
    import keras

    from harness.training.compilation import to_numpy
    from harness.training.train_step import Forward
    from zoo.factory import build

    keras.utils.set_random_seed(planned.run.seed)
    network = build(planned.recipe, planned.run.protocol.image_size, planned.weights_files)
    forward, size = Forward(network), planned.run.protocol.inference_batch
    features = [
        to_numpy(forward(data.images[np.resize(ids[start : start + size], size)]))
        for start in range(0, len(ids), size)
    ]
    return np.concatenate(features)[: len(ids)]


def score(
    protocol: Protocol, features: np.ndarray, labels: np.ndarray, sizes: tuple[int, int], seed: int
) -> float:
    """Macro F1 in percent of a head that is trained on a random split. ``labels`` (n,) int."""
    classes = int(labels.max()) + 1
    one_hot = np.eye(classes, dtype=np.float32)[labels]
    order = np.random.default_rng(seed).permutation(len(labels))
    train, validation, test = np.split(order[: sum(sizes) + TEST], np.cumsum(sizes))
    learner = HeadLearner(
        (protocol.head, protocol.loss, protocol.frozen.optimizer),
        (features[train], one_hot[train]),
        features[validation],
        seed,
    )
    fit(learner, "frozen", protocol.frozen, one_hot[validation], seed)
    y_pred = learner.predict(features[test]).argmax(axis=1)
    return 100 * macro_f1(labels[test], y_pred, classes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=["lite0", "mobilenetv3large", "densenet121"])
    parser.add_argument("--data", default="smear@2100")
    parser.add_argument("--train", type=int, default=320)
    parser.add_argument("--splits", type=int, default=8)
    arguments = parser.parse_args()
    benchmark = load(None, "quick")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "settings.toml"
        config.write_text("")
        data = prepare(load_settings(DataOptions(arguments.data, config, "quick"))).dataset
    sizes = arguments.train, arguments.train // 4
    ids = np.random.default_rng(0).permutation(len(data))[: max(2000, sum(sizes) + TEST)]
    recipes = planner.select_recipes(benchmark, arguments.recipes)
    weights = resolve_weights(benchmark.weights, recipes, console=Console())
    missing = [file for resolved in weights.values() for file in resolved.missing]
    with Downloads(missing, Console()) as downloads:
        downloads.wait()
    planned_runs = planner.plan_runs(benchmark, recipes, data, weights)
    print(
        f"{data.name}, {arguments.train} training images, {arguments.splits} splits, macro F1 in %"
    )
    print(f"{'damping':18s} " + " ".join(f"{strength:12g}" for strength in STRENGTHS))
    for planned in planned_runs:
        features, labels = embed(planned, data, ids), data.labels[ids]
        scores = np.array([
            [score(damped(planned.run.protocol, strength), features, labels, sizes, seed)
             for strength in STRENGTHS]
            for seed in range(arguments.splits)
        ])  # fmt: skip
        gains = scores - scores[:, :1]
        errors = gains.std(axis=0, ddof=1) / np.sqrt(arguments.splits)
        cells = [
            f"{mean:6.1f} ±{e:4.1f}" for mean, e in zip(scores.mean(axis=0), errors, strict=True)
        ]
        print(
            f"{planned.recipe.name:18s} " + " ".join(f"{cell:>12s}" for cell in cells), flush=True
        )


def damped(protocol: Protocol, strength: float) -> Protocol:
    head = protocol.head.model_copy(update={"damping": strength})
    return protocol.model_copy(update={"head": head})


if __name__ == "__main__":
    main()
