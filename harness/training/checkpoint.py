"""Where a run under way can be taken up again: written now and then, dropped with the record.

A checkpoint is a line with the hash of what follows, then an npz without pickle, whose member
``told`` is JSON. It is written beside and renamed, and the one before it is kept, so whatever
moment a process is killed at, one good checkpoint is there.
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
from typing import Any, BinaryIO

import numpy as np

from harness.errors import is_no_room
from harness.schema.records import Epoch
from harness.storage.records import CHECKPOINT
from harness.training.schedule import ScheduleState

SHARE = 0.05
"""Of the time that checkpoints may take at most: a large network is kept less often."""


@dataclass(frozen=True)
class Checkpoint:
    """A phase after some of its epochs: what the next one depends on."""

    pace: ScheduleState
    curve: tuple[Epoch, ...]
    arrays: Mapping[str, np.ndarray]
    """The learner's own: weights, the state of its optimizer, the best weights so far."""


@dataclass
class CheckpointManager:
    """The checkpoints of one run, in its artefacts.

    ``signature`` tells by whom they were written; others' are not taken up. ``tell`` gets one
    line for each one that is damaged or could not be written.
    """

    folder: Path
    signature: Mapping[str, Any]
    every: float = 30.0
    """Seconds between two of them, at least."""
    tell: Callable[[str], object] = print
    clock: Callable[[], float] = time.monotonic
    resumed: int = 0
    seconds: float = 0.0
    """What writing them has taken."""
    _next: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._next = self.clock() + self.every

    @property
    def paths(self) -> tuple[Path, Path]:
        return self.folder / CHECKPOINT, self.folder / f"{CHECKPOINT}-before"

    def due(self) -> bool:
        return self.clock() >= self._next

    def keep(self, phase: str, progress: Checkpoint) -> None:
        """Write one now. A disk that is full costs the checkpoint, not the run."""
        began = self.clock()
        told = {
            "signature": dict(self.signature),
            "phase": phase,
            "pace": asdict(progress.pace),
            "curve": [line.model_dump(mode="json") for line in progress.curve],
        }
        try:
            self._write({**progress.arrays, "told": np.array(json.dumps(told))})
        except OSError as error:
            if not is_no_room(error):
                raise
            self.tell(f"{self.paths[0]}: no checkpoint, the disk is full")
        took = self.clock() - began
        self.seconds += took
        self._next = self.clock() + max(self.every, took / SHARE)

    def recall(self, phase: str) -> Checkpoint | None:
        """The last good one of this phase, by the same program; None to begin anew."""
        for path in self.paths:
            if not path.exists():
                continue
            try:
                arrays = read(path)
                told = json.loads(str(arrays.pop("told")))
            except (OSError, ValueError, KeyError) as error:
                self.tell(f"{path}: damaged ({error}); going on from what was before it")
                continue
            if told["signature"] != dict(self.signature) or told["phase"] != phase:
                continue
            curve = tuple(Epoch.model_validate(line) for line in told["curve"])
            self.resumed = len(curve)
            return Checkpoint(ScheduleState(**told["pace"]), curve, arrays)
        return None

    def _write(self, arrays: Mapping[str, np.ndarray]) -> None:
        newest, before = self.paths
        temporary = newest.with_name(f"{newest.name}-new")  # One process works here at a time.
        try:
            write(temporary, arrays)
            if newest.exists():
                newest.replace(before)
            temporary.replace(newest)
        finally:
            temporary.unlink(missing_ok=True)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """The file in one pass, so that it never lies in memory; its hash goes in front at the end."""
    with path.open("wb") as file:
        file.write(b"0" * 64 + b"\n")
        hashing = _Hashing(file)
        np.savez(hashing, allow_pickle=False, **dict(arrays))
        file.seek(0)
        file.write(hashing.digest.hexdigest().encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint. Raises ValueError where the content is not what was written."""
    content = path.read_bytes()
    if hashlib.sha256(memoryview(content)[65:]).hexdigest().encode() + b"\n" != content[:65]:
        raise ValueError("the checksum does not match")
    with np.load(io.BytesIO(memoryview(content)[65:]), allow_pickle=False) as file:
        return dict(file)


class _Hashing(io.RawIOBase):
    """Passes on what is written, and hashes it. Not seekable, so an archive goes through once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return self._file.write(content)
