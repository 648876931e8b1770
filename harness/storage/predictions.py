"""Predictions on disk: one npy table, a row per image.

A table from elsewhere is checked here, once, for what every later computation relies on.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from harness.schema.predictions import EVERY_SHIFT, EVERY_SHIFT_COPIES, PARTS, Predictions
from harness.storage.files import AGAIN, read_plain, unreadable, write_atomically

MOST_BYTES = 1 << 30
SUM_TOLERANCE = 0.02
"""Largest distance of a row's sum from 1: networks may compute in bfloat16."""


def write_predictions(path: Path, parts: Mapping[str, Predictions]) -> None:
    """Write a table of part, id, label and probabilities; one header is fast to read."""
    classes = next(iter(parts.values())).probabilities.shape[1]
    table = np.empty(sum(len(part.ids) for part in parts.values()), dtype=_fields(classes))
    begin = 0
    for name, part in parts.items():
        rows = table[begin : begin + len(part.ids)]
        rows["part"], rows["id"], rows["label"] = name.encode(), part.ids, part.labels
        rows["probabilities"] = part.probabilities
        begin += len(part.ids)
    buffer = io.BytesIO()
    np.save(buffer, table, allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def read_predictions(
    path: Path, remedy: Callable[[], str] = lambda: AGAIN
) -> dict[str, Predictions]:
    """Read predictions by part. Raises StoreError naming the file, and the remedy."""
    try:
        table = _table(read_plain(path, MOST_BYTES))
        _check_values(table)
        names = table["part"]
        starts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1), len(table)]
        parts = {}
        for begin, end in pairwise(starts):
            rows = table[begin:end]
            name = names[begin].decode()
            if name in parts or name not in PARTS:
                raise ValueError(f"{name!r} is no part, or is there twice")
            parts[name] = Predictions(
                rows["id"].astype(np.int64),
                rows["label"].astype(np.int64),
                np.ascontiguousarray(rows["probabilities"]),
            )
        _check_rows(parts)
    except (OSError, ValueError, IndexError, KeyError, EOFError) as error:
        raise unreadable(path, error, remedy()) from None
    return parts


def _check_values(table: np.ndarray) -> None:
    """Raises ValueError for rows that no metric could be computed of."""
    labels, probabilities = table["label"], table["probabilities"]
    classes = probabilities.shape[1]
    if labels.view(np.uint16).max() >= classes:
        raise ValueError(f"labels other than 0 to {classes - 1}")
    distance = np.abs(probabilities.sum(axis=1) - 1).max()
    # What is not a number makes each comparison false.
    if not (probabilities.min() >= 0 and distance <= SUM_TOLERANCE):
        raise ValueError("a row of probabilities is negative, infinite or does not sum to 1")


def _check_rows(parts: Mapping[str, Predictions]) -> None:
    """Raises ValueError unless there is a test part, whose images all its copies have."""
    if "test" not in parts:
        raise ValueError("the test part is missing")
    test = parts["test"]
    for name, part in parts.items():
        if name in {"train", "validation", "test"}:
            continue
        copies = EVERY_SHIFT_COPIES if name.endswith(EVERY_SHIFT) else 1
        for rows, expected in ((part.ids, test.ids), (part.labels, test.labels)):
            if len(rows) != copies * len(expected) or (rows.reshape(copies, -1) != expected).any():
                raise ValueError(f"{name} has other images than test")


def _table(content: bytes) -> np.ndarray:
    """The array of an npy file. Equal headers, of a thousand files, are parsed once."""
    begin = 10 + int.from_bytes(content[8:10], "little")
    shape, fields = _header(content[:begin])
    return np.frombuffer(content, fields, offset=begin).reshape(shape)


@cache
def _header(content: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not an npy file of this program")
    shape, _, fields = np.lib.format.read_array_header_1_0(stream)
    if fields.hasobject:
        raise ValueError("objects cannot be loaded")
    if fields.names != tuple(name for name, *_ in _fields(1)) or len(shape) != 1 or not shape[0]:
        raise ValueError("not a table of predictions")
    (classes,) = fields["probabilities"].shape or (1,)
    if classes < 2 or fields != np.dtype(_fields(classes)):
        raise ValueError("not a table of predictions")
    return shape, fields


def _fields(classes: int) -> list[Any]:
    return [("part", "S16"), ("id", "<i4"), ("label", "<i2"), ("probabilities", "<f4", (classes,))]
