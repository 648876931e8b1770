"""Records and artefacts on disk. State is files; there is no database and no lock.

results/records/RECIPE-ID.json    the record, written last: the run is done when it exists
results/ensembles/RULE-ID.json    the record of an ensemble
results/predictions/ID.npz        validation and test predictions, small enough to commit
results/artefacts/ID/             predictions and features of every part, trained weights, log
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import ValidationError

from harness.errors import StoreError
from harness.nouns import SCHEMA, Ensemble, EnsembleRecord, Noun, Predictions, Run, RunRecord

FEATURES = "features.npz"
PREDICTIONS = "predictions.npz"


RecordT = TypeVar("RecordT", RunRecord, EnsembleRecord)


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

    def find(self, run: Run) -> RunRecord | None:
        path = self.record_path(run)
        return _read(path, RunRecord) if path.exists() else None

    def save(self, record: RunRecord) -> None:
        """The last act of a run."""
        _write(self.record_path(record.run), record)

    def save_ensemble(self, record: EnsembleRecord) -> None:
        _write(self.ensemble_path(record.ensemble), record)

    def ensemble_path(self, ensemble: Ensemble) -> Path:
        name = f"{ensemble.rule.replace(' ', '-')}-{ensemble.id}.json"
        return self.root / "ensembles" / name

    def record_path(self, run: Run) -> Path:
        return self._records / f"{run.recipe}-{run.id}.json"

    def artefacts(self, run: Run) -> Path:
        return self.root / "artefacts" / run.id

    def predictions_path(self, of: Run | Ensemble) -> Path:
        return self.root / "predictions" / f"{of.id}.npz"

    def save_predictions(self, of: Run | Ensemble, parts: Mapping[str, Predictions]) -> None:
        write_predictions(self.predictions_path(of), parts)

    def predictions(self, of: Run | Ensemble) -> dict[str, Predictions]:
        """Validation and test predictions of a finished run or of an ensemble. StoreError."""
        return read_predictions(self.predictions_path(of))

    @property
    def _records(self) -> Path:
        return self.root / "records"


def write_atomically(path: Path, content: bytes) -> None:
    """All or nothing: a temporary name in the same folder, synced, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(f"{path}: cannot be read ({error}); delete it and run again") from None


def write_predictions(path: Path, parts: Mapping[str, Predictions]) -> None:
    arrays = {}
    for name, part in parts.items():
        arrays[f"{name}_ids"] = part.ids
        arrays[f"{name}_labels"] = part.labels
        arrays[f"{name}_probabilities"] = part.probabilities
    write_arrays(path, arrays, compress=True)


def read_predictions(path: Path) -> dict[str, Predictions]:
    arrays = read_arrays(path)
    names = sorted({key.partition("_")[0] for key in arrays})
    try:
        return {
            name: Predictions(
                arrays[f"{name}_ids"], arrays[f"{name}_labels"], arrays[f"{name}_probabilities"]
            )
            for name in names
        }
    except KeyError as error:
        raise StoreError(f"{path}: holds no {error}; delete it and run again") from None


def _write(path: Path, record: Noun) -> None:
    text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    write_atomically(path, text.encode())


def _read(path: Path, kind: type[RecordT]) -> RecordT:
    try:
        content = json.loads(path.read_bytes())
        number = content.get("schema_number")
    except (OSError, ValueError, AttributeError) as error:
        raise StoreError(f"{path}: not a record ({error}); delete it and run again") from None
    if number != SCHEMA:
        raise StoreError(f"{path}: {_schema_advice(number)}")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{path}: {key}: {first['msg']}; delete it and run again") from None


def _schema_advice(number: object) -> str:
    if isinstance(number, int) and number > SCHEMA:
        return f"record schema {number} is newer than this wbc-bench (schema {SCHEMA}): update it"
    return f"record schema {number!r} is older than {SCHEMA}: delete the record and run again"
