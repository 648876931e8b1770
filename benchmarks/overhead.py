"""What the harness costs over the bare training loop, and how long light subcommands take.

    python benchmarks/overhead.py

The seconds of a run of one small recipe: of the command, its child process, the framework's start,
building, training with its epochs, and evaluation. The rest of the child process is the harness
itself: reading the images, writing the artefacts. Then the share of a run's CPU time in which it
does not hold its device, so that it may disturb what another run measures; ``--help``; and
``leaderboard`` of 1,000 records.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from harness.commands.data import prepare
from harness.commands.settings import DataOptions, load_settings
from harness.execution.energy import EnergyMeter
from harness.execution.locks import DeviceLock
from harness.execution.monitor import ResourceMonitor
from harness.schema.records import Finished
from harness.schema.run import Device, Job, Run, Weights
from harness.storage.records import Store

WBC = [sys.executable, "-m", "harness.cli"]


def seconds(*command: str, times: int = 5) -> float:
    """Median wall seconds of a command, after one call that is not counted."""
    measured = []
    for _ in range(times + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        measured.append(time.perf_counter() - start)
    return statistics.median(measured[1:])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        options = ["--results", str(results), "--config", str(settings(Path(folder)))]
        start = time.perf_counter()
        subprocess.run(
            [*WBC, "run", "mobilenet", "--profile", "full", "--data", "smear@2000", *options],
            check=True,
            capture_output=True,
        )
        whole = time.perf_counter() - start
        (record,) = Store(results).records()
        assert isinstance(record.result, Finished)
        timings = record.result.timings
        inside = timings.training + timings.evaluation
        epochs = sum(line.seconds for line in record.result.history)
        print(f"whole command          {whole:7.1f} s")
        print(f"  worker process       {timings.total:7.1f} s")
        print(f"  framework's start    {timings.start:7.1f} s")
        print(f"  building the network {timings.build:7.1f} s")
        print(f"  training             {timings.training:7.1f} s, of it in epochs {epochs:.1f} s")
        print(f"  evaluation           {timings.evaluation:7.1f} s")
        around = timings.total - timings.start - timings.build - inside
        print(f"harness around training {around:6.1f} s, {around / inside:.1%} of it")

        print(
            f"without its device     {share_without_device(Path(folder)):7.1%} of a run's CPU time"
        )
        copied = Path(folder) / "copied"
        copies(Store(results), record.run, Store(copied), count=1000)
        print(f"--help                 {seconds(*WBC, '--help'):7.2f} s")
        start = time.perf_counter()
        tables = [*WBC, "leaderboard", "--results", str(copied)]
        subprocess.run(tables, check=True, capture_output=True)
        first = time.perf_counter() - start
        print(f"leaderboard, 1,000     {first:7.2f} s the first time, with its figures")
        print(f"  tables and page      {seconds(*tables):7.2f} s when the figures exist")


def share_without_device(folder: Path) -> float:
    """Of the CPU time of a run, the start of its framework left out."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    from harness.training.job import execute

    loaded = load_settings(DataOptions("smear@900", settings(folder), "full"))
    data = prepare(loaded)
    benchmark = loaded.benchmark
    run = Run(
        recipe="lite0", weights=Weights(source="random"), protocol=benchmark.protocol,
        data=data.dataset.fingerprint, split=benchmark.split,
    )  # fmt: skip
    job = Job(
        run=run, data=str(data.folder), weights=(None,), output=str(folder / "run"),
        device=Device("cpu", "CPU"),
    )  # fmt: skip
    Path(job.output).mkdir()
    held, timed = 0.0, DeviceLock._timed

    @contextmanager
    def counted(device_lock: DeviceLock) -> Iterator[None]:
        nonlocal held
        start = time.process_time()
        with timed(device_lock):
            yield
        held += time.process_time() - start

    monitor = ResourceMonitor(EnergyMeter.of_device("cpu"), lambda _: None)
    with patch.object(DeviceLock, "_timed", counted), monitor:
        start = time.process_time()
        execute(job, DeviceLock("cpu", folder), monitor, lambda _: None, time.perf_counter())
        return 1 - held / (time.process_time() - start)


def settings(folder: Path) -> Path:
    path = folder / "settings.toml"
    path.write_text(
        '[weights]\nsource = "random"\n[profile.full.protocol.from_scratch]\nepochs = 4\n'
    )
    return path


def copies(source: Store, run: Run, into: Store, count: int) -> None:
    """Copy the run's record and predictions, once for each seed."""
    (record,), parts = source.records(), source.predictions(run)
    for seed in range(count):
        # Validated, not copied: model_copy would keep the id of the original.
        copy = Run.model_validate(run.model_dump() | {"seed": seed})
        into.save_predictions(copy, parts)
        into.save(record.model_copy(update={"run": copy}))


if __name__ == "__main__":
    main()
