"""What the sweeps in a results folder are doing, told by files: for another terminal.

While a run is under way, its sweep writes where it is beside its artefacts, once a second at
most. Whether it still is under way is what its claim tells, not that file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from harness.execution.locks import RUN_LOCK, RunLock
from harness.execution.processes import Event
from harness.storage.records import Store
from harness.sweep.run_state import RunState

PROGRESS = "progress.json"
EVERY_SECONDS = 1.0


@dataclass
class StatusWriter:
    """Listens to the events of one run and leaves the last of them in its artefacts."""

    folder: Path
    pass_on: Callable[[Event], None]
    _standing: RunState = field(default_factory=RunState)
    _last: float = field(default=0.0)

    def __call__(self, event: Event) -> None:
        self.pass_on(event)
        if not self._standing.hear(event):
            return
        now = time.monotonic()
        if event["event"] == "phase" or now - self._last >= EVERY_SECONDS:
            self._last = now
            self._write()

    def _write(self) -> None:
        """Not synced: it is of no use after a crash. A full disk is not this file's business."""
        path = self.folder / PROGRESS
        temporary = path.with_name(f"{PROGRESS}-new")
        try:
            temporary.write_text(json.dumps(self._standing.told()), encoding="utf-8")
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Running:
    """A run that somebody is at work on."""

    recipe: str
    seed: int
    holder: str
    seconds: float
    standing: RunState
    log: Path

    @property
    def what(self) -> str:
        return self.standing.sentence


def running(store: Store, now: float) -> tuple[Running, ...]:
    """Every run under way in this folder, by whichever sweep; ``now`` in seconds of the epoch."""
    found = []
    for file in sorted((store.root / "artefacts").glob(f"*/{RUN_LOCK}")):
        owner = RunLock(file.parent).owner()
        if owner is None:
            continue
        found.append(
            Running(
                recipe=owner.recipe,
                seed=owner.seed,
                holder=f"{owner.host}:{owner.pid}",
                seconds=max(now - (owner.since or now), 0.0),
                standing=_standing(file.parent / PROGRESS),
                log=file.parent / "log.txt",
            )
        )
    return tuple(found)


def _standing(path: Path) -> RunState:
    try:
        return RunState.from_told(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return RunState()  # Nothing yet, or by another version.


def report(store: Store, now: float) -> str:
    """The page that ``wbc-bench status`` prints."""
    records, under_way = store.records(), running(store, now)
    failed = [record for record in records if not record.finished]
    lines = [
        f"{len(records) - len(failed)} finished, {len(failed)} failed, {len(under_way)} running"
    ]
    for one in under_way:
        lines += ["", *_lines(one)]
    lines += [""] if under_way and failed else []
    for record in failed:
        assert record.result.status == "failed"
        lines.append(f"failed: {record.run.recipe}: {record.result.reason}")
    return "\n".join(lines)


def _lines(one: Running) -> list[str]:
    """Three short ones rather than a table, whose rows no terminal could hold."""
    rate, memory = one.standing.images_per_second, one.standing.memory
    costs = [f"{rate} images/s"] if rate else []
    costs += [f"memory {memory}"] if memory else []
    return [
        f"{one.recipe}, seed {one.seed}: {one.seconds / 60:.1f} minutes, by {one.holder}",
        f"  {one.what}",
        *([f"  {', '.join(costs)}"] if costs else []),
        f"  {one.log}",
    ]
