"""How fast a phase learns, and when it has learnt enough: a state and one pure step.

Keras's own callbacks keep this in attributes that are lost on a restart; here it is a value.
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
    """Epochs since the best loss or the last cut of the learning rate."""
    finished: bool = False


def start(phase: Phase) -> ScheduleState:
    return ScheduleState(learning_rate=phase.optimizer.learning_rate)


def advance(phase: Phase, pace: ScheduleState, validation_loss: float) -> ScheduleState:
    """The pace after one more epoch that ended with this validation loss."""
    epoch = pace.epoch + 1
    better = validation_loss < pace.best_loss
    stale = 0 if better else pace.stale + 1
    pace = replace(
        pace,
        epoch=epoch,
        best_loss=validation_loss if better else pace.best_loss,
        best_epoch=epoch if better else pace.best_epoch,
        stale=stale,
        plateau=0 if better else pace.plateau + 1,
        finished=epoch >= phase.epochs or stale >= phase.patience,
    )
    return _reschedule(phase, pace)


def _reschedule(phase: Phase, pace: ScheduleState) -> ScheduleState:
    schedule = phase.schedule
    if schedule.name == "plateau" and pace.plateau >= schedule.patience:
        lower = max(pace.learning_rate * schedule.factor, schedule.minimum)
        return replace(pace, learning_rate=min(lower, pace.learning_rate), plateau=0)
    if schedule.name == "cosine_restarts":
        rate = cosine(schedule, phase.optimizer.learning_rate, pace.epoch)
        return replace(pace, learning_rate=rate)
    return pace


def cosine(schedule: Schedule, peak: float, epoch: int) -> float:
    """Learning rate of an epoch (0 first) under cosine annealing with warm restarts.

    Each cycle is twice as long as the one before (SGDR, Loshchilov and Hutter 2017,
    arXiv:1608.03983).
    """
    length, begin = schedule.period, 0
    while epoch >= begin + length:
        begin, length = begin + length, length * 2
    floor = min(schedule.minimum, peak)
    return floor + (peak - floor) * (1 + math.cos(math.pi * (epoch - begin) / length)) / 2
