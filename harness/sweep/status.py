"""What the sweeps in a results folder are doing, for another terminal.

While a run is under way, its sweep writes its state next to its artefacts, once a second at most.
Whether it is still under way is what its run lock says, not that file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import StoreError
from harness.execution.locks import RUN_LOCK, LockOwner, RunLock
from harness.execution.processes import LOG
from harness.schema.events import Event, PhaseEvent, WaitEvent
from harness.schema.records import Failed, RunRecord
from harness.storage.files import open_new, read_plain
from harness.storage.records import Store
from harness.sweep.callbacks import ProgressCallback
from harness.sweep.run_state import RunState

if TYPE_CHECKING:
    from harness.sweep.planner import PlannedRun

STATUS_FILE = "status.json"
INTERVAL_SECONDS = 1.0
MOST_STATE_BYTES = 1 << 16


@dataclass
class StatusCallback(ProgressCallback):
    """Writes the state of each run into its artefacts."""

    store: Store
    clock: Callable[[], float] = time.monotonic
    _states: dict[str, RunState] = field(default_factory=dict)
    _written: dict[str, float] = field(default_factory=dict)

    def on_event(self, planned: PlannedRun, event: Event) -> None:
        run_id, now = planned.run.id, self.clock()
        state = self._states.setdefault(run_id, RunState())
        due = now - self._written.get(run_id, -INTERVAL_SECONDS) >= INTERVAL_SECONDS
        if state.update(event) and (due or isinstance(event, PhaseEvent | WaitEvent)):
            self._written[run_id] = now
            _write(self.store.artefacts(planned.run) / STATUS_FILE, state)

    def on_run_end(self, planned: PlannedRun, record: RunRecord | None, message: str) -> None:
        self._states.pop(planned.run.id, None)
        self._written.pop(planned.run.id, None)


def _write(path: Path, state: RunState) -> None:
    """Without syncing: the file is of no use after a crash, and may be missing on a full disk."""
    temporary = path.with_name(f"{path.name}-new")
    try:
        with open_new(temporary) as file:
            file.write(state.model_dump_json().encode())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):  # Where the folder is gone or may not be written.
            temporary.unlink()


def _read(path: Path) -> RunState:
    try:
        return RunState.model_validate_json(read_plain(path, MOST_STATE_BYTES))
    except (OSError, StoreError, ValueError):
        return RunState()  # Nothing yet, or by another version.


@dataclass(frozen=True)
class RunningRun:
    """A run that a sweep is executing."""

    owner: LockOwner
    seconds: float
    state: RunState
    log: Path


def running_runs(store: Store, now: float) -> tuple[RunningRun, ...]:
    """The runs that any sweep is executing in this folder; ``now`` in seconds of the epoch."""
    folders = sorted(path.parent for path in (store.root / "artefacts").glob(f"*/{RUN_LOCK}"))
    return tuple(
        RunningRun(
            owner=owner,
            seconds=max(now - (owner.since or now), 0.0),
            state=_read(folder / STATUS_FILE),
            log=folder / LOG,
        )
        for folder in folders
        if (owner := RunLock(folder).owner()) is not None
    )


def report(store: Store, now: float) -> str:
    """The page that ``wbc-bench status`` prints."""
    records, running = store.records(), running_runs(store, now)
    failed = [record for record in records if isinstance(record.result, Failed)]
    finished = len(records) - len(failed)
    lines = [f"{finished} finished, {len(failed)} failed, {len(running)} running"]
    for run in running:
        lines += ["", *_lines(run)]
    lines += [""] if running and failed else []
    lines += [
        f"failed: {record.run.recipe}: {record.result.reason}"
        for record in failed
        if isinstance(record.result, Failed)
    ]
    return "\n".join(lines)


def _lines(run: RunningRun) -> list[str]:
    """A few short lines, since the rows of a table would not fit a terminal."""
    owner, state = run.owner, run.state
    costs = [f"{state.images_per_second} images/s"] if state.rate else []
    costs += [f"memory {state.memory}"] if state.memory else []
    return [
        f"{owner.recipe}, seed {owner.seed}: {run.seconds / 60:.1f} minutes, "
        f"by {owner.host}:{owner.pid}",
        f"  {state.sentence}",
        *([f"  {', '.join(costs)}"] if costs else []),
        f"  {run.log}",
    ]
