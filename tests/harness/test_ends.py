"""How a command ends: by hangups, closed pipes, permissions, odd files and odd addresses."""

from __future__ import annotations

import errno
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.audit.manifest import read_manifest
from harness.commands.settings import DataOptions, load_settings
from harness.config import load
from harness.data import sources
from harness.errors import ConfigError, DataError, NoAccess, UserError, WeightsError
from harness.execution import address_space
from harness.execution.child import failure_status
from harness.execution.devices import Device
from harness.execution.processes import WorkerProcess
from harness.reporting.prediction_files import read_prediction_file
from harness.storage import files
from harness.storage.files import remove_leftovers
from harness.storage.records import PREDICTIONS, Store
from harness.storage.unrecorded import OUTCOME, find_outcome, write_outcome
from harness.sweep import scheduler
from harness.sweep.planner import find_pending
from harness.sweep.scheduler import sweep
from tests.harness.conftest import StandIn, made_outcome, made_planned
from tests.harness.sweep.test_faults import tear
from tests.harness.sweep.test_scheduler import NAMES, made_context
from zoo.registry import find
from zoo.weights import user_file

ROOT = Path(__file__).parents[2]

# --- permissions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_may_not_be_written_is_like_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What had finished before is kept, no run begins, and the same command finishes later."""
    real = files.os.fsync

    def refused(descriptor: int) -> None:
        if len(list((tmp_path / "records").glob("*.json"))) == 2:
            raise OSError(number, os.strerror(number), "results/records")
        real(descriptor)

    planned, stand_in = [made_planned(name) for name in NAMES], StandIn()
    monkeypatch.setattr(files.os, "fsync", refused)
    with pytest.raises(NoAccess, match=r"results/records: .*; make it writable, and the same"):
        sweep(planned, made_context(tmp_path, slots=1), stand_in)
    monkeypatch.undo()
    assert len(Store(tmp_path).records()) == 2
    assert len(stand_in.launched) == 3
    sweep(find_pending(planned, Store(tmp_path)), made_context(tmp_path), StandIn())
    assert find_pending(planned, Store(tmp_path)) == ()
    assert failure_status(OSError(number, "refused")) == "no access"


def test_a_disk_that_can_only_be_read_is_said_of_the_file_that_was_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the temporary file, which such a disk refuses to delete too."""

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match="Read-only") as error:
        files.write_atomically(tmp_path / "LEADERBOARD.md", b"")
    assert error.value.filename == str(tmp_path / "LEADERBOARD.md")


@pytest.mark.parametrize("when", ["before the worker writes", "before the record"])
def test_a_run_that_ends_while_its_folder_is_gone_is_recorded_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Without training it again, and without leaving anything behind."""
    results, away, kept = tmp_path / "results", tmp_path / "away", tmp_path / "kept"
    one = made_planned()
    context = replace(made_context(results), unrecorded=kept)

    def take_away(*_: object) -> None:
        results.rename(away)
        results.touch()

    with monkeypatch.context() as patch:
        if when == "before the record":
            real, stand_in = scheduler._run_record, StandIn()
            patch.setattr(scheduler, "_run_record", lambda *a: take_away() or real(*a))
        else:
            stand_in = StandIn(before_writing=take_away)
        with pytest.raises(NoAccess, match="make it writable, and the same command goes on"):
            sweep([one], context, stand_in)
    results.unlink()
    away.rename(results)
    assert Store(results).records() == ()
    never = StandIn({one.recipe.name: AssertionError("it is trained again")})
    assert sweep(find_pending([one], Store(results)), context, never).finished == 1
    assert find_pending([one], Store(results)) == ()
    assert list(kept.glob("*")) == []
    assert not (Store(results).artefacts(one.run) / OUTCOME).exists()


def test_a_kept_outcome_of_other_predictions_is_not_believed(tmp_path: Path) -> None:
    one, store = made_planned(), Store(tmp_path)
    sweep([one], made_context(tmp_path), StandIn())
    folder = store.artefacts(one.run)
    write_outcome(folder, made_outcome())
    assert find_outcome(tmp_path, folder) == made_outcome()
    tear(folder / PREDICTIONS, "flipped")
    assert find_outcome(tmp_path, folder) is None
    (folder / PREDICTIONS).unlink()
    os.mkfifo(folder / PREDICTIONS)
    assert find_outcome(tmp_path, folder) is None, "nobody waits for a pipe"
    (folder / OUTCOME).write_text("{")
    assert find_outcome(folder) is None


# --- memory --------------------------------------------------------------------------------------


TOO_LITTLE = r"out of memory: the address space is limited to {} GB and \d+\.\d GB are needed; "


@pytest.mark.parametrize("megabytes", [100, 400])
def test_a_command_with_too_little_address_space_is_one_line(megabytes: int) -> None:
    """As ``ulimit -v`` leaves it: OpenBLAS would crash, or ask for memory without end."""
    command = f"ulimit -v {megabytes}000; exec {sys.executable} -m harness.cli leaderboard"
    answer = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 2
    assert re.match("wbc-bench: " + TOO_LITTLE.format(f"0.{megabytes // 100}"), answer.stderr), (
        answer.stderr
    )
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("limit", "program", "status", "reason"),
    [
        # TensorFlow would crash as it loads: the run stays pending.
        (2.5, "import keras", "wrong input", TOO_LITTLE.format("2.5")),
        (9, "import numpy; numpy.ones(10**10)", "out of memory", "MemoryError: Unable to"),
        (9, "import os; os.abort()", "out of memory",
         r"killed \(signal 6\); perhaps out of memory: the address space is limited to 9.0 GB"),
        (9, "print('a warning: out of memory', file=sys.stderr); os.kill(os.getpid(), 9)", "failed",
         r"killed \(signal 9\)$"),
        (0, "print('OpenBLAS error: Memory allocation still failed', file=sys.stderr); sys.exit(1)",
         "out of memory", "ended with exit code 1$"),
    ],
)  # fmt: skip
def test_a_run_with_too_little_address_space_is_out_of_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: float,
    program: str,
    status: str,
    reason: str,
) -> None:
    if limit:
        monkeypatch.setattr(address_space, "limit_gb", lambda: limit)
    child = (
        "import os, sys\n"
        "from harness.execution.child import serve\n"
        f"def execute(job, emit):\n    {program}\n"
        "sys.exit(serve(execute))\n"
    )
    kilobytes = int(limit * 1e9 / 1024) or "unlimited"
    command = f'ulimit -v {kilobytes}; exec {sys.executable} -c "$0"'
    launcher = WorkerProcess(command=("bash", "-c", command, child))
    job = made_context(tmp_path).job(made_planned(), Device("cpu", "Test CPU"))
    ended = launcher(job, {}, lambda _: None)
    assert ended.status == status
    assert ended.failed is not None
    assert re.match(reason, ended.failed.reason), ended.failed.reason


# --- odd files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[protocol.frozen]\nepochs = " + "9" * 100, "a huge number"),
        ("[protocol.frozen]\nepochs = " + "9" * 5000, "digits"),
        ("x = " + "[" * 50_000, "nested too deeply"),
        ("#" * (1 << 20) + "\n", "larger than any settings file"),
    ],
)
def test_settings_of_any_size_are_one_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "benchmark.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected) as error:
        load(path, "quick")
    assert len(str(error.value)) < 500


def test_devices_and_fifos_are_not_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "class" / "x.png"
    fifo.parent.mkdir()
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="not a regular file"):
            load(path, "quick")
        with pytest.raises(WeightsError, match="not a regular file"):
            user_file(find("vgg16"), path)
        with pytest.raises(DataError, match="neither a file nor a folder"):
            sources.find(str(path), 96)
        with pytest.raises(DataError, match="not a regular file"):
            read_manifest(path)
        np.save(tmp_path / "p.npy", np.eye(2, dtype=np.float32))
        with pytest.raises(DataError, match="not a regular file"):
            read_prediction_file(tmp_path / "p.npy", labels=path)


def test_devices_are_written_to_and_pipes_replaced(tmp_path: Path) -> None:
    files.write_atomically(Path("/dev/null"), b"table")
    assert Path("/dev/null").is_char_device()
    reader, writer = os.pipe()
    files.write_atomically(Path(f"/dev/fd/{writer}"), b"table")
    assert os.read(reader, 100) == b"table"
    os.close(reader)
    os.close(writer)
    # Of a results folder from elsewhere: opening a pipe would wait for ever.
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/full")
    for name in ("pipe", "link"):
        files.write_atomically(tmp_path / name, b"table")
        assert (tmp_path / name).read_bytes() == b"table"
        assert not (tmp_path / name).is_symlink()
    with pytest.raises(IsADirectoryError):
        files.write_atomically(tmp_path, b"table")


def test_an_unknown_user_is_an_error_in_one_line(tmp_path: Path) -> None:
    settings = tmp_path / "b.toml"
    settings.write_text('[data]\nsource = "~nobody-of-this-name/cells"\n')
    with pytest.raises(UserError, match="~nobody-of-this-name/cells: there is no such user"):
        load(settings, "quick")
    with pytest.raises(UserError, match="there is no such user"):
        load_settings(DataOptions(source="~nobody-of-this-name/cells"))


def test_leftovers_of_killed_writes_are_removed(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    old = tmp_path / "records" / ".vgg16-0123.json.0123456789ab.tmp"
    new, mine = old.with_name(".x.npy.0123456789ab.tmp"), old.with_name(".mine.tmp")
    for path in (old, new, mine):
        path.touch()
        if path is not new:
            os.utime(path, (0, 0))
    remove_leftovers(tmp_path)
    assert sorted(old.parent.iterdir()) == sorted([new, mine])


# --- signals and pipes ---------------------------------------------------------------------------


def test_a_hangup_ends_a_command_as_ctrl_c_does() -> None:
    program = "import time, harness.cli as c; c.cli.main = lambda **_: (print('on', flush=True), "
    program += "time.sleep(60)); c.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\n"
    process.send_signal(signal.SIGHUP)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == b"interrupted; the same command goes on from here\n"


NOBODY_READS = """
from harness.commands.console import plain_console
try:
    for _ in range(100_000):
        plain_console().print("a line")
except BrokenPipeError:
    raise SystemExit(3)
"""


def test_output_that_nobody_reads_is_an_error_and_no_silent_exit() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", NOBODY_READS], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 3
    assert process.stderr is not None
    assert process.stderr.read() == b""


@pytest.mark.parametrize("command", ["zoo", "data --help"])
def test_a_command_whose_output_nobody_reads_says_so(command: str) -> None:
    line = f"{sys.executable} -m harness.cli {command} | true; exit $PIPESTATUS"
    answer = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert answer.stderr == "wbc-bench: the output was closed\n"
    assert answer.returncode == 2


# --- clusters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["x", "tcp://", "tcp://h", "http://h:1", "tcp://h:1/x", "tcp://[::1"]
)
def test_an_address_that_is_none_is_rejected_at_once(address: str) -> None:
    cluster = pytest.importorskip("harness.sweep.cluster")
    with pytest.raises(UserError, match="no address; write tcp://HOST:PORT"):
        cluster.connect(address)


def test_an_address_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = pytest.importorskip("harness.sweep.cluster")
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, start = server.getsockname()[1], time.monotonic()
        with pytest.raises(UserError, match="no scheduler answers there"):
            cluster.connect(f"tcp://127.0.0.1:{port}")
    assert time.monotonic() - start < 30


def test_a_client_without_certificates_is_one_line_and_nothing_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster, ignored = pytest.importorskip("harness.sweep.cluster"), list[object]()
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(UserError, match=r"no scheduler answers there .*TLS"):
        cluster.connect("tls://127.0.0.1:9")
    gc.collect()
    assert ignored == []
