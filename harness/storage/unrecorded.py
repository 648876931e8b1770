"""The results of finished runs that have no record yet.

A worker writes its outcome last, next to its artefacts; where these cannot be written, all of it
goes to a folder of the cache. A sweep that finds it there records the run without training it. It
is discarded when the record is on disk.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from harness.errors import StoreError
from harness.schema.base import FrozenModel, Name
from harness.schema.records import Outcome
from harness.schema.run import Job
from harness.storage.files import read_plain, write_atomically
from harness.storage.predictions import MOST_BYTES
from harness.storage.records import MOST_RECORD_BYTES, PREDICTIONS

OUTCOME = "outcome.json"


class _Kept(FrozenModel):
    outcome: Outcome
    predictions_sha256: Name
    """Of the file."""


def write_or_keep(job: Job, write: Callable[[Path], object]) -> None:
    """Write a run's artefacts into its output; where that fails, into ``job.kept``.

    Raises the OSError of the first where both cannot be written.
    """
    try:
        write(Path(job.output))
    except OSError as error:
        try:
            if job.kept is None:
                raise
            write(Path(job.kept))
        except OSError:
            raise error from None


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """What the record of a run needs besides its predictions; written after them."""
    kept = _Kept(outcome=outcome, predictions_sha256=_digest(folder))
    write_atomically(folder / OUTCOME, kept.model_dump_json().encode())


def find_outcome(*folders: Path) -> Outcome | None:
    """The outcome in one of the folders, if the predictions next to it are those that it is of."""
    for folder in folders:
        with suppress(OSError, ValueError, StoreError):
            kept = _Kept.model_validate_json(read_plain(folder / OUTCOME, MOST_RECORD_BYTES))
            if kept.predictions_sha256 == _digest(folder):
                return kept.outcome
    return None


def restore_kept(kept: Path, output: Path) -> None:
    """Copy what was kept to the run's artefacts. Raises OSError."""
    for path in sorted(kept.iterdir()) if kept.exists() else ():
        write_atomically(output / path.name, path.read_bytes())


def discard(output: Path, *kept: Path) -> None:
    """Forget an outcome that is recorded."""
    for folder in kept:
        shutil.rmtree(folder, ignore_errors=True)
    if not output.is_symlink():
        (output / OUTCOME).unlink(missing_ok=True)


def _digest(folder: Path) -> str:
    return hashlib.sha256(read_plain(folder / PREDICTIONS, MOST_BYTES)).hexdigest()
