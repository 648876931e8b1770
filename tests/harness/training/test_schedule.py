"""Learning rate schedule and early stopping, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.schema.protocol import Optimizer, Phase, Schedule
from harness.training.schedule import ScheduleState, cosine_restarts, initial_state, next_state


def states_of(phase: Phase, losses: Sequence[float]) -> list[ScheduleState]:
    states = [initial_state(phase)]
    for loss in losses:
        if states[-1].finished:
            break
        states.append(next_state(phase, states[-1], loss))
    return states


def test_early_stopping_waits_for_its_patience() -> None:
    phase = Phase(epochs=20, patience=2)
    states = states_of(phase, [1.0, 0.8, 0.9, 0.85, 0.1])
    assert [state.finished for state in states] == [False, False, False, False, True]
    assert states[-1].best_epoch == 2
    assert states[-1].best_loss == 0.8


def test_the_last_epoch_ends_the_phase() -> None:
    states = states_of(Phase(epochs=3), [3.0, 2.0, 1.0, 0.5])
    assert states[-1].epoch == 3
    assert states[-1].finished


def test_a_plateau_reduces_the_rate_and_restarts_the_count() -> None:
    phase = Phase(
        optimizer=Optimizer(learning_rate=1.0),
        schedule=Schedule(name="plateau", factor=0.5, patience=2, minimum=0.2),
        patience=99,
    )
    rates = [state.learning_rate for state in states_of(phase, [1.0, 2, 2, 2, 2, 2, 2, 0.5, 2])]
    assert rates == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]


def test_cosine_restarts_double_their_period() -> None:
    schedule = Schedule(name="cosine_restarts", period=2, minimum=0.0)
    rates = [cosine_restarts(schedule, 1.0, epoch) for epoch in range(7)]
    quarter = (1 + math.cos(math.pi / 4)) / 2
    assert rates == pytest.approx([1, 0.5, 1, quarter, 0.5, 1 - quarter, 1])


def test_a_loss_that_is_not_a_number_is_never_the_best() -> None:
    states = states_of(Phase(epochs=9, patience=2), [math.nan, math.nan, math.nan])
    assert states[-1].finished
    assert states[-1].best_epoch == 0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.integers(1, 5))
def test_the_best_is_the_minimum_and_the_rate_never_rises(
    losses: list[float], patience: int
) -> None:
    phase = Phase(epochs=100, patience=patience, schedule=Schedule(name="plateau", patience=1))
    states = states_of(phase, losses)
    trained = losses[: states[-1].epoch]
    assert states[-1].best_loss == min(trained)
    assert states[-1].best_epoch == trained.index(min(trained)) + 1
    rates = [state.learning_rate for state in states]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] >= phase.schedule.minimum
