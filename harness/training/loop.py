"""The training loop of every phase, whatever is trained.

A Learner trains on batches and predicts the validation images; the loop shuffles, schedules the
learning rate, records the learning curve, stops early and restores the best weights. Fine-tuning
keeps the weights that it began with where no epoch has a lower validation loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from harness.evaluation.metrics import cross_entropy, macro_f1
from harness.schema.protocol import Phase
from harness.schema.records import Epoch
from harness.training.schedule import ScheduleState, initial_state, next_state

PhaseName = Literal["frozen", "fine-tuning", "from scratch"]


@dataclass(frozen=True)
class TrainState:
    """The state of a phase between two epochs."""

    schedule: ScheduleState
    history: tuple[Epoch, ...]
    best_weights: Any
    """The learner's weights after its best epoch."""


@dataclass(frozen=True)
class FitResult:
    """What a phase leaves besides the weights in the learner."""

    history: tuple[Epoch, ...]
    """The learning curve, epochs from a checkpoint included."""
    notes: tuple[str, ...] = ()
    """That training diverged, or that the weights are those it began with."""


@dataclass(frozen=True)
class BatchResults:
    """What the steps of an epoch give, each of its batch before the step."""

    losses: np.ndarray
    """Mean cross-entropy (steps,)."""
    y_true: np.ndarray
    """Class (n,) of each image in the batches; of a mixed image that with the largest share."""
    y_pred: np.ndarray


class Diverged(FloatingPointError):
    """A loss is not finite."""


class Learner(Protocol):
    """Something that is trained on batches of the training images.

    Subclass it: checkpoints are optional.
    """

    @property
    def sample_count(self) -> int:
        """Training images of an epoch."""

    def clock(self) -> float:
        """Seconds, by which epochs are timed."""
        return time.perf_counter()

    def on_epoch_begin(self, epoch: int) -> None:
        """Load the training images of this epoch, counted from 0; they may be augmented."""

    def train_on_batches(self, batches: np.ndarray, learning_rate: float) -> BatchResults:
        """A step on each batch of images, given by their indices (steps, B)."""

    def predict_validation(self) -> np.ndarray:
        """Probabilities (n, K) of the validation images."""

    def get_weights(self) -> Any:
        """A copy of all weights."""

    def set_weights(self, weights: Any) -> None:
        """Set what ``get_weights`` returned."""

    def load_checkpoint(self, phase: PhaseName) -> TrainState | None:
        """The last checkpoint of this phase, loaded into the learner; None where there is none."""
        return None

    def save_checkpoint(self, phase: PhaseName, state: TrainState) -> None:
        """Save everything that the next epoch depends on, if it is worth saving now."""
        return


def fit(
    learner: Learner,
    name: PhaseName,
    phase: Phase,
    validation_targets: np.ndarray,
    seed: int,
    on_epoch_end: Callable[[Epoch], object] = lambda _: None,
) -> FitResult:
    """Train to the end of a phase and leave the best weights in the learner.

    ``validation_targets``: one-hot (n, K). Raises Diverged where there are no weights to go back
    to.
    """
    start = _evaluate_start(learner, validation_targets) if name == "fine-tuning" else None
    state = learner.load_checkpoint(name)
    state = state or TrainState(
        initial_state(phase), (), start[1] if start is not None else learner.get_weights()
    )
    for line in state.history:
        on_epoch_end(line)
    notes = []
    while not state.schedule.finished:
        try:
            line = _train_epoch(learner, name, phase, state.schedule, validation_targets, seed)
        except Diverged as error:
            if start is None and not state.history:
                raise
            notes.append(str(error))
            break
        following = next_state(phase, state.schedule, line.validation_loss)
        improved = following.best_epoch == following.epoch
        best_weights = learner.get_weights() if improved else state.best_weights
        state = TrainState(following, (*state.history, line), best_weights)
        on_epoch_end(line)
        learner.save_checkpoint(name, state)
    schedule = state.schedule
    if start is not None and start[0] <= schedule.best_loss:
        learner.set_weights(start[1])
        notes.append(
            "fine-tuning did not lower the validation loss: the weights are those it began with"
        )
    else:
        learner.set_weights(state.best_weights)
        notes += [f"the weights are those of epoch {schedule.best_epoch}"] if notes else []
    return FitResult(state.history, tuple(notes))


def _evaluate_start(learner: Learner, validation_targets: np.ndarray) -> tuple[float, Any]:
    """Validation loss and weights before the first epoch."""
    loss = cross_entropy(validation_targets, learner.predict_validation())
    return loss, learner.get_weights()


def _train_epoch(
    learner: Learner,
    name: PhaseName,
    phase: Phase,
    schedule: ScheduleState,
    validation_targets: np.ndarray,
    seed: int,
) -> Epoch:
    """Train for one epoch and validate. Raises Diverged."""
    start, epoch = learner.clock(), schedule.epoch + 1
    learner.on_epoch_begin(schedule.epoch)
    batches = shuffled_batches(name, seed, schedule.epoch, phase.batch_size, learner.sample_count)
    trained = learner.train_on_batches(batches, schedule.learning_rate)
    probabilities = learner.predict_validation()
    loss = cross_entropy(validation_targets, probabilities)
    train_loss = float(np.mean(trained.losses))
    for part, value in (("training", train_loss), ("validation", loss)):
        if not math.isfinite(value):
            raise Diverged(
                f"training diverged in epoch {epoch} ({name}): the {part} loss is not finite"
            )
    labels, classes = validation_targets.argmax(axis=1), validation_targets.shape[1]
    y_pred = probabilities.argmax(axis=1)
    return Epoch(
        phase=name,
        epoch=epoch,
        learning_rate=schedule.learning_rate,
        train_loss=train_loss,
        validation_loss=loss,
        validation_f1=macro_f1(labels, y_pred, classes),
        seconds=learner.clock() - start,
        samples=batches.size,
        train_accuracy=float(np.mean(trained.y_pred == trained.y_true)),
        train_f1=macro_f1(trained.y_true, trained.y_pred, classes),
        validation_accuracy=float(np.mean(y_pred == labels)),
    )


def shuffled_batches(name: str, seed: int, epoch: int, size: int, count: int) -> np.ndarray:
    """Indices (steps, size) of an epoch's shuffled batches, from phase, seed and epoch alone.

    All batches are full, so that a framework compiles one shape; the few images that are left out
    differ from epoch to epoch.
    """
    shuffled = np.random.default_rng([seed, epoch, *name.encode()]).permutation(count)
    size = min(size, count)
    return shuffled[: count - count % size].reshape(-1, size)
