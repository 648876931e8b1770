"""What ``run`` does: resolve, plan, sweep, evaluate, write the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness.commands.budget import fit_to_budget
from harness.commands.console import plain_console
from harness.commands.evaluate import corrupted_test, evaluate
from harness.commands.plan import Plan, make_plan
from harness.commands.resolve import Experiment, Request, resolve
from harness.commands.settings import cache_folder
from harness.data.image_cache import provenance
from harness.errors import UserError
from harness.execution import compile_cache, devices, processes
from harness.execution.devices import Device
from harness.reporting.publish import write_tables
from harness.schema.dataset import ImageIdentities
from harness.storage.files import remove_leftovers
from harness.sweep.callbacks import ProgressCallback
from harness.sweep.downloads import Downloads
from harness.sweep.progress import progress_view
from harness.sweep.scheduler import Launcher, Summary, SweepContext, sweep
from harness.sweep.tensorboard import TensorBoardCallback


@dataclass(frozen=True)
class PreparedSweep:
    plan: Plan
    context: SweepContext
    launcher: Launcher
    downloads: Downloads


def run(request: Request) -> int:
    """Train what is pending and write the tables; 1 if a run failed, 2 if some input was wrong."""
    console = plain_console()
    experiment = resolve(request, console, download=True)
    remove_leftovers(experiment.store.root)
    experiment.store.set_aside_torn(partial(console.print, soft_wrap=True, markup=False))
    if request.budget is not None:
        experiment = fit_to_budget(experiment, request.budget, console.print)
    return train(make_plan(experiment, console), console)


def train(plan: Plan, console: Console) -> int:
    """Train what is pending of a plan and write the tables; the exit code of ``run``."""
    announce(plan, console)
    save_images(plan.experiment)
    with Downloads(plan.missing_weights, console) as downloads:
        prepared = prepare_sweep(plan, downloads, console)
        try:
            summary = run_sweep(prepared, console)
            left_out = evaluate(plan, console)
        except BaseException as error:  # The tables show what has finished, also now.
            with suppress(OSError, UserError):
                write(plan)
            if not isinstance(error, BrokenPipeError):
                raise
            raise UserError(
                "the output was closed, so the sweep has ended; what finished is "
                "recorded, and the same command goes on from here"
            ) from None
        leaderboard = write(plan)
    for line in left_out:
        console.print(line, soft_wrap=True, markup=False)
    return report(plan, summary, leaderboard, console)


def save_images(experiment: Experiment) -> None:
    """What identifies the images, once, for exports and imports of predictions."""
    fingerprint, origin = experiment.data.dataset.fingerprint, provenance(experiment.data.folder)
    if experiment.store.images(fingerprint) is None:
        images = ImageIdentities(origin.digests, origin.files)
        experiment.store.save_images(fingerprint, images)


def announce(plan: Plan, console: Console) -> None:
    settings, data = plan.experiment.settings, plan.experiment.summary
    profile = (f"{settings.profile} profile", "bold")
    console.print(Text.assemble(profile, f": {settings.profile_reason}"))
    if settings.benchmark.backend != "tensorflow":
        console.print(f"Keras backend: {settings.benchmark.backend}")
    console.print(
        f"{data.name}: {data.train:,} training, {data.validation:,} validation, "
        f"{data.test:,} test images at {data.image_size} px",
        highlight=False,
    )
    own = [
        planned.recipe.name for planned in plan.runs if planned.recipe.name in settings.own_recipes
    ]
    if own:
        console.print(
            f"settings of their own, on boards of their own: {', '.join(dict.fromkeys(own))}"
        )
    for note in sorted({planned.note for planned in plan.runs if planned.note}):
        names = dict.fromkeys(planned.recipe.name for planned in plan.runs if planned.note == note)
        line = Text.assemble((note, "bold yellow"), f": {', '.join(names)}")
        console.print(line, soft_wrap=True)
    console.print(plan.counts, highlight=False)


def prepare_sweep(plan: Plan, downloads: Downloads, console: Console) -> PreparedSweep:
    """Make what the runs share: the corrupted test images, and whatever starts the runs."""
    experiment = plan.experiment
    corrupted = corrupted_test(experiment, console) if plan.pending else None
    launcher, slots = _launcher(plan, corrupted)
    context = SweepContext(
        store=experiment.store,
        data_folder=experiment.data.folder,
        data=experiment.summary,
        profile=experiment.settings.profile,
        slots=slots,
        shifted=corrupted,
        backend=experiment.benchmark.backend,
        checkpoint_seconds=experiment.benchmark.sweep.checkpoint_seconds,
        epochs=plan.epoch_cache,
        compile_cache=cache_folder() / "compiled",
        has_weights=lambda planned: downloads.ready(planned.weights_files),
        unrecorded=cache_folder() / "unrecorded",
    )
    return PreparedSweep(plan, context, launcher, downloads)


def run_sweep(prepared: PreparedSweep, console: Console) -> Summary:
    """Train the pending runs and record them as they end."""
    plan = prepared.plan
    device_count = len(plan.experiment.settings.devices)
    view = progress_view(
        console, plan.pending, plan.seconds, device_count, prepared.downloads.renderables
    )
    callbacks: list[ProgressCallback] = [view]
    if (log_folder := plan.experiment.request.tensorboard) is not None:
        callbacks.append(TensorBoardCallback(log_folder, view.message))
    with closing(prepared.launcher), _clean_compile_cache(prepared.context, plan):
        summary = sweep(plan.pending, prepared.context, prepared.launcher, callbacks)
    for finished in plan.finished_runs():  # A process killed after its record left these behind.
        plan.experiment.store.drop_checkpoints(finished)
    return summary


@contextmanager
def _clean_compile_cache(context: SweepContext, plan: Plan) -> Iterator[None]:
    """Without torn entries before a sweep, within its limit after one."""
    folder, limit = context.compile_cache, plan.experiment.benchmark.sweep.compiled_gigabytes
    try:
        if folder is not None:
            compile_cache.clean(folder, int(1e9 * limit))
        yield
    finally:
        if folder is not None:
            compile_cache.clean(folder, int(1e9 * limit))


def write(plan: Plan) -> Path:
    """Write tables and figures from the records; the leaderboard's path."""
    leaderboard, *_ = write_tables(plan.experiment.request.results)
    pending = {planned.run for planned in plan.pending}
    finished = [record for record in plan.finished_records() if record.run in pending]
    if finished:
        from harness.reporting.run_figures import draw  # Loads matplotlib.

        for record in finished:
            draw(record, plan.experiment.store.root / "figures" / "runs")
    return leaderboard


def report(plan: Plan, summary: Summary, leaderboard: Path, console: Console) -> int:
    """Say where the leaderboard is, what was wrong and what failed; the exit code."""
    for line in dict.fromkeys(summary.wrong_input):
        plain_console(stderr=True).print(f"wbc-bench: {line}", soft_wrap=True, markup=False)
    console.print(Text.assemble("\nThe leaderboard: ", (str(leaderboard), "bold")), soft_wrap=True)
    if summary.wrong_input:
        return 2
    failed = len(plan.runs) - len(plan.finished_runs())
    if failed:
        console.print(f"{failed} failed; the table says why, --retry-failed tries again")
    return 1 if failed else 0


def _launcher(
    plan: Plan, corrupted: Path | None
) -> tuple[Launcher, Callable[[], Sequence[Device]]]:
    """What starts runs, as child processes here or on a cluster's workers, and where."""
    experiment = plan.experiment
    settings, cluster = experiment.benchmark.sweep, experiment.request.cluster
    worker = partial(
        processes.WorkerProcess,
        timeout=60 * settings.timeout_minutes,
        memory_gb=settings.memory_gb,
    )
    if cluster is None:
        cpu_slots = max(1, min(settings.cpu_slots, len(plan.pending)))
        visible = experiment.settings.devices
        preparing = None if settings.preparing == "auto" else settings.preparing
        slots = devices.slots(visible, cpu_slots, settings.per_gpu, preparing)
        return worker(), lambda: slots
    from harness.sweep.cluster import Cluster, connect

    launcher = Cluster(connect(cluster), experiment.data.folder, worker, corrupted)
    return launcher, launcher.slots
