"""What a sweep itself costs: for each run, on 1 to 8 slots or workers, and in checkpoints.

    python benchmarks/sweep.py [RUNS]

The trainer is a stand-in that sleeps 50 ms and writes predictions of 320 images, so what is
measured is claims, processes' traffic, scoring, records and their syncing to disk. Efficiency is
the runs' own time over the time of all slots. Processor time, which other programs do not change,
is this process's: with threads the stand-in's too, with Dask not the workers'. Then the seconds
that a checkpoint takes, which are what ``sweep.checkpoint_seconds`` has to be weighed against.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from harness.execution.devices import Device
from harness.execution.processes import ProcessResult
from harness.schema.dataset import DataSummary, Split
from harness.schema.events import Event, PhaseEvent
from harness.schema.predictions import Predictions
from harness.schema.protocol import Protocol
from harness.schema.records import Cost, Environment, Outcome, Throughput, Timings
from harness.schema.run import Job, Run, Weights
from harness.storage.predictions import write_predictions
from harness.storage.records import PREDICTIONS, Store
from harness.sweep.planner import PlannedRun
from harness.sweep.scheduler import Launcher, SweepContext, sweep
from harness.training.checkpoint import TIME_SHARE, Checkpoint, CheckpointManager
from harness.training.schedule import ScheduleState
from zoo.registry import find

SECONDS = 0.05
CLASSES = tuple("abcdefgh")
SUMMARY = DataSummary(
    name="made-up", images=640, image_size=80, class_names=CLASSES, train=320, validation=80,
    test=240,
)  # fmt: skip
OUTCOME = Outcome(
    cost=Cost(
        parameters=1, trainable_parameters=1, multiply_adds=1, peak_memory_mb=1,
        throughput=Throughput(
            median=1, p5=1, p95=1, batches=5, batch_size=32, precision="float32",
            device="stand-in", exclusive=True,
        ),
    ),
    timings=Timings(start=0, build=0, training=SECONDS, evaluation=0, total=SECONDS),
    environment=Environment(
        wbc_bench="-", python="-", keras="-", backend="-", numpy="-", platform="-", cores=1
    ),
    history=(),
)  # fmt: skip


class Sleeper:
    """A launcher whose runs do nothing, in a known time."""

    def stop(self) -> None: ...
    def close(self) -> None: ...

    def __call__(
        self, job: Job, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> ProcessResult:
        report(PhaseEvent(name="frozen", steps=1))
        time.sleep(SECONDS)
        write_predictions(Path(job.output) / PREDICTIONS, made_up(job.run.seed))
        return ProcessResult("finished", outcome=OUTCOME)


def made_up(seed: int) -> dict[str, Predictions]:
    rng, parts = np.random.default_rng(seed), {}
    for name, count in (("train", 320), ("validation", 80), ("test", 240)):
        raw = rng.random((count, 8)).astype(np.float32)
        parts[name] = Predictions(
            np.arange(count), np.arange(count) % 8, raw / raw.sum(axis=1, keepdims=True)
        )
    return parts


def planned(count: int) -> list[PlannedRun]:
    run = Run(
        recipe="lite0", weights=Weights(source="random"), protocol=Protocol(), data="0" * 16,
        split=Split(),
    )  # fmt: skip
    runs = [run.model_copy(update={"seed": seed}) for seed in range(count)]
    return [PlannedRun(each, find("lite0"), (None,), "") for each in runs]


def measure(what: str, count: int, slots: int, launcher: Launcher) -> None:
    with tempfile.TemporaryDirectory() as folder:
        context = SweepContext(
            Store(Path(folder)),
            Path(folder),
            SUMMARY,
            "quick",
            lambda: (Device("cpu", "-"),) * slots,
        )
        runs, began, busy = planned(count), time.perf_counter(), time.process_time()
        summary = sweep(runs, context, launcher)
        took, busy = time.perf_counter() - began, time.process_time() - busy
    assert summary.finished == count
    own = count * SECONDS / slots
    each = (took - own) / count
    print(
        f"{what:22} {took:7.1f} s  {1000 * each:6.1f} ms a run, "
        f"{1000 * busy / count:5.1f} of processor  efficiency {own / took:5.0%}"
    )


def checkpoints() -> None:
    """Weights, two moments of Adam and the best weights, of three sizes of network."""
    state = ScheduleState(learning_rate=1e-3, epoch=3, best_epoch=2)
    for name in ("lite0", "efficientnetv2s", "efficientnetv2l"):
        parameters = find(name).parameters
        arrays = {str(i): np.random.default_rng(i).random(parameters, np.float32) for i in range(4)}
        with tempfile.TemporaryDirectory() as folder:
            manager = CheckpointManager(Path(folder), {}, interval=0)
            manager.save("fine-tuning", Checkpoint(state, (), arrays))
            size = (Path(folder) / "checkpoint").stat().st_size / 1e6
            began = time.perf_counter()
            assert manager.load("fine-tuning") is not None
            read = time.perf_counter() - began
        share = manager.seconds / max(30, manager.seconds / TIME_SHARE)
        print(
            f"checkpoint, {name:16} {size:6,.0f} MB  written in {manager.seconds:5.2f} s, "
            f"read in {read:5.2f} s; at most {share:.1%} of the time"
        )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for slots in (1, 2, 4, 8):
        measure(f"threads, {slots} slots", count, slots, Sleeper())
    try:
        from distributed import LocalCluster
    except ImportError:
        print("cluster: distributed is not installed")
    else:
        from harness.sweep.cluster import Cluster, connect

        for workers in (1, 2, 4, 8):
            with (
                tempfile.TemporaryDirectory() as images,
                LocalCluster(
                    n_workers=workers, threads_per_worker=1, dashboard_address=":0"
                ) as local,
            ):
                there = Cluster(connect(local.scheduler_address), Path(images), partial(Sleeper))
                measure(f"Dask, {workers} workers", count, len(there.slots()), there)
                there.close()
    checkpoints()


if __name__ == "__main__":
    main()
