"""How far the estimates of `wbc-bench plan` are from what the runs then took.

    python benchmarks/plan.py [RESULTS]

For each finished run of a results folder (default: results/), what the estimate would have been
on its machine before the run was made, three times, each with less to go by: with all records
but its own; with the rate that the run itself measured, and nothing else; and with no record at
all. Against the seconds of its process, which shared the device with others where the sweep had
several slots. A ratio above 1: the estimate was too long.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from harness.schema.predictions import EVERY_SHIFT
from harness.schema.records import Finished, RunRecord
from harness.schema.run import Shift
from harness.storage.records import Store
from harness.sweep import estimates
from harness.sweep.planner import PlannedRun
from zoo.registry import find

CASES = ("without it", "its rate alone", "no records")


def main() -> None:
    parser = argparse.ArgumentParser(description="Estimates of wbc-bench plan, and what it took.")
    parser.add_argument("results", nargs="?", type=Path, default=Path("results"))
    store = Store(parser.parse_args().results)
    records = [record for record in store.records() if record.finished]
    if not records:
        raise SystemExit(f"{store.root}: no finished runs")
    print(f"{'run':32}{'took':>9}  " + "".join(f"{case:>24}" for case in CASES))
    ratios: dict[str, list[float]] = {case: [] for case in CASES}
    for record in records:
        assert isinstance(record.result, Finished)
        took, cells = record.result.timings.total, []
        for case, known in zip(CASES, knowledge(record, records), strict=True):
            about = estimate(record, known, shift(store, record))
            ratios[case].append(about / took)
            cells.append(f"{about:12.1f} s, x {about / took:5.2f}")
        name = f"{record.run.recipe}, seed {record.run.seed}"
        print(f"{name:32}{took:7.1f} s  " + "".join(f"{cell:>24}" for cell in cells))
    for case, found in ratios.items():
        factors = [max(ratio, 1 / ratio) for ratio in found]
        print(
            f"{case}: median ratio {statistics.median(found):.2f}, median factor "
            f"{statistics.median(factors):.2f}, worst factor {max(factors):.2f}"
        )


def knowledge(
    record: RunRecord, records: Sequence[RunRecord]
) -> tuple[Sequence[RunRecord], Sequence[RunRecord], Sequence[RunRecord]]:
    """The records that each case has to go by."""
    return [other for other in records if other.run.id != record.run.id], [record], []


def estimate(record: RunRecord, known: Sequence[RunRecord], shifted: Shift) -> float:
    """Seconds that plan would have estimated, on the machine that the record is from."""
    result = record.result
    assert isinstance(result, Finished)
    one = PlannedRun(record.run, find(record.run.recipe), (None,), record.note)
    device, cores = result.cost.throughput.device, result.environment.cores
    guess = cores * estimates.CORE_SPEED
    return estimates.estimate_seconds(one, record.data, known, device, guess, shifted)


def shift(store: Store, record: RunRecord) -> Shift:
    """Which shifted images the run predicted, by its stored predictions."""
    assert isinstance(record.result, Finished)
    if record.result.shifted is None:
        return "none"
    return "full" if EVERY_SHIFT in store.predictions(record.run) else "mixed"


if __name__ == "__main__":
    main()
