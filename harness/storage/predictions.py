"""Predictions on disk: one npy table, a row per image."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import StoreError
from harness.schema.predictions import Predictions
from harness.storage.files import write_atomically


def write_predictions(path: Path, parts: Mapping[str, Predictions]) -> None:
    """Write a table of part, id, label and probabilities; one header is fast to read."""
    classes = next(iter(parts.values())).probabilities.shape[1]
    fields = [("part", "S16"), ("id", "<i4"), ("label", "<i2"), ("probabilities", "<f4", classes)]
    table = np.empty(sum(len(part.ids) for part in parts.values()), dtype=fields)
    begin = 0
    for name, part in parts.items():
        rows = table[begin : begin + len(part.ids)]
        rows["part"], rows["id"], rows["label"] = name.encode(), part.ids, part.labels
        rows["probabilities"] = part.probabilities
        begin += len(part.ids)
    buffer = io.BytesIO()
    np.save(buffer, table, allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def read_predictions(path: Path) -> dict[str, Predictions]:
    """Read predictions by part. Raises StoreError naming the file."""
    try:
        table = _table(path.read_bytes())
        names = table["part"]
        starts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1), len(table)]
        parts = {}
        for begin, end in pairwise(starts):
            rows = table[begin:end]
            parts[names[begin].decode()] = Predictions(
                rows["id"].astype(np.int64),
                rows["label"].astype(np.int64),
                np.ascontiguousarray(rows["probabilities"]),
            )
    except (OSError, ValueError, IndexError, KeyError, EOFError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); delete it and run again") from None
    return parts


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
    return shape, fields
