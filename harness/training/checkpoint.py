"""The checkpoint of a run: written where it can spare more than it costs, deleted with the record.

A checkpoint is an npz without pickle, whose member ``meta`` is JSON, followed by the sha256 of
these bytes. It is written to a temporary file, synced and renamed over the last one, so that one
good checkpoint exists whenever a process is killed.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import StoreError, is_no_room
from harness.execution.processes import GRACE_SECONDS
from harness.schema.records import Epoch
from harness.storage.files import open_new, read_plain
from harness.storage.records import CHECKPOINT
from harness.training.schedule import ScheduleState

TIME_SHARE = 0.05
"""Of the time of the epochs that a checkpoint saves, at most, for writing it: large networks are
saved less often, and those that train fast never."""
BYTES_PER_SECOND = 2e8
"""Assumed for the first checkpoint of a process."""
STOP_SECONDS = 0.8 * GRACE_SECONDS
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
    """Seconds of training that a checkpoint saves, at least; 0: one after each epoch."""
    warn: Callable[[str], object] = print
    clock: Callable[[], float] = time.monotonic
    resumed: int = 0
    """Epochs of the checkpoint that was loaded."""
    seconds: float = 0.0
    """Spent on writing."""
    _saved: int = field(default=0, init=False)
    """Epochs in the last checkpoint."""
    _epoch: Epoch | None = field(default=None, init=False)
    """The last one."""
    _size: int = field(default=0, init=False)
    _stopping: bool = field(default=False, init=False)
    _rate: float = field(default=BYTES_PER_SECOND, init=False)

    @property
    def path(self) -> Path:
        return self.folder / CHECKPOINT

    def due(self, history: Sequence[Epoch], size: int) -> bool:
        """Whether a checkpoint of ``size`` bytes is worth writing after these epochs."""
        self._epoch, self._size = history[-1], size
        if self._stopping or not self.interval:
            return True
        at_stake = sum(line.seconds for line in history[self._saved :])
        return at_stake >= max(self.interval, size / self._rate / TIME_SHARE)

    @contextmanager
    def saves_on_sigterm(self) -> Iterator[None]:
        """SIGTERM ends the process after the present epoch, saved, where that is a matter of
        ``STOP_SECONDS``; else at once.
        """

        def on_sigterm(number: int, _: object) -> None:
            seconds = self._epoch.seconds + self._size / self._rate if self._epoch else math.inf
            if seconds > STOP_SECONDS:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self._stopping = True

        previous = signal.signal(signal.SIGTERM, on_sigterm)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    def save(self, phase: str, checkpoint: Checkpoint) -> None:
        """Write a checkpoint now. A disk that takes none costs the checkpoint, not the run."""
        start = self.clock()
        meta = {
            "signature": dict(self.signature),
            "phase": phase,
            "schedule": asdict(checkpoint.schedule),
            "history": [line.model_dump(mode="json") for line in checkpoint.history],
        }
        temporary = self.path.with_name(f"{CHECKPOINT}-new")  # One process works here at a time.
        try:
            write(temporary, {**checkpoint.arrays, "meta": np.array(json.dumps(meta))})
            size = temporary.stat().st_size
            temporary.replace(self.path)
            self._rate = size / max(self.clock() - start, 1e-3)
        except OSError as error:
            reason = "the disk is full" if is_no_room(error) else error.strerror or error
            self.warn(f"{self.path}: no checkpoint, {reason}")
        finally:
            with suppress(OSError):
                temporary.unlink()
        self._saved = len(checkpoint.history)
        self.seconds += self.clock() - start
        if self._stopping:
            raise SystemExit(f"stopped after epoch {self._saved}, which is saved")

    def load(self, phase: str) -> Checkpoint | None:
        """The checkpoint of this phase and signature; None where there is no undamaged one."""
        try:
            arrays = read(self.path)
            meta = json.loads(str(arrays.pop("meta")))
        except FileNotFoundError:
            return None
        except (OSError, StoreError, ValueError, KeyError) as error:
            self.warn(f"{self.path}: damaged ({error}); the phase starts again")
            return None
        if meta["signature"] != dict(self.signature) or meta["phase"] != phase:
            return None
        history = tuple(Epoch.model_validate(line) for line in meta["history"])
        self.resumed = self._saved = len(history)
        return Checkpoint(ScheduleState(**meta["schedule"]), history, arrays)


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
