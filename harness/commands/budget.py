"""``--budget``: the largest subset of the images on which all runs are estimated to end in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

from harness.commands.resolve import Experiment
from harness.data.splitting import split_indices
from harness.schema.dataset import DataSummary, Subset
from harness.schema.records import Finished, RunRecord
from harness.sweep import estimates, planner
from harness.sweep.planner import PlannedRun

FEWEST = 40
"""Training images of a class, on average; of validation and test a quarter."""
TYPICAL_F1 = 0.9
"""Assumed where no network has been measured yet."""
DETECTABLE = 1.96 + 0.84
"""Standard deviations that a two-sided test at 5 % shows with a power of 80 %."""


def fit_to_budget(
    experiment: Experiment, budget: float, report: Callable[[str], object]
) -> Experiment:
    """The experiment on the largest subset whose pending runs fit ``budget`` seconds.

    Test images come first, since they decide how small a difference is found. A board that was
    begun on another subset goes on if the rest of it fits, unless twice as many images do.
    ``report`` receives what is chosen, in words. Raises ConfigError, StoreError.
    """
    records, runs = experiment.store.records(), _runs(experiment)

    def fits(subset: Subset) -> bool:
        return _seconds(experiment, runs, subset, records) <= budget

    sizes = largest_subset(experiment.summary, fits)
    begun = _begun(experiment, budget, records)
    if begun is not None and 2 * begun.test >= sizes.test and 2 * begun.train >= sizes.train:
        sizes = begun
    fitted = _with_subset(experiment, sizes)
    data, whole = fitted.summary, experiment.summary
    report(
        f"budget: {data.train:,} of {whole.train:,} training, {data.validation:,} of "
        f"{whole.validation:,} validation and {data.test:,} of {whole.test:,} test images"
    )
    points = 100 * smallest_difference(fitted, records)
    report(
        f"smallest detectable difference: about {points:.1f} points of macro F1 between two "
        "networks with independent errors, less where they err on the same images"
    )
    return fitted


def largest_subset(whole: DataSummary, fits: Callable[[Subset], bool]) -> Subset:
    """The most test images that fit together with the fewest others, then the most others.

    Validation grows with training. Where even the smallest subset does not fit, that one.
    """
    train = min(whole.train, FEWEST * len(whole.class_names))
    fewest = [min(size, train // 4) for size in (whole.validation, whole.test)]

    def validation(train: int) -> int:
        return max(fewest[0], whole.validation * train // whole.train)

    def sized(train: int, test: int) -> Subset:
        return Subset(train=train, validation=max(1, validation(train)), test=test)

    test = _largest(fewest[1], whole.test, lambda count: fits(sized(train, count)))
    train = _largest(train, whole.train, lambda count: fits(sized(count, test)))
    return sized(train, test)


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest number that fits, of two digits unless it is an end; else ``low``."""
    if fits(high):
        return high
    least = low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    unit = 10 ** max(0, len(str(low)) - 2)
    return max(least, low // unit * unit)


def smallest_difference(experiment: Experiment, records: Sequence[RunRecord]) -> float:
    """Of macro F1 between two networks with independent errors, by the spread of those so far."""
    test = experiment.summary.test
    spreads = [
        record.result.test.macro_f1_sd * math.sqrt(record.result.test.images)
        for record in records
        if isinstance(record.result, Finished)
        and record.run.data == experiment.data.dataset.fingerprint
    ]
    spread = median(spreads) if spreads else math.sqrt(TYPICAL_F1 * (1 - TYPICAL_F1))
    return DETECTABLE * math.sqrt(2) * spread / math.sqrt(test)


def _begun(experiment: Experiment, budget: float, records: Sequence[RunRecord]) -> Subset | None:
    """The subset of a board that was begun and can be completed within the budget."""
    split = experiment.benchmark.split
    subsets = {
        record.run.split.subset
        for record in records
        if record.run.data == experiment.data.dataset.fingerprint
        and record.run.split.subset is not None
        and record.run.split.model_copy(update={"subset": split.subset}) == split
    }
    for subset in sorted(subsets, key=lambda s: (-s.test, -s.train)):
        pending = planner.find_pending(_runs(_with_subset(experiment, subset)), experiment.store)
        if pending and _seconds(experiment, pending, subset, records) <= budget:
            return subset
    return None


def _seconds(
    experiment: Experiment,
    pending: Sequence[PlannedRun],
    subset: Subset,
    records: Sequence[RunRecord],
) -> float:
    """Until the last of these runs ends, on so many images."""
    data = experiment.summary.model_copy(update=subset.model_dump())
    devices = experiment.settings.devices
    shift = experiment.benchmark.sweep.shift
    by_run = estimates.estimate_all(pending, data, records, devices[0], shift)
    seconds = sorted(by_run.values(), reverse=True)
    return max(estimates.end_times(seconds, len(devices)), default=0.0)


def _runs(experiment: Experiment) -> tuple[PlannedRun, ...]:
    return planner.plan_runs(
        experiment.benchmark, experiment.recipes, experiment.data.dataset, experiment.weights
    )


def _with_subset(experiment: Experiment, subset: Subset) -> Experiment:
    """The same experiment on fewer images; on all of them it is the same."""
    whole = experiment.summary
    if (subset.train, subset.validation, subset.test) == (
        whole.train,
        whole.validation,
        whole.test,
    ):
        return experiment
    split = experiment.benchmark.split.model_copy(update={"subset": subset})
    benchmark = experiment.benchmark.model_copy(update={"split": split})
    parts = split_indices(split, experiment.data.dataset)
    return replace(
        experiment,
        settings=replace(experiment.settings, benchmark=benchmark),
        parts=parts,
        summary=planner.summarise(experiment.data.dataset, parts),
    )
