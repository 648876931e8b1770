"""The one protocol by which console, log, status file and TensorBoard follow a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.schema.events import Event
from harness.schema.records import RunRecord

if TYPE_CHECKING:  # It loads what finds weights, which ``status`` does without.
    from harness.sweep.planner import PlannedRun


class ProgressCallback:
    """Receives the progress of a sweep; the methods do nothing unless overridden.

    Events of different runs come from different threads, those of one run in their order.
    """

    def on_sweep_begin(self) -> None:
        """Before the first run starts."""

    def on_event(self, planned: PlannedRun, event: Event) -> None:
        """The process of a run has reported something."""

    def on_run_end(self, planned: PlannedRun, record: RunRecord | None, message: str) -> None:
        """A run has ended; ``record`` is None where none was written."""

    def on_sweep_end(self) -> None:
        """After the last run, also after an interrupt."""


@dataclass(frozen=True)
class CallbackList(ProgressCallback):
    """Calls several callbacks in their order."""

    callbacks: Sequence[ProgressCallback]

    def on_sweep_begin(self) -> None:
        for callback in self.callbacks:
            callback.on_sweep_begin()

    def on_event(self, planned: PlannedRun, event: Event) -> None:
        for callback in self.callbacks:
            callback.on_event(planned, event)

    def on_run_end(self, planned: PlannedRun, record: RunRecord | None, message: str) -> None:
        for callback in self.callbacks:
            callback.on_run_end(planned, record, message)

    def on_sweep_end(self) -> None:
        for callback in self.callbacks:
            callback.on_sweep_end()
