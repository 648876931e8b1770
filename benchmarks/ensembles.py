"""How long ensembles and tables take, whole processes included.

    python benchmarks/ensembles.py

`ensemble` of three finished runs by every rule, `ensemble --search` of sixteen, the best of all
65,535 subsets of sixteen members on 3,500 images in five folds, and `leaderboard` over 1,008
records. The runs are synthetic, so that nothing is trained: of the quick profile's size, and of
BloodMNIST's (11,959 training, 1,712 validation and 3,421 test images), where concatenation trains
for minutes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.ensembling.selection import best_subsets
from harness.evaluation import metrics
from harness.evaluation.calibration import softmax
from harness.schema.dataset import DataSummary, Split
from harness.schema.predictions import SHIFTED, Predictions
from harness.schema.protocol import Protocol
from harness.schema.records import (
    Cost,
    Environment,
    Epoch,
    Finished,
    RunRecord,
    Throughput,
    Timings,
)
from harness.schema.run import Run, Weights
from harness.storage.files import write_arrays
from harness.storage.predictions import write_predictions
from harness.storage.records import FEATURES, PREDICTIONS, Store
from zoo.registry import RECIPES, find

SIZES = {"train": 11_959, "validation": 1_712, "test": 3_421}
QUICK = {"train": 320, "validation": 80, "test": 240}
VOTES = ("soft vote", "weighted vote", "greedy", "stacking")
CLASSES = tuple(f"class {k}" for k in range(8))
WBC = [sys.executable, "-m", "harness.cli"]


def predictions(seed: int, sizes: dict[str, int]) -> dict[str, Predictions]:
    """Mostly correct predictions by part; a hard image is hard for every seed."""
    rng, common, parts, start = np.random.default_rng(seed), np.random.default_rng(0), {}, 0
    for name, count in sizes.items():
        ids = np.arange(start, start + count)
        start += count
        shape = (count, len(CLASSES))
        labels = common.integers(0, len(CLASSES), count)
        logits = rng.normal(0, 1, shape) + common.normal(0, 1, shape)
        logits += 3.5 * np.eye(len(CLASSES))[labels]
        parts[name] = Predictions(ids, labels, softmax(logits).astype(np.float32))
    shifted = softmax(logits + rng.normal(0, 1, shape)).astype(np.float32)
    return parts | {SHIFTED: replace(parts["test"], probabilities=shifted)}


def without_train(parts: dict[str, Predictions]) -> dict[str, Predictions]:
    return {name: part for name, part in parts.items() if name != "train"}


def record(recipe: str, seed: int, parts: dict[str, Predictions]) -> RunRecord:
    protocol, data = Protocol(), DataSummary(
        name="synthetic", images=10**5, image_size=96, class_names=CLASSES,
        **{name: len(parts[name].ids) for name in ("train", "validation", "test")},
    )  # fmt: skip
    throughput = Throughput(
        median=100, p5=95, p95=105, batches=9, batch_size=32, precision="float32",
        device="none", exclusive=True,
    )  # fmt: skip
    epoch = Epoch(
        phase="frozen", epoch=1, learning_rate=1e-3, train_loss=1, validation_loss=1,
        validation_f1=0.5, seconds=1,
    )  # fmt: skip
    return RunRecord(
        run=Run(
            recipe=recipe, weights=Weights(source="random"), protocol=protocol, data="0" * 24,
            split=Split(), seed=seed,
        ),
        profile="full",
        data=data,
        result=Finished(
            cost=Cost(
                parameters=10**7, trainable_parameters=10**5, multiply_adds=10**9,
                throughput=throughput, peak_memory_mb=900,
            ),
            timings=Timings(start=4, build=1, training=20, evaluation=1, total=26),
            environment=Environment(
                wbc_bench="0", python="3.11", keras="3", backend="none", numpy="2",
                platform="none", cores=2,
            ),
            history=tuple(epoch.model_copy(update={"epoch": i}) for i in range(1, 31)),
            **dict(metrics.evaluate(without_train(parts), CLASSES)),
        ),
    )  # fmt: skip


def save_runs(root: Path, recipes: list[str], sizes: dict[str, int], seeds: int = 1) -> None:
    store = Store(root)
    for seed in range(seeds):
        for i, recipe in enumerate(recipes):
            parts = predictions(100 * seed + i, sizes)
            run_record = record(recipe, seed, parts)
            store.save_predictions(run_record.run, without_train(parts))
            store.save(run_record)


def save_features(root: Path, sizes: dict[str, int]) -> None:
    """What concatenation reads, as wide as each member's features."""
    store, rng = Store(root), np.random.default_rng(1)
    for run in (run_record.run for run_record in store.records()):
        width, folder = find(run.recipe).feature_width, store.artefacts(run)
        parts = predictions(run.seed, sizes)
        write_predictions(folder / PREDICTIONS, parts)
        mixing = rng.normal(0, 1, (len(CLASSES), width)).astype(np.float32)
        features = {name: part.probabilities @ mixing for name, part in parts.items()}
        write_arrays(folder / FEATURES, features)


def seconds(*arguments: str, times: int = 3) -> float:
    """Median of a few processes."""
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run([*WBC, *arguments], check=True, capture_output=True)
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def show(what: str, duration: float) -> None:
    print(f"{what:52s} {duration:6.2f} s", flush=True)


def main() -> None:
    names = [recipe.name for recipe in RECIPES]
    three = ["densenet121", "efficientnetv2s", "lite0"]
    with tempfile.TemporaryDirectory() as folder:
        for title, sizes in (("quick", QUICK), ("full size", SIZES)):
            root = Path(folder) / title
            save_runs(root, three, sizes)
            save_features(root, sizes)
            results = ["--results", str(root)]
            votes = [argument for rule in VOTES for argument in ("--rule", rule)]
            show(f"{title}: three members, votes", seconds("ensemble", *three, *votes, *results))
            show(
                f"{title}: three members, all rules",
                seconds("ensemble", *three, *results, times=1 if sizes is SIZES else 3),
            )
            save_runs(root, names, sizes)
            show(f"{title}: search of sixteen", seconds("ensemble", "--search", *results, times=1))
        members = [predictions(i, {"test": 3500})["test"] for i in range(16)]
        probabilities = np.stack([part.probabilities for part in members])
        start = time.perf_counter()
        best_subsets(probabilities, members[0].labels, np.arange(3500) % 5)
        show("best of 65,535 subsets, 3,500 images", time.perf_counter() - start)
        many = Path(folder) / "many"
        save_runs(many, names, QUICK, seeds=56)
        show("leaderboard, 1,008 records", seconds("leaderboard", "--results", str(many)))


if __name__ == "__main__":
    main()
