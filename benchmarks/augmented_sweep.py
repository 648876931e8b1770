"""A sweep over five recipes: augmented epochs shared by all, or made by each recipe.

    python benchmarks/augmented_sweep.py [--policy NAME] [--train N] [--epochs N]

The real workers, one at a time, with random weights and the frozen phase. "shared": all recipes use
one epoch cache; "by each": every recipe has its own. The seconds inside each run's training show
what waiting for images costs; the predictions must be the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from harness.data.image_cache import open_dataset
from harness.data.sources import prepare
from harness.data.splitting import split_indices
from harness.execution.devices import Device, cpu_name
from harness.execution.processes import WorkerProcess
from harness.schema.augmentation import Augmentation, EpochCacheSettings, parse
from harness.schema.dataset import DataSummary, Split, Subset
from harness.schema.protocol import Phase, Protocol
from harness.schema.records import Finished, RunRecord
from harness.schema.run import Run, Weights
from harness.storage.records import Store
from harness.sweep.planner import PlannedRun, summarise
from harness.sweep.scheduler import SweepContext, sweep
from zoo.registry import find

RECIPES = ("mobilenet", "mobilenetv2", "mobilenetv3large", "lite0", "b0")
Provider = Literal["wbc-bench", "keras-cv"]


def run_all(
    groups: Sequence[Sequence[PlannedRun]], folder: Path, data: tuple[Path, DataSummary]
) -> tuple[float, Store]:
    """Wall seconds of a sweep for each group, each with an epoch cache of its own."""
    store = Store(folder / "results")
    cpu, begin = Device("cpu", cpu_name()), time.perf_counter()
    for i, group in enumerate(groups):
        epochs = EpochCacheSettings(folder=str(folder / f"epochs-{i}"), limit_bytes=10**11)
        context = SweepContext(store, data[0], data[1], "quick", lambda: [cpu], epochs=epochs)
        summary = sweep(group, context, WorkerProcess())
        assert summary.finished == len(group), summary
    return time.perf_counter() - begin, store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="report-002")
    parser.add_argument("--train", type=int, default=800)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--recipes", nargs="*", default=RECIPES)
    options = parser.parse_args()
    cache = Path(tempfile.gettempdir()) / "wbc-bench-benchmarks"
    folder = prepare("smear@1600", 96, cache)
    data = open_dataset(folder)
    split = Split(subset=Subset(train=options.train, validation=80, test=160))
    summary = summarise(data, split_indices(split, data))
    print(f"{options.policy}, {options.epochs} epochs of {options.train} images, {options.recipes}")
    providers: tuple[Provider, ...] = ("wbc-bench", "keras-cv")
    for provider in providers:
        augmentation = Augmentation(
            policy=parse(options.policy), frozen_epochs=options.epochs, provider=provider
        )
        protocol = Protocol(frozen=Phase(epochs=20), augmentation=augmentation)
        planned = [
            PlannedRun(
                Run(recipe=find(name).name, weights=Weights(source="random"), protocol=protocol,
                    data=data.fingerprint, split=split),
                find(name), (None,), "",
            )
            for name in options.recipes
        ]  # fmt: skip
        stores = []
        for sharing, groups in (("shared", [planned]), ("by each", [[run] for run in planned])):
            with tempfile.TemporaryDirectory() as temporary:
                seconds, store = run_all(groups, Path(temporary), (folder, summary))
                records = store.records()
                stores.append({r.run.recipe: predictions(r) for r in records})
            training = sum(training_seconds(r) for r in records)
            times = f"{seconds:7.1f} s, in training {training:6.1f} s"
            print(f"{provider:10s} epochs {sharing:8s} {times}", flush=True)
        assert stores[0] == stores[1], "the same epochs must give the same predictions"


def training_seconds(record: RunRecord) -> float:
    assert isinstance(record.result, Finished)
    return record.result.timings.training


def predictions(record: RunRecord) -> str:
    assert isinstance(record.result, Finished)
    return record.result.predictions_sha256


if __name__ == "__main__":
    main()
