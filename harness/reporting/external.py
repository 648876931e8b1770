"""Import of predictions from other programs as rows and ensemble members, and export of ours.

    npz    probabilities (n, K) and labels (n,); optionally also with validation_ and shifted_
    npy    probabilities (n, K), with the labels in an npy of their own
    csv    a header, a column ``label`` (index or class name) and one column per class, by its name;
           optionally ``part`` (validation, test, shifted), and ``image``, which is not read
    csv    MedMNIST's result file: no header, per line an index and K scores, AUC and accuracy in
           the file's name (Yang et al. 2023, Scientific Data 10)

Images are identified by their order: the labels must be those of a board's test images. MedMNIST's
file has no labels, so its scores must give the AUC and accuracy in its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from harness.data.readers import npz
from harness.errors import DataError, UnknownName, UserError
from harness.evaluation import metrics
from harness.reporting.compare import rows_named
from harness.reporting.leaderboard import Board, Parts
from harness.reporting.publish import read_boards
from harness.schema.predictions import Predictions
from harness.schema.records import EXTERNAL_NAME, External, ExternalRecord
from harness.storage.files import write_arrays, write_atomically
from harness.storage.records import Store
from zoo.registry import find

Format = Literal["csv", "npz", "medmnist"]
PREFIXES = {"test": "", "validation": "validation_", "shifted": "shifted_"}
"""Part -> prefix of the names of its arrays in an npz."""
SUM_TOLERANCE = 1e-3
"""Largest distance of a row's sum from 1: probabilities may be printed with few digits."""
SCORE_TOLERANCE = 0.002
"""Largest distance of AUC and accuracy from those in the name of MedMNIST's file."""
MEDMNIST_NAME = re.compile(
    r"^(?P<flag>[a-z0-9]+?)(_\d+)?_(?P<split>train|val|test)"
    r"_\[AUC\](?P<auc>[01]\.\d+)_\[ACC\](?P<accuracy>[01]\.\d+)(@.*)?$"
)


@dataclass(frozen=True)
class PredictionFile:
    """The content of a file: probabilities (n, K) per part, and labels (n,) if it has them."""

    path: Path
    parts: Mapping[str, tuple[np.ndarray, np.ndarray | None]]
    class_names: tuple[str, ...] | None = None
    auc: float | None = None
    accuracy: float | None = None


# --- import --------------------------------------------------------------------------------------


def import_predictions(
    path: Path, name: str, results: Path, labels: Path | None = None, *, replace: bool = False
) -> tuple[ExternalRecord, ...]:
    """Store a file's predictions as a row of every board whose test images they are of.

    ``labels`` is the file of an npy's labels. Raises UserError for a file that cannot be used, or
    that fits no board.
    """
    _check_name(name)
    file = read_prediction_file(path, labels)
    boards, store = read_boards(results), Store(results)
    if not boards:
        raise UserError(f"{results}: has no results whose test images {path.name} could be of")
    mismatches, imports = [], []
    for board in boards:
        try:
            imports.append(_record(file, name, board))
        except UserError as error:
            mismatches.append(str(error))
    if not imports:
        raise UserError("; ".join(dict.fromkeys(mismatches)))
    for record, _ in imports:
        if store.record_path(record.external).exists() and not replace:
            raise UserError(f"{name} was imported before; --force replaces it")
    for record, parts in imports:
        store.save_predictions(record.external, parts)
        store.save(record)
    return tuple(record for record, _ in imports)


def _check_name(name: str) -> None:
    if not re.fullmatch(EXTERNAL_NAME, name):
        raise UserError(f"{name!r} is no name: lower case letters, digits, '-', '_' and '.'")
    try:
        recipe = find(name).name
    except UnknownName:
        return
    raise UserError(f"{name!r} is the recipe {recipe} of the zoo; choose another name")


def _record(
    file: PredictionFile, name: str, board: Board
) -> tuple[ExternalRecord, dict[str, Predictions]]:
    """The predictions as those of the board's images. Raises UserError if they are not."""
    parts = {}
    for part, (probabilities, _) in file.parts.items():
        reference = board.rows[0].parts[0].get(part)
        if reference is None:
            raise UserError(f"{file.path}: {board.data.name} has no {part} images here")
        _check_images(file, board, f"{board.data.name}'s {part} images", reference.labels, part)
        parts[part] = Predictions(reference.ids, reference.labels, probabilities.astype(np.float32))
    evaluation = metrics.evaluate(parts, board.data.class_names)
    for metric, expected, actual in (
        ("AUC", file.auc, evaluation.test.auc),
        ("accuracy", file.accuracy, evaluation.test.accuracy),
    ):
        if expected is not None and (actual is None or abs(expected - actual) > SCORE_TOLERANCE):
            value = "undefined" if actual is None else f"{actual:.3f}"
            raise UserError(
                f"{file.path}: its name says {metric} {expected:.3f}, on the test images of "
                f"{board.data.name} its scores have {value}: other images, or another order"
            )
    record = ExternalRecord(
        external=External(name=name, reference=board.rows[0].records[0].run),
        note=f"imported from {file.path.name}",
        profile=board.profile,
        data=board.data,
        **dict(evaluation),
    )
    return record, parts


def _check_images(
    file: PredictionFile, board: Board, images: str, expected: np.ndarray, part: str
) -> None:
    """Raises UserError if a part has other classes, another number of images or other labels."""
    (probabilities, labels), names = file.parts[part], board.data.class_names
    count, classes = probabilities.shape
    if classes != len(names):
        raise UserError(f"{file.path}: {classes} classes, {board.data.name} has {len(names)}")
    if count != len(expected):
        raise UserError(f"{file.path}: {count:,} rows, {images} are {len(expected):,}")
    if file.class_names not in (None, names):
        raise UserError(
            f"{file.path}: its columns are not {board.data.name}'s classes: {', '.join(names)}"
        )
    if labels is not None and not np.array_equal(labels, expected):
        row = int(np.flatnonzero(labels != expected)[0])
        raise UserError(
            f"{file.path}: row {row} has label {labels[row]}, there {images} have "
            f"{expected[row]}: other images, or another order"
        )


# --- reading -------------------------------------------------------------------------------------


def read_prediction_file(path: Path, labels: Path | None = None) -> PredictionFile:
    """Read a file of any of the formats. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if labels is not None and path.suffix != ".npy":
        raise DataError(f"{path}: only an npy needs labels in a file of their own")
    match path.suffix:
        case ".npz":
            file = _read_npz(path)
        case ".npy":
            if labels is None:
                raise DataError(f"{path}: labels absent; name their npy with --labels")
            parts = {"test": (_read_npy(path), _integer_labels(_read_npy(labels), labels))}
            file = PredictionFile(path, parts)
        case ".csv":
            file = _read_csv(path)
        case other:
            raise DataError(f"{path}: a file of {other or 'no type'}; npz, npy or csv is expected")
    for probabilities, _ in file.parts.values():
        _check_probabilities(path, probabilities)
    return file


def _check_probabilities(path: Path, probabilities: np.ndarray) -> None:
    """Raises DataError naming the first row that is not a probability distribution."""
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or not len(probabilities):
        shape = probabilities.shape
        raise DataError(f"{path}: probabilities of shape {shape}; (images, classes) is expected")
    if not np.issubdtype(probabilities.dtype, np.floating):
        raise DataError(f"{path}: probabilities are {probabilities.dtype}, not floats")
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1)
    for wrong, what in (
        (~np.isfinite(probabilities).all(axis=1), "is not finite"),
        ((probabilities < 0).any(axis=1), "has a negative probability"),
        (error > SUM_TOLERANCE, "does not sum to 1"),
    ):
        if wrong.any():
            raise DataError(f"{path}: row {int(np.argmax(wrong))} {what}")


def _integer_labels(labels: np.ndarray, path: Path) -> np.ndarray:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}; whole numbers (n,) are "
            "expected"
        )
    return labels.astype(np.int64)


def _read_npz(path: Path) -> PredictionFile:
    names = npz.keys(path)
    parts = {}
    for part, prefix in PREFIXES.items():
        if f"{prefix}probabilities" in names:
            if f"{prefix}labels" not in names:
                raise DataError(f"{path}: labels absent: no {prefix}labels in it")
            probabilities = npz.load(npz.member(path, f"{prefix}probabilities"))
            labels = _integer_labels(npz.load(npz.member(path, f"{prefix}labels")), path)
            if len(labels) != len(probabilities):
                raise DataError(
                    f"{path}: {len(probabilities)} rows of {prefix}probabilities, "
                    f"{len(labels)} labels"
                )
            parts[part] = (probabilities, labels)
    if "test" not in parts:
        raise DataError(f"{path}: no probabilities in it; it has {', '.join(names) or 'nothing'}")
    return PredictionFile(path, parts)


def _read_npy(path: Path) -> np.ndarray:
    """Without pickle, and without trusting the size that the header claims."""
    try:
        return np.array(np.load(path, allow_pickle=False, mmap_mode="r"))
    except npz.DAMAGE as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]})") from None


def _read_csv(path: Path) -> PredictionFile:
    try:
        table = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: is empty") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    filled = (table != "").sum(axis=1)
    if (filled < table.shape[1]).any():
        line = int(filled.argmin())
        raise DataError(f"{path}: line {line} has {filled[line]} columns, not {table.shape[1]}")
    header = [" ".join(str(cell).split()) for cell in table.iloc[0]]
    if pd.to_numeric(pd.Series(header), errors="coerce").notna().all():
        return _read_medmnist(path, table)
    if "label" not in header:
        raise DataError(f"{path}: labels absent: no column 'label' among {', '.join(header)}")
    if len(set(header)) < len(header):
        raise DataError(f"{path}: two columns have the same name among {', '.join(header)}")
    return _read_headed(path, table.loc[1:].set_axis(header, axis=1))


def _read_headed(path: Path, table: pd.DataFrame) -> PredictionFile:
    names = [str(name) for name in table if name not in {"label", "image", "part"}]
    if "part" not in table:
        table = table.assign(part="test")
    classes = {str(k): k for k in range(len(names))} | {name: k for k, name in enumerate(names)}
    parts = {}
    for part, rows in table.groupby("part", sort=False):
        if part not in PREFIXES:
            raise DataError(f"{path}: part {part!r}; {', '.join(PREFIXES)} are known")
        probabilities = _floats(path, rows[names])
        unknown = rows["label"][~rows["label"].isin(list(classes))]
        if len(unknown):
            raise DataError(
                f"{path}: label {unknown.iloc[0]!r} is none of the columns {', '.join(names)}"
            )
        parts[str(part)] = (probabilities, rows["label"].map(classes).to_numpy(np.int64))
    if "test" not in parts:
        raise DataError(f"{path}: no rows of the test part")
    return PredictionFile(path, parts, class_names=tuple(names))


def _read_medmnist(path: Path, table: pd.DataFrame) -> PredictionFile:
    """Index and scores; the images are those of the split, in the published order."""
    name = MEDMNIST_NAME.match(path.stem)
    if name is None:
        raise DataError(
            f"{path}: labels absent: no header with a column 'label', and no MedMNIST result's "
            "name (SET_test_[AUC]0.998_[ACC]0.966@RUN.csv), which would confirm the order"
        )
    if name["split"] != "test":
        raise DataError(f"{path}: scores of the {name['split']} split; test is expected")
    numbers = _floats(path, table)
    if not np.array_equal(numbers[:, 0], np.arange(len(numbers))):
        raise DataError(f"{path}: its first column does not count 0, 1, 2, ...")
    return PredictionFile(
        path,
        {"test": (numbers[:, 1:], None)},
        auc=float(name["auc"]),
        accuracy=float(name["accuracy"]),
    )


def _floats(path: Path, table: pd.DataFrame) -> np.ndarray:
    """The numbers of text cells, converted exactly as by Python. Raises DataError."""
    try:
        return table.to_numpy(object).astype(np.float64)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


# --- export --------------------------------------------------------------------------------------


def export_predictions(
    name: str, results: Path, folder: Path, file_format: Format
) -> tuple[Path, ...]:
    """Write a row's predictions, one file per board and seed; returns their paths.

    Raises UserError.
    """
    paths = []
    for board, row in rows_named(read_boards(results), name, results):
        for record, parts in zip(row.records, row.parts, strict=True):
            stem = f"{name.removeprefix('@')}-{record.subject.id}"
            if file_format == "npz":
                path = folder / f"{stem}.npz"
                write_arrays(path, _arrays(parts), compress=True)
            elif file_format == "medmnist":
                path = folder / f"{_medmnist_name(parts, board)}@{stem}.csv"
                table = pd.DataFrame(parts["test"].probabilities)
                write_atomically(path, table.to_csv(header=False).encode())
            else:
                path = folder / f"{stem}.csv"
                table = _table(parts, board.data.class_names)
                write_atomically(path, table.to_csv(index=False).encode())
            paths.append(path)
    return tuple(paths)


def _medmnist_name(parts: Parts, board: Board) -> str:
    score = metrics.score(parts["test"], board.data.class_names)
    flag = re.sub(r"[^a-z0-9]", "", board.data.name.lower()) or "data"
    return f"{flag}_test_[AUC]{score.auc or 0:.3f}_[ACC]{score.accuracy:.3f}"


def _arrays(parts: Parts) -> dict[str, np.ndarray]:
    arrays = {}
    for part, prefix in PREFIXES.items():
        if part in parts:
            arrays[f"{prefix}probabilities"] = parts[part].probabilities
            arrays[f"{prefix}labels"] = parts[part].labels
            arrays[f"{prefix}images"] = parts[part].ids
    return arrays


def _table(parts: Parts, class_names: Sequence[str]) -> pd.DataFrame:
    tables = []
    for part in filter(parts.__contains__, PREFIXES):
        table = pd.DataFrame(parts[part].probabilities, columns=list(class_names))
        table.insert(0, "part", part)
        table.insert(1, "image", parts[part].ids)
        table.insert(2, "label", np.array(class_names)[parts[part].labels])
        tables.append(table)
    return pd.concat(tables)
