"""One child process, from its start to its end, whatever end that is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.nouns import Failed, Job, Noun, Outcome

TAIL_LINES = 12
GRACE_SECONDS = 5.0
"""Between asking a child to end and making it."""

Event = dict[str, Any]
_Child = subprocess.Popen[str]


@dataclass(frozen=True)
class Ended:
    """How a child ended: well, failed, on the user's wrong input, or because we stopped it."""

    how: Literal["finished", "failed", "wrong input", "stopped"]
    outcome: Outcome | None = None
    failed: Failed | None = None


@dataclass
class Children:
    """The living children of a sweep, so that all of them can be ended at once."""

    stopped: bool = False
    _alive: set[_Child] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, command: list[str], log: Path, environment: Mapping[str, str]) -> _Child | None:
        """None when the sweep is being stopped."""
        with self._lock, log.open("wb") as file:
            if self.stopped:
                return None
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                encoding="utf-8",
                env={**os.environ, **environment},
                # A group of its own: Ctrl-C reaches the parent alone, which then ends its children.
                start_new_session=True,
            )
            self._alive.add(process)
        return process

    def forget(self, process: _Child) -> None:
        with self._lock:
            self._alive.discard(process)

    def stop(self) -> None:
        """End every child, and let none be born."""
        with self._lock:
            self.stopped = True
            alive = tuple(self._alive)
        for process in alive:
            end(process)


def end(process: _Child) -> None:
    """Ask, wait a little, then make it; the whole process group goes."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            return
        try:
            process.wait(GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue


@dataclass(frozen=True)
class WorkerProcess:
    """The real launcher: ``python -m harness.worker``, a device, and a time limit in seconds."""

    children: Children = field(default_factory=Children)
    timeout: float = 0
    command: tuple[str, ...] = (sys.executable, "-m", "harness.worker")

    def stop(self) -> None:
        self.children.stop()

    def __call__(
        self, job: Job, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> Ended:
        """Run one job to its end, passing its events on. Never raises for what a child does."""
        log = Path(job.output) / "log.txt"
        last, code, reason = self.hear(job, log, environment, report)
        if self.children.stopped and last.get("event") != "done":
            return Ended("stopped")
        return _judge(last, code, reason, log)

    def hear(
        self, job: Noun, log: Path, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> tuple[Event, int, str]:
        """The last event of a child that was told ``job``, its exit code, and why we ended it."""
        log.parent.mkdir(parents=True, exist_ok=True)
        process = self.children.start(list(self.command), log, environment)
        if process is None:
            return {}, 0, ""
        late = threading.Event()

        def out_of_time() -> None:
            late.set()
            end(process)

        timer = threading.Timer(self.timeout, out_of_time)
        timer.daemon = True
        if self.timeout:
            timer.start()
        try:
            last = _converse(process, job, report)
            code = process.wait()
        finally:
            timer.cancel()
            self.children.forget(process)
        return last, code, f"timeout after {self.timeout:.0f} s" if late.is_set() else ""


def _converse(process: _Child, job: Noun, report: Callable[[Event], None]) -> Event:
    """Tell the job, hear the events, and return the last one."""
    assert process.stdin is not None
    assert process.stdout is not None
    last: Event = {}
    try:
        process.stdin.write(job.model_dump_json() + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return last  # It died at birth; the exit code says how.
    for line in process.stdout:
        try:
            last = json.loads(line)
        except ValueError:
            continue  # A line that a dying child did not finish.
        report(last)
    return last


def _judge(last: Event, code: int, reason: str, log: Path) -> Ended:
    if last.get("event") == "done" and not reason:
        return Ended("finished", outcome=Outcome.model_validate(last["outcome"]))
    if last.get("event") == "failed":
        how: Literal["wrong input", "failed"] = "wrong input" if last["user"] else "failed"
        return Ended(how, failed=Failed(reason=last["reason"], log_tail=_tail(log)))
    return Ended("failed", failed=Failed(reason=reason or died(code), log_tail=_tail(log)))


def died(code: int) -> str:
    """What an exit code says of a child that said nothing itself."""
    return f"killed (signal {-code})" if code < 0 else f"ended with exit code {code}"


def _tail(log: Path) -> tuple[str, ...]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return tuple(line[:300] for line in lines if line.strip())[-TAIL_LINES:]
