"""A table before it is written: heads and cells in plain text, for Markdown and HTML alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tabulate import tabulate

Alignment = Literal["left", "center", "right"]
Stress = Literal["", "strong", "emphasis"]

CENTRED = frozenset({"Rank", "Seed"})
WORDS = frozenset(
    {"Network", "Weights", "Reason", "Ensemble", "Members and their shares", "Member", "In words",
     "Front", "Worst kind", "Options", "Against"}
)  # fmt: skip
"""Heads of columns that hold words; all others hold numbers."""
STARS: dict[Stress, str] = {"": "", "strong": "**", "emphasis": "*"}


@dataclass(frozen=True)
class Cell:
    """A text that is stressed, and what follows it without stress."""

    text: str
    stress: Stress = ""
    after: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.after}".rstrip()


@dataclass(frozen=True)
class Table:
    """Heads, and rows of as many cells; nothing is escaped yet."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    legend: str = ""

    @property
    def alignments(self) -> tuple[Alignment, ...]:
        return tuple(map(alignment, self.heads))


def table(heads: Sequence[str], rows: Sequence[Sequence[str | Cell]], legend: str = "") -> Table:
    return Table(tuple(heads), tuple(map(tuple, rows)), legend)


def alignment(head: str) -> Alignment:
    return "left" if head in WORDS else "center" if head in CENTRED else "right"


def value(cell: str | Cell) -> float | None:
    """The number that a cell begins with, by which it sorts; None where it begins with none."""
    found = re.match(r"[+-]?\d[\d,]*(\.\d+)?", str(cell))
    return float(found[0].replace(",", "")) if found else None


# --- Markdown ------------------------------------------------------------------------------------


def markdown(written: Table) -> str:
    """As a GitHub table, its legend below it."""
    rows = [[_markdown_cell(cell) for cell in row] for row in written.rows]
    text = tabulate(
        rows,
        [escape(head) for head in written.heads],
        tablefmt="github",
        colalign=written.alignments,
        disable_numparse=True,
    )
    return f"{text}\n\n{written.legend}" if written.legend else text


def _markdown_cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return escape(cell)
    stars = STARS[cell.stress]
    return f"{stars}{escape(cell.text)}{stars} {cell.after}".rstrip()


def escape(text: str) -> str:
    """Safe inside a Markdown table cell."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
