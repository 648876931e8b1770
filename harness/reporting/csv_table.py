"""A CSV of another program: cells of text, and the lines they stand in."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.errors import DataError, path_error
from harness.storage.files import text_of_cell

DELIMITERS = (",", ";", "\t")


def read_table(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """The first row, the other rows, and the line of the file that each row ends in.

    Raises DataError naming the line of what is no CSV.
    """
    rows, lines = [], []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=delimiter)
            for row in reader:
                if row:
                    rows.append(list(map(text_of_cell, row)))
                    lines.append(reader.line_num)
    except OSError as error:
        raise DataError(str(path_error(error, path))) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from None
    if not rows:
        raise DataError(f"{path}: is empty")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(rows[0]):
            problem = f"line {line} has {len(row)} columns, line {lines[0]} has {len(rows[0])}"
            raise DataError(f"{path}: {problem}")
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
