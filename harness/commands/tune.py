"""What ``tune`` does: search on validation images, then train the winner as any other run."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from harness.commands.console import plain_console
from harness.commands.plan import plan_of
from harness.commands.resolve import Experiment, Request, find_inputs, load_request
from harness.commands.run import train
from harness.commands.settings import cache_folder, toml_lines
from harness.config import augmentation_named
from harness.errors import UserError
from harness.schema.protocol import Protocol
from harness.schema.tuning import Method
from harness.storage.files import no_link_between, write_atomically
from harness.storage.records import FEATURES, Store
from harness.sweep import planner
from harness.sweep.planner import PlannedRun
from harness.sweep.scheduler import SweepContext
from harness.sweep.weights import fetched
from zoo.registry import find

if TYPE_CHECKING:  # Optuna may be missing, and loads for a second.
    from harness.tuning.objective import Objective
    from harness.tuning.study import Study, Trial

IN_WORDS: dict[Method, str] = {
    "random": "random search", "grid": "grid search", "bayes": "Bayesian search (TPE)",
}  # fmt: skip
FOLDER = "tuning"
"""In the results folder: journals, variants and figures of the searches."""


@dataclass(frozen=True)
class Search:
    """What is searched: an experiment of one recipe, and its run with nothing changed."""

    experiment: Experiment
    base: PlannedRun
    method: Method

    @property
    def from_scratch(self) -> bool:
        return self.base.run.from_scratch is not None

    @property
    def on_features(self) -> bool:
        """Whether features of the frozen backbone are enough for all that is searched."""
        space, augmentation = self.experiment.benchmark.tune, self.base.run.protocol.augmentation
        return not (space.needs_training or self.from_scratch or augmentation.policy)

    @property
    def protocol(self) -> Protocol:
        """That of the trials, before what is searched: on features there is no fine-tuning."""
        protocol = self.base.run.protocol
        return protocol.model_copy(update={"fine_tuning": None}) if self.on_features else protocol

    @property
    def folder(self) -> Path:
        return self.experiment.request.results / FOLDER

    @property
    def name(self) -> str:
        content = [self.base.run.canonical(), self.experiment.benchmark.tune.canonical()]
        identity = json.dumps([*content, self.method])
        return f"{self.base.recipe.name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"

    def path(self, suffix: str) -> Path:
        path = self.folder / f"{self.name}.{suffix}"
        return no_link_between(self.experiment.request.results, path)


def tune(recipe: str, request: Request, method: Method, trials: int | None) -> int:
    """Search, then train the winner and score it once on test; as for ``run``, an exit code."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError("tune needs Optuna: pip install 'optuna>=5'")
    from harness.tuning import space
    from harness.tuning.study import Study, trial_limit

    console = plain_console()
    search = _search(recipe, request, method, console)
    values, own = search.experiment.benchmark.tune, search.base.run.protocol
    space.check(values, own, from_scratch=search.from_scratch)
    study = Study(search.path("journal"), method, values, own)
    limit = trial_limit(trials, study, own)

    def changes(parameters: space.Parameters) -> dict[str, Any]:
        return space.changes(parameters, own, from_scratch=search.from_scratch)

    objective = _objective(search, limit, console)
    with console.status("") as status:
        study.run(
            lambda parameters: objective(space.apply(changes(parameters), search.protocol)),
            limit,
            request.budget,
            lambda number: status.update(_progress(number, limit, study.best)),
        )
    best = study.best
    if best is None:
        raise UserError("no trial has finished: give a longer --budget")
    chosen = f"chosen by {100 * best.outcome.macro_f1:.2f} % macro F1 on the validation images"
    note = f"{chosen}, the best of {len(study.trials)} trials of {IN_WORDS[method]}"
    _write(search, study, changes(best.parameters), note)
    settings = ", ".join(f"{name} {value}" for name, value in best.parameters.items())
    for line in (
        settings,
        f"variant: {search.path('toml')}",
        f"figure: {search.path('png')}",
    ):
        console.print(line, soft_wrap=True)
    return _train_winner(search, space.apply(changes(best.parameters), own), note, console)


def _search(recipe: str, request: Request, method: Method, console: Console) -> Search:
    settings, found = load_request(request), find(recipe)
    experiment = find_inputs(request, settings, (found,), console, download=False)
    weights = fetched(settings.benchmark.weights, found, request.weights_dir, console)
    experiment = replace(experiment, weights={found.name: weights})
    benchmark = experiment.benchmark
    protocol = benchmark.protocol_of(found.name, benchmark.protocol)
    (base,) = _planned(experiment, "", protocol)[:1]
    return Search(experiment, base, method)


def _planned(experiment: Experiment, variant: str, protocol: Protocol) -> tuple[PlannedRun, ...]:
    """The runs of the one recipe under this protocol, a run for each seed."""
    choices = [(variant, protocol, experiment.recipes[0])]
    data, weights = experiment.data.dataset, experiment.weights
    return planner.plan_choices(choices, experiment.benchmark, data, weights)


def _objective(search: Search, limit: int, console: Console) -> Objective:
    """What scores a trial: with the features of the frozen backbone, which are computed once."""
    from harness.tuning.objective import OnFeatures, Training, stored_features

    experiment, run = search.experiment, search.base.run
    training = Training(search.base, _context(search), experiment.settings.devices)
    what = f"{IN_WORDS[search.method]}, at most {limit} trials"
    if not search.on_features:
        console.print(f"{what}, each of which trains the network")
        return training
    frozen = run.model_copy(update={"protocol": search.protocol})
    with console.status("computing features") as status:
        finished = experiment.store.artefacts(frozen) / FEATURES
        features = stored_features(training, finished, search.protocol)
        status.update("training the head as the protocol has it")
        labels, parts = experiment.data.dataset.labels, experiment.parts
        one_hot = np.eye(len(experiment.summary.class_names), dtype=np.float32)
        targets = {part: one_hot[labels[getattr(parts, part)]] for part in features}
        objective = OnFeatures(features, targets, run.seed)
        score = objective(search.protocol).macro_f1
    line = f"{what}, on stored features; the protocol itself has {100 * score:.2f} % macro F1"
    console.print(line, soft_wrap=True)
    return objective


def _context(search: Search) -> SweepContext:
    """Where trials train: what they write is not among the runs, and no test is corrupted."""
    experiment = search.experiment
    policies = {
        name: experiment.benchmark.protocol.model_copy(
            update={"augmentation": augmentation_named(name)}
        )
        for name in experiment.benchmark.tune.policy
        if name != "none"
    }
    benchmark = experiment.benchmark.model_copy(update={"variants": policies})
    cache = cache_folder()
    return SweepContext(
        store=Store(search.folder),
        data_folder=experiment.data.folder,
        data=experiment.summary,
        profile=experiment.settings.profile,
        slots=lambda: experiment.settings.devices,
        backend=benchmark.backend,
        checkpoint_seconds=benchmark.sweep.checkpoint_seconds,
        epochs=planner.epoch_cache_settings(benchmark, experiment.summary, cache / "epochs"),
        compile_cache=cache / "compiled",
    )


def _progress(number: int, limit: int, best: Trial | None) -> str:
    so_far = f", best so far {100 * best.outcome.macro_f1:.2f} %" if best else ""
    return f"trial {number + 1} of {limit}{so_far}"


def _write(search: Search, study: Study, tables: dict[str, Any], note: str) -> None:
    """The winner as a variant of the settings file, and the figure of the search."""
    from harness.reporting.tuning_figure import draw

    variant = f"tuned-{search.base.recipe.name}"
    command = f"wbc-bench run {search.base.recipe.name} --variant {variant}"
    text = [f"# {note}.", f"# {command}", *toml_lines({"variants": {variant: tables}}), ""]
    write_atomically(search.path("toml"), "\n".join(text).encode())
    scores = [(trial.number, trial.outcome.macro_f1) for trial in study.trials]
    title = f"{search.base.recipe.title} on {search.experiment.summary.name}"
    picture = draw(f"{title}: {IN_WORDS[search.method]}", scores, study.importances())
    write_atomically(search.path("png"), picture)


def _train_winner(search: Search, protocol: Protocol, note: str, console: Console) -> int:
    """Train it by the way of all runs, with a note that says how it was chosen."""
    experiment, variant = search.experiment, f"tuned-{search.base.recipe.name}"
    benchmark = experiment.benchmark.model_copy(update={"variants": {variant: protocol}})
    settings = replace(experiment.settings, benchmark=benchmark)
    experiment = replace(experiment, settings=settings)
    runs = tuple(
        replace(planned, note="; ".join(filter(None, [planned.note, note])))
        for planned in _planned(experiment, variant, protocol)
    )
    for planned in runs:  # One that was made before, perhaps chosen by fewer trials.
        record = experiment.store.find(planned.run)
        if record is not None and record.note != planned.note:
            experiment.store.save(record.model_copy(update={"note": planned.note}))
    return train(plan_of(experiment, runs, console), console)
