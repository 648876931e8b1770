"""Records and artefacts on disk. State is files; there is no database.

results/records/RECIPE-ID.json    the record, written last: the run is done when it exists
results/ensembles/RULE-ID.json    the record of an ensemble
results/outside/NAME-ID.json      the record of predictions that no run made
results/predictions/ID.npy        predictions of all that is judged, small enough to commit
results/artefacts/ID/             predictions and features of every part, trained weights, log,
                                  and while it runs its claim and checkpoints
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from pydantic import ValidationError

from harness.errors import StoreError
from harness.nouns import SCHEMA, Predictions, Run, RunRecord
from harness.records import Ensemble, EnsembleRecord, OutsideRecord, Predicted, Record

FEATURES = "features.npz"
PREDICTIONS = "predictions.npy"
CHECKPOINT = "checkpoint"

SHIFTED, EVERY_SHIFT, PLAIN = "shifted", "every-shift", "plain-"
"""Parts beside validation and test: the mixed shifted copy; the test images in all 55 ways, one
way after the other; and, of a run with several views, either test in the first view alone."""

DAMAGED = (
    OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, struct.error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip
"""What reading a torn or altered npz can raise."""

RecordT = TypeVar("RecordT", RunRecord, EnsembleRecord, OutsideRecord)


class Store:
    """One results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def records(self) -> tuple[RunRecord, ...]:
        """Every record, ordered by file name. Raises StoreError naming one that cannot be read."""
        return tuple(_read(path, RunRecord) for path in sorted(self._records.glob("*.json")))

    def ensembles(self) -> tuple[EnsembleRecord, ...]:
        """The record of every ensemble, ordered by file name. Raises StoreError."""
        paths = sorted((self.root / "ensembles").glob("*.json"))
        return tuple(_read(path, EnsembleRecord) for path in paths)

    def outsides(self) -> tuple[OutsideRecord, ...]:
        """The record of all predictions from outside, ordered by file name. Raises StoreError."""
        paths = sorted((self.root / "outside").glob("*.json"))
        return tuple(_read(path, OutsideRecord) for path in paths)

    def find(self, run: Run) -> RunRecord | None:
        return self._find(run, RunRecord)

    def find_ensemble(self, ensemble: Ensemble) -> EnsembleRecord | None:
        return self._find(ensemble, EnsembleRecord)

    def _find(self, of: Predicted, kind: type[RecordT]) -> RecordT | None:
        path = self.record_path(of)
        return _read(path, kind) if path.exists() else None

    def everything(self) -> tuple[Record, ...]:
        """Every record of every kind. Raises StoreError."""
        return (*self.records(), *self.ensembles(), *self.outsides())

    def trace(self, run: Run) -> tuple[int, int] | None:
        """Changes whenever the record of a run is written; None while there is none."""
        try:
            found = self.record_path(run).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def set_aside_torn(self, tell: Callable[[str], object]) -> None:
        """Rename records that are no JSON, so that their runs are pending again; say which."""
        for path in sorted(self._records.glob("*.json")):
            try:
                json.loads(path.read_bytes())
            except ValueError:
                path.replace(path.with_suffix(".torn"))
                tell(f"{path}: damaged, and kept as {path.stem}.torn; the run is made again")

    def drop_checkpoints(self, run: Run) -> None:
        """Once the record is there, nobody will go on from them."""
        for path in self.artefacts(run).glob(f"{CHECKPOINT}*"):
            path.unlink(missing_ok=True)

    def save(self, record: Record) -> None:
        """The last act of what the record is of."""
        path = self.record_path(record.of)
        text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode())

    def record_path(self, of: Predicted) -> Path:
        if isinstance(of, Run):
            return self._records / f"{of.recipe}-{of.id}.json"
        if isinstance(of, Ensemble):
            return self.root / "ensembles" / f"{of.rule.replace(' ', '-')}-{of.id}.json"
        return self.root / "outside" / f"{of.name}-{of.id}.json"

    def artefacts(self, run: Run) -> Path:
        return self.root / "artefacts" / run.id

    def predictions_path(self, of: Predicted) -> Path:
        return self.root / "predictions" / f"{of.id}.npy"

    def save_predictions(self, of: Predicted, parts: Mapping[str, Predictions]) -> None:
        write_predictions(self.predictions_path(of), parts)

    def predictions(self, of: Predicted) -> dict[str, Predictions]:
        """Predictions of what has a record, by part: validation, test, and what else was judged.

        Raises StoreError.
        """
        return read_predictions(self.predictions_path(of))

    def trusted(self, record: Record) -> dict[str, Predictions]:
        """A record's predictions, checked against its hash.

        Those of a run are taken from its artefacts where the copy beside the record is damaged.
        Raises StoreError naming the file.
        """
        path, judged = self.predictions_path(record.of), record.judged
        assert judged is not None, "a failed run has no predictions"
        try:
            parts = self.predictions(record.of)
            if digest(parts) == judged.predictions_sha256:
                return parts
            problem = StoreError(f"{path}: not the predictions that the record rests on")
        except StoreError as error:
            problem = error
        if isinstance(record.of, Run):
            with suppress(StoreError):
                every = read_predictions(self.artefacts(record.of) / PREDICTIONS)
                parts = {name: part for name, part in every.items() if name != "train"}
                if digest(parts) == judged.predictions_sha256:
                    self.save_predictions(record.of, parts)
                    return parts
        raise problem

    @property
    def _records(self) -> Path:
        return self.root / "records"


def write_atomically(path: Path, content: bytes) -> None:
    """All or nothing: a temporary name in the same folder, synced, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Other machines may write to this folder, with processes of the same number.
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = False) -> None:
    """An npz without pickle, atomically."""
    buffer = io.BytesIO()
    save = np.savez_compressed if compress else np.savez
    save(buffer, allow_pickle=False, **dict(arrays))
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz that this program wrote. Raises StoreError naming the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except DAMAGED as error:
        raise StoreError(f"{path}: cannot be read ({error}); delete it and run again") from None


def write_predictions(path: Path, parts: Mapping[str, Predictions]) -> None:
    """One table, a row an image: part, id, label, probabilities. One header is quick to read."""
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
    """What ``write_predictions`` wrote, by part. Raises StoreError naming the file."""
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
    """The array of an npy; a thousand of them share one header, which is then read once."""
    begin = 10 + int.from_bytes(content[8:10], "little")
    shape, fields = _header(content[:begin])
    return np.frombuffer(content, fields, offset=begin).reshape(shape)


@cache
def _header(content: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not an npy of this program")
    shape, _, fields = np.lib.format.read_array_header_1_0(stream)
    if fields.hasobject:
        raise ValueError("objects cannot be loaded")
    return shape, fields


def digest(parts: Mapping[str, Predictions]) -> str:
    """sha256 over ids, labels and probabilities of every part, bit for bit."""
    sha = hashlib.sha256()
    for name in sorted(parts):
        part = parts[name]
        sha.update(f"{name}:{part.probabilities.shape}".encode())
        sha.update(np.ascontiguousarray(part.ids, dtype="<i8").tobytes())
        sha.update(np.ascontiguousarray(part.labels, dtype="<i8").tobytes())
        sha.update(np.ascontiguousarray(part.probabilities, dtype="<f4").tobytes())
    return sha.hexdigest()


def _read(path: Path, kind: type[RecordT]) -> RecordT:
    try:
        content = path.read_bytes()
        record = kind.model_validate_json(content)
        if record.schema_number == SCHEMA and "schema_number" in record.model_fields_set:
            return record
    except OSError as error:
        raise StoreError(f"{path}: not a record ({error}); delete it and run again") from None
    except ValidationError as error:
        problem = error.errors()[0]
    try:
        number = json.loads(content).get("schema_number")
    except (ValueError, AttributeError) as error:
        raise StoreError(f"{path}: not a record ({error}); delete it and run again") from None
    if number != SCHEMA:
        raise StoreError(f"{path}: {_schema_advice(number)}")
    key = ".".join(str(part) for part in problem["loc"])
    raise StoreError(f"{path}: {key}: {problem['msg']}; delete it and run again")


def _schema_advice(number: object) -> str:
    if isinstance(number, int) and number > SCHEMA:
        return f"record schema {number} is newer than this wbc-bench (schema {SCHEMA}): update it"
    return f"record schema {number!r} is older than {SCHEMA}: delete the record and run again"
