"""The one loop that every phase of training goes through, whatever it trains.

A Learner takes steps and predicts the validation images; the loop shuffles, paces, keeps the
learning curve, stops in time and brings the best weights back. It knows no framework.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, SupportsFloat

import numpy as np

from harness.evaluation.metrics import cross_entropy, macro_f1
from harness.schema.protocol import Phase
from harness.schema.records import Epoch
from harness.training import schedule as pacing

PhaseName = Literal["frozen", "fine-tuning", "from scratch"]


@dataclass(frozen=True)
class TrainState:
    """Where a phase stands between two epochs."""

    pace: pacing.ScheduleState
    curve: tuple[Epoch, ...]
    best: Any
    """The learner's state after its best epoch."""


class Learner(Protocol):
    """Something that learns from batches of the training images."""

    def begin(self, epoch: int) -> None:
        """Turn to the training images of this epoch, counted from 0; they may be augmented."""

    def step(self, order: np.ndarray, learning_rate: float) -> SupportsFloat:
        """Learn from the training images at these positions; their mean cross-entropy before.

        It may still be on its way from a device: it is looked at when the epoch is over.
        """

    def validate(self) -> np.ndarray:
        """Probabilities (n, K) of the validation images."""

    def state(self) -> Any:
        """All weights, copied."""

    def restore(self, state: Any) -> None:
        """Take weights back."""

    def recall(self, name: PhaseName) -> TrainState | None:
        """Go on from what was kept of this phase by a process that was cut off; None: begin."""

    def keep(self, name: PhaseName, stage: TrainState) -> None:
        """A moment to keep everything that the next epoch depends on."""


def learn(
    learner: Learner,
    name: PhaseName,
    phase: Phase,
    labels: tuple[np.ndarray, np.ndarray],
    seed: int,
    report: Callable[[Epoch], None] = lambda _: None,
) -> tuple[Epoch, ...]:
    """Train until the pace says stop, with the best epoch's weights in the learner at the end.

    ``labels``: one-hot or soft targets (n, K) of the training and of the validation images; of an
    augmented stream, those of its first epoch.
    """
    train, validation = labels
    truth, classes = validation.argmax(axis=1), validation.shape[1]
    stage = learner.recall(name) or TrainState(pacing.start(phase), (), learner.state())
    for line in stage.curve:
        report(line)
    while not stage.pace.finished:
        pace, began = stage.pace, time.perf_counter()
        learner.begin(pace.epoch)
        losses = [
            learner.step(order, pace.learning_rate)
            for order in batches(name, seed, pace.epoch, phase.batch_size, len(train))
        ]
        probabilities = learner.validate()
        loss = cross_entropy(validation, probabilities)
        advanced = pacing.advance(phase, pace, loss)
        line = Epoch(
            phase=name,
            epoch=advanced.epoch,
            learning_rate=pace.learning_rate,
            train_loss=float(np.mean([float(each) for each in losses])),
            validation_loss=loss,
            validation_f1=macro_f1(truth, probabilities.argmax(axis=1), classes),
            seconds=time.perf_counter() - began,
            samples=len(losses) * min(phase.batch_size, len(train)),
        )
        better = advanced.best_epoch == advanced.epoch
        best = learner.state() if better else stage.best
        stage = TrainState(advanced, (*stage.curve, line), best)
        report(line)
        learner.keep(name, stage)
    learner.restore(stage.best)
    return stage.curve


def batches(name: str, seed: int, epoch: int, size: int, count: int) -> Iterator[np.ndarray]:
    """The epoch's shuffled batches, from (phase, seed, epoch) alone.

    All are full, so that a framework compiles one shape; the few images left over differ from
    epoch to epoch.
    """
    shuffled = np.random.default_rng([seed, epoch, *name.encode()]).permutation(count)
    size = min(size, count)
    for begin in range(0, count - size + 1, size):
        yield shuffled[begin : begin + size]
