"""What a child process reports while it works, as one line of JSON an event."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from harness.schema.base import Amount, FrozenModel, Name, Text
from harness.schema.records import Epoch

COMPILING, WAITING = "compiling", "waiting for the device"
"""Phases of a run before it trains: the second does not count in its time limit."""

FailureStatus = Literal["failed", "wrong input", "no room", "no access", "out of memory"]


class PhaseEvent(FrozenModel):
    """A phase begins: of ``steps`` epochs where it trains, of images or 1 otherwise."""

    event: Literal["phase"] = "phase"
    name: Name
    steps: int


class StepEvent(FrozenModel):
    """Images done so far in this phase, or in the current epoch of a phase that trains."""

    event: Literal["step"] = "step"
    done: int
    total: int


class EpochEvent(FrozenModel):
    """An epoch has ended."""

    event: Literal["epoch"] = "epoch"
    epoch: Epoch


class MemoryEvent(FrozenModel):
    """Resident memory of the process and its children, and of the device, MiB; None: unknown."""

    event: Literal["memory"] = "memory"
    resident_mb: float | None
    device_mb: float | None


class MessageEvent(FrozenModel):
    """A line about the machine, shown once though several runs may report it."""

    event: Literal["message"] = "message"
    text: Text


class WarningEvent(FrozenModel):
    """A line about this run."""

    event: Literal["warning"] = "warning"
    text: Text


class WaitEvent(FrozenModel):
    """The process waits for another one, of which ``reason`` says which; empty: it goes on."""

    event: Literal["wait"] = "wait"
    reason: Text
    seconds: Amount
    """That this process has waited so far, for whomever."""


class DoneEvent(FrozenModel):
    """The task has succeeded. Nothing follows."""

    event: Literal["done"] = "done"
    outcome: dict[str, Any]


class FailedEvent(FrozenModel):
    """The task has failed by an exception. Nothing follows."""

    event: Literal["failed"] = "failed"
    reason: Text
    status: FailureStatus


Event = Annotated[
    PhaseEvent
    | StepEvent
    | EpochEvent
    | MemoryEvent
    | MessageEvent
    | WarningEvent
    | WaitEvent
    | DoneEvent
    | FailedEvent,
    Field(discriminator="event"),
]

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def write_event(event: Event) -> str:
    """One line of JSON, without its end."""
    return event.model_dump_json()


def read_event(line: str) -> Event:
    """The event of a line; raises ValueError where it is none."""
    return _ADAPTER.validate_json(line)
