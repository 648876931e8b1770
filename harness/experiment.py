"""What ``run`` and ``plan`` do: from the user's request to pending runs, and on to the tables."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import get_args

from rich.console import Console

from harness import baseline, committee, curves, devices, plan
from harness.config import FILENAME, Benchmark, DataSettings, Profile, load
from harness.data.decoded import open_dataset
from harness.data.shifted import made_once, open_shifted
from harness.data.split import carry_out
from harness.errors import ConfigError, UnknownName, UserError
from harness.inspection import Workplace, prepare_data
from harness.nouns import DataSummary, RunRecord, Shift
from harness.plan import Planned
from harness.policies import EpochStore
from harness.records import Rule
from harness.store import Store
from harness.sweep import Launcher, Setting, sweep
from zoo.table import find

Devices = Sequence[devices.Device]


@dataclass(frozen=True)
class Request:
    """The command line of ``run`` and ``plan``, as typed."""

    recipes: tuple[str, ...]
    everything: bool
    profile: Profile | None
    seeds: int | None
    retry_failed: bool
    config: Path | None
    data: str | None
    clean: bool
    results: Path
    mask: bool = False
    shift: Shift | None = None
    per_gpu: int | None = None
    variants: tuple[str, ...] = ()
    """Of the settings file, besides the plain protocol."""
    cluster: str | None = None
    """Address of a Dask scheduler; None: this machine."""
    tensorboard: Path | None = None
    """Folder for learning curves as TensorBoard reads them; None: none are written."""


@dataclass(frozen=True)
class Experiment:
    """A request, resolved: what is wanted, what of it is left, and on what it will run."""

    benchmark: Benchmark
    profile: Profile
    why: str
    devices: tuple[devices.Device, ...]
    data_folder: Path
    data: DataSummary
    planned: tuple[Planned, ...]
    pending: tuple[Planned, ...]
    store: Store
    epochs: EpochStore | None


def run(request: Request) -> int:
    """Run what is pending, write the tables; 1 if a run failed, 2 if some input was wrong."""
    from harness.progress import watcher
    from harness.tables import write_tables

    console, with_curves = Console(), curves.beside(request.tensorboard)
    wanted = _resolve(request, console, fetch=True)
    _announce(wanted, console)
    settings = wanted.benchmark.sweep
    shifted = _shifted(wanted, console) if wanted.pending else None
    launcher, slots = _engine(request, wanted, shifted)
    setting = Setting(
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
        with watcher(console, wanted.pending, _estimates(wanted), len(wanted.devices)) as watch:
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
    from harness.launch import WorkerProcess

    settings = wanted.benchmark.sweep
    make = partial(
        WorkerProcess, timeout=60 * settings.timeout_minutes, memory_gb=settings.memory_gb
    )
    if request.cluster is None:
        cpu_slots = max(1, min(settings.cpu_slots, len(wanted.pending)))
        return make(), partial(devices.slots, wanted.devices, cpu_slots, settings.per_gpu)
    if importlib.util.find_spec("distributed") is None:
        raise UserError("--cluster needs Dask: pip install distributed")
    from harness.cluster import Cluster, connect

    cluster = Cluster(connect(request.cluster), wanted.data_folder, make, shifted)
    return cluster, cluster.slots


def show_plan(request: Request, budget: float | None = None) -> int:
    """Print what is pending, about how long it takes, and what of it fits ``budget`` seconds."""
    from harness.progress import clock

    console = Console()
    wanted = _resolve(request, console, fetch=False)
    seconds, machines = _estimates(wanted), len(wanted.devices)
    done = len(wanted.planned) - len(wanted.pending)
    console.print(f"{wanted.profile} profile: {wanted.why}")
    console.print(f"{done} done, {len(wanted.pending)} pending, on {wanted.devices[0].name}")
    if not wanted.pending:
        return 0
    fits = wanted.pending
    if budget is not None:
        fits = plan.within(budget, wanted.pending, seconds, machines)
    console.print(_plan_table(wanted, seconds, fits), soft_wrap=True, markup=False)
    if fits:
        total = max(plan.ends([seconds[one.run.id] for one in fits], machines))
        console.print(f"about {clock(total)} for {len(fits)} runs, if no phase stops early")
    if len(fits) < len(wanted.pending):
        left_out = len(wanted.pending) - len(fits)
        console.print(f"{left_out} left out, which do not fit {clock(budget or 0)}")
        if fits:
            names = " ".join(dict.fromkeys(one.recipe.name for one in fits))
            console.print(f"those that fit: wbc-bench run {names}", soft_wrap=True)
    return 0


def _plan_table(wanted: Experiment, seconds: dict[str, float], fits: Sequence[Planned]) -> str:
    from tabulate import tabulate

    from harness.progress import clock

    records, device = wanted.store.records(), wanted.devices[0].name
    kept = {one.run.id for one in fits}
    rows = []
    for one in wanted.pending:
        memory = plan.memory_mb(one, records, device)
        rows.append(
            [
                one.recipe.name,
                one.variant or "–",
                one.run.seed,
                one.run.weights.source,
                clock(seconds[one.run.id]),
                "?" if memory is None else f"{memory:,.0f}",
                f"{plan.disk_mb(one, wanted.data):,.0f}",
                one.note if one.run.id in kept else "left out: over the budget",
            ]
        )
    heads = ["recipe", "variant", "seed", "weights", "about", "memory (MiB)", "disk (MiB)", "note"]
    return tabulate(rows, heads, disable_numparse=True)


def workplace(at_hand: Devices, benchmark: Benchmark) -> Workplace:
    return Workplace(cache_folder(), at_hand[0], backend=benchmark.backend)


def cache_folder() -> Path:
    """Where decoded images are kept between commands; ``WBC_BENCH_CACHE`` moves it."""
    import pooch

    return Path(os.environ.get("WBC_BENCH_CACHE") or pooch.os_cache("wbc-bench"))


# --- from the request to what is wanted ----------------------------------------------------------


def _resolve(request: Request, console: Console, *, fetch: bool) -> Experiment:
    at_hand = devices.visible()
    profile, why = _profile(request.profile, at_hand)
    benchmark = _settings(request, benchmark_of(request.config, profile, at_hand))
    if not (request.recipes or request.everything or benchmark.sweep.recipes):
        raise UserError("name recipes to run, or say --all; 'wbc-bench zoo' lists them")
    if importlib.util.find_spec(benchmark.backend) is None:
        hint = f"pip install {benchmark.backend}, or choose another backend"
        raise UserError(f"backend = {benchmark.backend!r} is not installed; {hint}")
    names = () if request.everything else request.recipes
    wanted = plan.recipes(benchmark, names)
    _check_ensembles(benchmark)
    with console.status("reading the images") as status:
        at = replace(workplace(at_hand, benchmark), tell=status.update)
        folder = prepare_data(benchmark.data, benchmark.protocol.image_size, at)
    dataset = open_dataset(folder)
    summary = plan.summarise(dataset, carry_out(benchmark.split, dataset))
    with console.status("looking for weights") as status:
        supply = plan.supplies(benchmark.weights, wanted, fetch=fetch, tell=status.update)
    planned = plan.runs(benchmark, wanted, dataset, supply)
    store = Store(request.results)
    if fetch:
        store.set_aside_torn(partial(console.print, soft_wrap=True, markup=False))
    pending = plan.pending(planned, store, retry_failed=request.retry_failed, tell=console.print)
    shift = benchmark.sweep.shift
    seconds = _seconds(pending, summary, store.records(), at_hand[0], shift)
    return Experiment(
        benchmark=benchmark,
        profile=profile,
        why=why,
        devices=at_hand,
        data_folder=folder,
        data=summary,
        planned=planned,
        pending=tuple(sorted(pending, key=lambda one: -seconds[one.run.id])),
        store=store,
        epochs=plan.epoch_store(benchmark, summary, cache_folder() / "epochs"),
    )


def _check_ensembles(benchmark: Benchmark) -> None:
    """Before hours of training: are the listed members networks at all?"""
    for name in (name for members in benchmark.ensembles.members for name in members):
        if not name.startswith("@"):
            try:
                find(name)
            except UnknownName as error:
                raise ConfigError(f"ensembles.members: {error}") from None


def _profile(asked: Profile | None, at_hand: Devices) -> tuple[Profile, str]:
    if asked is not None:
        assert asked in get_args(Profile)
        return asked, "asked for"
    if at_hand[0].id == "cpu":
        return "quick", "no accelerator is visible"
    return "full", f"{at_hand[0].name} is visible"


def benchmark_of(config: Path | None, profile: Profile | None, at_hand: Devices) -> Benchmark:
    chosen, _ = _profile(profile, at_hand)
    here = Path(FILENAME)
    file = config or (here if here.exists() else None)
    return load(file, chosen, gpu=at_hand[0].id != "cpu")


def _settings(request: Request, benchmark: Benchmark) -> Benchmark:
    """The command line over the file."""
    data = overridden(benchmark.data, request.data, clean=request.clean, mask=request.mask)
    benchmark = benchmark.model_copy(update={"data": data})
    asked = {"seeds": request.seeds, "shift": request.shift, "per_gpu": request.per_gpu}
    update = {name: value for name, value in asked.items() if value is not None}
    sweep = benchmark.sweep.model_copy(update=update)
    return benchmark.model_copy(update={"sweep": sweep}).with_variants(request.variants)


def overridden(
    settings: DataSettings, source: str | None, *, clean: bool, mask: bool
) -> DataSettings:
    """The command line over the file. A manifest belongs to the file's source alone."""
    if source is not None and source != settings.source:
        settings = settings.model_copy(update={"source": source, "manifest": None})
    update = {name: True for name, asked in (("clean", clean), ("mask", mask)) if asked}
    return settings.model_copy(update=update)


# --- on the way ----------------------------------------------------------------------------------


def _shifted(wanted: Experiment, console: Console) -> Path | None:
    """The shifted copy of the test images, made here, once, before any worker starts."""
    mode, split = wanted.benchmark.sweep.shift, wanted.benchmark.split
    if mode == "none":
        return None
    with console.status("harming a copy of the test images"):
        dataset = open_dataset(wanted.data_folder)
        test = carry_out(split, dataset).test
        return made_once(wanted.data_folder, dataset, test, split, mode)


def _estimates(wanted: Experiment) -> dict[str, float]:
    device, shift = wanted.devices[0], wanted.benchmark.sweep.shift
    return _seconds(wanted.pending, wanted.data, wanted.store.records(), device, shift)


def _seconds(
    pending: Sequence[Planned],
    data: DataSummary,
    records: Sequence[RunRecord],
    device: devices.Device,
    shift: Shift,
) -> dict[str, float]:
    """Run id -> the seconds it will take, as far as can be said."""
    guess = plan.first_guess(device)
    return {
        one.run.id: plan.estimate(one, data, records, device.name, guess, shift) for one in pending
    }


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


def _is_finished(store: Store, one: Planned) -> bool:
    record = store.find(one.run)
    return record is not None and record.finished


def _lay_floor(wanted: Experiment, console: Console) -> None:
    """The raw pixels' row, which shows what a network must at least be worth."""
    finished = [one.run for one in wanted.planned if _is_finished(wanted.store, one)]
    first = {run.protocol: run for run in reversed(finished)}
    asked = wanted.benchmark.sweep.shift != "none"
    bare = [run for run in first.values() if not baseline.is_kept(wanted.store, run, asked)]
    if bare:
        data = open_dataset(wanted.data_folder)
        split, like = wanted.benchmark.split, (wanted.profile, wanted.data)
        parts = carry_out(split, data)
        shifted = _shifted(wanted, console)
        harmed = open_shifted(shifted, data, parts.test, split) if shifted else None
        for run in bare:
            baseline.keep(wanted.store, run, data, parts, like, harmed)


def _convene(wanted: Experiment, console: Console) -> None:
    """The ensembles that the settings list, of what has finished; those that are new."""
    settings, store = wanted.benchmark.ensembles, wanted.store
    boards = {one.run.protocol: one.run for one in wanted.planned}.values()
    rules = settings.rules or committee.RULES
    tasks: list[tuple[tuple[str, ...], Sequence[Rule]]] = [(m, rules) for m in settings.members]
    tasks += [((), committee.SEARCH_RULES)] if settings.search else []
    for (members, by), like in product(tasks, boards):
        what = " + ".join(members) or "search"
        try:
            with console.status(f"ensembles of {' + '.join(members) or 'all networks'}"):
                made = [
                    committee.convene(together, by, pending=True)
                    for together in committee.assemble(store, members, like)
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
        from harness.figures import draw

        for record in finished:
            draw(record, wanted.store.root / "figures" / "runs")
