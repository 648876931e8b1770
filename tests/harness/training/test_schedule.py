"""The pace of a phase, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.schema.protocol import Optimizer, Phase, Schedule
from harness.training.schedule import ScheduleState, advance, cosine, start


def walk(phase: Phase, losses: Sequence[float]) -> list[ScheduleState]:
    paces = [start(phase)]
    for loss in losses:
        if paces[-1].finished:
            break
        paces.append(advance(phase, paces[-1], loss))
    return paces


def test_early_stopping_waits_for_its_patience() -> None:
    phase = Phase(epochs=20, patience=2)
    paces = walk(phase, [1.0, 0.8, 0.9, 0.85, 0.1])
    assert [pace.finished for pace in paces] == [False, False, False, False, True]
    assert paces[-1].best_epoch == 2
    assert paces[-1].best_loss == 0.8


def test_the_last_epoch_ends_the_phase() -> None:
    paces = walk(Phase(epochs=3), [3.0, 2.0, 1.0, 0.5])
    assert paces[-1].epoch == 3
    assert paces[-1].finished


def test_a_plateau_cuts_the_rate_and_starts_counting_anew() -> None:
    phase = Phase(
        optimizer=Optimizer(learning_rate=1.0),
        schedule=Schedule(name="plateau", factor=0.5, patience=2, minimum=0.2),
        patience=99,
    )
    rates = [pace.learning_rate for pace in walk(phase, [1.0, 2, 2, 2, 2, 2, 2, 0.5, 2])]
    assert rates == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2, 0.2, 0.2]


def test_cosine_restarts_double_their_period() -> None:
    schedule = Schedule(name="cosine_restarts", period=2, minimum=0.0)
    rates = [cosine(schedule, 1.0, epoch) for epoch in range(7)]
    quarter = (1 + math.cos(math.pi / 4)) / 2
    assert rates == pytest.approx([1, 0.5, 1, quarter, 0.5, 1 - quarter, 1])


def test_a_loss_that_is_not_a_number_is_never_the_best() -> None:
    paces = walk(Phase(epochs=9, patience=2), [math.nan, math.nan, math.nan])
    assert paces[-1].finished
    assert paces[-1].best_epoch == 0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.integers(1, 5))
def test_the_best_is_the_minimum_and_the_rate_never_rises(
    losses: list[float], patience: int
) -> None:
    phase = Phase(epochs=100, patience=patience, schedule=Schedule(name="plateau", patience=1))
    paces = walk(phase, losses)
    seen = losses[: paces[-1].epoch]
    assert paces[-1].best_loss == min(seen)
    assert paces[-1].best_epoch == seen.index(min(seen)) + 1
    rates = [pace.learning_rate for pace in paces]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] >= phase.schedule.minimum
