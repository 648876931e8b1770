"""The learning curves of a sweep as TensorBoard reads them: one folder a run.

The parent writes them from the events of the runs, so every backend and every machine has them,
with TensorBoard's writer of single records: its writer of whole logs would load TensorFlow.
"""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.schema.events import EpochEvent, Event, PhaseEvent
from harness.schema.records import Epoch, RunRecord
from harness.schema.run import Run
from harness.sweep.callbacks import ProgressCallback
from harness.sweep.planner import PlannedRun

LOG_PREFIX = "events.out.tfevents."
"""By which TensorBoard recognises its files."""


def make_log_folder(folder: Path) -> None:
    """Make the folder of the curves; UserError where it cannot be, or TensorBoard is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs TensorBoard: pip install tensorboard")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--tensorboard {folder}: {error.strerror or error}") from None


@dataclass
class TensorBoardCallback(ProgressCallback):
    """Writes a learning curve for each run under ``folder``.

    Raises UserError as ``make_log_folder`` does. A disk that fills up later ends the curves, with
    a line to ``warn``, and not the sweep.
    """

    folder: Path
    warn: Callable[[str], object]
    _logs: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _failed: bool = False

    def __post_init__(self) -> None:
        make_log_folder(self.folder)

    def on_event(self, planned: PlannedRun, event: Event) -> None:
        if self._failed:
            return
        try:
            with self._lock:
                if isinstance(event, PhaseEvent) and event.name == "start":
                    self._clear(planned.run)
                elif isinstance(event, EpochEvent):
                    self._write(planned.run, event.epoch)
        except OSError as error:
            self._failed = True
            self.warn(f"{self.folder}: no more learning curves: {error.strerror or error}")

    def on_run_end(self, planned: PlannedRun, record: RunRecord | None, message: str) -> None:
        with self._lock:
            self._close(planned.run)

    def _close(self, run: Run) -> None:
        log = self._logs.pop(run.id, None)
        if log is not None:
            log.close()

    def _clear(self, run: Run) -> None:
        """Remove earlier curves: a resumed process reports all epochs from the first."""
        self._close(run)
        for path in self._folder(run).glob(f"{LOG_PREFIX}*"):
            path.unlink()

    def _folder(self, run: Run) -> Path:
        return self.folder / f"{run.recipe}-seed{run.seed}-{run.id}"

    def _log(self, run: Run) -> Any:
        from tensorboard.summary.writer.record_writer import RecordWriter

        if run.id not in self._logs:
            folder = self._folder(run)
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{LOG_PREFIX}{int(time.time())}.{socket.gethostname()}.{run.id}"
            self._logs[run.id] = RecordWriter((folder / name).open("wb"))
            _add(self._logs[run.id], file_version="brain.Event:2")
        return self._logs[run.id]

    def _write(self, run: Run, epoch: Epoch) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(epoch).items()
        ]
        _add(self._log(run), step=epoch.epoch, summary=Summary(value=values))


def _add(log: Any, **content: Any) -> None:
    from tensorboard.compat.proto.event_pb2 import Event as LogEntry

    log.write(LogEntry(wall_time=time.time(), **content).SerializeToString())
    log.flush()


def scalars(epoch: Epoch) -> dict[str, float]:
    """Tag -> value of one epoch; tags begin with the phase, by which TensorBoard groups them."""
    values = {
        "train_loss": epoch.train_loss,
        "validation_loss": epoch.validation_loss,
        "validation_macro_f1": epoch.validation_f1,
        "learning_rate": epoch.learning_rate,
    }
    for name in ("train_accuracy", "train_f1", "validation_accuracy"):
        if (value := getattr(epoch, name)) is not None:
            values[name.replace("f1", "macro_f1")] = value
    if epoch.seconds and epoch.samples:
        unit = "feature_rows" if epoch.phase == "frozen" else "images"
        values[f"{unit}_per_second"] = epoch.samples / epoch.seconds
    return {f"{epoch.phase.replace(' ', '-')}/{name}": value for name, value in values.items()}
