"""The child's side of a child process: one task from stdin, events to stdout as lines of JSON.

Everything that a library prints goes to the log. When stdin closes, the parent is gone, and the
child exits too.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import IO, Any

from harness.errors import UserError, is_no_access, is_no_room, is_out_of_memory
from harness.execution import address_space, compile_cache
from harness.schema.events import (
    DoneEvent,
    Event,
    FailedEvent,
    FailureStatus,
    StepEvent,
    WaitEvent,
    write_event,
)

Emit = Callable[[Event], None]

STEP_SECONDS = 0.2
"""Between two reports of steps: enough for a progress bar, too few to cost anything."""


def serve(execute: Callable[[str, Emit], dict[str, Any]]) -> int:
    """Read one task, execute it, and report how it ended; the exit code.

    ``execute`` takes the task's JSON and a function that sends events; it returns the outcome.
    """
    stdout = take_stdout()
    task = sys.stdin.readline()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    lock = threading.Lock()

    def emit(event: Event) -> None:
        with lock:  # The resource monitor reports from a thread of its own.
            stdout.write(write_event(event) + "\n")
            stdout.flush()

    try:
        # Here, since a worker of a cluster has limits of its own.
        address_space.check(address_space.FRAMEWORK_GB)
        compile_cache.enter_folder()
        emit(DoneEvent(outcome=execute(task, emit)))
    except UserError as error:
        emit(FailedEvent(reason=str(error), status="wrong input"))
        return 2
    except Exception as error:
        traceback.print_exc()
        emit(FailedEvent(reason=_reason(error), status=failure_status(error)))
        return 1
    return 0


def take_stdout() -> IO[str]:
    """Keep stdout for the parent; send whatever else is printed to stderr, which is the log."""
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stdout


def _exit_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def failure_status(error: Exception) -> FailureStatus:
    """Whether an exception means a full disk, too little memory, or anything else."""
    if is_no_room(error):
        return "no room"
    if is_no_access(error):
        return "no access"
    return "out of memory" if is_out_of_memory(f"{type(error).__name__} {error}") else "failed"


def _reason(error: Exception) -> str:
    """The exception's name and the first line of its message that is not empty.

    Without the name where training diverged: the message says it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and isinstance(error, FloatingPointError):
        return lines[0]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def step_reporter(emit: Emit) -> Callable[[int, int], None]:
    """A function of (done, total) that emits a StepEvent at most every STEP_SECONDS."""
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= STEP_SECONDS:
            last = now
            emit(StepEvent(done=done, total=total))

    return report


def wait_reporter(emit: Emit) -> Callable[[str, float], None]:
    """A function that reports whom this process waits for, in its log and to its parent."""

    def report(reason: str, seconds: float) -> None:
        if reason:
            print(reason, file=sys.stderr, flush=True)
        emit(WaitEvent(reason=reason, seconds=seconds))

    return report
