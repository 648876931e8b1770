"""What a person sees while a sweep runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.execution.processes import Event
from harness.schema.records import Finished, RunRecord
from harness.sweep.planner import PlannedRun, end_times
from harness.sweep.run_state import RunState

NARROW, BAR = 96, 24
"""Columns of a terminal below which no bar is drawn, and of the longest bar."""


@dataclass
class _State(RunState):
    """Where one running run is, and since when it runs."""

    began: float = field(default_factory=time.monotonic)


@dataclass
class ProgressView:
    """Common to both views: who runs, what has ended, and how long the rest will take."""

    console: Console
    pending: Sequence[PlannedRun]
    seconds: dict[str, float]
    """Estimated seconds of each run, by its id."""
    machines: int = 1
    began: float = field(default_factory=time.monotonic)
    running: dict[str, tuple[PlannedRun, _State]] = field(default_factory=dict)
    ended_ids: set[str] = field(default_factory=set)
    untold: set[str] = field(default_factory=set)
    """Of those that ended, the ones that say nothing of the pace: failed, or run elsewhere."""
    told: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def event(self, planned: PlannedRun, event: Event) -> None:
        if event["event"] == "message":
            self.message(event["text"])
            return
        with self.lock:
            fresh = (planned, _State())
            _, state = self.running.setdefault(planned.run.id, fresh)
            before = state.phase
            state.hear(event)
        if event["event"] == "warning":
            line = Text.assemble((_name(planned), "bold yellow"), f": {event['line']}")
            self.console.print(line, soft_wrap=True)
        if state.phase != before or event["event"] == "epoch":
            self.moved(planned, state, event)

    def message(self, text: str) -> None:
        """Say once what several runs may report."""
        with self.lock:
            fresh = text not in self.told
            self.told.add(text)
        if fresh:
            self.console.print(text, style="yellow", soft_wrap=True, markup=False)

    def ended(self, planned: PlannedRun, record: RunRecord | None, message: str) -> None:
        with self.lock:
            here = self.running.pop(planned.run.id, None) is not None
            self.ended_ids.add(planned.run.id)
            if not here or record is None or not record.finished:
                self.untold.add(planned.run.id)
        self.console.print(self.headline(planned, record, message), soft_wrap=True)

    def moved(self, planned: PlannedRun, state: _State, event: Event) -> None:
        """A run entered a phase or ended an epoch."""

    def headline(self, planned: PlannedRun, record: RunRecord | None, message: str) -> Text:
        place = f"[{len(self.ended_ids)}/{len(self.pending)}]"
        name = _name(planned)
        if record is not None and isinstance(record.result, Finished):
            result = record.result
            text = (
                f"macro F1 {100 * result.test.macro_f1:.2f} %, "
                f"{result.cost.throughput.median:,.0f} images/s, "
                f"{result.timings.total:.0f} s"
            )
            return Text.assemble(f"{place} ", (name, "bold green"), f": {text}")
        return Text.assemble(f"{place} ", (name, "bold red"), f": {message}")

    def left(self, planned: PlannedRun, state: _State) -> str:
        """Of one run, by its estimate; nothing once that is used up."""
        left = self.seconds[planned.run.id] - (time.monotonic() - state.began)
        return f"~{clock(left)}" if left > 0 else ""

    def eta(self) -> float | None:
        """Seconds left, from the estimates of what is pending and how they fared so far.

        Until a run has finished they are all there is; None once they are used up.
        """
        counted = {i: seconds for i, seconds in self.seconds.items() if i not in self.untold}
        done = sum(seconds for i, seconds in counted.items() if i in self.ended_ids)
        elapsed = time.monotonic() - self.began
        if done and elapsed >= 5:
            return elapsed * (sum(counted.values()) - done) / done
        left = max(end_times(list(counted.values()), self.machines), default=0.0) - elapsed
        return left if left > 0 else None


class PlainLog(ProgressView):
    """A line when a run enters a phase and when it ends: for logs and pipes."""

    def moved(self, planned: PlannedRun, state: _State, event: Event) -> None:
        if event["event"] == "phase" and state.phase in ("frozen", "fine-tuning", "from scratch"):
            self.console.print(f"{_name(planned)}: {state.phase}", soft_wrap=True)
        if event["event"] == "epoch" and state.phase != "frozen":
            line = event["line"]
            self.console.print(
                f"{_name(planned)}: {state.phase}, epoch {line['epoch']}, "
                f"loss {line['train_loss']:.3f}, validation loss {line['validation_loss']:.3f}, "
                f"validation F1 {100 * line['validation_f1']:.2f} %, {line['seconds']:.1f} s",
                soft_wrap=True,
            )

    def __enter__(self) -> PlainLog:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class LiveView(ProgressView):
    """One row for each run that is under way, and a line for the whole."""

    def __enter__(self) -> LiveView:
        self._live = Live(
            console=self.console, get_renderable=self._render, refresh_per_second=4, transient=True
        )
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _render(self) -> Group:
        with self.lock:
            running = list(self.running.values())
        bar = min(self.console.width - NARROW, BAR)
        heads = ["network", "phase", "val\nloss", "val F1\n(%)", "images\n/s", "memory", "time"]
        heads += ["to go"]
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
        for i, head in enumerate(heads):  # A narrow terminal folds the names alone.
            side: Literal["left", "right"] = "left" if i < 2 else "right"
            table.add_column(head, no_wrap=i > 0, overflow="fold", justify=side)
        if bar > 0:
            table.add_column("")
        for planned, state in running:
            cells: list[RenderableType] = [
                _name(planned),
                state.short,
                f"{state.line['validation_loss']:.3f}" if state.line else "",
                f"{100 * state.line['validation_f1']:.2f}" if state.line else "",
                state.images_per_second,
                state.memory,
                clock(time.monotonic() - state.began),
                self.left(planned, state),
            ]
            if bar > 0:
                cells.append(ProgressBar(max(state.of, 1), state.done, width=bar))
            table.add_row(*cells)
        left = len(self.pending) - len(self.ended_ids) - len(running)
        eta = self.eta()
        whole = (
            f"{len(self.ended_ids)} ended, {len(running)} running, {left} waiting; "
            f"{clock(time.monotonic() - self.began)} so far"
            + (f", about {clock(eta)} to go" if eta is not None else "")
        )
        return Group(table, Text(whole, style="dim"))


def progress_callback(
    console: Console, pending: Sequence[PlannedRun], seconds: dict[str, float], machines: int
) -> Any:
    """The live view in a terminal, plain lines where the output is none."""
    view = LiveView if console.is_terminal else PlainLog
    return view(console, pending, seconds, machines)


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _name(planned: PlannedRun) -> str:
    seed = f"seed {planned.run.seed}" if planned.run.seed else ""
    told = ", ".join(word for word in (planned.variant, seed) if word)
    return f"{planned.recipe.name} ({told})" if told else planned.recipe.name
