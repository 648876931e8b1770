"""Made-up runs and records, and a stand-in for the trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from harness.data.image_cache import open_dataset
from harness.data.splitting import split_indices
from harness.evaluation import metrics
from harness.execution.processes import ProcessResult
from harness.schema.dataset import DataSummary, Split
from harness.schema.events import Event, PhaseEvent
from harness.schema.predictions import Predictions
from harness.schema.protocol import Protocol
from harness.schema.records import (
    Cost,
    Environment,
    Epoch,
    Failed,
    Finished,
    Outcome,
    RunRecord,
    Throughput,
    Timings,
)
from harness.schema.run import Job, Run, Weights
from harness.storage.predictions import write_predictions
from harness.storage.records import PREDICTIONS, Store
from harness.storage.unrecorded import write_or_keep, write_outcome
from harness.sweep.callbacks import ProgressCallback
from harness.sweep.planner import PlannedRun
from zoo.registry import find

CLASSES = ("basophil", "eosinophil", "platelet")
SUMMARY = DataSummary(
    name="made-up", images=100, image_size=96, class_names=CLASSES, train=70, validation=10, test=20
)


def made_run(recipe: str = "vgg16", seed: int = 0) -> Run:
    return Run(
        recipe=recipe,
        weights=Weights(source="random"),
        protocol=Protocol(),
        data="0123456789abcdef",
        split=Split(),
        seed=seed,
    )


def made_planned(recipe: str = "vgg16", seed: int = 0) -> PlannedRun:
    return PlannedRun(made_run(recipe, seed), find(recipe), (None,), "")


LABELS = np.arange(100) % len(CLASSES)
IDS = {"train": np.arange(70), "validation": np.arange(70, 80), "test": np.arange(80, 100)}


def made_predictions(
    run: Run,
    ids_by_part: Mapping[str, np.ndarray] = IDS,
    all_labels: np.ndarray = LABELS,
) -> dict[str, Predictions]:
    """Predictions that depend on run and images alone, and are right most of the time."""
    rng, classes = np.random.default_rng(list(run.id.encode())), int(all_labels.max()) + 1
    parts = {}
    for name, ids in ids_by_part.items():
        labels = all_labels[ids]
        raw = 1.8 * rng.random((len(ids), classes)) + np.eye(classes)[labels]
        probabilities = (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)
        parts[name] = Predictions(ids, labels, probabilities)
    test = parts["test"]
    corrupted = test.probabilities.copy()
    corrupted[::3] = np.roll(corrupted[::3], 1, axis=1)
    parts["shifted"] = Predictions(test.ids, test.labels, corrupted)
    return parts


def made_outcome() -> Outcome:
    return Outcome(
        cost=Cost(
            parameters=14_780_000,
            trainable_parameters=66_000,
            multiply_adds=2_800_000_000,
            throughput=Throughput(
                median=25.0,
                p5=24.0,
                p95=26.0,
                batches=7,
                batch_size=32,
                precision="float32",
                device="Test CPU, 2 cores",
                exclusive=True,
            ),
            peak_memory_mb=900.0,
        ),
        timings=Timings(start=4, build=1, training=20, evaluation=1, total=26, compile=3),
        environment=Environment(
            wbc_bench="0.1.0",
            python="3.11.7",
            keras="3.15.1",
            backend="tensorflow 2.21.0",
            numpy="2.4.6",
            platform="Linux x86_64",
            cores=2,
        ),
        history=(
            Epoch(
                phase="frozen",
                epoch=1,
                learning_rate=1e-3,
                train_loss=1.0,
                validation_loss=0.9,
                validation_f1=0.5,
                seconds=0.1,
            ),
        ),
    )


def made_record(recipe: str = "vgg16", seed: int = 0, note: str = "") -> RunRecord:
    run = made_run(recipe, seed)
    parts = made_predictions(run)
    return RunRecord(
        run=run,
        profile="quick",
        data=SUMMARY,
        note=note,
        result=Finished(
            **dict(made_outcome()),
            **dict(metrics.evaluate({k: p for k, p in parts.items() if k != "train"}, CLASSES)),
        ),
    )


def save_finished(store: Store, record: RunRecord) -> None:
    """A record with the predictions that it rests on."""
    parts = made_predictions(record.run)
    store.save_predictions(record.run, {k: p for k, p in parts.items() if k != "train"})
    store.save(record)


def failed_record(recipe: str = "vgg19", reason: str = "killed (signal 9)") -> RunRecord:
    failed = Failed(reason=reason, log_tail=("last words",))
    return RunRecord(run=made_run(recipe), profile="quick", data=SUMMARY, result=failed)


@dataclass
class StandIn:
    """A launcher without a process: writes predictions as a worker would, or fails as told."""

    fails: Mapping[str, ProcessResult | BaseException] = field(default_factory=dict)
    launched: list[str] = field(default_factory=list)
    stopped: bool = False
    before_writing: Callable[[], object] = lambda: None

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None: ...

    def __call__(
        self, job: Job, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> ProcessResult:
        self.launched.append(job.run.recipe)
        report(PhaseEvent(name="features", steps=100))
        fate = self.fails.get(job.run.recipe)
        if isinstance(fate, BaseException):
            raise fate
        if fate is not None:
            return fate
        if (Path(job.data) / "labels.npy").exists():
            dataset = open_dataset(Path(job.data))
            ids = dict(vars(split_indices(job.run.split, dataset)))
            parts = made_predictions(job.run, ids, dataset.labels)
        else:
            parts = made_predictions(job.run)
        written = {k: p for k, p in parts.items() if k != "shifted" or job.shifted}
        outcome = made_outcome()

        def write(folder: Path) -> None:
            write_predictions(folder / PREDICTIONS, written)
            write_outcome(folder, outcome)

        self.before_writing()
        write_or_keep(job, write)
        return ProcessResult("finished", outcome=outcome)


class Recorder(ProgressCallback):
    """Remembers the progress of a sweep."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.events: list[tuple[str, Event]] = []
        self.messages: dict[str, str] = {}

    def on_sweep_begin(self) -> None:
        self.calls.append("begin")

    def on_event(self, planned: PlannedRun, event: Event) -> None:
        self.events.append((planned.recipe.name, event))

    def on_run_end(self, planned: PlannedRun, record: RunRecord | None, message: str) -> None:
        self.messages[planned.recipe.name] = message

    def on_sweep_end(self) -> None:
        self.calls.append("end")

    def phase_names(self) -> list[str]:
        return [event.name for _, event in self.events if isinstance(event, PhaseEvent)]


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()
