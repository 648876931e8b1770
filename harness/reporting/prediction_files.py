"""Files of predictions of other programs.

    npz    probabilities (n, K) and labels (n,); perhaps sha256, files, images and class_names; the
           same arrays with the prefix validation_ or shifted_
    npy    probabilities (n, K), with the labels in an npy of their own
    csv    a header, a column ``label`` (index or class name) and one column per class, by its name;
           perhaps ``part`` (validation, test, shifted), ``sha256``, ``file`` and ``image``
    csv    MedMNIST's result file: no header, per line an index and K scores, AUC and accuracy in
           the file's name (Yang et al. 2023, Scientific Data 10)

What identifies the images: ``sha256`` of their pixels in the source, the names of their ``files``,
or their index in the data set (``images``, in a CSV ``image``). For npy and MedMNIST's file, which
have no place for it, these columns stand in ``NAME.images.csv`` in the folder of ``NAME.npy``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.data.image_cache import spelled
from harness.data.readers import npz
from harness.errors import DataError
from harness.storage.csv_table import is_number, plain_name, read_numbers, read_table

PREFIXES = {"test": "", "validation": "validation_", "shifted": "shifted_"}
"""Part -> prefix of the names of its arrays in an npz."""
META = ("part", "image", "label", "sha256", "file")
"""Columns of a CSV that are no class. Further columns of these names are classes so called."""
OTHER_FILE_COLUMNS = ("filename", "file_name", "path", "image_path")
"""What others call the column ``file``, where there is none."""
INDEX_COLUMNS = ("", "index", "Unnamed: 0")
"""Columns that pandas writes, which are passed over where they count."""
PART_NAMES = {"val": "validation", "valid": "validation"}
SUM_TOLERANCE = 1e-3
"""Largest distance of a row's sum from 1, where rounding of its numbers allows no more."""
MEDMNIST_NAME = re.compile(
    r"^(?P<flag>[a-z0-9]+?)(_\d+)?_(?P<split>train|val|test)"
    r"_\[AUC\](?P<auc>[01]\.\d+)_\[ACC\](?P<accuracy>[01]\.\d+)(@.*)?$"
)


@dataclass(frozen=True)
class PartPredictions:
    """One part of a file, a row an image: probabilities (n, K), and what else the file has."""

    probabilities: np.ndarray
    labels: np.ndarray | None = None
    images: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What identifies each image, as far as the file has it: sha256 (hexadecimal), file, index; and
    the line of the file that it stands in."""

    def place(self, row: int) -> str:
        return f"line {self.images['line'][row]}" if "line" in self.images else f"row {row}"

    def take(self, rows: np.ndarray) -> PartPredictions:
        """The rows in this order."""
        labels = None if self.labels is None else self.labels[rows]
        images = self.images.iloc[rows].reset_index(drop=True)
        return PartPredictions(self.probabilities[rows], labels, images)


@dataclass(frozen=True)
class PredictionFile:
    """The content of a file, by part."""

    path: Path
    parts: Mapping[str, PartPredictions]
    class_names: tuple[str, ...] | None = None
    """With single blanks."""
    auc: float | None = None
    accuracy: float | None = None


# --- reading -------------------------------------------------------------------------------------


def read_prediction_file(path: Path, labels: Path | None = None) -> PredictionFile:
    """Read a file of any of the formats. Raises DataError naming what is wrong, and where."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    match path.suffix:
        case ".npz":
            file = _read_npz(path)
        case ".npy":
            file = PredictionFile(path, {"test": PartPredictions(_read_npy(path))})
        case ".csv":
            file = _read_csv(path)
        case other:
            raise DataError(f"{path}: a file of {other or 'no type'}; npz, npy or csv is expected")
    file = _with_labels(file, labels)
    if path.suffix == ".npy" and file.parts["test"].labels is None:
        raise DataError(f"{path}: labels absent; name their npy with --labels")
    for name, part in file.parts.items():
        _check_probabilities(file, name, part)
        if part.labels is not None:
            _check_labels(path, name, part)
    return _with_images(file)


def _with_labels(file: PredictionFile, labels: Path | None) -> PredictionFile:
    if labels is None:
        return file
    test = file.parts["test"]
    if test.labels is not None:
        raise DataError(f"{file.path}: --labels is for files without labels, and it has them")
    return replace(file, parts={"test": replace(test, labels=_integers(_read_npy(labels), labels))})


def _with_images(file: PredictionFile) -> PredictionFile:
    """With what identifies the test images from its ``.images.csv``, if there is one."""
    images_file, test = file.path.with_suffix(".images.csv"), file.parts["test"]
    if {"sha256", "file"} & {*test.images} or not images_file.is_file():
        return file
    header, rows, lines = read_table(images_file)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    if len(rows) != len(test.probabilities):
        count = len(test.probabilities)
        raise DataError(f"{images_file}: {len(rows):,} images, {file.path.name} has {count:,}")
    test = replace(test, images=_identities(images_file, columns, lines))
    return replace(file, parts={**file.parts, "test": test})


def _check_probabilities(file: PredictionFile, name: str, part: PartPredictions) -> None:
    """Raises DataError naming the first row that is not a probability distribution."""
    path, probabilities = file.path, part.probabilities
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or not len(probabilities):
        shape = probabilities.shape
        raise DataError(f"{path}: probabilities of shape {shape}; (images, classes) is expected")
    if not np.issubdtype(probabilities.dtype, np.floating):
        raise DataError(f"{path}: probabilities are {probabilities.dtype}, not floats")
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1)
    where = "" if name == "test" else f" of {name}"
    for wrong, what in (
        (~np.isfinite(probabilities).all(axis=1), "is not finite"),
        ((probabilities < 0).any(axis=1), "has a negative probability; are they logits?"),
        (error > _tolerance(probabilities), "does not sum to 1"),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            if "sum" in what:
                total = probabilities[row].sum(dtype=np.float64)
                percent = "; are they percentages?" if abs(total - 100) < 1 else ""
                columns = f" over {', '.join(file.class_names[:12])}" if file.class_names else ""
                what += f" but to {total:.6g}{columns}{percent}"
            raise DataError(f"{path}: {part.place(row)}{where} {what}")


def _tolerance(probabilities: np.ndarray) -> float:
    """What rounding of each number may add up to: half a unit of its last digit, a class."""
    largest = float(np.nanmax(np.where(np.isfinite(probabilities), probabilities, 0)))
    spacing = float(np.finfo(probabilities.dtype).eps) * max(largest, 1.0) / 2
    for digits in range(1, 5):
        if np.allclose(probabilities, np.round(probabilities, digits), rtol=0, atol=2 * spacing):
            return max(SUM_TOLERANCE, probabilities.shape[1] * (0.5 * 10**-digits + spacing))
    return max(SUM_TOLERANCE, probabilities.shape[1] * spacing)


def _check_labels(path: Path, name: str, part: PartPredictions) -> None:
    assert part.labels is not None
    rows, classes = part.probabilities.shape
    if len(part.labels) != rows:
        prefix = PREFIXES[name]
        raise DataError(f"{path}: {rows} rows of {prefix}probabilities, {len(part.labels)} labels")
    wrong = (part.labels < 0) | (part.labels >= classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        label = f"label {part.labels[row]}, of {classes} classes"
        raise DataError(f"{path}: {part.place(row)} has {label}")


def _integers(labels: np.ndarray, path: Path) -> np.ndarray:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        what = f"labels are {labels.dtype} of shape {labels.shape}"
        raise DataError(f"{path}: {what}; whole numbers (n,) are expected")
    return labels.astype(np.int64)


# --- npz and npy ---------------------------------------------------------------------------------


def _read_npz(path: Path) -> PredictionFile:
    names = npz.keys(path)

    def load(key: str) -> np.ndarray:
        return npz.load(npz.member(path, key))

    parts = {}
    for part, prefix in PREFIXES.items():
        if f"{prefix}probabilities" in names:
            if f"{prefix}labels" not in names:
                raise DataError(f"{path}: labels absent: no {prefix}labels in it")
            identities = {
                column: load(f"{prefix}{key}")
                for key, column in (("sha256", "sha256"), ("files", "file"), ("images", "image"))
                if f"{prefix}{key}" in names
            }
            probabilities = load(f"{prefix}probabilities")
            labels = _integers(load(f"{prefix}labels"), path)
            listed = _listed(path, identities, len(probabilities))
            parts[part] = PartPredictions(probabilities, labels, _identities(path, listed))
    if "test" not in parts:
        raise DataError(f"{path}: no probabilities in it; it has {', '.join(names) or 'nothing'}")
    columns = [part.probabilities.shape[1:2] for part in parts.values()]
    classes = columns[0][0] if columns[0] else 0
    named = "class_names" in names
    class_names = tuple(map(plain_name, npz.read_class_names(path, classes))) if named else None
    if len(set(columns)) > 1 or (class_names and len(class_names) != classes):
        count = len(class_names or ())
        problem = f"{count} class_names" if named else "parts"
        raise DataError(f"{path}: {problem} and probabilities of {classes} classes do not fit")
    return PredictionFile(path, parts, class_names)


def _listed(path: Path, arrays: Mapping[str, np.ndarray], count: int) -> dict[str, list[str]]:
    """Arrays of identities as columns of text. Raises DataError."""
    columns = {}
    for name, array in arrays.items():
        if array.dtype == np.uint8 and array.shape == (count, 32):
            columns[name] = [row.tobytes().hex() for row in array]
        elif array.shape == (count,) and array.dtype.kind in "USiu":
            texts = (
                array.astype(str)
                if array.dtype.kind != "S"
                else np.char.decode(array, "utf-8", "replace")
            )
            columns[name] = texts.tolist()
        else:
            raise DataError(
                f"{path}: {name} of shape {array.shape}, {array.dtype}, for {count} rows"
            )
    return columns


def _read_npy(path: Path) -> np.ndarray:
    """Without pickle, and without trusting the size that the header claims."""
    if path.exists() and not path.is_file():  # A pipe would be waited for.
        raise DataError(f"{path}: not a regular file")
    try:
        return np.array(np.load(path, allow_pickle=False, mmap_mode="r"))
    except npz.DAMAGE as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]})") from None


# --- csv -----------------------------------------------------------------------------------------


def _read_csv(path: Path) -> PredictionFile:
    header, rows, lines = read_table(path)
    if all(is_number(cell) for cell in header):
        return _read_medmnist(path)
    columns: dict[str, list[str]] = {}
    classes: dict[str, list[str]] = {}
    for i, name in enumerate(header):
        cells = [row[i] for row in rows]
        if name in OTHER_FILE_COLUMNS and "file" not in {*header, *columns}:
            columns["file"] = cells
        elif name in META and name not in columns:
            columns[name] = cells
        elif name in INDEX_COLUMNS and _counts(cells):
            continue
        elif name in classes:
            raise DataError(f"{path}: two columns are named {name!r}")
        else:
            classes[name] = cells
    if "label" not in columns:
        raise DataError(f"{path}: labels absent: no column 'label' among {', '.join(header)}")
    if not rows:
        raise DataError(f"{path}: a header without rows")
    return _read_headed(path, columns, classes, lines)


def _read_headed(
    path: Path, columns: dict[str, list[str]], classes: dict[str, list[str]], lines: list[int]
) -> PredictionFile:
    names = list(classes)
    given_parts = map(str.lower, columns.get("part", ["test"] * len(lines)))
    part_of = [PART_NAMES.get(name, name) for name in given_parts]
    probabilities = np.array(
        [read_numbers(path, name, cells, lines) for name, cells in classes.items()]
    ).reshape(len(names), len(lines))
    numbers = {form: k for k in range(len(names)) for form in (str(k), f"{k}.0")}
    spellings = {spelled(name): k for k, name in enumerate(names)}
    index_of = numbers | {name: k for k, name in enumerate(names)}
    labels = []
    for cell, part, line in zip(columns["label"], part_of, lines, strict=True):
        if part not in PREFIXES:
            raise DataError(f"{path}: line {line}: part {part!r}; {', '.join(PREFIXES)} are known")
        found = index_of.get(plain_name(cell), spellings.get(spelled(cell)))
        if found is None:
            among = ", ".join(names)
            raise DataError(f"{path}: line {line}: label {cell!r} is none of the columns {among}")
        labels.append(found)
    images = _identities(path, columns, lines).assign(line=lines)
    whole = PartPredictions(probabilities.T, np.array(labels), images)
    parts = {
        part: whole.take(np.flatnonzero(np.array(part_of) == part))
        for part in dict.fromkeys(part_of)
    }
    if "test" not in parts:
        raise DataError(f"{path}: no rows of the test part")
    return PredictionFile(path, parts, class_names=tuple(names))


def _identities(
    path: Path, columns: Mapping[str, list[str]], lines: Sequence[int] = ()
) -> pd.DataFrame:
    """What the columns say about the images. Raises DataError for a hash that is none."""
    found: dict[str, Any] = {}
    hashes = columns.get("sha256", [])
    if any(hashes):
        for i, cell in enumerate(hashes):
            if not re.fullmatch("[0-9a-fA-F]{64}", cell):
                where = f"line {lines[i]}" if lines else f"row {i}"
                raise DataError(f"{path}: {where}, column 'sha256': {cell[:70]!r} is no SHA-256")
        found["sha256"] = [cell.lower() for cell in hashes]
    if "image" in columns and all(re.fullmatch("[0-9]{1,9}", c) for c in columns["image"]):
        found["index"] = np.array(columns["image"], dtype=np.int64)
    files = columns.get("file" if "index" in found or any(columns.get("file", ())) else "image", [])
    return pd.DataFrame(found | ({"file": files} if any(files) else {}))


def _counts(cells: Sequence[str]) -> bool:
    """Whether cells are 0, 1, 2, ... or 1, 2, 3, ..., in any order."""
    found = sorted(int(cell) for cell in cells if re.fullmatch("[0-9]{1,9}", cell))
    return any(found == list(range(first, first + len(cells))) for first in (0, 1))


def _read_medmnist(path: Path) -> PredictionFile:
    """Index and scores; the images are those of the split, in the published order."""
    name = MEDMNIST_NAME.match(path.stem)
    if name is None:
        raise DataError(
            f"{path}: labels absent: no header with a column 'label', and no MedMNIST result's "
            "name (SET_test_[AUC]0.998_[ACC]0.966@RUN.csv), which would confirm the order"
        )
    if name["split"] != "test":
        raise DataError(f"{path}: scores of the {name['split']} split; test is expected")
    header, rows, lines = read_table(path)
    rows, lines = [header, *rows], [1, *lines]
    numbers = np.array([
        read_numbers(path, str(i), [row[i] for row in rows], lines) for i in range(len(header))
    ])  # fmt: skip
    index, scores = numbers[0], numbers[1:].T
    order = np.argsort(index, kind="stable")  # As MedMNIST's evaluator does.
    if not np.array_equal(index[order], np.arange(len(index))):
        raise DataError(f"{path}: its first column does not count 0, 1, 2, ...")
    return PredictionFile(
        path,
        {"test": PartPredictions(scores[order])},
        auc=float(name["auc"]),
        accuracy=float(name["accuracy"]),
    )
