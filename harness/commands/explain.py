"""What ``explain`` does: Grad-CAM sheets of rows, and what they are worth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from harness.commands.console import plain_console, updater
from harness.commands.data import PreparedData, prepare
from harness.commands.settings import DataOptions, Settings, cache_folder, load_settings
from harness.data.contact_sheet import draw, save
from harness.data.image_cache import find_decoded, open_dataset
from harness.data.sources import NAMES
from harness.errors import DataError, UserError, WeightsError
from harness.execution.processes import worker_environment
from harness.reporting.compare import rows_named
from harness.reporting.explanation_sheets import SIDE, Chosen, Maps, choose
from harness.reporting.publish import read_boards
from harness.schema.events import StepEvent
from harness.schema.predictions import PLAIN, Predictions
from harness.schema.records import EnsembleRecord, ExternalRecord, Record, RunRecord
from harness.storage.records import Store
from harness.sweep.weights import resolve_weights
from harness.training.explanation import ExplainTask, Explanation, TrainedNetwork, explain
from zoo.registry import find

LARGEST_DIFFERENCE = 0.02
"""Mean difference of probabilities to the stored ones that another backend or device may make."""
MOST_LISTED = 4
FEW_PLACES = 7
"""Of a map, in a row: as many as common networks have at 224 pixels."""


@dataclass(frozen=True)
class ExplainOptions(DataOptions):
    """The command line of ``explain``, as typed."""

    rows: tuple[str, ...] = ()
    images: tuple[int, ...] = ()
    per_class: int = 4
    without_head: bool = False
    out: Path = Path("explain")
    results: Path = Path("results")


def draw_explanations(options: ExplainOptions) -> Iterator[str]:
    """Write a sheet for each class; yields lines for the terminal. Raises UserError."""
    store = Store(options.results)
    subjects = _subjects(options)
    titles, first = " and ".join(subjects), next(iter(subjects.values()))
    members = [member for record in subjects.values() for member in _members(store, record)]
    runs = {record.run.id: record for record in members if isinstance(record, RunRecord)}
    for record in members:
        if isinstance(record, ExternalRecord):
            yield f"{record.external.name}: left out: it has no network here"
    if not runs:
        raise UserError(f"{' '.join(options.rows)}: no network to explain")
    settings = _settings(options, first)
    with plain_console(stderr=True).status("reading the images") as status:
        data = _images(options, first, settings, updater(status))
        _check_same_images(runs.values(), data)
        networks = tuple(_trained(store, record, settings) for record in runs.values())
        chosen = _choose(store.load_verified(first), options)
        task = ExplainTask(
            networks=networks,
            data=str(data.folder.resolve()),
            ids=tuple(id_ for of_class in chosen for id_ in of_class.ids),
            without_head=options.without_head,
            device=settings.devices[0].id,
        )

        def show(event: object) -> None:
            if isinstance(event, StepEvent):
                status.update(f"explained {event.done} of {event.total} images")

        status.update("starting")
        environment = worker_environment(
            settings.devices[0], settings.benchmark.backend, cache_folder() / "compiled"
        )
        found = explain(task, environment, show)
    explained: dict[str, Explanation] = {}
    for record, explanation in zip(runs.values(), found, strict=True):
        name = _name(record, runs.values())
        if isinstance(explanation, str):
            yield f"{name}: left out: {explanation}"
            continue
        _check_predictions(store, record, task.ids, explanation)
        explained[name] = explanation
        yield _deletion_line(name, explanation)
    if not explained:
        raise UserError(f"{' '.join(options.rows)}: no network could be explained")
    yield from _sheets(Maps(data.dataset, task.ids, explained), chosen, titles, options)


def _subjects(options: ExplainOptions) -> dict[str, Record]:
    """The title and record of each row. Raises UserError where a name is not one row's."""
    boards = read_boards(options.results)
    found: dict[str, Record] = {}
    for name in dict.fromkeys(options.rows):
        rows = [row for _, row in rows_named(boards, name, options.results)]
        if len(rows) > 1:
            listed = ", ".join(row.records[0].subject.id for row in rows[:MOST_LISTED])
            more = " ..." if len(rows) > MOST_LISTED else ""
            raise UserError(f"{name}: {len(rows)} rows have this name; give an id: {listed}{more}")
        (row,) = rows
        chosen = (record for record in row.records if record.subject.id.startswith(name))
        record = next(chosen, row.records[0])
        found[f"{row.title} ({record.subject.id[:8]})"] = record
    return found


def _members(store: Store, record: Record) -> list[Record]:
    """The members that an ensemble's rule uses; of another row, itself."""
    if not isinstance(record, EnsembleRecord):
        return [record]
    by_id = {one.subject.id: one for one in store.all_records()}
    for id_, recipe in record.used.items():
        if id_ not in by_id:
            raise UserError(f"{store.root}: the run of the member {recipe} ({id_}) is not there")
    return [by_id[id_] for id_ in record.used]


def _settings(options: ExplainOptions, record: Record) -> Settings:
    """The settings, with the run's protocol: its image size is that of the images."""
    profile = record.profile if record.profile != "external" else None
    settings = load_settings(replace(options, profile=profile))
    benchmark = settings.benchmark.model_copy(update={"protocol": record.run.protocol})
    return replace(settings, benchmark=benchmark)


def _images(
    options: ExplainOptions, record: Record, settings: Settings, progress: Callable[[str], object]
) -> PreparedData:
    """The images of the record: as typed, else as they were decoded, else by their name.

    Raises UserError.
    """
    if options.source is None:
        folder = find_decoded(record.run.data, cache_folder())
        if folder is not None:
            return PreparedData(open_dataset(folder), folder)
        name, changes = _source(record)
        if name.partition("@")[0] in NAMES:
            read = {"source": name, **changes, "manifest": None}
            data = settings.benchmark.data.model_copy(update=read)
            benchmark = settings.benchmark.model_copy(update={"data": data})
            settings = replace(settings, benchmark=benchmark)
    return prepare(settings, progress)


def _source(record: Record) -> tuple[str, dict[str, bool]]:
    """The name of a record's source, and the options that changed its images."""
    name, *changes = record.data.name.split(", ")
    return name, {"clean": "cleaned" in changes, "mask": "masked" in changes}


def _check_same_images(records: Iterable[RunRecord], data: PreparedData) -> None:
    for record in records:
        if record.run.data != data.dataset.fingerprint:
            name, changes = _source(record)
            typed = "".join(f" --{option}" for option, given in changes.items() if given)
            raise DataError(
                f"{data.dataset.name}: not the images of {record.run.recipe} "
                f"({record.data.name}, {record.data.images:,} images at "
                f"{record.data.image_size} px); say --data SOURCE{typed}, where SOURCE is what "
                f"{name!r} was read from"
            )


def _trained(store: Store, record: RunRecord, settings: Settings) -> TrainedNetwork:
    """The run with its files. Raises UserError where one is not there."""
    run = record.run
    trained = TrainedNetwork(
        run=run, artefacts=str(store.artefacts(run).resolve()), remedy=_remedy(store, record)
    )
    files = [trained.head_file, *([trained.backbone_file] if trained.backbone_trained else [])]
    for file in files:
        if file.is_symlink() or not file.is_file():
            raise UserError(f"{file} is missing{_remedy(store, record)}")
    if trained.backbone_trained:
        return trained
    recipe = find(run.recipe)
    source: Literal["imagenet", "random"] = "imagenet"
    if run.weights.source == "random":
        source = "random"
    started = settings.benchmark.weights.model_copy(update={"source": source})
    resolved = resolve_weights(started, [recipe])[recipe.name]
    for missing in resolved.missing:
        raise WeightsError(
            f"the weights of {missing.name} are not here; 'wbc-bench zoo fetch' has them"
        )
    if resolved.weights != run.weights:
        raise WeightsError(
            f"{run.recipe} started from other weights ({run.weights.source}, "
            f"{run.weights.digest}) than those here; name its file in [weights] files"
        )
    started_from = tuple(str(file.resolve()) if file else None for file in resolved.files)
    return trained.model_copy(update={"weights": started_from})


def _remedy(store: Store, record: RunRecord) -> str:
    path = store.record_path(record.run)
    return f"; delete {path}, then 'wbc-bench run {record.run.recipe}' as before"


def _choose(parts: Mapping[str, Predictions], options: ExplainOptions) -> list[Chosen]:
    test = parts["test"]
    for i in options.images:
        if i not in test.ids:
            raise UserError(f"--image {i}: no test image; 'wbc-bench data split' lists them")
    return choose(test, options.per_class, options.images)


def _check_predictions(
    store: Store, record: RunRecord, ids: Sequence[int], explanation: Explanation
) -> None:
    """Raises UserError where the network is not the one that was scored."""
    parts = store.load_verified(record)
    stored = parts.get(PLAIN + "test", parts["test"])
    order = np.argsort(stored.ids)
    rows = order[np.searchsorted(stored.ids, ids, sorter=order)]
    difference = np.abs(stored.probabilities[rows] - explanation.probabilities).mean()
    if difference > LARGEST_DIFFERENCE:
        raise UserError(
            f"{store.artefacts(record.run)}: these weights do not give the stored predictions "
            f"(mean difference {difference:.2f}){_remedy(store, record)}"
        )


def _name(record: RunRecord, others: Iterable[RunRecord]) -> str:
    """The recipe, with the run's id where several have it."""
    recipe, run = record.run.recipe, record.run
    alone = sum(other.run.recipe == recipe for other in others) == 1
    return recipe if alone else f"{recipe} {run.id[:8]}"


def _deletion_line(name: str, explanation: Explanation) -> str:
    curves = explanation.curves
    hottest, others = curves.areas
    verdict = "" if curves.informative else ": no better than chance"
    height, width = explanation.maps.shape[1:]
    if verdict and min(height, width) < FEW_PLACES:
        verdict += f"; {height} x {width} places show little, a larger image_size gives more"
    return (
        f"{name}: area under the deletion curve {hottest:.3f} hottest pixels first, "
        f"{others:.3f} in random order; lower in {curves.lower} of {len(curves.hottest)} images"
        f"{verdict}"
    )


def _sheets(
    maps: Maps, chosen: Sequence[Chosen], title: str, options: ExplainOptions
) -> Iterator[str]:
    names, rows = maps.data.class_names, "-".join(options.rows)
    size = " and ".join(
        dict.fromkeys(f"{e.maps.shape[1]} x {e.maps.shape[2]}" for e in maps.explained.values())
    )
    what = "pooled features" if options.without_head else "predicted class"
    for of_class in chosen:
        name = names[of_class.label]
        sheet = draw(
            list(maps.rows(of_class)),
            SIDE,
            title=f"{name}: {title}",
            subtitle=f"Grad-CAM of the {what}, maps of {size} places; "
            f"{of_class.correct} of {of_class.count} test images are right",
            header=maps.header(of_class),
        )
        path = options.out / f"{_slug(rows)}-{_slug(name)}.png"
        save(sheet, path)
        yield str(path)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "class"
