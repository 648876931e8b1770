"""A results folder's records -> its LEADERBOARD.md, leaderboard.csv, figures and index.html."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.ensembling.builder import EnsembleMembers, Member, vote_mismatch
from harness.evaluation import metrics
from harness.reporting import ablation, csv, html, markdown
from harness.reporting.figure_cache import FigureCache
from harness.reporting.leaderboard import Board, boards
from harness.schema.base import FrozenModel
from harness.schema.metrics import Evaluation
from harness.schema.predictions import Predictions
from harness.schema.records import EnsembleRecord, Record
from harness.storage.files import write_atomically
from harness.storage.migration import migrate
from harness.storage.records import Store


def read_boards(results: Path) -> tuple[Board, ...]:
    """The boards of a results folder. Raises StoreError naming what cannot be read."""
    store = Store(results)
    return _boards(store, store.all_records())


def _boards(store: Store, records: Sequence[Record]) -> tuple[Board, ...]:
    held = {
        record.subject.id: store.load_verified(record) for record in records if record.evaluation
    }
    return ablation.in_order(boards(records, held))


def tables(results: Path, ranked: Sequence[Board], gallery: FigureCache) -> dict[Path, str]:
    """Both tables and the page, by the path that each belongs at.

    The page holds the figures that lie in the folder.
    """
    pictures = {board: gallery.pictures(board) for board in gallery.plots}
    return {
        results / "LEADERBOARD.md": markdown.markdown(ranked),
        results / "leaderboard.csv": csv.csv_text(ranked),
        results / "index.html": html.html(ranked, pictures),
    }


def write_tables(results: Path) -> tuple[Path, ...]:
    """Write the tables and the page again, and the figures that changed.

    Records of older versions are migrated first. Returns the paths of tables and page. Raises
    StoreError.
    """
    migrate(results)
    ranked = read_boards(results)
    gallery = FigureCache(results, ranked)
    gallery.refresh()
    written = tables(results, ranked, gallery)
    for path, text in written.items():
        write_atomically(path, text.encode())
    return tuple(written)


def verify(results: Path) -> list[str]:
    """What in a results folder is not what its stored predictions give; empty when all is true.

    Recomputes every metric of every record from the predictions, their hash, and then the tables
    and the page from the records, byte for byte; of a figure the digest of what it shows.
    Raises StoreError naming what cannot be read.
    """
    store, wrong = Store(results), []
    records = store.all_records()
    for record in records:
        if record.evaluation:
            parts, path = store.predictions(record.subject), store.record_path(record.subject)
            wrong += [
                f"{path}: {lie}" for lie in _lies(record.evaluation, parts, record.data.class_names)
            ]
    if wrong:  # What the tables rest on is not true: nothing more can be said of them.
        return wrong
    wrong += _miscounted(store, records)
    ranked = _boards(store, records)
    gallery = FigureCache(results, ranked)
    wrong += gallery.mismatches()
    for path, text in tables(results, ranked, gallery).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            wrong.append(f"{path}: not what the records give; 'wbc-bench leaderboard' writes it")
    return wrong


def _miscounted(store: Store, records: Sequence[Record]) -> Iterator[str]:
    """Votes that are not the vote of their members."""
    ensembles = [record for record in records if isinstance(record, EnsembleRecord)]
    held: dict[str, Member] = {
        record.subject.id: record
        for record in records
        if record.evaluation and not isinstance(record, EnsembleRecord)
    }
    for record in ensembles:
        path, members = store.record_path(record.subject), record.ensemble.members
        missing = [member for member in members if member not in held]
        if missing:
            yield f"{path}: its member {missing[0]} has no record here"
        elif lie := vote_mismatch(EnsembleMembers(store, tuple(held[m] for m in members)), record):
            yield f"{path}: {lie}"


def _lies(
    told: Evaluation, parts: Mapping[str, Predictions], class_names: Sequence[str]
) -> Iterator[str]:
    """Where a record says other than its predictions do."""
    found = metrics.evaluate(parts, class_names)
    if found.predictions_sha256 != told.predictions_sha256:
        yield "the stored predictions are not those of this record"
    yield from _differences(dict(told), dict(found))


def _differences(
    told: Mapping[str, object], found: Mapping[str, object], where: str = ""
) -> Iterator[str]:
    """Each number that differs, by its dotted name."""
    for key, right in found.items():
        said = told[key]
        if isinstance(said, FrozenModel) and isinstance(right, FrozenModel):
            yield from _differences(dict(said), dict(right), f"{where}{key}.")
        elif not _same(said, right):
            yield f"{where}{key} is {said}, the predictions give {right}"


def _same(told: object, found: object) -> bool:
    """Equal, but for the last bits of a sum that another processor adds up in another order."""
    if isinstance(told, float) and isinstance(found, float):
        return abs(told - found) <= 1e-9
    if isinstance(told, FrozenModel) and isinstance(found, FrozenModel):
        return all(_same(dict(told)[key], right) for key, right in dict(found).items())
    if isinstance(told, tuple) and isinstance(found, tuple):
        return len(told) == len(found) and all(map(_same, told, found))
    return told == found
