"""A table: columns, each defined once, over any items. Written as Markdown, HTML or a DataFrame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import pandas as pd

T = TypeVar("T")
Alignment = Literal["left", "center", "right"]
Emphasis = Literal["", "*", "**"]
"""Of a cell, as Markdown marks it."""

UNKNOWN = "–"


def _no_mark(_: Any) -> str:
    return ""


def _plain(_: Any) -> Emphasis:
    return ""


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column of a table, or of several."""

    key: str
    """Its name in the CSV and in DataFrames."""
    heading: str
    """With the unit."""
    value: Callable[[T], Any]
    """Of an item, unrounded; None where it is unknown."""
    format: Callable[[Any], str] = str
    """How a known value is written."""
    align: Alignment = "right"
    mark: Callable[[T], str] = _no_mark
    """What follows the value in tables: a footnote mark, an interval, a name."""
    emphasis: Callable[[T], Emphasis] = _plain
    shown: tuple[str, ...] = ()
    """The tables that it stands in."""
    explanation: str = ""

    def cell(self, item: T) -> Cell:
        value = self.value(item)
        text = UNKNOWN if value is None else self.format(value)
        mark = "" if value is None else self.mark(item)
        return Cell(value, text, mark, self.emphasis(item))


@dataclass(frozen=True)
class Cell:
    value: Any
    text: str
    mark: str = ""
    emphasis: Emphasis = ""

    def __str__(self) -> str:
        return f"{self.text} {self.mark}".rstrip()

    @property
    def markdown(self) -> str:
        text = f"{self.emphasis}{escape(self.text)}{self.emphasis}"
        return f"{text}\N{NO-BREAK SPACE}{escape(self.mark)}" if self.mark else text

    @property
    def sort_value(self) -> float | None:
        """None for what is unknown or no number."""
        return float(self.value) if isinstance(self.value, int | float) else None


@dataclass(frozen=True)
class Table(Generic[T]):
    columns: Sequence[Column[T]]
    items: Sequence[T]
    legend: str = ""

    @property
    def cells(self) -> list[list[Cell]]:
        return [[column.cell(item) for column in self.columns] for item in self.items]

    @property
    def frame(self) -> pd.DataFrame:
        """The unrounded values, one column a key, of dtype object."""
        values = [[column.value(item) for column in self.columns] for item in self.items]
        return pd.DataFrame(values, columns=[column.key for column in self.columns], dtype=object)

    @property
    def markdown(self) -> str:
        """A GitHub table, its legend below it."""
        written = pd.DataFrame(
            [[cell.markdown for cell in row] for row in self.cells],
            columns=[escape(column.heading) for column in self.columns],
        )
        text = written.to_markdown(
            index=False,
            tablefmt="pipe",
            colalign=[column.align for column in self.columns],
            disable_numparse=True,
        )
        return f"{text}\n\n{self.legend}" if self.legend else text


def escape(text: str) -> str:
    """Safe inside a Markdown table cell."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


# --- formats -------------------------------------------------------------------------------------


def number(digits: int, scale: float = 1.0, sign: str = "") -> Callable[[float], str]:
    """Writes a number with so many decimals, after multiplying it by ``scale``; never -0."""
    return lambda value: f"{value * scale:{sign}z,.{digits}f}"


percent = number(2, 100)
percent_1 = number(1, 100)
points = number(1, 100, "+")


def rate(images_per_second: float) -> str:
    return f"{images_per_second:,.{1 if images_per_second < 100 else 0}f}"


SMALLEST_P = 1e-16
"""Below this no p is printed: the tails of the distributions behind it are approximations."""


def p_value(p: float) -> str:
    return f"{p:.2g}" if p >= SMALLEST_P else f"< {SMALLEST_P:g}"


def p_equals(p: float) -> str:
    """``p = 0.03``, or ``p < 1e-16``."""
    return f"p = {p_value(p)}".replace("= <", "<")


def share(part: float) -> str:
    return f"{part:.0%}"


def interval(low: float, high: float) -> str:
    """In percent, on one line."""
    return f"{100 * low:.1f}\N{NON-BREAKING HYPHEN}{100 * high:.1f}"
