"""Predictions from elsewhere -> rows and members; and ours, written down for others.

    npz    probabilities (n, K) and labels (n,); maybe the same with validation_ and shifted_
    npy    probabilities (n, K), with the labels in an npy of their own
    csv    a header, a column ``label`` (index or class name) and one column a class, by its name
    csv    MedMNIST's result file: no header, index and K scores a line, its AUC and accuracy in
           its name (Yang et al. 2023, Scientific Data 10)

An image is known by its place: the labels must be those of a board's test images, in its order;
MedMNIST's file holds none, so the figures in its name must come out of its scores. `export`
writes every format, the order with it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from harness.data.readers import npz
from harness.errors import DataError, UnknownName, UserError
from harness.evaluation import metrics
from harness.reporting.compare import rows_named
from harness.reporting.leaderboard import Board, Parts
from harness.reporting.publish import read_boards
from harness.schema.predictions import Predictions
from harness.schema.records import External, ExternalRecord
from harness.storage.files import write_atomically
from harness.storage.records import Store
from zoo.registry import find

Format = Literal["csv", "npz", "medmnist"]
PREFIXES = {"test": "", "validation": "validation_", "shifted": "shifted_"}
"""Of the arrays of an npz, by part."""
SUM_TOLERANCE = 1e-3
"""How far a row's probabilities may be from 1: that of numbers printed with few digits."""
MEDMNIST_NAME = re.compile(
    r"^(?P<flag>[a-z0-9]+?)(_\d+)?_(?P<split>train|val|test)"
    r"_\[AUC\](?P<auc>[01]\.\d+)_\[ACC\](?P<accuracy>[01]\.\d+)(@.*)?$"
)


@dataclass(frozen=True)
class Claim:
    """What a file says: probabilities (n, K) a part, with labels (n,) where it has them."""

    path: Path
    parts: dict[str, tuple[np.ndarray, np.ndarray | None]]
    class_names: tuple[str, ...] | None = None
    auc: float | None = None
    accuracy: float | None = None


# --- import --------------------------------------------------------------------------------------


def import_predictions(
    path: Path, name: str, results: Path, labels: Path | None = None, *, replace: bool = False
) -> tuple[ExternalRecord, ...]:
    """Keep a file's predictions as a row of every board whose test images they are of.

    Raises UserError: for a file that is not what it should be, or that fits no board.
    """
    _check_name(name)
    claim = read(path, labels)
    boards, store = read_boards(results), Store(results)
    if not boards:
        raise UserError(f"{results}: holds no results to put {path.name} beside")
    refusals, records = [], []
    for board in boards:
        try:
            records.append(_record(claim, name, board))
        except UserError as error:
            refusals.append(str(error))
    if not records:
        raise UserError("; ".join(dict.fromkeys(refusals)))
    for record, _ in records:
        if store.record_path(record.external).exists() and not replace:
            raise UserError(f"{name} was imported before; --force replaces it")
    for record, parts in records:
        store.save_predictions(record.external, parts)
        store.save(record)
    return tuple(record for record, _ in records)


def _check_name(name: str) -> None:
    pattern = External.model_fields["name"].metadata[0].pattern
    if not re.match(pattern, name):
        raise UserError(f"{name!r} is no name: lower case letters, digits, '-', '_' and '.'")
    try:
        recipe = find(name).name
    except UnknownName:
        return
    raise UserError(f"{name!r} is the recipe {recipe} of the zoo; choose another name")


def _record(claim: Claim, name: str, board: Board) -> tuple[ExternalRecord, dict[str, Predictions]]:
    """The claim on this board's images. Raises UserError saying what does not fit."""
    like = board.rows[0].parts[0]
    parts = {}
    for part, (probabilities, labels) in claim.parts.items():
        if part not in like:
            raise UserError(f"{claim.path}: {board.data.name} has no {part} images here")
        _fits(claim, part, board, labels, probabilities)
        given = like[part]
        parts[part] = Predictions(given.ids, given.labels, probabilities.astype(np.float32))
    evaluation = metrics.evaluate(parts, board.data.class_names)
    for told, found, what in (
        (claim.auc, evaluation.test.auc, "AUC"),
        (claim.accuracy, evaluation.test.accuracy, "accuracy"),
    ):
        if told is not None and (found is None or abs(told - found) > 0.002):
            said = "undefined" if found is None else f"{found:.3f}"
            raise UserError(
                f"{claim.path}: its name says {what} {told:.3f}, on the test images of "
                f"{board.data.name} its scores have {said}: other images, or another order"
            )
    record = ExternalRecord(
        external=External(name=name, reference=board.rows[0].records[0].run),
        note=f"imported from {claim.path.name}",
        profile=board.profile,
        data=board.data,
        **dict(evaluation),
    )
    return record, parts


def _fits(
    claim: Claim, part: str, board: Board, labels: np.ndarray | None, probabilities: np.ndarray
) -> None:
    true, where = board.rows[0].parts[0][part].labels, f"{board.data.name}'s {part} images"
    count, classes = probabilities.shape
    if classes != len(board.data.class_names):
        raise UserError(
            f"{claim.path}: {classes} classes, {board.data.name} has {len(board.data.class_names)}"
        )
    if count != len(true):
        raise UserError(f"{claim.path}: {count:,} rows, {where} are {len(true):,}")
    if claim.class_names not in (None, board.data.class_names):
        expected = ", ".join(board.data.class_names)
        raise UserError(
            f"{claim.path}: its columns are not {board.data.name}'s classes: {expected}"
        )
    if labels is not None and not np.array_equal(labels, true):
        first = int(np.flatnonzero(labels != true)[0])
        raise UserError(
            f"{claim.path}: row {first} has label {labels[first]}, there {where} have "
            f"{true[first]}: other images, or another order"
        )


# --- reading -------------------------------------------------------------------------------------


def read(path: Path, labels: Path | None = None) -> Claim:
    """What a file of any format says. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if labels is not None and path.suffix != ".npy":
        raise DataError(f"{path}: only an npy needs labels in a file of their own")
    match path.suffix:
        case ".npz":
            claim = _read_npz(path)
        case ".npy":
            if labels is None:
                raise DataError(f"{path}: labels absent; name their npy with --labels")
            claim = Claim(path, {"test": (_npy(path), _whole(_npy(labels), labels))})
        case ".csv":
            claim = _read_csv(path)
        case other:
            raise DataError(f"{path}: a file of {other or 'no type'}; npz, npy or csv is expected")
    for probabilities, _ in claim.parts.values():
        _check(path, probabilities)
    return claim


def _check(path: Path, probabilities: np.ndarray) -> None:
    """Raises DataError naming the first row that is no distribution over classes."""
    if probabilities.ndim != 2 or probabilities.shape[1] < 2 or not len(probabilities):
        shape = probabilities.shape
        raise DataError(f"{path}: probabilities of shape {shape}; (images, classes) is expected")
    if not np.issubdtype(probabilities.dtype, np.floating):
        raise DataError(f"{path}: probabilities are {probabilities.dtype}, not floats")
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1)
    for wrong, what in (
        (~np.isfinite(probabilities).all(axis=1), "is not finite"),
        ((probabilities < 0).any(axis=1), "has a negative probability"),
        (off > SUM_TOLERANCE, "does not sum to 1"),
    ):
        if wrong.any():
            raise DataError(f"{path}: row {int(np.argmax(wrong))} {what}")


def _whole(labels: np.ndarray, path: Path) -> np.ndarray:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: labels are {labels.dtype} of shape {labels.shape}; whole numbers (n,) wanted"
        )
    return labels.astype(np.int64)


def _read_npz(path: Path) -> Claim:
    held = npz.keys(path)
    parts: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for part, prefix in PREFIXES.items():
        if f"{prefix}probabilities" in held:
            if f"{prefix}labels" not in held:
                raise DataError(f"{path}: labels absent: no {prefix}labels in it")
            probabilities = npz.load(npz.member(path, f"{prefix}probabilities"))
            labels = _whole(npz.load(npz.member(path, f"{prefix}labels")), path)
            if len(labels) != len(probabilities):
                raise DataError(
                    f"{path}: {len(probabilities)} rows of {prefix}probabilities, "
                    f"{len(labels)} labels"
                )
            parts[part] = (probabilities, labels)
    if "test" not in parts:
        raise DataError(f"{path}: no probabilities in it; it holds {', '.join(held) or 'nothing'}")
    return Claim(path, parts)


def _npy(path: Path) -> np.ndarray:
    """An npy without pickle; what its header claims must be there."""
    try:
        return np.array(np.load(path, allow_pickle=False, mmap_mode="r"))
    except npz.DAMAGE as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]})") from None


def _read_csv(path: Path) -> Claim:
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [line for line in csv.reader(io.StringIO(text)) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if not lines:
        raise DataError(f"{path}: is empty")
    if _is_number(lines[0][0]) and all(map(_is_number, lines[0])):
        return _medmnist(path, lines)
    return _headed(path, lines)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _headed(path: Path, lines: Sequence[Sequence[str]]) -> Claim:
    heads = [head.strip() for head in lines[0]]
    if "label" not in heads:
        raise DataError(f"{path}: labels absent: no column 'label' among {', '.join(heads)}")
    names = [head for head in heads if head not in {"label", "image", "part"}]
    columns = [heads.index(name) for name in names]
    label_column = heads.index("label")
    part_column = heads.index("part") if "part" in heads else None
    by_part: dict[str, list[Sequence[str]]] = {}
    for line in lines[1:]:
        by_part.setdefault("test" if part_column is None else line[part_column], []).append(line)
    parts: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for part, rows in by_part.items():
        if part not in PREFIXES:
            raise DataError(f"{path}: part {part!r}; {', '.join(PREFIXES)} are known")
        numbers = _numbers(path, rows, columns, len(heads))
        labels = [_label(path, row[label_column], names) for row in rows]
        parts[part] = (numbers, np.array(labels))
    if "test" not in parts:
        raise DataError(f"{path}: no rows of the test part")
    return Claim(path, parts, class_names=tuple(names))


def _label(path: Path, text: str, names: Sequence[str]) -> int:
    if text in names:
        return names.index(text)
    if text.isdigit() and int(text) < len(names):
        return int(text)
    raise DataError(f"{path}: label {text!r} is none of the columns {', '.join(names)}")


def _medmnist(path: Path, lines: Sequence[Sequence[str]]) -> Claim:
    """Index and scores; the images are those of its split, in the published order."""
    told = MEDMNIST_NAME.match(path.stem)
    if told is None:
        raise DataError(
            f"{path}: labels absent: no header with a column 'label', and no MedMNIST result's "
            "name (SET_test_[AUC]0.998_[ACC]0.966@RUN.csv), which would vouch for the order"
        )
    if told["split"] != "test":
        raise DataError(f"{path}: scores of the {told['split']} split; test is expected")
    width = len(lines[0])
    order = _numbers(path, lines, [0], width)[:, 0]
    if not np.array_equal(order, np.arange(len(lines))):
        raise DataError(f"{path}: its first column does not count 0, 1, 2, ...")
    scores = _numbers(path, lines, range(1, width), width)
    claims = float(told["auc"]), float(told["accuracy"])
    return Claim(path, {"test": (scores, None)}, auc=claims[0], accuracy=claims[1])


def _numbers(
    path: Path, lines: Sequence[Sequence[str]], columns: Sequence[int], width: int
) -> np.ndarray:
    out = np.empty((len(lines), len(columns)))
    for i, line in enumerate(lines):
        if len(line) != width:
            raise DataError(f"{path}: line {i + 1} has {len(line)} columns, not {width}")
        try:
            out[i] = [float(line[column]) for column in columns]
        except ValueError as error:
            raise DataError(f"{path}: line {i + 1}: {error}") from None
    return out


# --- export --------------------------------------------------------------------------------------


def export_predictions(name: str, results: Path, folder: Path, kind: Format) -> tuple[Path, ...]:
    """Write a row's predictions, a file a board and seed; returns their paths. UserError."""
    written = []
    for board, row in rows_named(read_boards(results), name, results):
        for record, parts in zip(row.records, row.parts, strict=True):
            stem = f"{name.removeprefix('@')}-{record.subject.id}"
            if kind == "medmnist":
                score = metrics.score(parts["test"], board.data.class_names)
                auc = 0.0 if score.auc is None else score.auc
                said = f"[AUC]{auc:.3f}_[ACC]{score.accuracy:.3f}"
                flag = re.sub(r"[^a-z0-9]", "", board.data.name.lower()) or "data"
                path, content = folder / f"{flag}_test_{said}@{stem}.csv", _as_medmnist(parts)
            elif kind == "npz":
                path, content = folder / f"{stem}.npz", _as_npz(parts)
            else:
                path, content = folder / f"{stem}.csv", _as_csv(parts, board.data.class_names)
            write_atomically(path, content)
            written.append(path)
    return tuple(written)


def _as_medmnist(parts: Parts) -> bytes:
    rows = enumerate(parts["test"].probabilities)
    lines = [",".join([str(i), *map(_exact, row)]) for i, row in rows]
    return ("\n".join(lines) + "\n").encode()


def _as_npz(parts: Parts) -> bytes:
    arrays = {}
    for part, prefix in PREFIXES.items():
        if part not in parts:
            continue
        held = parts[part]
        arrays[f"{prefix}probabilities"] = held.probabilities
        arrays[f"{prefix}labels"], arrays[f"{prefix}images"] = held.labels, held.ids
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _as_csv(parts: Parts, class_names: Sequence[str]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["part", "image", "label", *class_names])
    for part in PREFIXES:
        if part not in parts:
            continue
        held = parts[part]
        for id_, label, row in zip(held.ids, held.labels, held.probabilities, strict=True):
            writer.writerow([part, id_, class_names[label], *map(_exact, row)])
    return buffer.getvalue().encode()


def _exact(number: np.float32) -> str:
    """The shortest decimal that reads back as the same float32."""
    return np.format_float_positional(number, unique=True, trim="0")
