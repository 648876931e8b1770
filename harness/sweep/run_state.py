"""Where a run under way is, as far as its events have told: for every view of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.execution.processes import Event

LEARNING = ("frozen", "fine-tuning", "from scratch")
"""The phases whose steps are epochs; those of the others are images."""
WINDOW_SECONDS = 10.0
"""Over which images a second are taken."""
STALE_SECONDS = 30.0
"""Without an image, after which there is no rate: the run waits for its turn, say."""
TOLD = ("phase", "of", "done", "line", "rate", "resident_mb", "device_mb")


@dataclass
class RunState:
    """``hear`` every event of a run; what is not known is None."""

    phase: str = "start"
    of: int = 1
    """Epochs of a phase that learns, at most; images of another."""
    done: int = 0
    line: Mapping[str, Any] | None = None
    """The last epoch of this phase."""
    rate: float | None = None
    """Images a second through the backbone in this phase, over the last seconds."""
    resident_mb: float | None = None
    device_mb: float | None = None
    clock: Callable[[], float] = time.monotonic
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def hear(self, event: Event) -> bool:
        """Whether the event said anything of where the run is."""
        match event.get("event"):
            case "phase":
                self.phase, self.of, self.done = event["name"], event["steps"], 0
                self.line = self.rate = None
                self._seen.clear()
                if self.phase == "start":  # Another process than before.
                    self.resident_mb = self.device_mb = None
            case "step":
                if self.phase not in LEARNING:
                    self.done, self.of = event["done"], event["of"]
                self._count(event["done"])
            case "epoch":
                self._end_epoch(event["line"])
            case "memory":
                self.resident_mb, self.device_mb = event["resident_mb"], event["device_mb"]
                if self._seen and self.clock() - self._seen[-1][0] > STALE_SECONDS:
                    self.rate = None
            case _:
                return False
        return True

    def _count(self, done: int) -> None:
        """Images of this phase or, of one that learns, of its epoch, which begins again at 0."""
        now = self.clock()
        if self._seen and done <= self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        if now > since:
            self.rate = (done - before) / (now - since)

    def _end_epoch(self, line: Mapping[str, Any]) -> None:
        self.line, self.done = line, line["epoch"]
        if self.phase == "frozen":  # Rows of features: they are no images.
            self.rate = None
        elif self.rate is None and line["seconds"]:
            self.rate = line.get("samples", 0) / line["seconds"]

    # In words

    @property
    def short(self) -> str:
        """The phase, and the epoch where it learns, else the share that is done."""
        if self.phase in LEARNING:
            return f"{self.phase} {self.done}/{self.of}"
        return f"{self.phase} {self.done / self.of:.0%}" if self.of > 1 else self.phase

    @property
    def sentence(self) -> str:
        if self.line:
            line = self.line
            return (
                f"{self.phase}, epoch {line['epoch']} of {self.of} at most: "
                f"loss {line['train_loss']:.3f}, validation {line['validation_loss']:.3f}, "
                f"F1 {100 * line['validation_f1']:.2f} %"
            )
        return f"{self.phase}, {self.done} of {self.of}" if self.of > 1 else self.phase

    @property
    def images_per_second(self) -> str:
        if not self.rate:
            return ""
        return f"{self.rate:,.0f}" if self.rate >= 100 else f"{self.rate:.1f}"

    @property
    def memory(self) -> str:
        """Of the host and, after a +, of the device: "1.2+80 GB"."""
        known = [mb * 1024**2 / 1e9 for mb in (self.resident_mb, self.device_mb) if mb]
        return "+".join(f"{gb:.{int(gb < 10)}f}" for gb in known) + " GB" if known else ""

    # As JSON

    def told(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in TOLD}

    @classmethod
    def from_told(cls, told: Mapping[str, Any]) -> RunState:
        return cls(**{name: told[name] for name in TOLD if name in told})
