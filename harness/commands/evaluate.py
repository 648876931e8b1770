"""Fourth step: what is computed from finished runs, the pixel baseline and the ensembles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from rich.console import Console

from harness.commands.plan import Plan
from harness.commands.resolve import Experiment
from harness.data.shifted_test import get_or_corrupt, open_shifted
from harness.ensembling import builder
from harness.ensembling.members import group_members
from harness.errors import UserError
from harness.schema.records import Rule
from harness.training import pixel_baseline


def corrupted_test(experiment: Experiment, console: Console) -> Path | None:
    """The file with the corrupted test images, made once; None with ``shift = "none"``."""
    mode, data = experiment.benchmark.sweep.shift, experiment.data
    if mode == "none":
        return None
    with console.status("corrupting a copy of the test images"):
        return get_or_corrupt(
            data.folder, data.dataset, experiment.parts.test, experiment.benchmark.split, mode
        )


def evaluate(plan: Plan, console: Console) -> tuple[str, ...]:
    """Add pixel baselines and, with ``--all``, the listed ensembles; what was left out, and why."""
    _add_pixel_baselines(plan, console)
    if not plan.experiment.request.everything:
        return ()
    return tuple(_add_ensembles(plan, console))


def _add_pixel_baselines(plan: Plan, console: Console) -> None:
    """One for each protocol that has a finished run."""
    experiment = plan.experiment
    store, shifted = experiment.store, experiment.benchmark.sweep.shift != "none"
    run_of_protocol = {run.protocol: run for run in reversed(plan.finished_runs())}
    missing = [
        run for run in run_of_protocol.values() if not pixel_baseline.exists(store, run, shifted)
    ]
    if not missing:
        return
    dataset, parts = experiment.data.dataset, experiment.parts
    path = corrupted_test(experiment, console)
    corrupted = (
        open_shifted(path, dataset, parts.test, experiment.benchmark.split) if path else None
    )
    board = experiment.settings.profile, experiment.summary
    for run in missing:
        pixel_baseline.add(store, run, dataset, parts, board, corrupted)


def _add_ensembles(plan: Plan, console: Console) -> Iterator[str]:
    """Fit the ensembles of the settings file that are new; yields what was left out, and why."""
    settings, store = plan.experiment.benchmark.ensembles, plan.experiment.store
    ensembles: list[tuple[tuple[str, ...], Sequence[Rule]]]
    ensembles = [(members, settings.rules or builder.RULES) for members in settings.members]
    if settings.search:
        ensembles.append(((), builder.SEARCH_RULES))
    run_of_protocol = {planned.run.protocol: planned.run for planned in plan.runs}
    for (members, rules), run in product(ensembles, run_of_protocol.values()):
        name = " + ".join(members)
        try:
            with console.status(f"ensembles of {name or 'all networks'}"):
                fitted = [
                    builder.fit_ensembles(group, rules, pending=True)
                    for group in group_members(store, members, run)
                ]
        except UserError as error:
            yield f"ensemble {name or 'search'}: left out: {error}"
            continue
        for rule, reason in (left_out for one in fitted for left_out in one.left_out):
            yield f"ensemble {name or 'search'}, {rule}: left out: {reason}"
