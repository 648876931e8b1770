"""No child process imports modules from the folder that the user types a command in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.audit import embeddings
from harness.augmentation.worker import EpochPrefetcher
from harness.ensembling import throughput
from harness.execution.devices import Device
from harness.execution.processes import WorkerProcess, run_task
from harness.schema.augmentation import EpochCacheSettings
from harness.schema.run import Job
from harness.training import explanation
from tests.harness.conftest import made_run

NAMES = ("json", "random", "typing", "pydantic", "numpy", "keras", "tensorflow", "harness")


@pytest.fixture
def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once a module of the current folder has been executed."""
    folder, executed = tmp_path / "current folder", tmp_path / "executed"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(executed)!r}, 'a').write({name!r})\n")
    monkeypatch.chdir(folder)
    return executed


def made_job(tmp_path: Path) -> Job:
    return Job(
        run=made_run(),
        data=str(tmp_path / "no data"),
        weights=(None,),
        output=str(tmp_path / "output"),
        device=Device("cpu", "Test CPU"),
        epochs=EpochCacheSettings(folder=str(tmp_path / "epochs"), limit_bytes=10**6),
    )


def test_plain_python_would_execute_them(executed: Path) -> None:
    command = [sys.executable, "-m", "harness.training.worker"]
    subprocess.run(command, input="{}\n", text=True, capture_output=True)
    assert executed.exists()


def test_the_training_worker_does_not(executed: Path, tmp_path: Path) -> None:
    """Its framework is loaded before it looks for the data, which is not there."""
    result = WorkerProcess()(made_job(tmp_path), {"KERAS_BACKEND": "numpy"}, lambda _: None)
    assert result.failed is not None
    assert "no data" in result.failed.reason
    assert not executed.exists()


@pytest.mark.parametrize(
    "module",
    [embeddings.COMMAND_MODULE, throughput.COMMAND_MODULE, explanation.COMMAND_MODULE],
)
def test_other_workers_do_not(executed: Path, tmp_path: Path, module: str) -> None:
    _, reason = run_task(module, made_job(tmp_path), {}, lambda _: None)
    assert "ValidationError" in reason
    assert not executed.exists()


def test_the_process_that_augments_ahead_does_not(executed: Path, tmp_path: Path) -> None:
    prefetcher = EpochPrefetcher(made_job(tmp_path))
    prefetcher(0, 1)
    assert prefetcher._process is not None
    assert prefetcher._process.wait(60) == 1, "without data it fails"
    assert not executed.exists()


SPAWN = """
from multiprocessing import get_context
if __name__ == "__main__":
    process = get_context("spawn").Process(target=print)
    process.start()
    process.join()
"""


def test_what_such_a_process_spawns_does_not(executed: Path, tmp_path: Path) -> None:
    (tmp_path / "spawn.py").write_text(SPAWN)
    subprocess.run([sys.executable, "-P", str(tmp_path / "spawn.py")], check=True)
    assert not executed.exists()
