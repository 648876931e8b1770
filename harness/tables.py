"""A results folder's records -> its LEADERBOARD.md and leaderboard.csv."""

from __future__ import annotations

from pathlib import Path

from harness import report
from harness.leaderboard import boards
from harness.store import Store, write_atomically


def write_tables(results: Path) -> tuple[Path, Path]:
    """Write both tables again; returns their paths. Raises StoreError."""
    ranked = boards(Store(results).records())
    table, lines = results / "LEADERBOARD.md", results / "leaderboard.csv"
    write_atomically(table, report.markdown(ranked).encode())
    write_atomically(lines, report.csv_text(ranked).encode())
    return table, lines
