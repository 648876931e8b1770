"""The runs that a benchmark consists of, and which of them are pending."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from harness.augmentation.stream import epoch_bytes
from harness.config import Benchmark
from harness.errors import ConfigError, StoreError
from harness.schema.augmentation import EpochCacheSettings
from harness.schema.dataset import Dataset, DataSummary, Parts
from harness.schema.protocol import Loss, Optimizer, Phase, Protocol, Schedule
from harness.schema.records import Failed, RunRecord
from harness.schema.run import Run
from harness.storage.records import Store
from harness.sweep.weights import ResolvedWeights
from zoo.recipe import Recipe
from zoo.registry import RECIPES, find


@dataclass(frozen=True)
class PlannedRun:
    """A run of a benchmark, with what it needs on this machine."""

    run: Run
    recipe: Recipe
    weights_files: tuple[Path | None, ...]
    note: str
    variant: str = ""
    """Name of its protocol; empty for the base protocol."""
    previous_version: tuple[int, int] | None = None
    """Of the record that it has and that will be replaced: a failed or a damaged one."""


def select_recipes(
    benchmark: Benchmark, names: Sequence[str], *, everything: bool = False
) -> tuple[Recipe, ...]:
    """The recipes of these names, each once.

    Without names, or with ``everything``, also those of ``sweep.recipes``, or else the whole zoo.
    """
    named = [find(name) for name in names]
    if everything or not named:
        named = [
            *(map(find, benchmark.sweep.recipes) if benchmark.sweep.recipes else RECIPES),
            *named,
        ]
    return tuple(dict.fromkeys(named))


Choice = tuple[str, Protocol, Recipe]
"""The name of a variant, its protocol, and what is trained with it."""


def plan_runs(
    benchmark: Benchmark,
    recipes: Sequence[Recipe],
    data: Dataset,
    weights: Mapping[str, ResolvedWeights],
) -> tuple[PlannedRun, ...]:
    """Every run of a benchmark: variants x seeds x recipes. Raises ConfigError."""
    choices = [
        (variant, benchmark.protocol_of(recipe.name, protocol), recipe)
        for (variant, protocol), recipe in product(benchmark.protocols.items(), recipes)
    ]
    return plan_choices(choices, benchmark, data, weights)


def plan_choices(
    choices: Sequence[Choice],
    benchmark: Benchmark,
    data: Dataset,
    weights: Mapping[str, ResolvedWeights],
) -> tuple[PlannedRun, ...]:
    """The runs of these recipes and protocols with each seed. Raises ConfigError."""
    for choice in choices:
        _check(*choice, data)
    planned: dict[str, PlannedRun] = {}
    for seed, (variant, protocol, recipe) in product(range(benchmark.sweep.seeds), choices):
        resolved = weights[recipe.name]
        run = Run(
            recipe=recipe.name,
            weights=resolved.weights,
            protocol=_with_scratch_phase(protocol, recipe, resolved),
            data=data.fingerprint,
            split=benchmark.split,
            seed=seed,
        )
        planned.setdefault(run.id, PlannedRun(run, recipe, resolved.files, resolved.note, variant))
    return tuple(planned.values())


FROM_SCRATCH = Phase(
    epochs=10,
    patience=4,
    optimizer=Optimizer(name="adamw", learning_rate=1e-3, weight_decay=1e-4),
    schedule=Schedule(name="plateau", patience=2),
)
"""Of networks without pretrained weights, where the settings have no such phase: the features of a
frozen backbone that was never trained say nothing about it."""


def _with_scratch_phase(protocol: Protocol, recipe: Recipe, resolved: ResolvedWeights) -> Protocol:
    if recipe.pretrained or resolved.weights.source == "file" or protocol.from_scratch:
        return protocol
    return protocol.model_copy(update={"from_scratch": FROM_SCRATCH}).with_current_version()


def _check(variant: str, protocol: Protocol, recipe: Recipe, data: Dataset) -> None:
    table, classes = f"variants.{variant}" if variant else "protocol", len(data.class_names)
    if problem := recipe.size_problem(protocol.image_size):
        raise ConfigError(f"protocol.image_size = {protocol.image_size} is {problem}")
    weights = protocol.loss.class_weight
    if isinstance(weights, tuple) and len(weights) != classes:
        raise ConfigError(
            f"{table}.loss.class_weight has {len(weights)} numbers, "
            f"but {data.name} has {classes} classes"
        )


def find_pending(
    planned_runs: Sequence[PlannedRun],
    store: Store,
    *,
    retry_failed: bool = False,
    report: Callable[[str], object] = lambda _: None,
) -> tuple[PlannedRun, ...]:
    """The runs without a record, largest network first; with ``retry_failed`` failed ones too.

    A finished run whose predictions are damaged is pending again, which ``report`` gets a line of.
    """
    pending = []
    for planned in planned_runs:
        version, record = store.record_version(planned.run), store.find(planned.run)
        if record is None:
            pending.append(planned)
        elif isinstance(record.result, Failed):
            if retry_failed:
                pending.append(replace(planned, previous_version=version))
        elif not _has_predictions(store, record):
            path = store.predictions_path(planned.run)
            report(f"{path}: damaged; {planned.recipe.name} is run again")
            pending.append(replace(planned, previous_version=version))
    return tuple(sorted(pending, key=lambda planned: -planned.recipe.multiply_adds))


def _has_predictions(store: Store, record: RunRecord) -> bool:
    """Whether the predictions that the record describes are there, or could be restored."""
    try:
        store.load_verified(record)
    except StoreError:
        return False
    return True


def epoch_cache_settings(
    benchmark: Benchmark, data: DataSummary, folder: Path
) -> EpochCacheSettings | None:
    """Where augmented epochs are cached; None without augmentation.

    Raises ConfigError where not even one epoch would fit.
    """
    augmented = [p for p in benchmark.protocols.values() if p.augmentation.policy]
    if not augmented:
        return None
    limit = int(1e9 * benchmark.sweep.augmented_gigabytes)
    classes = len(data.class_names)
    needed = max(
        epoch_bytes(protocol.augmentation, _rows(protocol.loss, data), data.image_size, classes)
        for protocol in augmented
    )
    if limit < needed:
        raise ConfigError(
            f"sweep.augmented_gigabytes = {benchmark.sweep.augmented_gigabytes:g} is less than one "
            f"augmented epoch of {data.train:,} training images at {data.image_size} px: "
            f"{needed / 1e9:.3g} GB"
        )
    return EpochCacheSettings(folder=str(folder.resolve()), limit_bytes=limit)


def _rows(loss: Loss, data: DataSummary) -> int:
    """Images of an epoch, at least: how often rare classes are repeated depends on their sizes."""
    minimum = 0 if isinstance(loss.oversampling, bool) else loss.oversampling
    return max(data.train, minimum * len(data.class_names))


def summarise(data: Dataset, parts: Parts) -> DataSummary:
    return DataSummary(
        name=data.name,
        images=len(data),
        image_size=data.images.shape[1],
        class_names=data.class_names,
        train=len(parts.train),
        validation=len(parts.validation),
        test=len(parts.test),
        notes=data.notes,
        class_counts=tuple(np.bincount(data.labels, minlength=len(data.class_names)).tolist()),
    )
