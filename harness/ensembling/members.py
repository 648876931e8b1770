"""Finished runs and imported predictions -> groups of members that can be combined."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from harness.ensembling.cross_fitting import stratified_folds
from harness.errors import StoreError, UnknownName, UserError, did_you_mean
from harness.schema.predictions import SHIFTED, Predictions
from harness.schema.records import ExternalRecord, RunRecord
from harness.schema.run import Run
from harness.storage.files import read_arrays
from harness.storage.predictions import read_predictions
from harness.storage.records import FEATURES, PREDICTIONS, Store, check_same_images
from zoo.registry import find

PARTS = ("validation", "test", SHIFTED)
"""That ensembles predict."""
T = TypeVar("T")

Member = RunRecord | ExternalRecord


@dataclass(frozen=True)
class EnsembleMembers:
    """Members that can be combined: they share images, split, protocol and seed."""

    store: Store
    records: tuple[Member, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(_name, self.records))

    @cached_property
    def parts(self) -> tuple[dict[str, Predictions], ...]:
        parts = tuple(self.store.load_verified(record) for record in self.records)
        by_id = {r.subject.id: own for r, own in zip(self.records, parts, strict=True)}
        check_same_images(self.store, self.records, by_id)
        return parts

    def have(self, part: str) -> bool:
        return all(part in parts for parts in self.parts)

    def labels(self, part: str) -> np.ndarray:
        return self.parts[0][part].labels

    def probabilities(self, part: str) -> np.ndarray:
        """(m, n, K). Raises UserError if a member lacks the part."""
        for record, parts in zip(self.records, self.parts, strict=True):
            path = self.store.predictions_path(record.subject)
            if part not in parts:
                raise UserError(f"{path}: has no {part} images, which this rule is fitted on")
        return np.stack([parts[part].probabilities for parts in self.parts])

    @cached_property
    def folds(self) -> np.ndarray:
        """The fold of each validation image (n,), the same for all rules. Raises UserError."""
        return stratified_folds(self.labels("validation"), self.records[0].run.seed)

    @cached_property
    def features(self) -> tuple[dict[str, np.ndarray], ...]:
        """Each member's pooled features (n, width) by part. Raises UserError."""
        rows = {name: len(self.labels(name)) for name in PARTS if self.have(name)}
        found = [self._read(record, FEATURES, read_arrays) for record in self.records]
        rows["train"] = len(self.train_labels())
        for record, arrays in zip(self.records, found, strict=True):
            self._read(record, FEATURES, partial(_check_features, arrays=arrays, rows=rows))
        return tuple(found)

    def train_labels(self) -> np.ndarray:
        read = partial(_read_train_labels, classes=len(self.records[0].data.class_names))
        return self._read(self.records[0], PREDICTIONS, read)

    def _read(self, record: Member, file: str, read: Callable[[Path], T]) -> T:
        if isinstance(record, ExternalRecord):
            raise UserError(f"{record.external.name} was imported: it has no features")
        path = self.store.artefacts(record.run) / file
        remedy = (
            f"delete {self.store.record_path(record.run)}, then 'wbc-bench run {record.run.recipe}'"
        )
        if not path.exists():
            raise UserError(f"{path} is missing; {remedy}")
        try:
            return read(path)
        except StoreError:
            if not os.access(path, os.R_OK):  # It is whole, perhaps.
                raise
            raise UserError(f"{path} is damaged; {remedy}") from None


def _check_features(path: Path, arrays: Mapping[str, np.ndarray], rows: Mapping[str, int]) -> None:
    """Raises StoreError unless there are so many ``rows`` of features of each part."""
    found = [arrays[name] for name in rows if name in arrays]
    width = found[0].shape[-1:] if found else ()
    if [array.shape for array in found] != [(count, *width) for count in rows.values()]:
        raise StoreError(f"{path}: not the features of these images")
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in found):
        raise StoreError(f"{path}: features that are not finite numbers")


def _read_train_labels(path: Path, classes: int) -> np.ndarray:
    """Raises StoreError."""
    part = read_predictions(path).get("train")
    if part is None or part.probabilities.shape[1] != classes:
        raise StoreError(f"{path}: no training images of these classes")
    return part.labels


def group_members(
    store: Store, names: Sequence[str], reference: Run | None = None
) -> tuple[EnsembleMembers, ...]:
    """The named recipes and imports, once per board and seed for which all are finished.

    Without names: every finished network that is not a joint one. With a ``reference`` run: on
    its board only. Raises UserError where fewer than two members can be combined.
    """
    finished = [r for r in store.records() if r.finished and _same_board(r.run, reference)]
    imported = [record for record in store.external_records() if not record.baseline]
    imported_names = {record.external.name for record in imported}
    requested = tuple(dict.fromkeys(_resolve(name, imported_names) for name in names))
    if names and len(requested) < 2:
        raise UserError("an ensemble needs at least two different members")
    candidates: list[Member] = [r for r in finished if names or not find(r.run.recipe).branches]
    candidates += imported if names else []
    for name in requested:
        if name not in map(_name, candidates):
            raise UserError(f"{store.root}: no finished run of {name}; 'wbc-bench run {name}'")
    groups: dict[tuple[str, ...], list[Member]] = defaultdict(list)
    for record in candidates:
        run = record.run
        key = (record.profile, run.data, run.split.canonical(), run.protocol.canonical())
        groups[(*key, str(run.seed))].append(record)
    selected = [_one_per_name(groups[key], requested) for key in sorted(groups)]
    if not any(len(records) > 1 for records in selected):
        what = " + ".join(requested) or "two finished runs"
        raise UserError(f"{store.root}: no common images, protocol and seed for {what}")
    return tuple(EnsembleMembers(store, records) for records in selected if len(records) > 1)


def _same_board(run: Run, reference: Run | None) -> bool:
    return reference is None or (run.data, run.split, run.protocol) == (
        reference.data, reference.split, reference.protocol,
    )  # fmt: skip


def _resolve(name: str, imported: set[str]) -> str:
    """A recipe's name, or ``@name`` of an import. Raises UserError."""
    plain = name.removeprefix("@")
    if plain in imported:
        return f"@{plain}"
    if name.startswith("@"):
        raise UserError(f"nothing was imported as {plain!r}{did_you_mean(plain, imported)}")
    try:
        return find(name).name
    except UnknownName as error:
        others = f"; imported: {', '.join(sorted(imported))}" if imported else ""
        raise UserError(f"{error}{others}") from None


def _name(record: Member) -> str:
    if isinstance(record, ExternalRecord):
        return f"@{record.external.name}"
    return record.run.recipe


def _one_per_name(records: Sequence[Member], requested: Sequence[str]) -> tuple[Member, ...]:
    """One record per name, in the requested order; pretrained weights before random ones.

    Empty if a requested one is missing.
    """
    best: dict[str, Member] = {}
    for record in sorted(records, key=lambda r: (r.run.weights.source == "random", r.subject.id)):
        best.setdefault(_name(record), record)
    names = requested or sorted(best)
    return tuple(best[name] for name in names) if best.keys() >= set(names) else ()
