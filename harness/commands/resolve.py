"""From the command line and the settings file to what is to be run, and on what."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

from rich.console import Console

from harness.audit.inspection import Workspace, prepare_data
from harness.config import FILENAME, Benchmark, DataSettings, Profile, load
from harness.data.image_cache import open_dataset
from harness.data.splitting import split_indices
from harness.errors import ConfigError, UnknownName, UserError
from harness.execution import devices
from harness.schema.augmentation import EpochCacheSettings
from harness.schema.dataset import DataSummary
from harness.schema.run import Shift
from harness.storage.records import Store
from harness.sweep import planner
from harness.sweep.planner import PlannedRun
from zoo.registry import find

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
    planned: tuple[PlannedRun, ...]
    pending: tuple[PlannedRun, ...]
    store: Store
    epochs: EpochCacheSettings | None


def workplace(at_hand: Devices, benchmark: Benchmark) -> Workspace:
    return Workspace(cache_folder(), at_hand[0], backend=benchmark.backend)


def cache_folder() -> Path:
    """Where decoded images are kept between commands; ``WBC_BENCH_CACHE`` moves it."""
    import pooch

    return Path(os.environ.get("WBC_BENCH_CACHE") or pooch.os_cache("wbc-bench"))


def resolve(request: Request, console: Console, *, fetch: bool) -> Experiment:
    at_hand = devices.visible()
    profile, why = choose_profile(request.profile, at_hand)
    benchmark = _settings(request, benchmark_of(request.config, profile, at_hand))
    if not (request.recipes or request.everything or benchmark.sweep.recipes):
        raise UserError("name recipes to run, or say --all; 'wbc-bench zoo' lists them")
    if importlib.util.find_spec(benchmark.backend) is None:
        hint = f"pip install {benchmark.backend}, or choose another backend"
        raise UserError(f"backend = {benchmark.backend!r} is not installed; {hint}")
    names = () if request.everything else request.recipes
    wanted = planner.recipes(benchmark, names)
    _check_ensembles(benchmark)
    with console.status("reading the images") as status:
        at = replace(workplace(at_hand, benchmark), tell=status.update)
        folder = prepare_data(benchmark.data, benchmark.protocol.image_size, at)
    dataset = open_dataset(folder)
    summary = planner.summarise(dataset, split_indices(benchmark.split, dataset))
    with console.status("looking for weights") as status:
        supply = planner.resolve_weights(benchmark.weights, wanted, fetch=fetch, tell=status.update)
    planned = planner.runs(benchmark, wanted, dataset, supply)
    store = Store(request.results)
    if fetch:
        store.set_aside_torn(partial(console.print, soft_wrap=True, markup=False))
    pending = planner.pending(planned, store, retry_failed=request.retry_failed, tell=console.print)
    shift = benchmark.sweep.shift
    seconds = planner.estimates(pending, summary, store.records(), at_hand[0], shift)
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
        epochs=planner.epoch_store(benchmark, summary, cache_folder() / "epochs"),
    )


def _check_ensembles(benchmark: Benchmark) -> None:
    """Before hours of training: are the listed members networks at all?"""
    for name in (name for members in benchmark.ensembles.members for name in members):
        if not name.startswith("@"):
            try:
                find(name)
            except UnknownName as error:
                raise ConfigError(f"ensembles.members: {error}") from None


def choose_profile(asked: Profile | None, at_hand: Devices) -> tuple[Profile, str]:
    if asked is not None:
        assert asked in get_args(Profile)
        return asked, "asked for"
    if at_hand[0].id == "cpu":
        return "quick", "no accelerator is visible"
    return "full", f"{at_hand[0].name} is visible"


def benchmark_of(config: Path | None, profile: Profile | None, at_hand: Devices) -> Benchmark:
    chosen, _ = choose_profile(profile, at_hand)
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
