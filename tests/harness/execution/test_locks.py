"""Locks between processes and threads: of files, runs and devices."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.execution import devices, lock_holders, locks
from harness.execution.lock_holders import Waits, describe_holder
from harness.execution.locks import DeviceLock, LockOwner, RunLock, artefacts_lock, lock_folder
from harness.storage.file_lock import FileLock

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from harness.execution.locks import DeviceLock
with getattr(DeviceLock("cpu", Path(sys.argv[1])), sys.argv[2])():
    print("acquired", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def start_holder(folder: Path, mode: str, seconds: float) -> subprocess.Popen[str]:
    """Another process that holds the device lock; returns once it has it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), mode, str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "acquired\n"
    return process


# --- files ----------------------------------------------------------------------------------------


def test_a_file_system_without_locks_grants_every_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("portalocker.portalocker.LOCKER", unsupported)
    first, second = FileLock(tmp_path / "x.lock"), FileLock(tmp_path / "x.lock")
    assert first.acquire(blocking=False)
    assert second.acquire(blocking=False)
    assert not second.enforced
    with DeviceLock("cpu", tmp_path).exclusive() as exclusive:
        assert not exclusive


# --- runs -----------------------------------------------------------------------------------------


def test_a_run_lock_names_its_owner_until_it_is_released(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    assert lock.owner() is None
    assert lock.acquire_for("lite0", 3)
    owner = RunLock(tmp_path).owner()
    assert owner is not None
    assert (owner.recipe, owner.seed, owner.pid) == ("lite0", 3, os.getpid())
    assert not RunLock(tmp_path).acquire_for("vgg16", 0)
    assert RunLock(tmp_path).owner() == owner
    lock.release()
    assert RunLock(tmp_path).owner() is None


def test_an_owner_that_has_written_nothing_readable_is_unknown(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    assert lock.acquire_for("lite0", 3)
    lock.path.write_text('{"recipe": "lit')
    assert RunLock(tmp_path).owner() == LockOwner()


# --- devices --------------------------------------------------------------------------------------


def test_a_device_is_shared_between_processes(tmp_path: Path) -> None:
    holder = start_holder(tmp_path, "shared", 60)
    with DeviceLock("cpu", tmp_path).shared():
        assert holder.poll() is None
    holder.kill()
    holder.wait()


def test_an_exclusive_lock_waits_for_the_shared_ones(tmp_path: Path) -> None:
    holder = start_holder(tmp_path, "shared", 0.6)
    device_lock = DeviceLock("cpu", tmp_path)
    with device_lock.exclusive() as exclusive:
        assert exclusive
        assert holder.wait(5) == 0
    assert device_lock.waits.seconds > 0


def test_a_shared_lock_waits_for_the_exclusive_one(tmp_path: Path) -> None:
    holder = start_holder(tmp_path, "exclusive", 0.6)
    with DeviceLock("cpu", tmp_path).shared():
        assert holder.wait(5) == 0


def test_who_is_waited_for_is_reported(tmp_path: Path) -> None:
    """After some seconds, with the process that holds the lock; and the end of it."""
    said: list[tuple[str, float]] = []
    holder = start_holder(tmp_path, "exclusive", 60)
    holder.send_signal(signal.SIGSTOP)
    waits = Waits(lambda *event: said.append(event))
    start, begun = time.perf_counter(), waits.clock()
    for seconds in (0.05, 60):
        with waits.waiting("cpu", tmp_path / "cpu.device.lock", seconds):
            time.sleep(0.5 if seconds < 1 else 0)
    assert waits.clock() - begun < 0.4 < time.perf_counter() - start, "the clock stands still"
    holder.kill()
    (reason, _), (end, seconds) = said
    assert reason.startswith(f"waiting for cpu, held by pid {holder.pid}, which is stopped")
    assert f"kill -CONT {holder.pid}" in reason
    assert end == ""
    assert seconds > 0.05


def test_a_workers_sweep_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "artefacts" / "0123"
    with artefacts_lock(folder):
        assert describe_holder(folder / "artefacts.lock") == "another process"
        assert lock_holders._results_folder(os.getpid()) == tmp_path / "results"


def test_a_stopped_process_of_a_dead_sweep_is_named(tmp_path: Path) -> None:
    """With the command that ends it: nobody is there to let it go on."""
    shell = f'{sys.executable} -c "$0" {tmp_path} exclusive 60 > {tmp_path}/out 2>&1 & echo $!'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.run(
        ["bash", "-c", shell, HOLDER], env=environment, capture_output=True, text=True, check=True
    )
    pid = int(started.stdout)
    try:
        while "acquired" not in (tmp_path / "out").read_text():
            time.sleep(0.05)
        if not lock_holders._adopts_orphans(int(devices.proc_field(f"{pid}/status", "PPid"))):
            pytest.skip("orphans have another parent here")
        os.kill(pid, signal.SIGSTOP)
        expected = f"pid {pid}, which is stopped and whose sweep is dead: kill -9 {pid} ends it"
        while describe_holder(tmp_path / "cpu.device.lock") == f"pid {pid}":
            time.sleep(0.05)  # Until the signal has arrived.
        assert describe_holder(tmp_path / "cpu.device.lock") == expected
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_measurement_goes_on_beside_others_after_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped worker must not stop all sweeps; the limit is waited for once."""
    monkeypatch.setattr(locks, "ALONE_SECONDS", 0.2)
    holder = start_holder(tmp_path, "shared", 60)
    holder.send_signal(signal.SIGSTOP)
    device_lock = DeviceLock("cpu", tmp_path)
    for _ in range(3):
        with device_lock.exclusive() as alone:
            assert not alone
    assert device_lock._alone_seconds == 0
    holder.kill()
    holder.wait()
    with device_lock.exclusive() as alone:
        assert alone


def test_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    holder = start_holder(tmp_path, "exclusive", 60)
    holder.kill()
    holder.wait()
    with DeviceLock("cpu", tmp_path).exclusive() as exclusive:
        assert exclusive


def test_the_threads_of_one_device_lock_do_not_release_each_others(tmp_path: Path) -> None:
    device_lock, entered, leave = DeviceLock("cpu", tmp_path), threading.Event(), threading.Event()

    def work() -> None:
        with device_lock.shared():
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(20)
    with device_lock.shared():
        pass
    path = next(tmp_path.glob("cpu.device.lock"))
    assert not FileLock(path).acquire(blocking=False)
    leave.set()
    thread.join()
    assert FileLock(path).acquire(blocking=False)


def test_a_waiting_exclusive_lock_is_not_starved(tmp_path: Path) -> None:
    """Shared holders that overlap for ever would never leave a gap without the gate."""
    stop, acquired = threading.Event(), threading.Event()

    def work() -> None:
        device_lock = DeviceLock("cpu", tmp_path)
        while not stop.is_set():
            with device_lock.shared():
                time.sleep(0.02)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()

    def measure() -> None:
        with DeviceLock("cpu", tmp_path).exclusive():
            acquired.set()

    threading.Thread(target=measure, daemon=True).start()
    assert acquired.wait(20)
    stop.set()
    for worker in workers:
        worker.join()


def test_devices_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with (
        DeviceLock("gpu:0", tmp_path).exclusive(),
        DeviceLock("gpu:1", tmp_path).exclusive() as exclusive,
    ):
        assert exclusive


@pytest.mark.skipif(os.name != "posix", reason="other systems keep temporary files per user")
def test_the_folder_of_device_locks_is_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = lock_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    assert lock_folder().stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(UserError, match="belongs to another user; set TMPDIR"):
        lock_folder()
