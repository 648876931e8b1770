"""What ``verify`` does: recompute every printed number from the stored predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.ensembling.builder import fit_mismatch
from harness.ensembling.members import EnsembleMembers, Member
from harness.errors import StoreError
from harness.evaluation import metrics
from harness.reporting.figure_cache import FigureCache
from harness.reporting.publish import boards_of, published_texts, reproductions_of
from harness.reporting.reproduction_table import plots
from harness.schema.records import EnsembleRecord, Record
from harness.storage.files import read_plain
from harness.storage.records import Store

RESAMPLED = ("macro_f1_interval", "macro_f1_sd", "accuracy_interval")
"""Metrics of resampled test sets. NumPy draws other ones where the last bit of a logarithm, which
depends on the processor and the C library, decides about a draw."""
RESAMPLING_ERROR = 0.05
"""Of an interval's width, or of a standard deviation: five standard errors of the difference of two
results of 10,000 normal resamples."""


def verify(results: Path) -> list[str]:
    """The mismatches between a results folder and its stored predictions; empty if there are none.

    Recomputes every metric of every record and the hash of its predictions, fits ensembles again,
    then compares tables and page byte for byte, and the digest of each figure. Raises StoreError
    naming what cannot be read.
    """
    store = Store(results)
    records = store.all_records()
    mismatches = [line for record in records for line in _metric_mismatches(store, record)]
    if mismatches:  # The tables rest on them.
        return mismatches
    ranked = boards_of(store, records)
    reproduced = reproductions_of(store, ranked)
    figures = FigureCache(results, ranked, plots(reproduced))
    mismatches = [*_ensemble_mismatches(store, records), *figures.mismatches()]
    for path, text in published_texts(results, ranked, figures, reproduced).items():
        if not _holds(path, text.encode()):
            mismatches.append(
                f"{path}: not what the records give; 'wbc-bench leaderboard' writes it"
            )
    return mismatches


def _holds(path: Path, content: bytes) -> bool:
    try:
        return read_plain(path, len(content)) == content
    except (OSError, StoreError):
        return False


def _metric_mismatches(store: Store, record: Record) -> Iterator[str]:
    if record.evaluation is None:
        return
    path, stored = store.record_path(record.subject), record.evaluation
    computed = metrics.evaluate(store.predictions_of(record), record.data.class_names)
    if computed.predictions_sha256 != stored.predictions_sha256:
        yield f"{path}: the stored predictions are not those of this record"
    for difference in _differences(stored.model_dump(), computed.model_dump(), ""):
        yield f"{path}: {difference}"


def _ensemble_mismatches(store: Store, records: Sequence[Record]) -> Iterator[str]:
    """Ensembles whose predictions are not what their rule makes of their members."""
    by_id: dict[str, Member] = {
        record.subject.id: record
        for record in records
        if record.evaluation and not isinstance(record, EnsembleRecord)
    }
    for record in records:
        if not isinstance(record, EnsembleRecord):
            continue
        path, members = store.record_path(record.subject), record.ensemble.members
        missing = [member for member in members if member not in by_id]
        if missing:
            yield f"{path}: its member {missing[0]} has no record here"
            continue
        group = EnsembleMembers(store, tuple(by_id[member] for member in members))
        if mismatch := fit_mismatch(group, record):
            yield f"{path}: {mismatch}"


def _differences(stored: Any, computed: Any, name: str) -> Iterator[str]:
    """Each value that differs, by its dotted name.

    Floats are equal up to the last bits, which depend on the order of a processor's additions.
    """
    match stored, computed:
        case dict(), dict():
            for key, value in computed.items():
                if key in RESAMPLED and _differ_by_chance(stored.get(key), value):
                    continue
                yield from _differences(stored.get(key), value, f"{name}.{key}")
        case tuple(), tuple() if len(stored) == len(computed):
            for i, (left, right) in enumerate(zip(stored, computed, strict=True)):
                yield from _differences(left, right, f"{name}.{i}")
        case float(), float() if math.isclose(stored, computed, rel_tol=0, abs_tol=1e-9):
            return
        case _ if stored != computed:
            yield f"{name.removeprefix('.')} is {stored}, the predictions give {computed}"


def _differ_by_chance(stored: Any, computed: Any) -> bool:
    """Whether two intervals, or two standard deviations, differ as those of other resamples do."""
    scale = np.ptp(computed) if isinstance(computed, tuple) else computed
    return np.shape(stored) == np.shape(computed) and np.allclose(
        stored, computed, rtol=0, atol=RESAMPLING_ERROR * scale
    )
