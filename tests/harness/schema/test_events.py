"""Events between processes: one line of JSON each, read back as what was written."""

from __future__ import annotations

import pytest

from harness.schema.events import (
    DoneEvent,
    EpochEvent,
    Event,
    FailedEvent,
    MemoryEvent,
    MessageEvent,
    PhaseEvent,
    StepEvent,
    WarningEvent,
    read_event,
    write_event,
)
from tests.harness.conftest import made_outcome

OUTCOME = made_outcome()


@pytest.mark.parametrize(
    "event",
    [
        PhaseEvent(name="frozen", steps=60),
        StepEvent(done=3, total=9),
        EpochEvent(epoch=OUTCOME.history[0]),
        MemoryEvent(resident_mb=512.5, device_mb=None),
        MessageEvent(text="no room\nfor epochs"),
        WarningEvent(text="a checkpoint was damaged"),
        DoneEvent(outcome=OUTCOME.model_dump(mode="json")),
        FailedEvent(reason="OSError: full", status="no room"),
    ],
)
def test_every_event_survives_its_line(event: Event) -> None:
    line = write_event(event)
    assert "\n" not in line
    assert read_event(line) == event


@pytest.mark.parametrize(
    "line",
    ["", "text of a library", '{"event": "do', '{"event": "unknown"}', '{"event": "step"}', "[1]"],
)
def test_what_is_no_event_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        read_event(line)
