"""What ``run`` does: resolve, plan, sweep, evaluate, write the tables."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from rich.console import Console

from harness.commands.plan import estimates
from harness.commands.resolve import Experiment, Request, resolve
from harness.data.image_cache import open_dataset
from harness.data.shifted_test import get_or_corrupt, open_shifted
from harness.data.splitting import split_indices
from harness.ensembling import builder
from harness.errors import UserError
from harness.execution import devices
from harness.schema.records import Rule
from harness.storage.records import Store
from harness.sweep import tensorboard
from harness.sweep.planner import PlannedRun
from harness.sweep.scheduler import Launcher, SweepContext, sweep
from harness.training import pixel_baseline


def run(request: Request) -> int:
    """Run what is pending, write the tables; 1 if a run failed, 2 if some input was wrong."""
    from harness.reporting.publish import write_tables
    from harness.sweep.progress import progress_callback

    console, with_curves = Console(), tensorboard.with_tensorboard(request.tensorboard)
    wanted = resolve(request, console, fetch=True)
    _announce(wanted, console)
    settings = wanted.benchmark.sweep
    shifted = _shifted(wanted, console) if wanted.pending else None
    launcher, slots = _engine(request, wanted, shifted)
    setting = SweepContext(
        store=wanted.store,
        data_folder=wanted.data_folder,
        data=wanted.data,
        profile=wanted.profile,
        slots=slots,
        shifted=shifted,
        backend=wanted.benchmark.backend,
        checkpoint_seconds=settings.checkpoint_seconds,
        epochs=wanted.epochs,
    )
    try:
        with progress_callback(
            console, wanted.pending, estimates(wanted), len(wanted.devices)
        ) as watch:
            summary = sweep(wanted.pending, setting, launcher, with_curves(watch))
        _lay_floor(wanted, console)
        if request.everything:
            _convene(wanted, console)
    finally:  # Interrupted or not, the tables tell what has finished.
        launcher.close()
        table, *_ = write_tables(request.results)
        _draw_figures(wanted)
        for one in wanted.planned:  # Of one that was killed between its record and this.
            if _is_finished(wanted.store, one):
                wanted.store.drop_checkpoints(one.run)
    for line in dict.fromkeys(summary.wrong_input):
        Console(stderr=True).print(f"wbc-bench: {line}", soft_wrap=True, markup=False)
    failed = sum(not _is_finished(wanted.store, one) for one in wanted.planned)
    console.print(f"\nThe leaderboard: [bold]{table}[/bold]", soft_wrap=True)
    if summary.wrong_input:
        return 2
    if failed:
        console.print(f"{failed} failed; the table says why, --retry-failed tries again")
    return 1 if failed else 0


def _engine(
    request: Request, wanted: Experiment, shifted: Path | None
) -> tuple[Launcher, Callable[[], Sequence[devices.Device]]]:
    """Where the runs go: child processes here, or the workers of a cluster."""
    from harness.execution.processes import WorkerProcess

    settings = wanted.benchmark.sweep
    make = partial(
        WorkerProcess, timeout=60 * settings.timeout_minutes, memory_gb=settings.memory_gb
    )
    if request.cluster is None:
        cpu_slots = max(1, min(settings.cpu_slots, len(wanted.pending)))
        return make(), partial(devices.slots, wanted.devices, cpu_slots, settings.per_gpu)
    if importlib.util.find_spec("distributed") is None:
        raise UserError("--cluster needs Dask: pip install distributed")
    from harness.sweep.cluster import Cluster, connect

    cluster = Cluster(connect(request.cluster), wanted.data_folder, make, shifted)
    return cluster, cluster.slots


def _shifted(wanted: Experiment, console: Console) -> Path | None:
    """The shifted copy of the test images, made here, once, before any worker starts."""
    mode, split = wanted.benchmark.sweep.shift, wanted.benchmark.split
    if mode == "none":
        return None
    with console.status("harming a copy of the test images"):
        dataset = open_dataset(wanted.data_folder)
        test = split_indices(split, dataset).test
        return get_or_corrupt(wanted.data_folder, dataset, test, split, mode)


def _announce(wanted: Experiment, console: Console) -> None:
    data, done = wanted.data, len(wanted.planned) - len(wanted.pending)
    console.print(f"[bold]{wanted.profile} profile[/bold]: {wanted.why}")
    if wanted.benchmark.backend != "tensorflow":
        console.print(f"Keras computes with {wanted.benchmark.backend}")
    console.print(
        f"{data.name}: {data.train:,} training, {data.validation:,} validation, "
        f"{data.test:,} test images at {data.image_size} px",
        highlight=False,
    )
    for note in sorted({one.note for one in wanted.planned if one.note}):
        noted = dict.fromkeys(one.recipe.name for one in wanted.planned if one.note == note)
        names = ", ".join(noted)
        console.print(f"[bold yellow]{note}[/bold yellow]: {names}", soft_wrap=True)
    console.print(f"{len(wanted.pending)} runs pending, {done} done", highlight=False)


def _is_finished(store: Store, one: PlannedRun) -> bool:
    record = store.find(one.run)
    return record is not None and record.finished


def _lay_floor(wanted: Experiment, console: Console) -> None:
    """The raw pixels' row, which shows what a network must at least be worth."""
    finished = [one.run for one in wanted.planned if _is_finished(wanted.store, one)]
    first = {run.protocol: run for run in reversed(finished)}
    asked = wanted.benchmark.sweep.shift != "none"
    bare = [run for run in first.values() if not pixel_baseline.is_kept(wanted.store, run, asked)]
    if bare:
        data = open_dataset(wanted.data_folder)
        split, like = wanted.benchmark.split, (wanted.profile, wanted.data)
        parts = split_indices(split, data)
        shifted = _shifted(wanted, console)
        harmed = open_shifted(shifted, data, parts.test, split) if shifted else None
        for run in bare:
            pixel_baseline.keep(wanted.store, run, data, parts, like, harmed)


def _convene(wanted: Experiment, console: Console) -> None:
    """The ensembles that the settings list, of what has finished; those that are new."""
    settings, store = wanted.benchmark.ensembles, wanted.store
    boards = {one.run.protocol: one.run for one in wanted.planned}.values()
    rules = settings.rules or builder.RULES
    tasks: list[tuple[tuple[str, ...], Sequence[Rule]]] = [(m, rules) for m in settings.members]
    tasks += [((), builder.SEARCH_RULES)] if settings.search else []
    for (members, by), like in product(tasks, boards):
        what = " + ".join(members) or "search"
        try:
            with console.status(f"ensembles of {' + '.join(members) or 'all networks'}"):
                made = [
                    builder.fit_ensembles(together, by, pending=True)
                    for together in builder.group_members(store, members, like)
                ]
        except UserError as error:
            console.print(f"ensemble {what}: left out: {error}", soft_wrap=True, markup=False)
            continue
        for rule, reason in (out for convened in made for out in convened.left_out):
            line = f"ensemble {what}, {rule}: left out: {reason}"
            console.print(line, soft_wrap=True, markup=False)


def _draw_figures(wanted: Experiment) -> None:
    """Of the finished runs among those that were pending."""
    finished = [
        record
        for one in wanted.pending
        if (record := wanted.store.find(one.run)) is not None and record.finished
    ]
    if finished:
        from harness.reporting.figures import draw

        for record in finished:
            draw(record, wanted.store.root / "figures" / "runs")
