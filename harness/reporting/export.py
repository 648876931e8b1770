"""Export of predictions to other programs, in the formats that ``prediction_files`` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from harness.errors import UserError
from harness.evaluation import metrics
from harness.reporting.compare import rows_named
from harness.reporting.leaderboard import Board
from harness.reporting.prediction_files import META, PREFIXES
from harness.reporting.publish import read_boards
from harness.reporting.rows import Parts
from harness.schema.dataset import ImageIdentities
from harness.schema.predictions import Predictions
from harness.storage.csv_table import csv_cell
from harness.storage.files import write_arrays, write_atomically
from harness.storage.records import Store

Format = Literal["csv", "npz", "medmnist"]


def export_predictions(
    name: str, results: Path, folder: Path, file_format: Format
) -> tuple[Path, ...]:
    """Write a row's predictions, one file per board and seed; returns their paths.

    ``folder`` may be the path of a csv or npz file where there is one to write. Raises UserError.
    """
    store = Store(results)
    held = [
        (board, record, parts, store.images(board.fingerprint) or ImageIdentities())
        for board, row in rows_named(read_boards(results), name, results)
        for record, parts in zip(row.records, row.parts, strict=True)
    ]
    single = folder if folder.suffix == f".{file_format}" and not folder.is_dir() else None
    if single and len(held) > 1:
        raise UserError(f"{single}: {name} has {len(held)} files to write; name a folder")
    paths = []
    for board, record, parts, images in held:
        stem = f"{name.removeprefix('@')}-{record.subject.id}"
        classes = board.data.class_names
        if file_format == "npz":
            path = single or folder / f"{stem}.npz"
            _write_npz(path, parts, classes, images)
        elif file_format == "csv":
            path = single or folder / f"{stem}.csv"
            _write_csv(path, parts, classes, images)
        else:
            path = folder / f"{_medmnist_name(parts, board)}@{stem}.csv"
            _write_medmnist(path, parts["test"], classes, images)
        paths.append(path)
    return tuple(paths)


def _medmnist_name(parts: Parts, board: Board) -> str:
    score = metrics.score(parts["test"], board.data.class_names)
    flag = re.sub(r"[^a-z0-9]", "", board.data.name.lower()) or "data"
    return f"{flag}_test_[AUC]{score.auc or 0:.3f}_[ACC]{score.accuracy:.3f}"


def _write_npz(
    path: Path,
    parts: Mapping[str, Predictions],
    class_names: Sequence[str],
    images: ImageIdentities,
) -> None:
    arrays = {"class_names": np.array(class_names)}
    for part, prefix in PREFIXES.items():
        if part in parts:
            arrays[f"{prefix}probabilities"] = parts[part].probabilities
            arrays[f"{prefix}labels"] = parts[part].labels
            arrays[f"{prefix}images"] = parts[part].ids
            known = images.columns(parts[part].ids)
            arrays |= {
                f"{prefix}{key}": np.array(known[column])
                for key, column in (("sha256", "sha256"), ("files", "file"))
                if column in known
            }
    write_arrays(path, arrays, compress=True)


def _write_csv(
    path: Path,
    parts: Mapping[str, Predictions],
    class_names: Sequence[str],
    images: ImageIdentities,
) -> None:
    tables = []
    for part in filter(parts.__contains__, PREFIXES):
        held = parts[part]
        about = _about(held, class_names, images)
        about.insert(0, "part", part)
        # Classes may be called as these columns are: no names before all are side by side.
        tables.append(pd.concat([about, pd.DataFrame(held.probabilities)], axis=1))
        header = [*about.columns, *map(csv_cell, class_names)]
    table = pd.concat(tables)
    write_atomically(path, table.to_csv(index=False, header=header).encode())


def _write_medmnist(
    path: Path, part: Predictions, class_names: Sequence[str], images: ImageIdentities
) -> None:
    """With the images in a file of their own: the format has no place for them."""
    about = _about(part, class_names, images)
    write_atomically(path.with_suffix(".images.csv"), about.to_csv(index=False).encode())
    table = pd.DataFrame(part.probabilities)
    write_atomically(path, table.to_csv(header=False).encode())


def _about(part: Predictions, class_names: Sequence[str], images: ImageIdentities) -> pd.DataFrame:
    """Every column of META but the part, empty where it is unknown: a class may be called so."""
    names = np.array(list(map(csv_cell, class_names)), dtype=object)[part.labels]
    columns = {"image": part.ids, "label": names, **images.columns(part.ids)}
    columns["file"] = list(map(csv_cell, columns.get("file", [""] * len(part.ids))))
    return pd.DataFrame({name: columns.get(name, "") for name in META[1:]})
