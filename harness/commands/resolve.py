"""``run`` and ``plan``, first step: from what was typed to data, recipes and weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from harness.commands.console import updater
from harness.commands.data import PreparedData, prepare
from harness.commands.settings import DataOptions, Settings, load_settings
from harness.config import Benchmark, Preset
from harness.data.splitting import effective_split, split_indices
from harness.errors import UserError
from harness.schema.dataset import DataSummary, Parts
from harness.schema.run import Profile, Shift
from harness.storage.records import Store
from harness.sweep import planner
from harness.sweep.tensorboard import make_log_folder
from harness.sweep.weights import ResolvedWeights, resolve_weights
from zoo.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Request(DataOptions):
    """The command line of ``run`` and ``plan``, as typed."""

    recipes: tuple[str, ...] = ()
    everything: bool = False
    variants: tuple[str, ...] = ()
    """Variants of the settings file to run besides the plain protocol."""
    seeds: int | None = None
    shift: Shift | None = None
    per_gpu: int | None = None
    retry_failed: bool = False
    results: Path = Path("results")
    cluster: str | None = None
    """Address of a Dask scheduler; None: this machine."""
    weights_dir: Path | None = None
    """Where downloaded weights lie; None: as ``zoo.weights.weights_folder`` says."""
    budget: float | None = None
    """Seconds within which the pending runs shall end, on as many images as that allows."""
    tensorboard: Path | None = None
    """Folder for learning curves that TensorBoard reads; None: none are written."""


@dataclass(frozen=True)
class Experiment:
    """A request with everything that it names found: settings, recipes, weights, images."""

    request: Request
    settings: Settings
    recipes: tuple[Recipe, ...]
    weights: Mapping[str, ResolvedWeights]
    data: PreparedData
    parts: Parts
    summary: DataSummary
    store: Store

    @property
    def benchmark(self) -> Benchmark:
        return self.settings.benchmark


def resolve(request: Request, console: Console, *, download: bool) -> Experiment:
    """Load settings and images, and find the weights, on their server too if ``download``.

    Raises UserError, before anything slow where possible.
    """
    settings = load_request(request)
    benchmark = settings.benchmark
    if not (request.recipes or request.everything or benchmark.sweep.recipes):
        raise UserError("name recipes to run, or say --all; 'wbc-bench zoo' lists them")
    recipes = planner.select_recipes(benchmark, request.recipes, everything=request.everything)
    return find_inputs(request, settings, recipes, console, download=download)


def find_inputs(
    request: Request,
    settings: Settings,
    recipes: tuple[Recipe, ...],
    console: Console,
    *,
    download: bool,
) -> Experiment:
    """Find the images and the weights of these recipes. Raises UserError."""
    benchmark = settings.benchmark
    _check(request, benchmark)
    with console.status("reading the images") as status:
        data = prepare(settings, updater(status))
    split = effective_split(benchmark.split, data.dataset)
    settings = replace(settings, benchmark=benchmark.model_copy(update={"split": split}))
    parts = split_indices(split, data.dataset)
    weights = resolve_weights(
        benchmark.weights, recipes, request.weights_dir, console if download else None
    )
    return Experiment(
        request=request,
        settings=settings,
        recipes=recipes,
        weights=weights,
        data=data,
        parts=parts,
        summary=planner.summarise(data.dataset, parts),
        store=Store(request.results),
    )


def load_request(request: Request, preset: Callable[[Profile], Preset] | None = None) -> Settings:
    """The settings file, or the preset, with the request's options over it."""
    settings = load_settings(request, preset)
    options = {name: getattr(request, name) for name in ("seeds", "shift", "per_gpu")}
    given = {name: value for name, value in options.items() if value is not None}
    sweep = settings.benchmark.sweep.model_copy(update=given)
    benchmark = settings.benchmark.model_copy(update={"sweep": sweep})
    return replace(settings, benchmark=benchmark.with_variants(request.variants))


def _check(request: Request, benchmark: Benchmark) -> None:
    if importlib.util.find_spec(benchmark.backend) is None:
        hint = f"pip install {benchmark.backend}, or choose another backend"
        raise UserError(f"backend = {benchmark.backend!r} is not installed; {hint}")
    if request.cluster is not None and importlib.util.find_spec("distributed") is None:
        raise UserError("--cluster needs Dask: pip install distributed")
    if request.tensorboard is not None:
        make_log_folder(request.tensorboard)
