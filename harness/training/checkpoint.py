"""Checkpoints of a run: written from time to time, deleted when the record exists.

A checkpoint is an npz without pickle, whose member ``meta`` is JSON, followed by the sha256 of
these bytes. It is written to a temporary file and renamed, and the previous one stays, so that
one good checkpoint exists whenever a process is killed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import StoreError, is_no_room
from harness.schema.records import Epoch
from harness.storage.files import open_new, read_plain
from harness.storage.records import CHECKPOINT
from harness.training.schedule import ScheduleState

TIME_SHARE = 0.05
"""Of a run's time, at most, for checkpoints: those of a large network are written less often."""
DIGEST_BYTES = 64
MOST_BYTES = 1 << 36


@dataclass(frozen=True)
class Checkpoint:
    """A phase after some of its epochs: everything that the next epoch depends on."""

    schedule: ScheduleState
    history: tuple[Epoch, ...]
    arrays: Mapping[str, np.ndarray]
    """The learner's weights, the state of its optimizer, and the best weights so far."""


@dataclass
class CheckpointManager:
    """The checkpoints of one run, in its folder of artefacts.

    ``signature``: of the run and the program; checkpoints with another one are ignored. ``warn``
    receives one line for each checkpoint that is damaged or could not be written.
    """

    folder: Path
    signature: Mapping[str, Any]
    interval: float = 30.0
    """Seconds between two checkpoints, at least."""
    warn: Callable[[str], object] = print
    clock: Callable[[], float] = time.monotonic
    resumed: int = 0
    """Epochs of the checkpoint that was loaded."""
    seconds: float = 0.0
    """Spent on writing."""
    _next: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._next = self.clock() + self.interval

    @property
    def paths(self) -> tuple[Path, Path]:
        return self.folder / CHECKPOINT, self.folder / f"{CHECKPOINT}-before"

    def due(self) -> bool:
        return self.clock() >= self._next

    def save(self, phase: str, checkpoint: Checkpoint) -> None:
        """Write a checkpoint now. A full disk costs the checkpoint, not the run."""
        start = self.clock()
        meta = {
            "signature": dict(self.signature),
            "phase": phase,
            "schedule": asdict(checkpoint.schedule),
            "history": [line.model_dump(mode="json") for line in checkpoint.history],
        }
        newest, previous = self.paths
        temporary = newest.with_name(f"{newest.name}-new")  # One process works here at a time.
        try:
            write(temporary, {**checkpoint.arrays, "meta": np.array(json.dumps(meta))})
            if newest.exists():
                newest.replace(previous)
            temporary.replace(newest)
        except OSError as error:
            if not is_no_room(error):
                raise
            self.warn(f"{newest}: no checkpoint, the disk is full")
        finally:
            temporary.unlink(missing_ok=True)
        seconds = self.clock() - start
        self.seconds += seconds
        self._next = self.clock() + max(self.interval, seconds / TIME_SHARE)

    def load(self, phase: str) -> Checkpoint | None:
        """The last undamaged checkpoint of this phase and signature; None where there is none."""
        for path in self.paths:
            if not path.exists():
                continue
            try:
                arrays = read(path)
                meta = json.loads(str(arrays.pop("meta")))
            except (OSError, StoreError, ValueError, KeyError) as error:
                self.warn(f"{path}: damaged ({error}); continuing from the one before")
                continue
            if meta["signature"] == dict(self.signature) and meta["phase"] == phase:
                history = tuple(Epoch.model_validate(line) for line in meta["history"])
                self.resumed = len(history)
                return Checkpoint(ScheduleState(**meta["schedule"]), history, arrays)
        return None


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays and their checksum, without a copy of all of them in memory."""
    with open_new(path) as file:
        np.savez(file, allow_pickle=False, **dict(arrays))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(digest.encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint. Raises ValueError where the content is not what was written."""
    content = memoryview(read_plain(path, MOST_BYTES))
    arrays, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(arrays).hexdigest().encode() != bytes(digest):
        raise ValueError("the checksum does not match")
    with np.load(io.BytesIO(arrays), allow_pickle=False) as file:
        return dict(file)
