"""The cache of compiled programs: torn entries, two writers of one, a full disk, and its limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from harness.execution.compile_cache import FOLDER_VARIABLE, clean, environment, is_torn
from harness.execution.devices import Device
from harness.execution.processes import worker_environment

ROOT = Path(__file__).parents[3]
GPU, CPU = Device("gpu:0", "Test GPU"), Device("cpu", "Test CPU")
PROGRAM = """
import resource, signal, sys
from harness.execution import compile_cache
compile_cache.enter_folder()
import keras
import numpy as np
from harness.training.compilation import CompileTimer, array_spec, compiled, count_programs
if sys.argv[1] == "killed":  # Instead of an error, as below: it dies while it writes an entry.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
if sys.argv[1]:  # What a disk without room looks like: no file grows beyond 100 bytes.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
count = count_programs()
timer = CompileTimer()
step = compiled(lambda x: keras.ops.sum(keras.ops.sin(x) @ x))
timer.compile_ahead(step, array_spec((8, 8)))
ahead = count.requested
result = float(timer.call(step, np.ones((8, 8), np.float32)))
print(count.requested - ahead, count.cached, count.compiled, result)
"""


@pytest.fixture(autouse=True)
def no_cache_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)


def start(folder: Path, fault: str = "") -> subprocess.Popen[str]:
    """A process that compiles a small program with the cache in ``folder``."""
    variables = worker_environment(CPU, "jax", folder)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, fault],
        env={**os.environ, **variables, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, int, float]:
    """Programs from the cache, programs compiled, and the result."""
    output, _ = process.communicate()
    assert process.returncode == 0
    by_the_call, cached, compiled, result = output.split()
    assert by_the_call == "0", "what is compiled ahead is not compiled again"
    return int(cached), int(compiled), float(result)


@pytest.mark.slow
def test_a_program_is_compiled_once_whatever_happens_to_its_entry(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    writers = [start(one), start(one)]  # Of the same entries, at the same time.
    (found, made, result), (_, _, same) = (finish(process) for process in writers)
    count = found + made  # One may be late, and find what the other has made.
    assert count > 0
    assert same == result
    # Keys do not depend on the folder, so a cache can be taken elsewhere.
    one.rename(other)
    assert finish(start(other)) == (count, 0, result)
    # A torn entry is compiled anew, and gone after the next cleaning.
    (entry,) = list(other.rglob("jit__lambda*-cache"))
    entry.write_bytes(entry.read_bytes()[:-20])
    assert finish(start(other)) == (count - 1, 1, result)
    clean(other, 10**9)
    assert not entry.exists()
    assert finish(start(other)) == (count - 1, 1, result)
    assert not is_torn(entry.read_bytes())
    # A full disk costs the entries, not the run.
    assert finish(start(one, "full")) == (0, count, result)
    clean(one, 10**9)
    assert not list(one.rglob("*-cache"))


@pytest.mark.slow
def test_an_entry_of_a_killed_process_is_compiled_again(tmp_path: Path) -> None:
    killed = start(tmp_path, "killed")
    killed.communicate()
    assert killed.returncode == -signal.SIGXFSZ
    (entry,) = tmp_path.rglob("*-cache")
    assert is_torn(entry.read_bytes())
    clean(tmp_path, 10**9)
    assert not entry.exists()
    cached, count, _ = finish(start(tmp_path))
    assert cached == 0
    assert count > 0


def write_entry(path: Path, content: bytes, age: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_torn_entries_and_the_oldest_beyond_the_limit_are_removed(tmp_path: Path) -> None:
    whole = zlib.compress(os.urandom(1000))
    old, new = (write_entry(tmp_path / "gpu" / f"{age}-cache", whole, age) for age in (90, 30))
    autotuning = write_entry(tmp_path / "gpu" / "autotune" / "x.textproto", b"x" * 500, 60)
    torn = [
        write_entry(tmp_path / "gpu" / f"{name}-cache", content, 10)
        for name, content in (("empty", b""), ("half", whole[:500]), ("other", b"x" * 99))
    ]
    clean(tmp_path, 1_600)
    assert not any(path.exists() for path in torn)
    assert [path.exists() for path in (old, autotuning, new)] == [False, True, True]
    clean(tmp_path, 0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".checked"]


def test_cleaning_needs_no_folder(tmp_path: Path) -> None:
    clean(tmp_path / "absent", 0)
    assert not (tmp_path / "absent").exists()


def test_only_jax_has_one_and_the_users_own_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment(tmp_path, GPU, "tensorflow") == {}
    assert environment(tmp_path, GPU, "torch") == {}
    gpu, cpu = (environment(tmp_path, device, "jax")[FOLDER_VARIABLE] for device in (GPU, CPU))
    assert gpu != cpu, "programs for a CPU are for one kind of processor"
    (tmp_path / "file").write_text("")
    assert environment(tmp_path / "file", GPU, "jax") == {}
    monkeypatch.setenv(FOLDER_VARIABLE, "/elsewhere")
    assert environment(tmp_path, GPU, "jax") == {}
