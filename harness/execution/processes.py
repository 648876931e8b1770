"""The parent's side of a child process, from its start to whatever end it takes."""

from __future__ import annotations

import logging
import math
import os
import resource
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

from harness.errors import is_out_of_memory
from harness.execution import address_space, compile_cache, devices
from harness.execution.devices import Device, proc_field
from harness.schema.base import FrozenModel
from harness.schema.events import (
    WAITING,
    DoneEvent,
    Event,
    FailedEvent,
    FailureStatus,
    PhaseEvent,
    WaitEvent,
    read_event,
)
from harness.schema.records import Failed, Outcome
from harness.schema.run import Backend, Job
from harness.storage.files import open_new

LOG = "log.txt"
LOG_TAIL_LINES = 12
GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""
WATCH_SECONDS = 0.25
"""Between two checks of a child's time and memory."""

_Process = subprocess.Popen[str]


def module_command(module: str) -> tuple[str, ...]:
    """The command of a child process that runs a module of this program.

    With ``-P`` it imports nothing from the current folder, in which a ``keras.py`` of the user may
    be; Python passes the option on to processes that the child spawns.
    """
    return (sys.executable, "-P", "-m", module)


def worker_environment(device: Device, backend: Backend, cache: Path | None) -> dict[str, str]:
    """Environment variables of a worker that computes on a device.

    ``cache``: folder of compiled programs; None: it compiles its own.
    """
    compiled = compile_cache.environment(cache, device, backend) if cache else {}
    return {**devices.environment(device), **compiled, "KERAS_BACKEND": backend}


@dataclass(frozen=True)
class ProcessResult:
    """How the process of a run ended.

    After "wrong input" and "no room" the run stays pending, after "out of memory" it is tried
    again in micro-batches; "stopped" means that the sweep ended it.
    """

    status: Literal["finished", "stopped"] | FailureStatus
    outcome: Outcome | None = None
    failed: Failed | None = None


def terminate(*processes: _Process) -> None:
    """End children and what they started: SIGTERM, and SIGKILL after GRACE_SECONDS for all."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _signal_group(process, signal.SIGKILL)


def _signal_group(process: _Process, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@dataclass
class _Watchdog:
    """Ends a child that exceeds its time or memory, and whatever a child leaves behind.

    Waiting for others does not count in its time.
    """

    process: _Process
    timeout: float
    memory_gb: float
    reason: str = ""
    out_of_memory: bool = False
    _waited: float = 0.0
    _is_waiting: bool = False
    _done: threading.Event = field(default_factory=threading.Event)
    _kills_before: int = field(default_factory=lambda: _kernel_memory_kills())

    def __enter__(self) -> _Watchdog:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        _signal_group(self.process, signal.SIGKILL)

    def on_event(self, event: Event) -> None:
        """Follow whether the child waits."""
        if isinstance(event, WaitEvent):
            self._waited = event.seconds
            self._is_waiting = bool(event.reason)
        elif isinstance(event, PhaseEvent):
            self._is_waiting = event.name == WAITING

    def _watch(self) -> None:
        deadline = time.monotonic() + self.timeout if self.timeout else math.inf
        while not self._done.wait(WATCH_SECONDS):
            if self.process.poll() is not None:
                # A grandchild could hold the pipe open for ever.
                _signal_group(self.process, signal.SIGKILL)
                return
            if not self._is_waiting and time.monotonic() - self._waited > deadline:
                self.reason = f"timeout after {self.timeout:.0f} s"
                terminate(self.process)
            elif self.memory_gb and resident_gb(self.process.pid) > self.memory_gb:
                self.reason = f"out of memory: more than {self.memory_gb:g} GB"
                self.out_of_memory = True
                _signal_group(self.process, signal.SIGKILL)

    def check_exit(self, code: int) -> None:
        """Recognise a child that the kernel has killed because memory ran out."""
        if code == -signal.SIGKILL and _kernel_memory_kills() > self._kills_before:
            self.reason, self.out_of_memory = "out of memory: ended by the kernel", True


def resident_gb(pid: int) -> float:
    """Resident memory of a process and its descendants, GB; 0 where it cannot be read.

    Without the pages of mapped files, which all share and the kernel takes back when needed.
    """
    total = 0.0
    with suppress(OSError, IndexError, ValueError):
        _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
        total += (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 1e9
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += resident_gb(int(child))
    return total


def peak_resident_mb() -> float:
    """Largest resident size of this process so far, MiB.

    On Linux ``ru_maxrss`` may be that of the parent: it outlasts exec, where VmHWM begins anew.
    """
    if kibibytes := proc_field("self/status", "VmHWM"):
        return int(kibibytes.split()[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def _kernel_memory_kills() -> int:
    """How many processes the kernel has killed since it booted because memory ran out."""
    return int(proc_field("vmstat", "oom_kill ") or 0)


@dataclass(frozen=True)
class ProcessExit:
    """The last event of a child, its exit code, and why the watchdog ended it, if it did."""

    last_event: Event | None
    code: int
    reason: str = ""
    out_of_memory: bool = False


@dataclass(eq=False)
class WorkerProcess:
    """Launches ``python -m harness.training.worker``, several at once, which it can end together.

    Limits are in seconds and GB, 0 for none.
    """

    timeout: float = 0
    command: tuple[str, ...] = module_command("harness.training.worker")
    memory_gb: float = 0
    stopped: bool = False
    living: set[_Process] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def stop(self) -> None:
        """End every child, and let none start any more."""
        with self._lock:
            self.stopped = True
            living = tuple(self.living)
        terminate(*living)

    def close(self) -> None:
        """Nothing is left to close: its children have ended."""

    def __call__(
        self, job: Job, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> ProcessResult:
        """Execute a job in a child, whose events go to ``report``; whatever ends it is a result."""
        log = Path(job.output) / LOG
        ended = self.execute(job, log, environment, report)
        if self.stopped and not isinstance(ended.last_event, DoneEvent):
            return ProcessResult("stopped")
        return _process_result(ended, log)

    def execute(
        self,
        task: FrozenModel,
        log: Path,
        environment: Mapping[str, str],
        report: Callable[[Event], None],
    ) -> ProcessExit:
        """Execute a task of any kind in a child, within the limits of time and memory."""
        log.parent.mkdir(parents=True, exist_ok=True)
        process = self._start(log, environment)
        if process is None:
            return ProcessExit(None, 0)
        try:
            with _Watchdog(process, self.timeout, self.memory_gb) as watchdog:
                last_event = _exchange(process, task, watchdog.on_event, report)
                code = process.wait()
        finally:
            with self._lock:
                self.living.discard(process)
        watchdog.check_exit(code)
        return ProcessExit(last_event, code, watchdog.reason, watchdog.out_of_memory)

    def _start(self, log: Path, environment: Mapping[str, str]) -> _Process | None:
        """Start a child in a process group of its own; None once ``stop`` was called."""
        with self._lock, open_new(log) as file:
            if self.stopped:
                return None
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                encoding="utf-8",
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C reaches the parent alone, which ends its children.
            )
            self.living.add(process)
        return process


def run_task(
    module: str, task: FrozenModel, environment: Mapping[str, str], report: Callable[[Event], None]
) -> tuple[dict[str, Any], str]:
    """Execute a task in ``python -m module``: its outcome, or else the reason why there is none.

    Whom it waits for is logged as a warning.
    """

    def on_event(event: Event) -> None:
        if isinstance(event, WaitEvent) and event.reason:
            logging.getLogger(__name__).warning(event.reason)
        report(event)

    launcher = WorkerProcess(command=module_command(module))
    with tempfile.TemporaryDirectory() as folder:
        try:
            ended = launcher.execute(task, Path(folder) / LOG, environment, on_event)
        except BaseException:
            launcher.stop()
            raise
    match ended.last_event:
        case DoneEvent(outcome=outcome):
            return outcome, ""
        case FailedEvent(reason=reason):
            return {}, reason
        case _:
            return {}, describe_exit(ended.code)


def _exchange(
    process: _Process, task: FrozenModel, *receivers: Callable[[Event], None]
) -> Event | None:
    """Send the task, pass the events on, and return the last one."""
    assert process.stdin is not None
    assert process.stdout is not None
    last_event: Event | None = None
    with suppress(BrokenPipeError):  # It exited at once; its exit code says why.
        process.stdin.write(task.model_dump_json() + "\n")
        process.stdin.flush()
    for line in process.stdout:
        try:
            last_event = read_event(line)
        except ValueError:
            continue  # A dying child did not finish the line.
        for receive in receivers:
            receive(last_event)
    return last_event


def _process_result(ended: ProcessExit, log: Path) -> ProcessResult:
    if isinstance(ended.last_event, DoneEvent) and not ended.reason:
        return ProcessResult("finished", outcome=Outcome.model_validate(ended.last_event.outcome))
    status: FailureStatus = "out of memory" if ended.out_of_memory else "failed"
    reason = ended.reason or describe_exit(ended.code)
    if isinstance(ended.last_event, FailedEvent) and not ended.reason:
        status, reason = ended.last_event.status, ended.last_event.reason
    tail = _log_tail(log)
    ended_itself = reason == describe_exit(ended.code) and ended.code != -signal.SIGKILL
    if ended_itself and is_out_of_memory(" ".join([reason, *tail])):
        status = "out of memory"  # A C library aborts or exits where Python would raise.
    return ProcessResult(status, failed=Failed(reason=reason, log_tail=tail))


def describe_exit(code: int) -> str:
    """The exit code of a child that reported no failure itself, in words."""
    words = f"killed (signal {-code})" if code < 0 else f"ended with exit code {code}"
    by_others = code in (-signal.SIGKILL, -signal.SIGTERM)
    return words if by_others else words + address_space.limited()


def _log_tail(log: Path) -> tuple[str, ...]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return tuple(line[:300] for line in lines if line.strip())[-LOG_TAIL_LINES:]
