"""Other processes disturb a measurement where they leave no processor idle."""

from __future__ import annotations

import pytest

from harness.execution import other_load
from harness.execution.other_load import OtherLoad


@pytest.mark.parametrize(
    ("busy", "idle", "own", "disturbs"),
    [
        (8.0, 0.0, 8.0, False),  # Alone, on all cores.
        (8.0, 0.0, 7.0, True),
        (8.0, 0.0, 7.8, False),  # The parent's progress view.
        (5.0, 3.0, 2.0, False),  # On cores that this process does not use.
    ],
)
def test_what_others_take_counts_where_nothing_is_idle(
    monkeypatch: pytest.MonkeyPatch, busy: float, idle: float, own: float, disturbs: bool
) -> None:
    times = iter([(100.0, 50.0, 3.0), (100.0 + busy, 50.0 + idle, 3.0 + own)])
    monkeypatch.setattr(other_load, "_seconds", lambda: next(times))
    with OtherLoad() as others:
        pass
    assert others.disturbs is disturbs


def test_nothing_is_known_without_the_systems_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_load, "_seconds", lambda: None)
    with OtherLoad() as others:
        pass
    assert not others.disturbs
