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
from typing import Any

from harness import claims
from harness.launch import Event
from harness.store import Store

PROGRESS = "progress.json"
EVERY_SECONDS = 1.0


@dataclass
class Trail:
    """Listens to the events of one run and leaves the last of them in its artefacts."""

    folder: Path
    pass_on: Callable[[Event], None]
    _told: dict[str, Any] = field(default_factory=dict)
    _last: float = field(default=0.0)

    def __call__(self, event: Event) -> None:
        self.pass_on(event)
        match event.get("event"):
            case "phase":
                self._told |= {"phase": event["name"], "done": 0, "of": event["steps"]}
            case "step":
                self._told |= {"done": event["done"], "of": event["of"]}
            case "epoch":
                self._told |= {"line": event["line"]}
            case _:
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
            temporary.write_text(json.dumps(self._told), encoding="utf-8")
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
    what: str
    log: Path


def running(store: Store, now: float) -> tuple[Running, ...]:
    """Every run under way in this folder, by whichever sweep; ``now`` in seconds of the epoch."""
    found = []
    for claim in sorted((store.root / "artefacts").glob(f"*/{claims.CLAIM}")):
        told = claims.holder(claim.parent)
        if told is None:
            continue
        found.append(
            Running(
                recipe=str(told.get("recipe", "?")),
                seed=int(told.get("seed", 0)),
                holder=f"{told.get('host', '?')}:{told.get('pid', '?')}",
                seconds=max(now - float(told.get("since", now)), 0.0),
                what=_what(claim.parent / PROGRESS),
                log=claim.parent / "log.txt",
            )
        )
    return tuple(found)


def _what(path: Path) -> str:
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return "starting"
    line = told.get("line")
    phase = str(told.get("phase", "starting"))
    if line and line["phase"] == phase:
        return (
            f"{phase}, epoch {line['epoch']} of {told['of']} at most, "
            f"loss {line['train_loss']:.3f}, validation loss {line['validation_loss']:.3f}, "
            f"validation F1 {100 * line['validation_f1']:.2f} %"
        )
    return f"{phase}, {told['done']} of {told['of']}" if told.get("of", 1) > 1 else phase


def report(store: Store, now: float) -> str:
    """The page that ``wbc-bench status`` prints."""
    from tabulate import tabulate

    records, under_way = store.records(), running(store, now)
    failed = [record for record in records if not record.finished]
    lines = [
        f"{len(records) - len(failed)} finished, {len(failed)} failed, {len(under_way)} running"
    ]
    if under_way:
        heads = ["recipe", "seed", "by", "minutes", "what", "log"]
        rows = [
            [one.recipe, one.seed, one.holder, f"{one.seconds / 60:.1f}", one.what, one.log]
            for one in under_way
        ]
        lines += ["", tabulate(rows, heads, disable_numparse=True)]
    for record in failed:
        assert record.result.status == "failed"
        lines.append(f"failed: {record.run.recipe}: {record.result.reason}")
    return "\n".join(lines)
