"""One child process, from its start to its end, whatever end that is."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.schema.base import FrozenModel
from harness.schema.records import Failed, Outcome
from harness.schema.run import Job

TAIL_LINES = 12
LOG = "log.txt"
GRACE_SECONDS = 5.0
"""Between asking a child to end and making it."""
WATCH_SECONDS = 0.25
"""Between two looks at a child's age and memory."""

Event = dict[str, Any]
_Child = subprocess.Popen[str]


def module_command(module: str) -> tuple[str, ...]:
    """The command of a child process that runs a module of this program.

    With ``-P`` it imports nothing from the current folder, in which a ``keras.py`` of the user may
    be; Python passes the option on to processes that the child spawns.
    """
    return (sys.executable, "-P", "-m", module)


How = Literal["finished", "failed", "wrong input", "no room", "out of memory", "stopped"]


@dataclass(frozen=True)
class ProcessResult:
    """How a child ended: well, failed, or because we stopped it.

    Three ends are no verdict on the run: the user's wrong input, a full disk, and too little
    memory, after which it is tried again in smaller parts.
    """

    how: How
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
        for process in alive:  # All are asked before the first is waited for.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in alive:
            end(process)


def end(process: _Child) -> None:
    """Ask, wait a little, then make it; the whole process group goes."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(GRACE_SECONDS)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass
    _clear(process)


def _clear(process: _Child) -> None:
    """Leave nobody of the child's group behind: what it started must not outlive it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@dataclass
class _Warden:
    """Watches one child: its time, its memory, and that nothing of it stays when it is gone."""

    process: _Child
    timeout: float
    memory_gb: float
    reason: str = ""
    memory: bool = False
    _done: threading.Event = field(default_factory=threading.Event)
    _kills: int = field(default_factory=lambda: _memory_kills())

    def __enter__(self) -> _Warden:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        _clear(self.process)

    def _watch(self) -> None:
        deadline = time.monotonic() + self.timeout if self.timeout else math.inf
        while not self._done.wait(WATCH_SECONDS):
            if self.process.poll() is not None:
                _clear(self.process)  # A grandchild could hold our pipe open for ever.
                return
            if time.monotonic() > deadline:
                self.reason = f"timeout after {self.timeout:.0f} s"
                end(self.process)
            elif self.memory_gb and resident_gb(self.process.pid) > self.memory_gb:
                self.reason = f"out of memory: more than {self.memory_gb:g} GB"
                self.memory = True
                _clear(self.process)

    def killed_for_memory(self, code: int) -> bool:
        """Whether the kernel has ended processes for memory since, and ours by that signal."""
        return code == -signal.SIGKILL and _memory_kills() > self._kills


def resident_gb(pid: int) -> float:
    """DeviceImages memory of a process and of what it started, GB; 0 where it cannot be read.

    Without the pages of files, which all share and the kernel takes back when it needs them.
    """
    total = 0.0
    try:
        _, resident, of_files, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
        total += (resident - of_files) * os.sysconf("SC_PAGE_SIZE") / 1e9
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += resident_gb(int(child))
    except (OSError, IndexError, ValueError):
        pass
    return total


def _memory_kills() -> int:
    """How many processes the kernel has ended for want of memory since it started."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


@dataclass(frozen=True)
class ChildExit:
    """The last event of a child, its exit code, and why it was ended, if it was."""

    last: Event
    code: int
    reason: str = ""
    memory: bool = False


@dataclass(frozen=True)
class WorkerProcess:
    """The real launcher of ``python -m harness.training.worker``; limits in seconds and GB."""

    children: Children = field(default_factory=Children)
    timeout: float = 0
    command: tuple[str, ...] = module_command("harness.training.worker")
    memory_gb: float = 0

    def stop(self) -> None:
        self.children.stop()

    def close(self) -> None:
        """Its children have all ended."""

    def __call__(
        self, job: Job, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> ProcessResult:
        """Run one job to its end, passing its events on. Never raises for what a child does."""
        log = Path(job.output) / LOG
        heard = self.hear(job, log, environment, report)
        if self.children.stopped and heard.last.get("event") != "done":
            return ProcessResult("stopped")
        ended = _judge(heard, log)
        return ProcessResult("out of memory", failed=ended.failed) if heard.memory else ended

    def hear(
        self,
        job: FrozenModel,
        log: Path,
        environment: Mapping[str, str],
        report: Callable[[Event], None],
    ) -> ChildExit:
        """Tell a child its job and hear it out, within the limits of time and memory."""
        log.parent.mkdir(parents=True, exist_ok=True)
        process = self.children.start(list(self.command), log, environment)
        if process is None:
            return ChildExit({}, 0)
        try:
            with _Warden(process, self.timeout, self.memory_gb) as warden:
                last = _converse(process, job, report)
                code = process.wait()
        finally:
            self.children.forget(process)
        if warden.killed_for_memory(code):
            return ChildExit(last, code, "out of memory: ended by the kernel", memory=True)
        return ChildExit(last, code, warden.reason, memory=warden.memory)


def run_task(
    module: str, job: FrozenModel, environment: Mapping[str, str], report: Callable[[Event], None]
) -> tuple[Any, str]:
    """What a child of another kind than a run brings home: its outcome, or else why it did not."""
    launcher = WorkerProcess(command=module_command(module))
    with tempfile.TemporaryDirectory() as folder:
        try:
            heard = launcher.hear(job, Path(folder) / "log.txt", environment, report)
        except BaseException:
            launcher.stop()
            raise
    if heard.last.get("event") == "done":
        return heard.last.get("outcome"), ""
    told = heard.last["reason"] if heard.last.get("event") == "failed" else ""
    return None, told or describe_exit(heard.code)


def _converse(process: _Child, job: FrozenModel, report: Callable[[Event], None]) -> Event:
    """Tell the job, hear the events, and return the last one."""
    assert process.stdin is not None
    assert process.stdout is not None
    last: Event = {}
    with suppress(BrokenPipeError):  # It ended at birth; what it said, and its exit code, say how.
        process.stdin.write(job.model_dump_json() + "\n")
        process.stdin.flush()
    for line in process.stdout:
        try:
            last = json.loads(line)
        except ValueError:
            continue  # A line that a dying child did not finish.
        report(last)
    return last


def _judge(heard: ChildExit, log: Path) -> ProcessResult:
    last, code, reason = heard.last, heard.code, heard.reason
    if last.get("event") == "done" and not reason:
        return ProcessResult("finished", outcome=Outcome.model_validate(last["outcome"]))
    if last.get("event") == "failed" and not reason:
        how: How = last["how"]
        return ProcessResult(how, failed=Failed(reason=last["reason"], log_tail=_tail(log)))
    return ProcessResult(
        "failed", failed=Failed(reason=reason or describe_exit(code), log_tail=_tail(log))
    )


def describe_exit(code: int) -> str:
    """What an exit code says of a child that said nothing itself."""
    return f"killed (signal {-code})" if code < 0 else f"ended with exit code {code}"


def _tail(log: Path) -> tuple[str, ...]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return tuple(line[:300] for line in lines if line.strip())[-TAIL_LINES:]
