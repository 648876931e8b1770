"""Turns at a device: many work side by side, one measures alone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from harness.execution.device_lock import DeviceLock

OTHER = """
import sys, time
from pathlib import Path
from harness.execution.device_lock import Quiet
with getattr(Quiet("cpu", Path(sys.argv[1])), sys.argv[2])():
    print("in", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def other(folder: Path, how: str, seconds: float) -> subprocess.Popen[str]:
    """Another process that holds its turn; returns once it has it."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder), how, str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    return process


def test_workers_work_side_by_side(tmp_path: Path) -> None:
    holder = other(tmp_path, "working", 60)
    with DeviceLock("cpu", tmp_path).shared():
        assert holder.poll() is None
    holder.kill()
    holder.wait()


def test_alone_means_after_the_others(tmp_path: Path) -> None:
    holder = other(tmp_path, "working", 0.6)
    with DeviceLock("cpu", tmp_path).exclusive() as exclusive:
        assert exclusive
        assert holder.wait(5) == 0


def test_nobody_works_beside_one_who_is_alone(tmp_path: Path) -> None:
    holder = other(tmp_path, "alone", 0.6)
    with DeviceLock("cpu", tmp_path).shared():
        assert holder.wait(5) == 0


def test_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    holder = other(tmp_path, "alone", 60)
    holder.kill()
    holder.wait()
    with DeviceLock("cpu", tmp_path).exclusive() as exclusive:
        assert exclusive


def test_one_who_waits_to_be_alone_is_not_starved(tmp_path: Path) -> None:
    """Two workers that overlap forever would never leave a gap without the door."""
    stop, got = threading.Event(), threading.Event()

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
            got.set()

    threading.Thread(target=measure, daemon=True).start()
    assert got.wait(20)
    stop.set()
    for worker in workers:
        worker.join()


def test_devices_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with (
        DeviceLock("gpu:0", tmp_path).exclusive(),
        DeviceLock("gpu:1", tmp_path).exclusive() as exclusive,
    ):
        assert exclusive
