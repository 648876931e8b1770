"""The learning curves of a sweep as TensorBoard reads them: one folder a run.

Written by the parent from the events of the runs, so every backend and every machine has them.
The records are TensorBoard's own; its writer of whole logs would load TensorFlow.
"""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.execution.processes import Event
from harness.schema.records import RunRecord
from harness.schema.run import Run
from harness.sweep.planner import PlannedRun
from harness.sweep.scheduler import ProgressCallback

LOGS = "events.out.tfevents."
"""How TensorBoard knows its files."""


def with_tensorboard(folder: Path | None) -> Callable[[ProgressCallback], ProgressCallback]:
    """What makes a watcher write learning curves too, if a folder for them is named.

    Raises UserError where the folder cannot be made, or TensorBoard is not installed.
    """
    if folder is None:
        return lambda watcher: watcher
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs TensorBoard: pip install tensorboard")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--tensorboard {folder}: {error.strerror or error}") from None
    return partial(TensorBoardCallback, folder)


@dataclass
class TensorBoardCallback:
    """A watcher that writes the curves and passes everything on to another."""

    folder: Path
    watcher: ProgressCallback
    _logs: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _silent: bool = False

    def event(self, planned: PlannedRun, event: Event) -> None:
        self.watcher.event(planned, event)
        if self._silent:
            return
        try:
            with self._lock:
                if event["event"] == "phase" and event["name"] == "start":
                    self._begin(planned.run)
                elif event["event"] == "epoch":
                    self._write(self._log(planned.run), event["line"])
        except OSError as error:  # A full disk, say: the curves end, the sweep goes on.
            self._silent = True
            text = f"{self.folder}: no more learning curves: {error.strerror or error}"
            self.watcher.event(planned, {"event": "message", "text": text})

    def ended(self, planned: PlannedRun, record: RunRecord | None, message: str) -> None:
        with self._lock:
            log = self._logs.pop(planned.run.id, None)
        if log is not None:
            log.close()
        self.watcher.ended(planned, record, message)

    def _begin(self, run: Run) -> None:
        """A process that goes on from a checkpoint tells all that was before, so that goes."""
        log = self._logs.pop(run.id, None)
        if log is not None:
            log.close()
        for path in self.of(run).glob(f"{LOGS}*"):
            path.unlink()

    def _log(self, run: Run) -> Any:
        from tensorboard.summary.writer.record_writer import RecordWriter

        if run.id not in self._logs:
            folder = self.of(run)
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{LOGS}{int(time.time())}.{socket.gethostname()}.{run.id}"
            self._logs[run.id] = RecordWriter((folder / name).open("wb"))
            self._put(self._logs[run.id], file_version="brain.Event:2")
        return self._logs[run.id]

    def of(self, run: Run) -> Path:
        return self.folder / f"{run.recipe}-seed{run.seed}-{run.id}"

    def _write(self, log: Any, line: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in curves(line).items()]
        self._put(log, step=line["epoch"], summary=Summary(value=values))

    def _put(self, log: Any, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as Entry

        log.write(Entry(wall_time=time.time(), **content).SerializeToString())
        log.flush()


def curves(line: Mapping[str, Any]) -> dict[str, float]:
    """Tag -> value of one epoch; the phase comes first, for TensorBoard groups by it.

    What the frozen phase counts a second are rows of features, and no images.
    """
    told = {
        "train_loss": line["train_loss"],
        "validation_loss": line["validation_loss"],
        "validation_macro_f1": line["validation_f1"],
        "learning_rate": line["learning_rate"],
    }
    if line["seconds"] and line.get("samples"):
        what = "feature_rows" if line["phase"] == "frozen" else "images"
        told[f"{what}_per_second"] = line["samples"] / line["seconds"]
    return {f"{line['phase'].replace(' ', '-')}/{name}": value for name, value in told.items()}
