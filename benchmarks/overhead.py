"""What the harness costs over the bare training loop, and how long the light verbs take.

    python benchmarks/overhead.py

A run of one small recipe, and where its seconds went: the command, its child process, the
framework's start, building, training with its epochs, evaluation. What is left of the child's are
the harness's own around them: reading the images, artefacts, the record; training less its epochs
is what it does between them. Then ``--help``, and ``leaderboard`` over 1,000 records.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.schema.records import Finished
from harness.schema.run import Run
from harness.storage.records import Store

WBC = [sys.executable, "-m", "harness.cli"]


def seconds(*command: str, times: int = 5) -> float:
    """Median wall seconds of a command, after one that does not count."""
    taken = []
    for _ in range(times + 1):
        begin = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[1:])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        options = ["--results", str(results), "--config", str(settings(Path(folder)))]
        begin = time.perf_counter()
        subprocess.run(
            [*WBC, "run", "mobilenet", "--profile", "full", "--data", "smear@2000", *options],
            check=True,
            capture_output=True,
        )
        whole = time.perf_counter() - begin
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

        many = Path(folder) / "many"
        copies(Store(results), record.run, Store(many), count=1000)
        print(f"--help                 {seconds(*WBC, '--help'):7.2f} s")
        begin = time.perf_counter()
        tables = [*WBC, "leaderboard", "--results", str(many)]
        subprocess.run(tables, check=True, capture_output=True)
        took = time.perf_counter() - begin
        print(f"leaderboard, 1,000     {took:7.2f} s the first time, with its figures")
        took = seconds(*tables)
        print(f"  tables and page      {took:7.2f} s when the figures are drawn")


def settings(folder: Path) -> Path:
    path = folder / "settings.toml"
    path.write_text(
        '[weights]\nsource = "random"\n[profile.full.protocol.from_scratch]\nepochs = 4\n'
    )
    return path


def copies(source: Store, run: Run, into: Store, count: int) -> None:
    """The run's record and predictions once a seed."""
    (record,), parts = source.records(), source.predictions(run)
    for seed in range(count):
        # Validated and not copied: a copy would keep the id.
        other = Run.model_validate(run.model_dump() | {"seed": seed})
        into.save_predictions(other, parts)
        into.save(record.model_copy(update={"run": other}))


if __name__ == "__main__":
    main()
