"""Records and artefacts on disk. State is files; there is no database.

results/records/RECIPE-ID.json    the record, written last: the run is done when it exists
results/ensembles/RULE-ID.json    the record of an ensemble
results/outside/NAME-ID.json      the record of predictions that no run made
results/predictions/ID.npy        predictions of all that is judged, small enough to commit
results/artefacts/ID/             predictions and features of every part, trained weights, log,
                                  and while it runs its claim and checkpoints
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from harness.errors import StoreError
from harness.schema.predictions import Predictions, digest
from harness.schema.records import (
    SCHEMA,
    Ensemble,
    EnsembleRecord,
    ExternalRecord,
    Predicted,
    Record,
    RunRecord,
)
from harness.schema.run import Run
from harness.storage.files import write_atomically
from harness.storage.predictions import read_predictions, write_predictions

FEATURES = "features.npz"
PREDICTIONS = "predictions.npy"
CHECKPOINT = "checkpoint"

RecordT = TypeVar("RecordT", RunRecord, EnsembleRecord, ExternalRecord)


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

    def external_records(self) -> tuple[ExternalRecord, ...]:
        """The record of all predictions from outside, ordered by file name. Raises StoreError."""
        paths = sorted((self.root / "outside").glob("*.json"))
        return tuple(_read(path, ExternalRecord) for path in paths)

    def find(self, run: Run) -> RunRecord | None:
        return self._find(run, RunRecord)

    def find_ensemble(self, ensemble: Ensemble) -> EnsembleRecord | None:
        return self._find(ensemble, EnsembleRecord)

    def _find(self, of: Predicted, kind: type[RecordT]) -> RecordT | None:
        path = self.record_path(of)
        return _read(path, kind) if path.exists() else None

    def everything(self) -> tuple[Record, ...]:
        """Every record of every kind. Raises StoreError."""
        return (*self.records(), *self.ensembles(), *self.external_records())

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

    def load_verified(self, record: Record) -> dict[str, Predictions]:
        """A record's predictions, checked against its hash.

        Those of a run are taken from its artefacts where the copy beside the record is damaged.
        Raises StoreError naming the file.
        """
        path, evaluation = self.predictions_path(record.of), record.evaluation
        assert evaluation is not None, "a failed run has no predictions"
        try:
            parts = self.predictions(record.of)
            if digest(parts) == evaluation.predictions_sha256:
                return parts
            problem = StoreError(f"{path}: not the predictions that the record rests on")
        except StoreError as error:
            problem = error
        if isinstance(record.of, Run):
            with suppress(StoreError):
                every = read_predictions(self.artefacts(record.of) / PREDICTIONS)
                parts = {name: part for name, part in every.items() if name != "train"}
                if digest(parts) == evaluation.predictions_sha256:
                    self.save_predictions(record.of, parts)
                    return parts
        raise problem

    @property
    def _records(self) -> Path:
        return self.root / "records"


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
