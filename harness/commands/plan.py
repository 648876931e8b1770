"""What ``plan`` does: say what is pending, how long it takes, and what fits a budget."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from harness.commands.resolve import Experiment, Request, resolve
from harness.sweep import planner
from harness.sweep.planner import PlannedRun


def show_plan(request: Request, budget: float | None = None) -> int:
    """Print what is pending, about how long it takes, and what of it fits ``budget`` seconds."""
    from harness.sweep.progress import clock

    console = Console()
    wanted = resolve(request, console, fetch=False)
    seconds, machines = estimates(wanted), len(wanted.devices)
    done = len(wanted.planned) - len(wanted.pending)
    console.print(f"{wanted.profile} profile: {wanted.why}")
    console.print(f"{done} done, {len(wanted.pending)} pending, on {wanted.devices[0].name}")
    if not wanted.pending:
        return 0
    fits = wanted.pending
    if budget is not None:
        fits = planner.within_budget(budget, wanted.pending, seconds, machines)
    console.print(_plan_table(wanted, seconds, fits), soft_wrap=True, markup=False)
    if fits:
        total = max(planner.end_times([seconds[one.run.id] for one in fits], machines))
        console.print(f"about {clock(total)} for {len(fits)} runs, if no phase stops early")
    if len(fits) < len(wanted.pending):
        left_out = len(wanted.pending) - len(fits)
        console.print(f"{left_out} left out, which do not fit {clock(budget or 0)}")
        if fits:
            names = " ".join(dict.fromkeys(one.recipe.name for one in fits))
            console.print(f"those that fit: wbc-bench run {names}", soft_wrap=True)
    return 0


def _plan_table(wanted: Experiment, seconds: dict[str, float], fits: Sequence[PlannedRun]) -> str:
    from tabulate import tabulate

    from harness.sweep.progress import clock

    records, device = wanted.store.records(), wanted.devices[0].name
    kept = {one.run.id for one in fits}
    rows = []
    for one in wanted.pending:
        memory = planner.memory_mb(one, records, device)
        rows.append(
            [
                one.recipe.name,
                one.variant or "–",
                one.run.seed,
                one.run.weights.source,
                clock(seconds[one.run.id]),
                "?" if memory is None else f"{memory:,.0f}",
                f"{planner.disk_mb(one, wanted.data):,.0f}",
                one.note if one.run.id in kept else "left out: over the budget",
            ]
        )
    heads = ["recipe", "variant", "seed", "weights", "about", "memory (MiB)", "disk (MiB)", "note"]
    return tabulate(rows, heads, disable_numparse=True)


def estimates(wanted: Experiment) -> dict[str, float]:
    device, shift = wanted.devices[0], wanted.benchmark.sweep.shift
    return planner.estimates(wanted.pending, wanted.data, wanted.store.records(), device, shift)
