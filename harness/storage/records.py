"""Records, predictions and artefacts on disk. State is files; there is no database.

results/records/RECIPE-ID.json    the record of a run, written last: it is done when that exists
results/ensembles/RULE-ID.json    the record of an ensemble
results/external/NAME-ID.json     the record of predictions that no run made
results/predictions/ID.npy        predictions of the evaluated parts, small enough to commit
results/images/DATA.npz           hash and file name of each image of a data set, by its fingerprint
results/artefacts/ID/             predictions and features of every part, trained weights, log,
                                  and during the run its lock and checkpoints
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json

from harness.errors import IgnoredFile, StoreError, printable
from harness.schema.dataset import ImageIdentities, Split
from harness.schema.predictions import SHIFTED, Predictions, digest
from harness.schema.records import (
    PIXEL_BASELINE,
    SCHEMA,
    Ensemble,
    EnsembleRecord,
    External,
    ExternalRecord,
    Record,
    RunRecord,
    Subject,
)
from harness.schema.run import Run
from harness.storage.files import (
    no_link_between,
    read_arrays,
    read_plain,
    unreadable,
    write_arrays,
    write_atomically,
)
from harness.storage.predictions import read_predictions, write_predictions

FEATURES = "features.npz"
PREDICTIONS = "predictions.npy"
HEAD_WEIGHTS = "head.weights.h5"
BACKBONE_WEIGHTS = "backbone.weights.h5"
"""Of a backbone that was trained; a frozen one has those that it started from."""
CHECKPOINT = "checkpoint"
RECORD_NAME = re.compile(r"[^.].*-[0-9a-f]{16}\.json", re.DOTALL)
"""Of a file that may be a record; it is one if the content has that name."""
NAMED_FILES = 3
"""The most foreign files that one warning names."""

MOST_RECORD_BYTES = 1 << 26
NO_SCHEMA = 10_000
"""No version of the record files will ever be as high."""

RecordT = TypeVar("RecordT", RunRecord, EnsembleRecord, ExternalRecord)


class Store:
    """One results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # --- records ---------------------------------------------------------------------------------

    def records(self) -> tuple[RunRecord, ...]:
        """All runs' records by file name. Raises StoreError naming one that cannot be read."""
        return self._read_all(RunRecord, "records")

    def ensembles(self) -> tuple[EnsembleRecord, ...]:
        """All ensembles' records by file name. Raises StoreError."""
        return self._read_all(EnsembleRecord, "ensembles")

    def external_records(self) -> tuple[ExternalRecord, ...]:
        """All external predictions' records by file name. Raises StoreError."""
        return self._read_all(ExternalRecord, "external")

    def all_records(self) -> tuple[Record, ...]:
        """Every record of every kind. Raises StoreError."""
        return (*self.records(), *self.ensembles(), *self.external_records())

    def _read_all(self, kind: type[RecordT], name: str) -> tuple[RecordT, ...]:
        """Each record under its own name; whatever else lies there is named and left out."""
        folder = self.root / name
        paths = dict.fromkeys(record_files(folder))
        foreign = [
            path for path in folder.glob("*.json*") if path not in paths and path.suffix != ".tmp"
        ]
        records = []
        for path in paths:
            record = read_record(path, kind)
            if self.record_path(record.subject).name == path.name:
                records.append(record)
            else:
                foreign.append(path)
        _warn_of(foreign)
        return tuple(records)

    @overload
    def find(self, subject: Run) -> RunRecord | None: ...
    @overload
    def find(self, subject: Ensemble) -> EnsembleRecord | None: ...
    @overload
    def find(self, subject: External) -> ExternalRecord | None: ...
    def find(self, subject: Subject) -> Record | None:
        """The record of a run, an ensemble or external predictions. Raises StoreError."""
        kinds: dict[type, Any]
        kinds = {Run: RunRecord, Ensemble: EnsembleRecord, External: ExternalRecord}
        path = self.record_path(subject)
        if not path.exists():
            return None
        record = read_record(path, kinds[type(subject)])
        if record.subject.id == subject.id:
            return record
        _warn_of([path])
        return None

    def record_path(self, subject: Subject) -> Path:
        match subject:
            case Run():
                return self.root / "records" / f"{subject.recipe}-{subject.id}.json"
            case Ensemble():
                name = f"{subject.rule.replace(' ', '-')}-{subject.id}.json"
                return self.root / "ensembles" / name
            case External():
                return self.root / "external" / f"{subject.name}-{subject.id}.json"

    def save(self, record: Record) -> None:
        """Write a record, after everything that it stands for."""
        path = no_link_between(self.root, self.record_path(record.subject))
        text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode())

    def record_version(self, run: Run) -> tuple[int, int] | None:
        """Changes whenever the record of a run is written; None while there is none."""
        try:
            status = self.record_path(run).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def set_aside_torn(self, report: Callable[[str], object]) -> None:
        """Rename run records that are no JSON, so that their runs are pending; report each."""
        for path in record_files(self.root / "records"):
            try:
                from_json(read_plain(path, MOST_RECORD_BYTES))
            except ValueError:
                path.replace(path.with_suffix(".torn"))
                message = f"{path}: damaged, and kept as {path.stem}.torn; the run is made again"
                report(printable(message))

    # --- images ----------------------------------------------------------------------------------

    def save_images(self, fingerprint: str, images: ImageIdentities) -> None:
        """What identifies the images of a data set, so that exports can name them."""
        arrays = {"sha256": images.sha256} | (
            {"files": np.array(images.files)} if images.files else {}
        )
        path = no_link_between(self.root, self._images_path(fingerprint))
        write_arrays(path, arrays, compress=True)

    def images(self, fingerprint: str) -> ImageIdentities | None:
        """None where the folder does not have it, as older ones. Raises StoreError."""
        path = self._images_path(fingerprint)
        if not path.exists():
            return None
        arrays = read_arrays(path)
        files: np.ndarray = arrays.get("files", np.empty(0, str))
        sha256 = arrays.get("sha256")
        if sha256 is None or sha256.dtype != np.uint8 or sha256.shape[1:] != (32,):
            raise StoreError(f"{path}: no hashes of images; delete it and run again")
        if files.dtype.kind != "U" or files.shape not in ((0,), (len(sha256),)):
            raise StoreError(f"{path}: its names of files do not fit; delete it and run again")
        return ImageIdentities(sha256, tuple(files.tolist()))

    def _images_path(self, fingerprint: str) -> Path:
        return self.root / "images" / f"{fingerprint}.npz"

    # --- predictions and artefacts ---------------------------------------------------------------

    def artefacts(self, run: Run) -> Path:
        return self.root / "artefacts" / run.id

    def drop_checkpoints(self, run: Run) -> None:
        folder = self.artefacts(run)
        for path in folder.glob(f"{CHECKPOINT}*") if not folder.is_symlink() else ():
            path.unlink(missing_ok=True)

    def predictions_path(self, subject: Subject) -> Path:
        return self.root / "predictions" / f"{subject.id}.npy"

    def save_predictions(self, subject: Subject, parts: Mapping[str, Predictions]) -> None:
        write_predictions(no_link_between(self.root, self.predictions_path(subject)), parts)

    def predictions(self, subject: Subject) -> dict[str, Predictions]:
        """Predictions by part: validation, test, and what else was evaluated. Raises StoreError."""
        remedy = partial(self._remedy, subject)
        return read_predictions(self.predictions_path(subject), remedy)

    def _remedy(self, subject: Subject) -> str:
        """What makes predictions again that are lost or damaged."""
        match subject:
            case Run():
                command = f"wbc-bench run {subject.recipe}"
            case Ensemble():
                command = "wbc-bench ensemble"
            case External(name=name) if name == PIXEL_BASELINE:
                command = f"wbc-bench run {subject.reference.recipe}"
            case External():
                command = f"wbc-bench import FILE --as {subject.name}"
        return f"delete {self.record_path(subject)}, and '{command}' makes both again"

    def predictions_of(self, record: Record) -> dict[str, Predictions]:
        """A record's predictions, of its classes and images. Raises StoreError."""
        parts = self.predictions(record.subject)
        _check_fit(self.predictions_path(record.subject), parts, record)
        return parts

    def load_verified(self, record: Record) -> dict[str, Predictions]:
        """A record's predictions, checked against its hash.

        Damaged predictions of a run are restored from its artefacts. Raises StoreError naming the
        file.
        """
        path, evaluation = self.predictions_path(record.subject), record.evaluation
        assert evaluation is not None, "a failed run has no predictions"
        try:
            parts = self.predictions(record.subject)
            if digest(parts) == evaluation.predictions_sha256:
                _check_fit(path, parts, record)
                return parts
            remedy = self._remedy(record.subject)
            problem = StoreError(f"{path}: not the predictions that the record rests on; {remedy}")
        except StoreError as error:
            problem = error
        if isinstance(record.subject, Run):
            with suppress(StoreError):
                parts = read_predictions(self.artefacts(record.subject) / PREDICTIONS)
                parts.pop("train", None)
                if digest(parts) == evaluation.predictions_sha256:
                    _check_fit(path, parts, record)
                    self.save_predictions(record.subject, parts)
                    return parts
        raise problem


def check_same_images(
    store: Store, records: Sequence[Record], predictions: Mapping[str, Mapping[str, Predictions]]
) -> None:
    """Raises StoreError where records of one data set and split are of other images.

    ``predictions``: by the id of the record's subject.
    """
    first: dict[tuple[str, Split, str], tuple[Record, Predictions]] = {}
    for record in (record for record in records if record.subject.id in predictions):
        for name, part in predictions[record.subject.id].items():
            key = (record.run.data, record.run.split, name)
            other, expected = first.setdefault(key, (record, part))
            if part is not expected and not (
                record.data.class_names == other.data.class_names
                and np.array_equal(part.ids, expected.ids)
                and np.array_equal(part.labels, expected.labels)
            ):
                path, of_other = map(store.record_path, (record.subject, other.subject))
                raise StoreError(f"{path}: {name} images other than those of {of_other.name}")


def record_files(folder: Path) -> list[Path]:
    """The files of a folder that are named as a record is, by name."""
    return sorted(path for path in folder.glob("*.json") if RECORD_NAME.fullmatch(path.name))


def _warn_of(foreign: Sequence[Path]) -> None:
    """Warn of files that are no records under their own names: by sync clients, or by hand."""
    for folder in sorted({path.parent for path in foreign}):
        names = sorted(path.name for path in foreign if path.parent == folder)
        more = f" and {len(names) - NAMED_FILES} more" if len(names) > NAMED_FILES else ""
        listed = ", ".join(map(repr, names[:NAMED_FILES]))
        text = f"{folder}: ignored what is no record under its own name: {listed}{more}"
        warnings.warn(IgnoredFile(text), stacklevel=2)


def read_record(path: Path, kind: type[RecordT]) -> RecordT:
    """The record in a file. Raises StoreError with what to do about one that cannot be read."""
    try:
        content = read_plain(path, MOST_RECORD_BYTES)
        record = kind.model_validate_json(content)
        if record.schema_number == SCHEMA and "schema_number" in record.model_fields_set:
            return record
    except OSError as error:
        raise unreadable(path, error) from None
    except ValidationError as error:
        problem = error.errors()[0]
    try:
        number = from_json(content).get("schema_number")
    except (ValueError, AttributeError) as error:
        raise StoreError(f"{path}: not a record ({error}); delete it and run again") from None
    if number == SCHEMA:
        field = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")[:300]
        reason = f"{field}: {message}" if field else message
        raise StoreError(f"{path}: {reason}; delete it and run again")
    if isinstance(number, int) and number >= NO_SCHEMA:
        raise StoreError(
            f"{path}: not a record (schema {str(number)[:20]}); delete it and run again"
        )
    if isinstance(number, int) and number > SCHEMA:
        advice = f"is newer than this wbc-bench (schema {SCHEMA}): update it"
    else:
        advice = f"is older than {SCHEMA}: delete the record and run again"
    raise StoreError(f"{path}: record schema {str(number)[:20]} {advice}")


def _check_fit(path: Path, parts: Mapping[str, Predictions], record: Record) -> None:
    """Raises StoreError for predictions of other classes or images than the record's data."""
    data, evaluation = record.data, record.evaluation
    assert evaluation is not None
    classes = parts["test"].probabilities.shape[1]
    if classes != len(data.class_names):
        raise StoreError(f"{path}: of {classes} classes, the record has {len(data.class_names)}")
    for part, of_record in (
        ("validation", evaluation.validation), ("test", evaluation.test),
        (SHIFTED, evaluation.shifted),
    ):  # fmt: skip
        images = len(parts[part].ids) if part in parts else 0
        expected = of_record.images if of_record else 0
        if images != expected:
            raise StoreError(f"{path}: {images} {part} images, the record has {expected}")
