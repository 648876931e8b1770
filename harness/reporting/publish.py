"""A results folder's records -> its LEADERBOARD.md, leaderboard.csv, figures and index.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.reporting import ablation, reproduction, reproduction_table
from harness.reporting.columns import csv_text
from harness.reporting.figure_cache import FigureCache
from harness.reporting.html import html
from harness.reporting.leaderboard import Board, boards
from harness.reporting.markdown import markdown
from harness.reporting.reproduction import Reproduction
from harness.reports.preset import Report, packaged, read_preset
from harness.schema.records import Record
from harness.storage.files import write_atomically
from harness.storage.records import Store, check_same_images


def read_boards(results: Path) -> tuple[Board, ...]:
    """The boards of a results folder. Raises StoreError naming what cannot be read."""
    store = Store(results)
    return boards_of(store, store.all_records())


def boards_of(store: Store, records: Sequence[Record]) -> tuple[Board, ...]:
    """The boards of these records, whose predictions are verified. Raises StoreError."""
    parts = {
        record.subject.id: store.load_verified(record) for record in records if record.evaluation
    }
    check_same_images(store, records, parts)
    fingerprints = {record.run.data for record in records}
    images = {key: known for key in fingerprints if (known := store.images(key)) is not None}
    return ablation.in_order(boards(records, parts, images))


def reproductions_of(store: Store, boards: Sequence[Board]) -> tuple[Reproduction, ...]:
    """The reports whose page is in the folder, with what the runs of these boards measure.

    ``wbc-bench reproduce`` makes the pages; a preset of the user's lies in its folder. Raises
    ConfigError.
    """
    paths = sorted(store.root.glob("*.md"))
    found = {path.stem: preset for path in paths if (preset := _preset(path)) is not None}
    if not found:
        return ()
    parts = {key: value for board in boards for key, value in board.predictions.items()}
    records = [record for board in boards for row in board.networks for record in row.records]
    return reproduction.reproductions(found, records, parts)


def _preset(page: Path) -> Report | None:
    """The preset of a report's page; None for another page."""
    own = page.with_suffix(".toml")
    return read_preset(own) if own.exists() else packaged().get(page.stem)


def published_texts(
    results: Path,
    ranked: Sequence[Board],
    figures: FigureCache,
    reproduced: Sequence[Reproduction] = (),
) -> dict[Path, str]:
    """Tables and page by path; the page holds the figures that are in the folder."""
    texts = {
        results / "LEADERBOARD.md": markdown(ranked),
        results / "leaderboard.csv": csv_text(ranked),
        results / "index.html": html(ranked, figures.pictures(), reproduced),
    }
    for found in reproduced:
        texts[results / f"{found.number}.md"] = reproduction_table.markdown(found, reproduced)
        texts[results / f"{found.number}.csv"] = reproduction_table.csv_text(found)
    return texts


def write_tables(results: Path) -> tuple[Path, ...]:
    """Write the tables, the page and the figures that changed; returns the first two's paths.

    Raises StoreError.
    """
    store, ranked = Store(results), read_boards(results)
    reproduced = reproductions_of(store, ranked)
    figures = FigureCache(results, ranked, reproduction_table.plots(reproduced))
    figures.refresh()
    written = published_texts(results, ranked, figures, reproduced)
    for path, text in written.items():
        write_atomically(path, text.encode())
    return tuple(written)
