"""A results folder's records -> its LEADERBOARD.md, leaderboard.csv, figures and index.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.reporting import ablation
from harness.reporting.columns import csv_text
from harness.reporting.figure_cache import FigureCache
from harness.reporting.html import html
from harness.reporting.leaderboard import Board, boards
from harness.reporting.markdown import markdown
from harness.schema.records import Record
from harness.storage.files import write_atomically
from harness.storage.migration import migrate
from harness.storage.records import Store


def read_boards(results: Path) -> tuple[Board, ...]:
    """The boards of a results folder. Raises StoreError naming what cannot be read."""
    store = Store(results)
    return boards_of(store, store.all_records())


def boards_of(store: Store, records: Sequence[Record]) -> tuple[Board, ...]:
    """The boards of these records, whose predictions are verified. Raises StoreError."""
    parts = {
        record.subject.id: store.load_verified(record) for record in records if record.evaluation
    }
    store.check_same_images(records, parts)
    return ablation.in_order(boards(records, parts))


def published_texts(
    results: Path, ranked: Sequence[Board], figures: FigureCache
) -> dict[Path, str]:
    """Tables and page by path; the page holds the figures that are in the folder."""
    return {
        results / "LEADERBOARD.md": markdown(ranked),
        results / "leaderboard.csv": csv_text(ranked),
        results / "index.html": html(ranked, figures.pictures()),
    }


def write_tables(results: Path) -> tuple[Path, ...]:
    """Write the tables, the page and the figures that changed; returns the first two's paths.

    Records of older versions are migrated first. Raises StoreError.
    """
    migrate(results)
    ranked = read_boards(results)
    figures = FigureCache(results, ranked)
    figures.refresh()
    written = published_texts(results, ranked, figures)
    for path, text in written.items():
        write_atomically(path, text.encode())
    return tuple(written)
