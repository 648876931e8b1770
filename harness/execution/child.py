"""A child process that takes one job from stdin and sends events on stdout, as lines of JSON.

Everything that a library prints goes to the log. When stdin closes, the parent is gone, and the
child ends too.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import IO, Any

STEP_SECONDS = 0.2
"""Between two reports of steps: enough for a progress bar, too few to cost anything."""


def serve(execute: Callable[[str, Any], dict[str, Any]]) -> int:
    """Hear one job, execute it, tell how it went; the exit code.

    ``execute`` takes the job's line and a function that sends events; it gives the outcome.
    """
    events = _take_stdout()
    job_text = sys.stdin.readline()
    threading.Thread(target=_die_with_parent, daemon=True).start()

    speaking = threading.Lock()

    def emit(event: str, **content: Any) -> None:
        line = json.dumps({"event": event, **content}) + "\n"
        with speaking:  # The pulse speaks from a thread of its own.
            events.write(line)
            events.flush()

    from harness.errors import UserError

    try:
        emit("done", outcome=execute(job_text, emit))
    except UserError as error:
        emit("failed", reason=str(error), how="wrong input")
        return 2
    except Exception as error:
        traceback.print_exc()
        emit("failed", reason=_reason(error), how=_how(error))
        return 1
    return 0


def _take_stdout() -> IO[str]:
    """Keep stdout for events; send whatever else is printed to stderr, which is the log."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def _die_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _how(error: Exception) -> str:
    """Every framework has its own word for too little memory."""
    from harness.errors import is_no_room

    if is_no_room(error):
        return "no room"
    told = f"{type(error).__name__} {error}".lower().replace("_", " ")
    for word in ("memoryerror", "resourceexhausted", "resource exhausted", "out of memory",
                 "outofmemory", "bad alloc", "alloc failed", "cannot allocate memory",
                 "dst tensor is not initialized"):  # fmt: skip
        if word in told:
            return "out of memory"
    return "failed"


def _reason(error: Exception) -> str:
    """The exception's name and its first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def throttled(report: Any) -> Any:
    last = 0.0

    def step(done: int, of: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == of or now - last >= STEP_SECONDS:
            last = now
            report(done, of)

    return step
