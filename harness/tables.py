"""A results folder's records -> its LEADERBOARD.md and leaderboard.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import metrics, report
from harness.leaderboard import Board, boards
from harness.nouns import EnsembleRecord, Finished, Predictions
from harness.store import Store, write_atomically


def read_boards(results: Path) -> tuple[Board, ...]:
    """The boards of a results folder. Raises StoreError naming what cannot be read."""
    store = Store(results)
    records, ensembles = store.records(), store.ensembles()
    tests = {r.run.id: store.predictions(r.run)["test"] for r in records if r.finished}
    tests |= {e.ensemble.id: store.predictions(e.ensemble)["test"] for e in ensembles}
    return boards([*records, *ensembles], tests)


def tables(results: Path) -> dict[Path, str]:
    """Both tables as the records and predictions give them, by the path that each belongs at."""
    ranked = read_boards(results)
    return {
        results / "LEADERBOARD.md": report.markdown(ranked),
        results / "leaderboard.csv": report.csv_text(ranked),
    }


def write_tables(results: Path) -> tuple[Path, ...]:
    """Write both tables again; returns their paths. Raises StoreError."""
    written = tables(results)
    for path, text in written.items():
        write_atomically(path, text.encode())
    return tuple(written)


def verify(results: Path) -> list[str]:
    """What in a results folder is not what its stored predictions give; empty when all is true.

    Recomputes every metric of every record from the predictions, their hash, and then the tables
    from the records, byte for byte. Raises StoreError naming what cannot be read.
    """
    store, wrong = Store(results), []
    for record in store.records():
        if isinstance(record.result, Finished):
            path, parts = store.record_path(record.run), store.predictions(record.run)
            wrong += _lies(path, record.result, parts, record.data.class_names)
    for ensemble in store.ensembles():
        path = store.ensemble_path(ensemble.ensemble)
        parts = store.predictions(ensemble.ensemble)
        wrong += _lies(path, ensemble, parts, ensemble.data.class_names)
    for path, text in tables(results).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            wrong.append(f"{path}: not what the records give; 'wbc-bench leaderboard' writes it")
    return wrong


def _lies(
    path: Path,
    scored: Finished | EnsembleRecord,
    parts: Mapping[str, Predictions],
    class_names: Sequence[str],
) -> list[str]:
    """Where a record says other than its predictions do."""
    wrong = []
    if metrics.digest(parts) != scored.predictions_sha256:
        wrong.append(f"{path}: the stored predictions are not those of this record")
    for name, metric in (("validation", scored.validation), ("test", scored.test)):
        told, found = metric.model_dump(), metrics.score(parts[name], class_names).model_dump()
        wrong += [
            f"{path}: {name} {key} is {told[key]}, the predictions give {found[key]}"
            for key in told
            if not _same(told[key], found[key])
        ]
    return wrong


def _same(told: object, found: object) -> bool:
    """Equal, but for the last bits of a sum that another processor adds up in another order."""
    if isinstance(told, float) and isinstance(found, float):
        return abs(told - found) <= 1e-9
    if isinstance(told, dict) and isinstance(found, dict):
        return told.keys() == found.keys() and all(_same(told[k], found[k]) for k in told)
    if isinstance(told, tuple) and isinstance(found, tuple):
        return len(told) == len(found) and all(map(_same, told, found))
    return told == found
