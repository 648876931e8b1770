"""A sweep in a process of its own, with a stand-in trainer: for tests that kill it.

    python -m tests.harness.sweep.sweeper RESULTS RECIPES SEEDS SLOTS SECONDS

Each run takes about SECONDS. ``RESULTS/journal`` gets a line when a run begins and when it ends;
one that begins although its record is there says so.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.execution.devices import Device
from harness.execution.locks import artefacts_lock
from harness.execution.processes import ProcessResult
from harness.schema.events import Event
from harness.schema.run import Job
from harness.storage.records import Store
from harness.sweep.planner import PlannedRun, find_pending
from harness.sweep.scheduler import SweepContext, sweep
from tests.harness.conftest import SUMMARY, StandIn, made_planned, made_record
from zoo.registry import RECIPES


def planned_runs(recipes: int, seeds: int) -> list[PlannedRun]:
    return [made_planned(r.name, seed) for seed in range(seeds) for r in RECIPES[:recipes]]


class Slow(StandIn):
    """Takes its time, and keeps the journal."""

    def __init__(self, results: Path, seconds: float) -> None:
        super().__init__()
        self.results, self.seconds = results, seconds

    def __call__(
        self, job: Job, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> ProcessResult:
        with artefacts_lock(Path(job.output)):
            done = Store(self.results).find(job.run) is not None
            self.note("repeats" if done else "begins", job)
            time.sleep(self.seconds)
            ended = super().__call__(job, environment, report)
            self.note("ends", job)
        return ended

    def note(self, what: str, job: Job) -> None:
        line = f"{what} {job.run.id} {os.getpid()}\n".encode()
        file = os.open(self.results / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line)
        os.close(file)


def main() -> None:
    results = Path(sys.argv[1])
    recipes, seeds, slots = map(int, sys.argv[2:5])
    results.mkdir(parents=True, exist_ok=True)
    store = Store(results)
    context = SweepContext(
        store=store,
        data_folder=results,
        data=SUMMARY,
        profile="quick",
        slots=lambda: (Device("cpu", "Test CPU"),) * slots,
    )
    made_record()  # Loads scikit-learn, so that a kill hits the sweep and not an import.
    print("ready", flush=True)
    sys.stdin.readline()
    left = find_pending(planned_runs(recipes, seeds), store)
    sweep(left, context, Slow(results, float(sys.argv[5])))


if __name__ == "__main__":
    main()
