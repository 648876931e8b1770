"""Turns on a device: one run trains, others are ready, and the first of those in the plan goes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.execution.devices import Device, slots
from harness.execution.locks import DeviceLock, DeviceTurn

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys, time
from pathlib import Path
from harness.execution.locks import DeviceTurn
turn = DeviceTurn("gpu:0", 1, int(sys.argv[2]), Path(sys.argv[1]))
turn.take(lambda: print("waiting", flush=True))
print("taken", flush=True)
time.sleep(60)
"""


def start_holder(folder: Path, order: int, first_line: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(order)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"{first_line}\n"
    return process


def test_a_dead_run_frees_its_turn_and_its_place(tmp_path: Path) -> None:
    holder = start_holder(tmp_path, 0, "taken")
    ready = start_holder(tmp_path, 1, "waiting")
    for process in (ready, holder):
        process.kill()
        process.wait()
    turn = DeviceTurn("gpu:0", 1, 2, tmp_path)
    turn.take()
    turn.give_back()
    assert not list(tmp_path.glob("*ready*"))


def test_the_ready_run_that_is_first_in_the_plan_goes_first(tmp_path: Path) -> None:
    first = DeviceTurn("gpu:0", 1, 0, tmp_path)
    first.take()
    ended: list[int] = []

    def run(order: int, ready: threading.Event) -> None:
        turn = DeviceTurn("gpu:0", 1, order, tmp_path)
        turn.take(ready.set)
        ended.append(order)
        turn.give_back()
        assert turn.waits.seconds > 0

    threads = []
    for order in (3, 1, 2):
        ready = threading.Event()
        threads.append(threading.Thread(target=run, args=(order, ready)))
        threads[-1].start()
        assert ready.wait(60)
    first.give_back()
    for thread in threads:
        thread.join(60)
    assert ended == [1, 2, 3]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_so_many_runs_train_at_once(tmp_path: Path, count: int) -> None:
    turns = [DeviceTurn("gpu:0", count, i, tmp_path) for i in range(6)]
    lock, training, most = threading.Lock(), 0, 0
    everyone = threading.Barrier(count)

    def run(turn: DeviceTurn) -> None:
        nonlocal training, most
        turn.take()
        with lock:
            training += 1
            most = max(most, training)
        everyone.wait(60)  # All turns are held at some time.
        with lock:
            training -= 1
        turn.give_back()

    threads = [threading.Thread(target=run, args=(turn,)) for turn in turns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == count


def test_a_run_alone_waits_for_those_of_another_sweep_that_share(tmp_path: Path) -> None:
    shared, alone = DeviceTurn("gpu:0", 2, 0, tmp_path), DeviceTurn("gpu:0", 1, 1, tmp_path)
    shared.take()
    waits = threading.Event()
    thread = threading.Thread(target=alone.take, args=(waits.set,))
    thread.start()
    assert waits.wait(60)
    shared.give_back()
    thread.join(60)
    alone.give_back()


def test_without_turns_nothing_is_waited_for(tmp_path: Path) -> None:
    for _ in range(2):
        DeviceTurn("gpu:0", 0, 0, tmp_path).take()
    assert not list(tmp_path.iterdir())


def test_a_measurement_beside_a_run_that_compiles_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.execution.locks.COMPILING_SECONDS", 0.0)
    lock = DeviceLock("gpu:0", tmp_path, turn=DeviceTurn("gpu:0", 1, 0, tmp_path))
    with lock.preparing(compiles=True), DeviceLock("gpu:0", tmp_path).exclusive() as alone:
        assert not alone
    with lock.preparing(), DeviceLock("gpu:0", tmp_path).exclusive() as alone:
        assert alone  # Loading and building need the host alone.


def test_as_many_runs_prepare_as_the_machine_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = Device("gpu:0", "A", memory_gb=80), Device("cpu", "C")

    def preparing(cores: int, free_gb: float, *gpus: Device) -> int:
        monkeypatch.setattr("harness.execution.devices.cores", lambda: cores)
        monkeypatch.setattr("harness.execution.devices.free_memory_gb", lambda: free_gb)
        there = slots(gpus, 2, 1)
        assert {device.turns for device in there} == {1}
        assert {device.preparing for device in there} == {len(there) > len(gpus)}
        return len(there) // len(gpus) - 1

    assert preparing(16, 128, gpu) == 8
    assert preparing(4, 128, gpu) == 3
    assert preparing(16, 9, gpu) == 2
    assert preparing(1, 128, gpu) == 0
    assert preparing(16, 128, gpu, Device("gpu:1", "B", memory_gb=24)) == 3
    # On a CPU a further run would take the cores of the one that trains.
    assert slots((cpu,), 2, 1) == (Device("cpu", "C", shared=True),) * 2
    assert [(d.turns, d.preparing) for d in slots((cpu,), 1, 1, 1)] == [(1, True)] * 2
