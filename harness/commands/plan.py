"""Second step: what is pending of an experiment, and how long it takes; what ``plan`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.filesize import decimal
from tabulate import tabulate

from harness.commands.budget import fit_to_budget
from harness.commands.console import plain_console
from harness.commands.resolve import Experiment, Request, resolve
from harness.commands.settings import cache_folder
from harness.schema.augmentation import EpochCacheSettings
from harness.schema.records import RunRecord
from harness.schema.run import Run
from harness.storage.download import Download
from harness.sweep import estimates, planner
from harness.sweep.planner import PlannedRun
from harness.sweep.progress import duration


@dataclass(frozen=True)
class Plan:
    experiment: Experiment
    runs: tuple[PlannedRun, ...]
    pending: tuple[PlannedRun, ...]
    """Those of ``runs`` that are not done, longest first."""
    seconds: dict[str, float]
    """Id of a pending run -> its estimated duration."""
    epoch_cache: EpochCacheSettings | None

    @property
    def counts(self) -> str:
        """How many runs are done and pending, in words."""
        pending, offline = len(self.pending), sum(map(self._is_done_offline, self.pending))
        words = f"{len(self.runs) - pending} done, {pending} pending"
        if offline:
            words += f" (without a network: {offline} of these done, with random weights)"
        return words

    def _is_done_offline(self, planned: PlannedRun) -> bool:
        """Whether a run is done with the random weights that it starts from without a network."""
        weights = self.experiment.weights[planned.recipe.name].offline
        if weights is None:
            return False
        run = Run.model_validate({**planned.run.model_dump(), "weights": weights})
        record = self.experiment.store.find(run)
        return record is not None and record.finished

    @property
    def missing_weights(self) -> list[Download]:
        """Weights of pending runs that are to be downloaded."""
        weights = self.experiment.weights
        return [file for run in self.pending for file in weights[run.recipe.name].missing]

    def finished_records(self) -> list[RunRecord]:
        """Records of the runs that have finished by now."""
        records = (self.experiment.store.find(planned.run) for planned in self.runs)
        return [record for record in records if record is not None and record.finished]

    def finished_runs(self) -> list[Run]:
        return [record.run for record in self.finished_records()]


def make_plan(experiment: Experiment, console: Console) -> Plan:
    """The experiment's runs, and which of them are pending. Raises ConfigError, StoreError."""
    runs = planner.plan_runs(
        experiment.benchmark, experiment.recipes, experiment.data.dataset, experiment.weights
    )
    return plan_of(experiment, runs, console)


def plan_of(experiment: Experiment, runs: tuple[PlannedRun, ...], console: Console) -> Plan:
    """Which of these runs are pending. Raises ConfigError, StoreError."""
    benchmark, store = experiment.benchmark, experiment.store
    pending = planner.find_pending(
        runs, store, retry_failed=experiment.request.retry_failed, report=console.print
    )
    seconds = estimates.estimate_all(
        pending,
        experiment.summary,
        store.records(),
        experiment.settings.devices[0],
        benchmark.sweep.shift,
    )
    return Plan(
        experiment=experiment,
        runs=runs,
        pending=tuple(sorted(pending, key=lambda planned: -seconds[planned.run.id])),
        seconds=seconds,
        epoch_cache=planner.epoch_cache_settings(
            benchmark, experiment.summary, cache_folder() / "epochs"
        ),
    )


def show_plan(request: Request) -> None:
    """Print what is pending and about how long it takes, and what of it fits the budget."""
    console, budget = plain_console(), request.budget
    experiment = resolve(request, console, download=False)
    if budget is not None:
        report = partial(console.print, soft_wrap=True, markup=False)
        experiment = fit_to_budget(experiment, budget, report)
    plan = make_plan(experiment, console)
    settings = plan.experiment.settings
    devices = len(settings.devices)
    console.print(f"{settings.profile} profile: {settings.profile_reason}")
    console.print(f"{plan.counts}, on {settings.devices[0].name}")
    if not plan.pending:
        return
    fitting = plan.pending
    if budget is not None:
        fitting = estimates.within_budget(budget, plan.pending, plan.seconds, devices)
    console.print(plan_table(plan, fitting), soft_wrap=True, markup=False)
    if fitting:
        seconds = [plan.seconds[planned.run.id] for planned in fitting]
        total = duration(max(estimates.end_times(seconds, devices)))
        console.print(f"about {total} in all, if no phase stops early")
    print_missing_weights([plan], console)
    if len(fitting) < len(plan.pending):
        left_out = len(plan.pending) - len(fitting)
        console.print(f"{left_out} left out, which do not fit {duration(budget or 0)}")
        if fitting:
            names = " ".join(dict.fromkeys(planned.recipe.name for planned in fitting))
            console.print(f"those that fit: wbc-bench run {names}", soft_wrap=True)


def print_missing_weights(plans: Sequence[Plan], console: Console) -> None:
    """Say how much the pending runs of these plans would download, if anything."""
    missing = {file.path: file.size for plan in plans for file in plan.missing_weights}
    if missing:
        console.print(
            f"about {decimal(sum(missing.values()))} of weights to be downloaded "
            f"to {next(iter(missing)).parent}",
            soft_wrap=True,
        )


def plan_table(plan: Plan, fitting: Sequence[PlannedRun]) -> str:
    records = plan.experiment.store.records()
    device = plan.experiment.settings.devices[0].name
    fitting_ids = {planned.run.id for planned in fitting}
    rows = []
    for planned in plan.pending:
        memory = estimates.memory_mb(planned, records, device)
        rows.append(
            {
                "recipe": planned.recipe.name,
                "variant": planned.variant or "–",
                "seed": planned.run.seed,
                "weights": planned.run.weights.source,
                "about": duration(plan.seconds[planned.run.id]),
                "memory (MiB)": "?" if memory is None else f"{memory:,.0f}",
                "disk (MiB)": f"{estimates.disk_mb(planned, plan.experiment.summary):,.0f}",
                "note": planned.note
                if planned.run.id in fitting_ids
                else "left out: over the budget",
            }
        )
    return tabulate(rows, headers="keys", disable_numparse=True)
