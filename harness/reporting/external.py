"""Import of predictions from other programs as rows and ensemble members.

Predictions belong to images. Those of a file are matched with a board's by the hashes of their
pixels, else by their files' names, else by their index. A file that identifies no image is taken in
its order, where its labels are those of the board; its row says so. Labels that are sorted by class
prove no order. ``prediction_files`` has the formats.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from harness.data.image_cache import spelled
from harness.data.readers.medmnist import is_bloodmnist
from harness.data.readers.npz import BLOOD_CELLS
from harness.errors import UnknownName, UserError
from harness.evaluation import metrics
from harness.reporting.leaderboard import Board
from harness.reporting.prediction_files import (
    PartPredictions,
    PredictionFile,
    read_prediction_file,
)
from harness.reporting.publish import read_boards
from harness.schema.dataset import DataSummary, ImageIdentities
from harness.schema.predictions import SHIFTED, Predictions
from harness.schema.records import (
    EXTERNAL_NAME,
    PIXEL_BASELINE,
    External,
    ExternalRecord,
    external_run,
)
from harness.schema.run import EXTERNAL, Run
from harness.storage.records import Store
from zoo.registry import find

SCORE_TOLERANCE = 0.002
"""Largest distance of AUC and accuracy from those in the name of MedMNIST's file."""
ORDER_ASSUMED = "order assumed"
BY_INDEX = "images known by their index alone"


@dataclass(frozen=True)
class Target:
    """What a file's predictions must be of: the images of a board, by part."""

    run: Run
    data: DataSummary
    profile: str
    parts: Mapping[str, Predictions]
    """Ids and labels of every part that a row of the board has."""
    images: ImageIdentities

    @property
    def external(self) -> bool:
        return self.profile == EXTERNAL


# --- import --------------------------------------------------------------------------------------


def import_predictions(
    path: Path,
    name: str,
    results: Path,
    labels: Path | None = None,
    *,
    data: str | None = None,
    replace: bool = False,
) -> tuple[ExternalRecord, ...]:
    """Store a file's predictions as a row of every board whose test images they are of.

    ``labels`` is the file of an npy's labels. With ``data``, only of boards of this data; where
    there is none, they begin one. Raises UserError for a file that cannot be used, or that fits no
    board.
    """
    _check_name(name)
    file, store = read_prediction_file(path, labels), Store(results)
    known = [_target(board, store) for board in read_boards(results)]
    targets = [target for target in known if data in (None, target.data.name)]
    if not targets and data is None:
        hint = "--data NAME begins a board of its own"
        raise UserError(
            f"{results}: has no results whose test images {path.name} could be of; {hint}"
        )
    mismatches, imports = [], []
    for target in targets or [_new_target(file, data or "")]:
        try:
            imports.append((target, *_record(file, name, target)))
        except UserError as error:
            mismatches.append(str(error))
    if not imports:
        raise UserError("; ".join(dict.fromkeys(mismatches)))
    for _, record, _ in imports:
        if store.record_path(record.external).exists() and not replace:
            raise UserError(f"{name} was imported before; --force replaces it")
    for target, record, parts in imports:
        if target.external:
            store.save_images(record.run.data, _identities(file, target, parts))
        store.save_predictions(record.external, parts)
        store.save(record)
    return tuple(record for _, record, _ in imports)


def _check_name(name: str) -> None:
    if not re.fullmatch(EXTERNAL_NAME, name):
        raise UserError(f"{name!r} is no name: lower case letters, digits, '-', '_' and '.'")
    if name == PIXEL_BASELINE:
        raise UserError(f"{name!r} is reserved for the pixel baseline; choose another name")
    try:
        recipe = find(name).name
    except UnknownName:
        return
    raise UserError(f"{name!r} is the recipe {recipe} of the zoo; choose another name")


def _target(board: Board, store: Store) -> Target:
    parts: dict[str, Predictions] = {}
    for row in board.rows:
        for held in row.parts:
            parts = dict(held) | parts
    runs = (record.run for row in board.rows for record in row.records)
    run = min(runs, key=lambda run: run.seed)
    images = store.images(board.fingerprint) or ImageIdentities()
    return Target(run, board.data, board.profile, parts, images)


def _new_target(file: PredictionFile, name: str) -> Target:
    """A board of the file's own images, for the file itself and those that come after it."""
    if not name.strip() or not name.isprintable():
        raise UserError(f"--data {name!r}: a name for the images is needed")
    test = file.parts["test"]
    classes = test.probabilities.shape[1]
    names = file.class_names or _names_by_flag(file.path, name, classes)
    if test.labels is None:
        raise UserError(f"{file.path}: labels absent; name their npy with --labels")
    hashes, files = (list(test.images.get(column, ())) for column in ("sha256", "file"))
    identity = json.dumps([names, test.labels.tolist(), hashes, files])
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:24]
    count = len(test.labels)
    data = DataSummary(
        name=name, images=count, image_size=0, class_names=names, train=0, validation=0, test=count
    )
    return Target(external_run(fingerprint), data, EXTERNAL, {}, ImageIdentities())


def _names_by_flag(path: Path, name: str, classes: int) -> tuple[str, ...]:
    if classes == len(BLOOD_CELLS) and (is_bloodmnist(name) or is_bloodmnist(path.name)):
        return BLOOD_CELLS
    return tuple(f"class_{k}" for k in range(classes))


def _record(
    file: PredictionFile, name: str, target: Target
) -> tuple[ExternalRecord, dict[str, Predictions]]:
    """The predictions as those of the target's images. Raises UserError if they are not."""
    classes, data = target.data.class_names, target.data
    file = _with_classes(file, classes)
    parts, notes = {}, dict[str, None]()
    for part, held in file.parts.items():
        reference = target.parts.get(part)
        if reference is not None:
            rows, how = _match(held, target, part, file.path)
            notes |= {how: None} if how else {}
            probabilities = held.probabilities[rows].astype(np.float32)
            parts[part] = Predictions(reference.ids, reference.labels, probabilities)
        elif not target.external:
            raise UserError(f"{file.path}: {data.name} has no {part} images here")
        elif part == SHIFTED:
            notes["without the shifted test, whose corruptions are not known here"] = None
        else:
            parts[part] = _first_of_part(held, target, part)
    evaluation = metrics.evaluate(parts, classes)
    for metric, expected, actual in (
        ("AUC", file.auc, evaluation.test.auc),
        ("accuracy", file.accuracy, evaluation.test.accuracy),
    ):
        if expected is not None and (actual is None or abs(expected - actual) > SCORE_TOLERANCE):
            value = "undefined" if actual is None else f"{actual:.3f}"
            raise UserError(
                f"{file.path}: its name says {metric} {expected:.3f}, on the test images of "
                f"{data.name} its scores have {value}: other images, or another order"
            )
    if target.external and "validation" in parts:
        counts = {"validation": len(parts["validation"].ids)}
        data = data.model_copy(update={**counts, "images": data.test + counts["validation"]})
    record = ExternalRecord(
        external=External(name=name, reference=target.run),
        note="; ".join([f"imported from {file.path.name}", *notes]),
        profile=target.profile,
        data=data,
        **dict(evaluation),
    )
    return record, parts


def _first_of_part(held: PartPredictions, target: Target, part: str) -> Predictions:
    """Of a part that the board has not had: its images get the next ids, in the file's order."""
    first = max((int(known.ids.max()) + 1 for known in target.parts.values()), default=0)
    if part == "validation" and not target.parts:
        first = target.data.test
    assert held.labels is not None, "read with its labels"
    ids = np.arange(first, first + len(held.labels))
    return Predictions(ids, held.labels, held.probabilities.astype(np.float32))


def _identities(
    file: PredictionFile, target: Target, parts: Mapping[str, Predictions]
) -> ImageIdentities:
    """Those of the target, and of parts that it has not had, as the file has them."""
    count = 1 + max(int(part.ids.max()) for part in (*target.parts.values(), *parts.values()))
    sha256, files = np.zeros((count, 32), np.uint8), np.full(count, "", dtype=object)
    sha256[: len(target.images.sha256)] = target.images.sha256
    files[: len(target.images.files)] = target.images.files
    for part in parts.keys() - target.parts.keys():
        held, ids = file.parts[part], parts[part].ids
        if "sha256" in held.images:
            digests = map(bytes.fromhex, held.images["sha256"])
            sha256[ids] = [np.frombuffer(digest, np.uint8) for digest in digests]
        if "file" in held.images:
            files[ids] = held.images["file"]
    return ImageIdentities(sha256, tuple(files.tolist()) if any(files) else ())


# --- matching ------------------------------------------------------------------------------------


def _with_classes(file: PredictionFile, class_names: Sequence[str]) -> PredictionFile:
    """Columns in the order of these names, where the file names its own; labels with them.

    Raises UserError where the names are others.
    """
    if file.class_names is None:
        return file
    own, known = list(file.class_names), [" ".join(name.split()) for name in class_names]
    if sorted(own) != sorted(known):
        spellings = {spelled(name): name for name in known}
        own = [spellings.get(spelled(name), name) for name in own]
    if sorted(own) != sorted(known):
        odd = [n for n in own if n not in known] or [n for n in known if n not in own]
        which = f"column {odd[0]!r}" if odd and odd[0] in own else f"no column {odd[0]!r}"
        raise UserError(f"{file.path}: its columns are not the classes {', '.join(known)}: {which}")
    columns, places = [own.index(n) for n in known], np.array([known.index(n) for n in own])
    parts = {
        name: dataclasses.replace(
            part,
            probabilities=part.probabilities[:, columns],
            labels=None if part.labels is None else places[part.labels],
        )
        for name, part in file.parts.items()
    }
    return dataclasses.replace(file, parts=parts)


def _match(held: PartPredictions, target: Target, part: str, path: Path) -> tuple[np.ndarray, str]:
    """The file's row of each of the target's images, and what a reader must know of the match.

    Raises UserError where the file's images are others, or its labels.
    """
    reference, name = target.parts[part], f"{target.data.name}'s {part} images"
    classes, expected = len(target.data.class_names), reference.labels
    count = len(held.probabilities)
    if held.probabilities.shape[1] != classes:
        columns = held.probabilities.shape[1]
        raise UserError(f"{path}: {columns} classes, {target.data.name} has {classes}")
    rows, how = _by_identity(held, target, part, path)
    if rows is None:
        if count != len(expected):
            raise UserError(f"{path}: {count:,} rows, {name} are {len(expected):,}")
        rows, how = _by_order(held), ORDER_ASSUMED
    if held.labels is not None and not np.array_equal(held.labels[rows], expected):
        row = int(np.flatnonzero(held.labels[rows] != expected)[0])
        label = target.data.class_names[held.labels[rows][row]]
        problem = f"row {rows[row]} has label {label}"
        there = target.data.class_names[expected[row]]
        raise UserError(
            f"{path}: {problem}, there {name} have {there}: other images, or another order"
        )
    if how == ORDER_ASSUMED and _is_sorted(expected):
        raise UserError(
            f"{path}: does not say which images its rows are of, and labels that are sorted by "
            "class prove no order; give a column 'file' or 'sha256' "
            f"({_images_file(path)} may hold it)"
        )
    return rows, how


def _images_file(path: Path) -> str:
    return path.with_suffix(".images.csv").name


def _by_identity(
    held: PartPredictions, target: Target, part: str, path: Path
) -> tuple[np.ndarray | None, str]:
    """By hash, file name or index, as far as file and target have them; None without these."""
    reference = target.parts[part]
    known = target.images.columns(reference.ids)
    labels = reference.labels if held.labels is None else held.labels
    images: dict[Any, list[Any]] = held.images.to_dict("list")
    how = ""
    if "sha256" in images and "sha256" in known:
        own, theirs = images["sha256"], known["sha256"]
    elif "file" in images and "file" in known:
        own, theirs = _names(images["file"], known["file"])
    elif "index" in images and not target.external:
        own, theirs, how = images["index"], reference.ids.tolist(), BY_INDEX
        if {*theirs} != {*range(len(theirs))} == {*own}:
            return None, ""  # It counts the rows of its file.
    else:
        return None, ""
    shared = sum((Counter(own) & Counter(theirs)).values())
    if shared < len(theirs) or len(own) != len(theirs):
        raise UserError(
            f"{path}: other images than {target.data.name}'s {len(theirs):,} {part} images: "
            f"{shared:,} of its {len(own):,} are among them"
        )
    # Copies have one identity: they are matched by label, then by order.
    rows = np.lexsort((labels, np.array(own)))
    order = np.lexsort((reference.labels, np.array(theirs)))
    matched = np.empty(len(order), np.int64)
    matched[order] = rows
    return matched, how


def _names(own: Sequence[str], known: Sequence[str]) -> tuple[list[str], list[str]]:
    """File names of both sides in one form: as they are, or without folders where these differ."""
    ours, theirs = ([name.replace("\\", "/") for name in names] for names in (own, known))
    if {*ours} != {*theirs}:
        bare = [[PurePosixPath(name).name for name in names] for names in (ours, theirs)]
        if all(len({*names}) == len(names) for names in bare):
            return bare[0], bare[1]
    return ours, theirs


def _by_order(held: PartPredictions) -> np.ndarray:
    """The file's order, or that of its own index where it counts the rows."""
    rows = np.arange(len(held.probabilities))
    index = held.images.get("index", rows)
    return np.argsort(index) if sorted(index) == rows.tolist() else rows


def _is_sorted(labels: np.ndarray) -> bool:
    """Whether the images of each class stand together: then another order has the same labels."""
    return int((labels[1:] != labels[:-1]).sum()) < len(np.unique(labels))
