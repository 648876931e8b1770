"""CSV: cells of text, as spreadsheets and other programs write and read them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.errors import DataError, path_error

DELIMITERS = (",", ";", "\t")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a formula begins with in a spreadsheet."""

Table = tuple[list[str], list[list[str]], list[int]]
"""The first row, the other rows, and the line of the file that each row ends in."""


def csv_cell(value: Any) -> Any:
    """A cell of a CSV, which no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def _text_of_cell(cell: str) -> str:
    """The text that ``csv_cell`` was given."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(text: str) -> bool:
    """Also of a text that was made one already, so that each can be read back."""
    return text.lstrip("'").startswith(FORMULA)


def read_table(path: Path) -> Table:
    """The table in a file. Raises DataError naming the line of what is no CSV."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return parse_table(file.read(), str(path))
    except OSError as error:
        raise DataError(str(path_error(error, path))) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def parse_table(text: str, name: str) -> Table:
    """The table in a text. Raises DataError naming the line of what is no CSV."""
    rows, lines = [], []
    file = io.StringIO(text, newline="")
    delimiter = _delimiter(file.readline())
    file.seek(0)
    reader = csv.reader(file, strict=True, delimiter=delimiter)
    try:
        for row in filter(None, reader):
            rows.append(list(map(_text_of_cell, row)))
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{name}: line {reader.line_num}: {error}") from None
    if not rows:
        raise DataError(f"{name}: is empty")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(rows[0]):
            problem = f"line {line} has {len(row)} columns, line {lines[0]} has {len(rows[0])}"
            raise DataError(f"{name}: {problem}")
    return list(map(plain_name, rows[0])), rows[1:], lines[1:]


def _delimiter(header: str) -> str:
    """A comma; a semicolon or a tab, as spreadsheets write, where the header has columns by it."""
    for delimiter in DELIMITERS:
        with suppress(csv.Error):
            names = map(str.strip, next(csv.reader([header], delimiter=delimiter), []))
            if {*names} & {"label", "sha256", "file"}:
                return delimiter
    return DELIMITERS[0]


def plain_name(name: str) -> str:
    """With single blanks."""
    return " ".join(name.split())


def read_numbers(path: Path, name: str, cells: Sequence[str], lines: Sequence[int]) -> list[float]:
    """Converted exactly as by Python; a comma is a point. Raises DataError naming the cell."""
    points = [cell.replace(",", ".") for cell in cells]
    for cell, point, line in zip(cells, points, lines, strict=True):
        if not is_number(point):
            raise DataError(f"{path}: line {line}, column {name!r}: {cell!r} is no number")
    return list(map(float, points))


def is_number(cell: str) -> bool:
    """Whether Python reads the cell as a float."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
