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

from harness import pace as pacing
from harness.metrics import cross_entropy, macro_f1
from harness.nouns import Epoch, Loss, Phase

PhaseName = Literal["frozen", "fine-tuning", "from scratch"]


@dataclass(frozen=True)
class Stage:
    """Where a phase stands between two epochs."""

    pace: pacing.Pace
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

    def recall(self, name: PhaseName) -> Stage | None:
        """Go on from what was kept of this phase by a process that was cut off; None: begin."""

    def keep(self, name: PhaseName, stage: Stage) -> None:
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
    stage = learner.recall(name) or Stage(pacing.start(phase), (), learner.state())
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
        stage = Stage(advanced, (*stage.curve, line), best)
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


def class_weights(loss: Loss, targets: np.ndarray) -> np.ndarray:
    """One weight a class (K,): ones, balanced (n / (K n_k)) by the training targets, or given."""
    count, classes = targets.shape
    if loss.class_weight == "none":
        return np.ones(classes)
    if loss.class_weight == "balanced":
        return count / (classes * np.maximum(targets.sum(axis=0), 1e-9))
    return np.asarray(loss.class_weight)


def aims(targets: np.ndarray, weights: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """What the loss is the cross-entropy to, float32 (n, K): weighted, smoothed targets.

    A mix of classes costs what its classes would cost one by one, each at its own weight (K,),
    smoothed as a hard label is (Szegedy 2015, arXiv:1512.00567). So balanced weights give every
    class the same pull, with mixed labels too; a weight for the whole image would not.
    """
    weighted = targets * weights
    spread = smoothing / targets.shape[1] * weighted.sum(axis=1, keepdims=True)
    return np.asarray(weighted * (1 - smoothing) + spread, dtype=np.float32)


def drawn(loss: Loss, targets: np.ndarray, seed: int) -> np.ndarray:
    """Positions of the training images (m,) that an epoch goes through: each, or some again."""
    match loss.oversampling:
        case False:
            return np.arange(len(targets))
        case True:
            return oversampled(targets, seed, targets.sum(axis=0, dtype=np.float64).max())
        case count:
            return oversampled(targets, seed, count)


def oversampled(targets: np.ndarray, seed: int, goal: float) -> np.ndarray:
    """Positions of the training images (m,), m >= n: all of them, then the repeats.

    Every class comes ``goal`` times, to the image, unless it has more of its own: a rare one's
    images all the same number of times, but for a random few that come once more. Of soft targets
    (n, K), an image is repeated as the mix of its classes deserves, and the shares of classes
    below the goal come out alike.
    """
    mass = targets.sum(axis=0, dtype=np.float64)
    goals = np.maximum(goal, mass)
    wanted = targets @ np.divide(goals, mass, out=np.zeros_like(mass), where=mass > 0)
    shuffled = np.random.default_rng([seed, *b"oversampling"]).permutation(len(targets))
    order = shuffled[np.argsort(targets[shuffled].argmax(axis=1), kind="stable")]
    # Systematic resampling: one threshold an image's length along the line of what is wanted.
    marks = np.floor(np.cumsum(wanted[order]) + 0.5 + 1e-9).astype(np.int64)
    times = np.maximum(np.diff(marks, prepend=0), 1)
    extra = np.repeat(order, times - 1)
    return np.concatenate([np.arange(len(targets)), np.sort(extra)])
