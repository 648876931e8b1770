"""Learning rate schedule and early stopping: a state, and a pure function to the next one.

Keras's own callbacks have this in attributes that are lost on a restart; here it is a value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from harness.schema.protocol import Phase, Schedule


@dataclass(frozen=True)
class ScheduleState:
    """After ``epoch`` finished epochs (0: none yet)."""

    learning_rate: float
    epoch: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    stale: int = 0
    """Epochs since the best validation loss."""
    plateau: int = 0
    """Epochs since the best loss or the last reduction of the learning rate."""
    finished: bool = False


def initial_state(phase: Phase) -> ScheduleState:
    return ScheduleState(learning_rate=phase.optimizer.learning_rate)


def next_state(phase: Phase, state: ScheduleState, validation_loss: float) -> ScheduleState:
    """The state after one more epoch, which ended with this validation loss."""
    epoch = state.epoch + 1
    improved = validation_loss < state.best_loss
    stale = 0 if improved else state.stale + 1
    plateau = 0 if improved else state.plateau + 1
    rate, schedule = state.learning_rate, phase.schedule
    if schedule.name == "plateau" and plateau >= schedule.patience:
        rate, plateau = min(rate, max(rate * schedule.factor, schedule.minimum)), 0
    if schedule.name == "cosine_restarts":
        rate = cosine_restarts(schedule, phase.optimizer.learning_rate, epoch)
    return replace(
        state,
        learning_rate=rate,
        epoch=epoch,
        best_loss=validation_loss if improved else state.best_loss,
        best_epoch=epoch if improved else state.best_epoch,
        stale=stale,
        plateau=plateau,
        finished=epoch >= phase.epochs or stale >= phase.patience,
    )


def cosine_restarts(schedule: Schedule, peak: float, epoch: int) -> float:
    """Learning rate of an epoch (0 first) under cosine annealing with warm restarts.

    Each cycle is twice as long as the one before (SGDR, Loshchilov and Hutter 2017,
    arXiv:1608.03983).
    """
    length, start = schedule.period, 0
    while epoch >= start + length:
        start, length = start + length, length * 2
    minimum = min(schedule.minimum, peak)
    return minimum + (peak - minimum) * (1 + math.cos(math.pi * (epoch - start) / length)) / 2
