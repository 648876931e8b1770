"""Real child processes, small ones, that end in every way a child can end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.execution.devices import Device
from harness.execution.processes import ProcessResult, WorkerProcess
from harness.schema.events import DoneEvent, Event, PhaseEvent, WaitEvent
from harness.schema.run import Job
from harness.sweep.run_state import RunState
from tests.harness.conftest import made_outcome, made_run

READ_JOB = "import json, os, signal, sys, time\njob = json.loads(sys.stdin.readline())\n"
EMIT = "def emit(**e): print(json.dumps(e), flush=True)\n"


def command_of(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", READ_JOB + EMIT + program)


def launch(
    tmp_path: Path, program: str, timeout: float = 0, launcher: WorkerProcess | None = None
) -> tuple[ProcessResult, list[Event]]:
    job = Job(
        run=made_run(),
        data="/nowhere",
        weights=(None,),
        output=str(tmp_path),
        device=Device("cpu", "Test CPU"),
    )
    events: list[Event] = []
    launcher = launcher or WorkerProcess(timeout, command_of(program))
    return launcher(job, {"MARK": "from the parent"}, events.append), events


def test_a_finished_child_hands_back_its_outcome(tmp_path: Path) -> None:
    outcome = made_outcome()
    program = f"emit(event='done', outcome=json.loads({outcome.model_dump_json()!r}))"
    ended, events = launch(tmp_path, program)
    assert ended == ProcessResult("finished", outcome=outcome)
    assert events == [DoneEvent(outcome=outcome.model_dump(mode="json"))]


def test_the_environment_reaches_the_child(tmp_path: Path) -> None:
    _, events = launch(tmp_path, "emit(event='phase', name=os.environ['MARK'], steps=1)")
    assert events == [PhaseEvent(name="from the parent", steps=1)]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed (signal 9)"),
        ("os.abort()", "killed (signal 6)"),
        ("sys.exit(3)", "ended with exit code 3"),
        ("sys.exit(0)", "ended with exit code 0"),
        ('print(\'{"event": "do\', flush=True); sys.exit(4)', "ended with exit code 4"),
        ("emit(event='failed', reason='ValueError: x', status='failed')", "ValueError: x"),
    ],
)
def test_every_bad_end_has_its_reason(tmp_path: Path, program: str, reason: str) -> None:
    ended, _ = launch(tmp_path, "print('last words', file=sys.stderr, flush=True)\n" + program)
    assert ended.status == "failed"
    assert ended.failed is not None
    assert ended.failed.reason == reason
    assert "last words" in ended.failed.log_tail


def test_wrong_input_is_not_a_failure(tmp_path: Path) -> None:
    ended, _ = launch(
        tmp_path, "emit(event='failed', reason='no such weights', status='wrong input')"
    )
    assert ended.status == "wrong input"


def test_a_hang_ends_even_if_it_ignores_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.execution.processes.GRACE_SECONDS", 0.3)
    program = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "emit(event='phase', name=str(os.getpid()), steps=1)\n"
        "time.sleep(600)"
    )
    ended, events = launch(tmp_path, program, timeout=1.0)
    assert ended.failed is not None
    assert ended.failed.reason == "timeout after 1 s"
    assert isinstance(events[0], PhaseEvent)
    with pytest.raises(ProcessLookupError):
        os.kill(int(events[0].name), 0)


def test_waiting_for_the_device_does_not_count_in_the_time_limit(tmp_path: Path) -> None:
    program = (
        "emit(event='phase', name='waiting for the device', steps=1); time.sleep(1.5)\n"
        "emit(event='wait', reason='', seconds=1.5)\n"
        "emit(event='phase', name='from scratch', steps=1)\n"
        "{}emit(event='failed', reason='the end', status='failed')"
    )
    ended, _ = launch(tmp_path, program.format(""), timeout=1)
    assert ended.failed is not None
    assert ended.failed.reason == "the end"
    ended, _ = launch(tmp_path, program.format("time.sleep(60); "), timeout=1)
    assert ended.failed is not None
    assert ended.failed.reason == "timeout after 1 s"


def test_stopping_ends_the_children_and_lets_none_start(tmp_path: Path) -> None:
    program, ends = "emit(event='phase', name='x', steps=1)\ntime.sleep(600)", []
    launcher = WorkerProcess(command=command_of(program))

    def run() -> None:
        ends.append(launch(tmp_path, program, launcher=launcher)[0])

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + 20
    while not launcher.living and time.monotonic() < deadline:
        time.sleep(0.01)
    launcher.stop()
    thread.join(20)
    assert ends == [ProcessResult("stopped")]
    assert launch(tmp_path, program, launcher=launcher)[0] == ProcessResult("stopped")


BUSY_WORKER = """
import time
from harness.training import worker
worker._execute = lambda *_: time.sleep(600)
worker.main()
"""


def test_a_worker_whose_parent_is_gone_ends_itself() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY_WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(b"{}\n")
    process.stdin.flush()
    time.sleep(0.5)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(20) == 1


def test_the_peak_of_memory_is_the_childs_own() -> None:
    """Not that of a parent with 400 MB, which ru_maxrss hands on."""
    child = "from harness.execution.processes import peak_resident_mb; print(peak_resident_mb())"
    parent = f"""
import subprocess, sys
ballast = b"1" * 400_000_000
print(subprocess.run([sys.executable, "-c", {child!r}], capture_output=True, text=True).stdout)
"""
    command = [sys.executable, "-c", parent]
    peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 5 < peak < 300


WAITS = """
emit(event="wait", reason="waiting for cpu, held by pid 1", seconds=0.1)
time.sleep(1.5)
emit(event="wait", reason="", seconds=1.6)
"""


def test_waiting_for_a_device_is_no_part_of_a_runs_time(tmp_path: Path) -> None:
    outcome = f"emit(event='done', outcome=json.loads({made_outcome().model_dump_json()!r}))"
    ended, events = launch(tmp_path, WAITS + outcome, timeout=0.7)
    assert ended.status == "finished"
    state = RunState()
    assert [state.update(event) for event in events[:2]] == [True, True]
    assert state.waiting == ""
    state.update(WaitEvent(reason="waiting for cpu, held by pid 1", seconds=5))
    assert state.sentence == "start: waiting for cpu, held by pid 1"
    assert RunState.model_validate_json(state.model_dump_json()).waiting == state.waiting
