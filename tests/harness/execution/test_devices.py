"""GPUs without a GPU: which are visible, and that no two sweeps take the same one for theirs."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.execution import devices
from harness.execution.devices import Device, visible
from harness.execution.locks import acquire_gpu
from harness.storage.records import Store
from harness.sweep.planner import find_pending
from harness.sweep.scheduler import sweep
from tests.harness.conftest import StandIn, made_planned
from tests.harness.sweep.test_scheduler import NAMES, made_context

GPU = Device("gpu:0", "Test GPU")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of its own: other programs' locks lie elsewhere."""
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "locks"))


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        (None, ["gpu:0", "gpu:1"]),
        ("1", ["gpu:1"]),
        (" 1, 0", ["gpu:0", "gpu:1"]),
        ("GPU-bbbb", ["gpu:1"]),
        ("GPU-bbbb-cccc-dd", ["gpu:1"]),
        ("-1", ["cpu"]),
        ("", ["cpu"]),
        ("7", ["cpu"]),
    ],
)
def test_the_gpus_are_those_that_the_environment_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str | None, expected: list[str]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho '0, GPU-aaaa-cccc-dd, 81559, A'\necho '1, GPU-bbbb-cccc-dd, [N/A], B'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    environment = {} if allowed is None else {"CUDA_VISIBLE_DEVICES": allowed}
    assert [device.id for device in visible(environment)] == expected


def test_a_gpu_is_counted_as_nvidia_smi_counts() -> None:
    variables = devices.environment(Device("gpu:1", "B"))
    assert (variables["CUDA_DEVICE_ORDER"], variables["CUDA_VISIBLE_DEVICES"]) == (
        "PCI_BUS_ID",
        "1",
    )


def test_a_gpu_is_held_alone_or_together() -> None:
    shared = replace(GPU, shared=True)
    alone = acquire_gpu(GPU)
    assert alone is not None
    assert acquire_gpu(GPU) is None
    assert acquire_gpu(shared) is None
    assert acquire_gpu(Device("gpu:1", "Another")) is not None
    alone.release()
    together = [acquire_gpu(shared), acquire_gpu(shared)]
    assert None not in together
    assert acquire_gpu(GPU) is None
    for each in together:
        assert each is not None
        each.release()
    assert acquire_gpu(GPU) is not None


class Together(StandIn):
    """Counts how many runs of all its sweeps are on the device at once."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def __call__(self, job, environment, report):  # type: ignore[no-untyped-def]
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        ended = super().__call__(job, environment, report)
        with self.lock:
            self.now -= 1
        return ended


def test_two_sweeps_take_turns_at_one_gpu(tmp_path: Path) -> None:
    planned, trainer = [made_planned(name) for name in NAMES], Together()
    settings = replace(made_context(tmp_path), slots=lambda: (GPU,))
    threads = [threading.Thread(target=sweep, args=(planned, settings, trainer)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert trainer.most == 1
    assert sorted(trainer.launched) == sorted(NAMES)
    assert find_pending(planned, Store(tmp_path)) == ()
