"""Where a run is according to its events, for every view of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from harness.schema.base import Amount, Count, Name, Text
from harness.schema.events import EpochEvent, Event, MemoryEvent, PhaseEvent, StepEvent, WaitEvent
from harness.schema.records import Epoch

TRAINING_PHASES = ("frozen", "fine-tuning", "from scratch")
"""The phases whose steps are epochs; those of the others are images."""
WINDOW_SECONDS = 10.0
"""Over which images per second are averaged."""
STALE_SECONDS = 30.0
"""Without an image, after which there is no rate: the run may be waiting for its device."""


class RunState(BaseModel):
    """The state of one run after ``update`` with each of its events; None: unknown."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    phase: Name = "start"
    waiting: Text = ""
    """Whom the run waits for, if it does."""
    total: Count = 1
    """Epochs of a training phase, at most; images of another."""
    done: Count = 0
    epoch: Epoch | None = None
    """The last one of this phase."""
    rate: Amount | None = None
    """Images per second through the backbone in this phase, over the last seconds."""
    resident_mb: Amount | None = None
    device_mb: Amount | None = None
    clock: Callable[[], float] = Field(time.monotonic, exclude=True)
    _samples: deque[tuple[float, int]] = PrivateAttr(default_factory=deque)
    """(time, images done) in the window."""

    def update(self, event: Event) -> bool:
        """Take in an event; whether it changed the state."""
        match event:
            case PhaseEvent():
                self.phase, self.total, self.done = event.name, event.steps, 0
                self.epoch = self.rate = None
                self._samples.clear()
                if self.phase == "start":  # Another process than before.
                    self.resident_mb = self.device_mb = None
                    self.waiting = ""
            case WaitEvent():
                self.waiting = event.reason
            case StepEvent():
                if self.phase not in TRAINING_PHASES:
                    self.done, self.total = event.done, event.total
                self._count(event.done)
            case EpochEvent():
                self._end_epoch(event.epoch)
            case MemoryEvent():
                self.resident_mb, self.device_mb = event.resident_mb, event.device_mb
                if self._samples and self.clock() - self._samples[-1][0] > STALE_SECONDS:
                    self.rate = None
            case _:
                return False
        return True

    def _count(self, done: int) -> None:
        """Update the rate; ``done`` starts again at 0 with each epoch."""
        now = self.clock()
        if self._samples and done <= self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > WINDOW_SECONDS:
            self._samples.popleft()
        since, done_before = self._samples[0]
        if now > since:
            self.rate = (done - done_before) / (now - since)

    def _end_epoch(self, epoch: Epoch) -> None:
        self.epoch, self.done = epoch, epoch.epoch
        if self.phase == "frozen":  # It counts rows of features, not images.
            self.rate = None
        elif self.rate is None and epoch.seconds:
            self.rate = epoch.samples / epoch.seconds

    @property
    def short(self) -> str:
        """The phase with its epoch where it trains, else with its share done."""
        if self.waiting:
            return f"{self.phase}: waiting"
        if self.phase in TRAINING_PHASES:
            return f"{self.phase} {self.done}/{self.total}"
        return f"{self.phase} {self.done / self.total:.0%}" if self.total > 1 else self.phase

    @property
    def sentence(self) -> str:
        if self.waiting:
            return f"{self.phase}: {self.waiting}"
        if self.epoch:
            return (
                f"{self.phase}, epoch {self.epoch.epoch} of {self.total} at most: "
                f"loss {self.epoch.train_loss:.3f}, validation {self.epoch.validation_loss:.3f}, "
                f"F1 {100 * self.epoch.validation_f1:.2f} %"
            )
        return f"{self.phase}, {self.done} of {self.total}" if self.total > 1 else self.phase

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
