"""What is promised of a sweep, with the fault injected: kills, full disks, too little memory."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from harness.errors import NoRoom
from harness.execution import processes
from harness.execution.child import failure_status
from harness.execution.devices import Device
from harness.execution.locks import RunLock
from harness.execution.processes import ProcessResult, WorkerProcess
from harness.reporting.publish import write_tables
from harness.schema.records import Failed, Finished
from harness.storage.predictions import write_predictions
from harness.storage.records import PREDICTIONS, Store
from harness.sweep.planner import find_pending
from harness.sweep.scheduler import SweepContext, sweep
from harness.sweep.status import running_runs
from tests.harness.conftest import (
    SUMMARY,
    Recorder,
    StandIn,
    made_outcome,
    made_planned,
    made_predictions,
    made_record,
    save_finished,
)
from tests.harness.sweep.sweeper import planned_runs as many
from tests.harness.sweep.test_scheduler import NAMES, made_context

ROOT = Path(__file__).parents[3]


def start(results: Path, *numbers: object) -> subprocess.Popen[str]:
    """A sweep in another process that begins now."""
    process = ready(results, *numbers)
    begin(process)
    return process


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    print(file=process.stdin, flush=True)


def ready(results: Path, *numbers: object) -> subprocess.Popen[str]:
    """A sweep in another process that is about to begin."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.harness.sweep.sweeper", str(results), *map(str, numbers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def journal(results: Path) -> list[tuple[str, str, str]]:
    lines = (results / "journal").read_text().splitlines()
    return [(what, run, pid) for what, run, pid in (line.split() for line in lines)]


def undisturbed(results: Path, recipes: int, seeds: int) -> list[bytes]:
    sweep(many(recipes, seeds), made_context(results), StandIn())
    return [path.read_bytes() for path in write_tables(results)]


# --- parents --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_killed_thirty_times_loses_and_repeats_nothing(tmp_path: Path) -> None:
    results, rng = tmp_path / "killed", random.Random(5)
    for _ in range(30):
        process = start(results, 5, 6, 2, 0.25)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.wait()
    finished = len(list((results / "records").glob("*.json")))
    assert 0 < finished < 30, "every kill must have hit a sweep with something left to do"
    assert start(results, 5, 6, 2, 0.01).wait(60) == 0
    store = Store(results)
    assert len(store.records()) == 30
    assert all(record.finished for record in store.records())
    lines = journal(results)
    assert not [line for line in lines if line[0] == "repeats"]
    assert len({pid for _, _, pid in lines}) > 20, "most must have been killed at work"
    tables = [path.read_bytes() for path in write_tables(results)]
    assert tables == undisturbed(tmp_path / "calm", 5, 6)


@pytest.mark.slow
def test_eight_sweeps_share_one_folder_though_two_are_killed(tmp_path: Path) -> None:
    results = tmp_path / "shared"
    parents = [ready(results, 10, 5, 1, 0.2) for _ in range(8)]
    for parent in parents:
        begin(parent)
    time.sleep(0.5)
    for victim in parents[:2]:
        victim.kill()
    assert [parent.wait(60) for parent in parents[2:]] == [0] * 6
    assert len(Store(results).records()) == 50
    lines, inside = journal(results), dict[str, str]()
    killed = {str(parent.pid) for parent in parents[:2]}
    for what, run, pid in lines:
        assert what != "repeats"
        if what == "begins":
            assert inside.get(run) in (None, *killed), "two at work on one run"
            inside[run] = pid
        else:
            del inside[run]
    ends = Counter(run for what, run, _ in lines if what == "ends")
    assert len(ends) == 50
    assert len({pid for _, _, pid in lines}) >= 6, "the work was not shared"
    # What is left behind stops nobody.
    assert all(RunLock(folder).owner() is None for folder in (results / "artefacts").iterdir())


def test_a_run_that_another_sweep_holds_is_left_to_it(tmp_path: Path) -> None:
    """Until that one dies: then it is ours, and without a lock to remove."""
    holder = start(tmp_path, 1, 1, 1, 600)
    one = many(1, 1)[0]
    folder = Store(tmp_path).artefacts(one.run)
    deadline = time.monotonic() + 20
    while (owner := RunLock(folder).owner()) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert owner is not None
    assert (owner.pid, owner.recipe) == (holder.pid, one.recipe.name)
    assert not RunLock(folder).acquire_for("lite0", 0)
    holder.kill()
    holder.wait()
    stand_in = StandIn()
    sweep([one], made_context(tmp_path), stand_in)
    assert stand_in.launched == [one.recipe.name]


def test_a_run_concluded_elsewhere_is_not_run_again(tmp_path: Path) -> None:
    """The other sweep finished it between our planning and our turn; its failures count too."""
    planned = [made_planned(name) for name in NAMES]
    sweep(planned[:1], made_context(tmp_path), StandIn())
    stand_in = StandIn()
    summary = sweep(planned, made_context(tmp_path), stand_in)
    assert summary.elsewhere == 1
    assert sorted(stand_in.launched) == sorted(NAMES[1:])


ENDLESS_CHILD = (
    "import json, os, sys, time\n"
    "sys.stdin.readline()\n"
    "print(json.dumps({'event': 'phase', 'name': str(os.getpid()), 'steps': 1}), flush=True)\n"
    "time.sleep(600)\n"
)
ENDLESS_SWEEP = f"""
import sys
from pathlib import Path
from harness.execution.processes import WorkerProcess
from harness.sweep.scheduler import sweep
from tests.harness.conftest import made_planned
from tests.harness.sweep.test_scheduler import NAMES, made_context
launcher = WorkerProcess(command=(sys.executable, "-c", {ENDLESS_CHILD!r}))
sweep([made_planned(name) for name in NAMES], made_context(Path(sys.argv[1])), launcher)
"""


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_ends_the_children_and_releases_the_runs(tmp_path: Path, interrupts: int) -> None:
    """In a terminal, where the signal reaches the main thread alone."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS_SWEEP, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    children: list[str] = []
    while len(children) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        phases = [run.state.phase for run in running_runs(Store(tmp_path), time.time())]
        children = [phase for phase in phases if phase.isdigit()]
    for _ in range(interrupts):
        process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert len(children) == 2
    assert all(gone(int(child)) for child in children)
    assert running_runs(Store(tmp_path), time.time()) == ()
    assert Store(tmp_path).records() == ()


# --- disks ----------------------------------------------------------------------------------------


def test_a_full_disk_damages_nothing_and_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up while the third run's record is written."""
    from harness.storage import files

    real, before = files.os.fsync, dict[Path, bytes]()

    def full(descriptor: int) -> None:
        if len(list((tmp_path / "records").glob("*.json"))) == 2:
            before.update({p: p.read_bytes() for p in (tmp_path / "records").glob("*.json")})
            raise OSError(28, "No space left on device")
        real(descriptor)

    planned = [made_planned(name) for name in NAMES]
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(NoRoom, match="the disk is full; make room, and the same command goes on"):
        sweep(planned, made_context(tmp_path, slots=1), StandIn())
    monkeypatch.undo()
    assert len(before) == 2
    assert {p: p.read_bytes() for p in (tmp_path / "records").iterdir()} == before
    left = find_pending(planned, Store(tmp_path))
    assert len(left) == len(NAMES) - 2
    sweep(left, made_context(tmp_path), StandIn())
    assert find_pending(planned, Store(tmp_path)) == ()


FULL = """
import resource, signal, sys
from pathlib import Path
from harness.errors import UserError
from harness.execution.devices import Device
from harness.execution.locks import RunLock
from harness.storage.predictions import write_predictions
from harness.storage.records import PREDICTIONS, Store
from harness.sweep.scheduler import SweepContext, sweep
from tests.harness.conftest import SUMMARY, StandIn, made_planned
results, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
context = SweepContext(Store(results), results, SUMMARY, "quick", lambda: [Device("cpu", "Test")])
try:
    sweep([made_planned("vgg16"), made_planned("vgg19")], context, StandIn())
except UserError as error:
    sys.exit(f"wbc-bench: {error}")
"""


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    def run(limit: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", FULL, str(tmp_path), str(limit)],
            capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    answer = run(1200)  # Room for a claim, not for predictions.
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    assert "the disk is full" in answer.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    assert Store(tmp_path).records() == ()
    assert run(10**9).returncode == 0
    assert len(Store(tmp_path).records()) == 2


def test_a_command_on_a_full_disk_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    """The tables cannot be written; those of before stay as they are."""
    import resource

    for recipe in NAMES:
        save_finished(Store(tmp_path), made_record(recipe))
    before = {path: path.read_bytes() for path in write_tables(tmp_path)}
    save_finished(Store(tmp_path), made_record("vgg19"))

    def run(limit: int) -> subprocess.CompletedProcess[str]:
        most = resource.RLIM_INFINITY
        return subprocess.run(
            [sys.executable, "-m", "harness.cli", "leaderboard", "--results", str(tmp_path)],
            capture_output=True, text=True, cwd=ROOT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most)),
        )  # fmt: skip

    answer = run(2000)
    assert answer.returncode == 2, answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert "the disk is full; make room" in answer.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert run(10**9).returncode == 0
    assert {path: path.read_bytes() for path in before} != before


def test_predictions_that_cannot_be_scored_are_one_runs_failure(tmp_path: Path) -> None:
    class Broken(StandIn):
        def __call__(self, job, environment, report):  # type: ignore[no-untyped-def]
            ended = super().__call__(job, environment, report)
            if job.run.recipe == "resnet50":
                parts = made_predictions(job.run)
                parts["test"].probabilities[3] = np.nan
                write_predictions(Path(job.output) / PREDICTIONS, parts)
            return ended

    planned = [made_planned(name) for name in NAMES]
    summary = sweep(planned, made_context(tmp_path), Broken())
    assert summary.finished == len(NAMES) - 1
    (failed,) = summary.failed
    assert failed.run.recipe == "resnet50"
    assert isinstance(failed.result, Failed)
    assert "a row of probabilities is negative, infinite" in failed.result.reason


@pytest.mark.parametrize("keep", [0, 1, 0.5, 0.99])
def test_a_torn_record_is_set_aside_and_its_run_made_again(tmp_path: Path, keep: float) -> None:
    planned, store, lines = [made_planned(name) for name in NAMES], Store(tmp_path), list[str]()
    sweep(planned, made_context(tmp_path), StandIn())
    path = store.record_path(planned[0].run)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep in (0, 1) else keep * len(whole))])
    store.set_aside_torn(lines.append)
    assert lines == [f"{path}: damaged, and kept as {path.stem}.torn; the run is made again"]
    assert find_pending(planned, store) == (planned[0],)
    sweep(find_pending(planned, store), made_context(tmp_path), StandIn())
    assert path.read_bytes() == whole
    store.set_aside_torn(lines.append)
    assert len(lines) == 1


def test_a_worker_without_room_leaves_its_run_pending(tmp_path: Path) -> None:
    full = ProcessResult("no room", failed=Failed(reason="OSError: No space left on device"))
    planned = [made_planned(name) for name in NAMES]
    stand_in = StandIn(fails={"resnet50": full})
    with pytest.raises(NoRoom):
        sweep(planned, made_context(tmp_path, slots=1), stand_in)
    assert stand_in.launched == ["vgg16", "resnet50"], "no run begins on a full disk"
    assert len(find_pending(planned, Store(tmp_path))) == len(NAMES) - 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_small_file_system_fills_up_and_the_same_command_finishes(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        planned = many(10, 5)
        with pytest.raises(NoRoom):
            sweep(planned, made_context(small), StandIn())
        records = Store(small).records()
        assert 0 < len(records) < len(planned)
        assert all(record.finished for record in records)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        sweep(find_pending(planned, Store(small)), made_context(small), StandIn())
        assert len(Store(small).records()) == len(planned)
        tables = [path.read_bytes() for path in write_tables(small)]
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert tables == undisturbed(tmp_path / "calm", 10, 5)


# --- memory ---------------------------------------------------------------------------------------


class Greedy(StandIn):
    """Needs its batches split into this many micro-batches."""

    def __init__(self, needs: int) -> None:
        super().__init__()
        self.needs, self.micro_batches = needs, list[int]()

    def __call__(self, job, environment, report):  # type: ignore[no-untyped-def]
        self.micro_batches.append(job.micro_batches)
        if job.micro_batches < self.needs:
            failed = Failed(reason="ResourceExhaustedError: OOM", log_tail=())
            return ProcessResult("out of memory", failed=failed)
        ended = super().__call__(job, environment, report)
        outcome = made_outcome().model_copy(update={"micro_batches": job.micro_batches})
        return ProcessResult(ended.status, outcome=outcome)


def test_too_little_memory_is_tried_again_in_micro_batches(tmp_path: Path) -> None:
    one, greedy = made_planned(), Greedy(needs=4)
    sweep([one], made_context(tmp_path), greedy)
    assert greedy.micro_batches == [1, 2, 4]
    record = Store(tmp_path).find(one.run)
    assert record is not None
    assert isinstance(record.result, Finished)
    assert record.result.micro_batches == 4
    assert '"micro_batches": 4' in Store(tmp_path).record_path(one.run).read_text()


def test_a_run_that_fits_in_no_micro_batch_fails(tmp_path: Path) -> None:
    one, greedy = made_planned(), Greedy(needs=99)
    sweep([one, made_planned("lite0")], made_context(tmp_path), greedy)
    record = Store(tmp_path).find(one.run)
    assert record is not None
    assert isinstance(record.result, Failed)
    assert record.result.reason == "out of memory: ResourceExhaustedError: OOM"


READ_JOB = "import json, os, sys, time, signal\njob = json.loads(sys.stdin.readline())\n"


def test_a_child_over_its_limit_is_ended_and_tried_in_micro_batches(tmp_path: Path) -> None:
    """A real child that takes memory as its batch is large; the limit is the launcher's."""
    outcome = made_outcome().model_dump_json()
    program = READ_JOB + (
        "block = bytearray(600_000_000 // job['micro_batches'])\n"
        "block[::4096] = b'x' * len(block[::4096])\n"
        "time.sleep(0 if job['micro_batches'] > 1 else 600)\n"
        "from pathlib import Path\n"
        "from harness.schema.run import Job\n"
        "from harness.storage.predictions import write_predictions\n"
        "from harness.storage.records import PREDICTIONS\n"
        "from tests.harness.conftest import made_predictions\n"
        "job = Job(**job)\n"
        "write_predictions(Path(job.output) / PREDICTIONS, made_predictions(job.run))\n"
        f"outcome = json.loads({outcome!r})\n"
        "outcome['micro_batches'] = job.micro_batches\n"
        "print(json.dumps({'event': 'done', 'outcome': outcome}), flush=True)\n"
    )
    launcher = WorkerProcess(command=(sys.executable, "-c", program), memory_gb=0.5)
    one = made_planned()
    calm = SweepContext(
        store=Store(tmp_path), data_folder=tmp_path, data=SUMMARY, profile="quick",
        slots=lambda: (Device("cpu", "Test CPU"),),
    )  # fmt: skip
    sweep([one], calm, launcher)
    record = Store(tmp_path).find(one.run)
    assert record is not None
    assert isinstance(record.result, Finished), record.result
    assert record.result.micro_batches == 2


MAPS = """
import os, sys
import numpy as np
from harness.execution.processes import resident_gb
before = resident_gb(os.getpid())
assert before > 0
images = np.memmap(sys.argv[1], np.uint8, "r")
assert images[::4096].sum() > 0
assert resident_gb(os.getpid()) - before < 0.1, "the pages of files"
block = np.ones(200_000_000, np.uint8)
assert resident_gb(os.getpid()) - before > 0.15, "its own"
"""


def test_mapped_files_are_nobodys_memory(tmp_path: Path) -> None:
    """Every process of a run maps the images; the kernel takes those pages back at will."""
    file = tmp_path / "images"
    file.write_bytes(b"x" * 200_000_000)
    command = [sys.executable, "-c", MAPS, str(file)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr


class ResourceExhaustedError(Exception):
    """TensorFlow's, by its name."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ResourceExhaustedError("OOM when allocating tensor"), "out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: allocating 8 bytes"), "out of memory"),
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), "out of memory"),
        (RuntimeError("Dst tensor is not initialized."), "out of memory"),
        (OSError(28, "No space left on device"), "no room"),
        (OSError("Can't synchronously write data (errno = 28, error message = 'x')"), "no room"),
        (ValueError("shapes do not fit"), "failed"),
    ],
)
def test_too_little_memory_and_a_full_disk_are_recognised(error: Exception, status: str) -> None:
    assert failure_status(error) == status


# --- children -------------------------------------------------------------------------------------


def test_a_hang_ends_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parent and grandchild both ignore SIGTERM; the grandchild holds our pipe open as well."""
    assert processes.WATCH_SECONDS + processes.GRACE_SECONDS < 10, (
        "promised: the limit and ten seconds"
    )
    monkeypatch.setattr("harness.execution.processes.GRACE_SECONDS", 0.3)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    program = READ_JOB + (
        "import subprocess\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"child = subprocess.Popen([sys.executable, '-c', {stubborn + 'time.sleep(600)'!r}])\n"
        "print(json.dumps({'event': 'phase', 'name': str(child.pid), 'steps': 1}), flush=True)\n"
        "time.sleep(600)\n"
    )
    launcher = WorkerProcess(timeout=2, command=(sys.executable, "-c", program))
    one, recorder, start = made_planned(), Recorder(), time.monotonic()
    sweep([one], made_context(tmp_path), launcher, [recorder])
    assert time.monotonic() - start < 60, "it did not end, it was let go"
    record = Store(tmp_path).find(one.run)
    assert record is not None
    assert isinstance(record.result, Failed)
    assert record.result.reason == "timeout after 2 s"
    assert gone(int(recorder.phase_names()[0]))


def test_what_a_dead_child_has_started_goes_too(tmp_path: Path) -> None:
    """Without a time limit: a grandchild that holds the pipe must not hold up the sweep."""
    program = READ_JOB + (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(json.dumps({'event': 'phase', 'name': str(child.pid), 'steps': 1}), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    launcher = WorkerProcess(command=(sys.executable, "-c", program))
    one, recorder = made_planned(), Recorder()
    sweep([one], made_context(tmp_path), launcher, [recorder])
    record = Store(tmp_path).find(one.run)
    assert record is not None
    assert isinstance(record.result, Failed)
    assert record.result.reason == "killed (signal 9)"
    assert gone(int(recorder.phase_names()[0]))


def gone(pid: int) -> bool:
    """Whether a process has ended, or is about to be collected by whoever inherits it."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


# --- artefacts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["empty", "one byte", "half", "most", "flipped"])
def test_torn_predictions_of_a_finished_run_are_made_again(tmp_path: Path, damage: str) -> None:
    planned = [made_planned(name) for name in NAMES]
    sweep(planned, made_context(tmp_path), StandIn())
    store, lines = Store(tmp_path), list[str]()
    tables = [path.read_bytes() for path in write_tables(tmp_path)]
    tear(store.predictions_path(planned[0].run), damage)
    # The copy in the artefacts mends it; without that one, the run has to be made again.
    assert find_pending(planned, store, report=lines.append) == ()
    tear(store.predictions_path(planned[0].run), damage)
    tear(store.artefacts(planned[0].run) / PREDICTIONS, "half" if damage == "flipped" else damage)
    left = find_pending(planned, store, report=lines.append)
    assert [one.recipe.name for one in left] == [NAMES[0]]
    assert len(lines) == 1
    assert str(store.predictions_path(planned[0].run)) in lines[0]
    sweep(left, made_context(tmp_path), StandIn())
    assert find_pending(planned, store) == ()
    assert [path.read_bytes() for path in write_tables(tmp_path)] == tables


def test_predictions_torn_between_worker_and_record_fail_their_run_alone(tmp_path: Path) -> None:
    class Torn(StandIn):
        def __call__(self, job, environment, report):  # type: ignore[no-untyped-def]
            ended = super().__call__(job, environment, report)
            if job.run.recipe == "lite0":
                tear(Path(job.output) / PREDICTIONS, "half")
            return ended

    planned = [made_planned(name) for name in NAMES]
    summary = sweep(planned, made_context(tmp_path), Torn())
    assert summary.finished == len(NAMES) - 1
    assert [record.run.recipe for record in summary.failed] == ["lite0"]


def tear(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    match how:
        case "empty":
            content = bytearray()
        case "one byte":
            del content[1:]
        case "half":
            del content[len(content) // 2 :]
        case "most":
            del content[int(0.99 * len(content)) :]
        case "flipped":
            content[len(content) // 3] ^= 0x10
    path.write_bytes(bytes(content))
