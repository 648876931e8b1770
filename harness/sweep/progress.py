"""The progress of a sweep on the console: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.schema.events import (
    EpochEvent,
    Event,
    MessageEvent,
    PhaseEvent,
    WaitEvent,
    WarningEvent,
)
from harness.schema.records import Finished, RunRecord
from harness.sweep.callbacks import ProgressCallback
from harness.sweep.estimates import end_times
from harness.sweep.planner import PlannedRun
from harness.sweep.run_state import TRAINING_PHASES, RunState

TABLE_WIDTH, BAR_WIDTH = 96, 24
"""Columns of the terminal that the table needs without bars, and the longest bar."""


class _TimedState(RunState):
    start: float = Field(default_factory=time.monotonic)


@dataclass
class ProgressView(ProgressCallback):
    """What both views share: which runs are under way, which have ended, and the time left."""

    console: Console
    pending: Sequence[PlannedRun]
    seconds: dict[str, float]
    """Run id -> estimated seconds."""
    machines: int = 1
    downloads: Callable[[], Iterable[RenderableType]] = tuple
    """What a live view shows of the weights that are on their way."""
    start: float = field(default_factory=time.monotonic)
    _running: dict[str, tuple[PlannedRun, _TimedState]] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    _not_timed: set[str] = field(default_factory=set)
    """Ended runs that say nothing about the speed here: failed, or executed by another sweep."""
    _messages: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def on_event(self, planned: PlannedRun, event: Event) -> None:
        if isinstance(event, MessageEvent):
            self.message(event.text)
            return
        with self._lock:
            _, state = self._running.setdefault(planned.run.id, (planned, _TimedState()))
            state.update(event)
        if isinstance(event, WarningEvent):
            line = Text.assemble((_name(planned), "bold yellow"), f": {event.text}")
            self.console.print(line, soft_wrap=True)
        if isinstance(event, WaitEvent) and event.reason:
            line = Text.assemble((_name(planned), "yellow"), f": {event.reason}")
            self.console.print(line, soft_wrap=True)
        self.on_state(planned, state, event)

    def on_state(self, planned: PlannedRun, state: RunState, event: Event) -> None:
        """The state of a run after an event."""

    def message(self, text: str) -> None:
        """Print once what several runs may report."""
        with self._lock:
            is_new = text not in self._messages
            self._messages.add(text)
        if is_new:
            self.console.print(text, style="yellow", soft_wrap=True, markup=False)

    def on_run_end(self, planned: PlannedRun, record: RunRecord | None, message: str) -> None:
        with self._lock:
            was_running = self._running.pop(planned.run.id, None) is not None
            self._ended.add(planned.run.id)
            if not was_running or record is None or not record.finished:
                self._not_timed.add(planned.run.id)
        self.console.print(self._headline(planned, record, message), soft_wrap=True)

    def _headline(self, planned: PlannedRun, record: RunRecord | None, message: str) -> Text:
        style = "bold red"
        if record is not None and isinstance(record.result, Finished):
            style, result = "bold green", record.result
            message = (
                f"macro F1 {100 * result.test.macro_f1:.2f} %, "
                f"{result.cost.throughput.median:,.0f} images/s, {result.timings.total:.0f} s"
            )
        count = f"[{len(self._ended)}/{len(self.pending)}] "
        return Text.assemble(count, (_name(planned), style), f": {message}")

    def seconds_left(self) -> float | None:
        """By the estimates of the runs left, scaled by how the runs so far compared with theirs.

        None once the estimates are used up before any run has finished.
        """
        timed = {
            run: seconds for run, seconds in self.seconds.items() if run not in self._not_timed
        }
        done = sum(seconds for run, seconds in timed.items() if run in self._ended)
        elapsed = time.monotonic() - self.start
        if done and elapsed >= 5:
            return elapsed * (sum(timed.values()) - done) / done
        left = max(end_times(list(timed.values()), self.machines), default=0.0) - elapsed
        return left if left > 0 else None


class PlainLog(ProgressView):
    """A line for each phase, epoch on images, and end of a run: for logs and pipes."""

    def on_state(self, planned: PlannedRun, state: RunState, event: Event) -> None:
        if isinstance(event, PhaseEvent) and state.phase in TRAINING_PHASES:
            self.console.print(f"{_name(planned)}: {state.phase}", soft_wrap=True)
        if isinstance(event, EpochEvent) and state.phase != "frozen":
            epoch = event.epoch
            self.console.print(
                f"{_name(planned)}: {state.phase}, epoch {epoch.epoch}, "
                f"loss {epoch.train_loss:.3f}, validation loss {epoch.validation_loss:.3f}, "
                f"validation F1 {100 * epoch.validation_f1:.2f} %, {epoch.seconds:.1f} s",
                soft_wrap=True,
            )


class LiveView(ProgressView):
    """A row for each run under way, and a line for the whole sweep."""

    def on_sweep_begin(self) -> None:
        self._live = Live(
            console=self.console, get_renderable=self.render, refresh_per_second=4, transient=True
        )
        self._live.start()

    def on_sweep_end(self) -> None:
        self._live.stop()

    def render(self) -> Group:
        with self._lock:
            running = list(self._running.values())
        bar_width = min(self.console.width - TABLE_WIDTH, BAR_WIDTH)
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
        heads = ("network", "phase", "val\nloss", "val F1\n(%)", "images\n/s", "memory", "time",
                 "to go")  # fmt: skip
        for i, head in enumerate(heads):  # A narrow terminal folds the names alone.
            justify: Literal["left", "right"] = "left" if i < 2 else "right"
            table.add_column(head, no_wrap=i > 0, overflow="fold", justify=justify)
        if bar_width > 0:
            table.add_column("")
        for planned, state in running:
            cells = self._cells(planned, state)
            if bar_width > 0:
                cells.append(ProgressBar(max(state.total, 1), state.done, width=bar_width))
            table.add_row(*cells)
        waiting = len(self.pending) - len(self._ended) - len(running)
        left = self.seconds_left()
        line = (
            f"{len(self._ended)} ended, {len(running)} running, {waiting} waiting; "
            f"{clock(time.monotonic() - self.start)} so far"
            + (f", about {clock(left)} to go" if left is not None else "")
        )
        return Group(table, *self.downloads(), Text(line, style="dim"))

    def _cells(self, planned: PlannedRun, state: _TimedState) -> list[RenderableType]:
        elapsed, epoch = time.monotonic() - state.start, state.epoch
        left = self.seconds[planned.run.id] - elapsed
        return [
            _name(planned),
            state.short,
            f"{epoch.validation_loss:.3f}" if epoch else "",
            f"{100 * epoch.validation_f1:.2f}" if epoch else "",
            state.images_per_second,
            state.memory,
            clock(elapsed),
            f"~{clock(left)}" if left > 0 else "",
        ]


def progress_view(
    console: Console,
    pending: Sequence[PlannedRun],
    seconds: dict[str, float],
    machines: int,
    downloads: Callable[[], Iterable[RenderableType]] = tuple,
) -> ProgressView:
    """The live view in a terminal, plain lines elsewhere."""
    view = LiveView if console.is_terminal else PlainLog
    return view(console, pending, seconds, machines, downloads)


def duration(seconds: float) -> str:
    """In its two largest units: ``55 s``, ``3 min 10 s``, ``8 h 2 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _name(planned: PlannedRun) -> str:
    seed = f"seed {planned.run.seed}" if planned.run.seed else ""
    details = ", ".join(word for word in (planned.variant, seed) if word)
    return f"{planned.recipe.name} ({details})" if details else planned.recipe.name
