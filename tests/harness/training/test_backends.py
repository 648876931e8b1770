"""One small recipe through every backend that is installed: the same outcome."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.execution.devices import Device
from harness.execution.processes import LOG, WorkerProcess, worker_environment
from harness.schema.protocol import Optimizer, Phase
from harness.schema.records import Outcome
from harness.storage.files import read_arrays
from harness.storage.predictions import read_predictions
from harness.storage.records import FEATURES, PREDICTIONS
from tests.harness.test_cli import make_set
from tests.harness.training.test_resume import job_of
from tests.harness.training.test_trainer import IMAGENET, protocol, smear

__all__ = ["smear"]

TUNED = protocol(
    fine_tuning=Phase(epochs=1, batch_size=16, unfreeze=1, optimizer=Optimizer(learning_rate=3e-5))
)
WORKER = """
import sys
from harness.training import worker
code = worker.main()
print("loaded:", *sorted({"tensorflow", "jax", "torch"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""

PARENT = """
import sys
import harness.execution.processes
from tests.harness.conftest import StandIn
harness.execution.processes.WorkerProcess = lambda **limits: StandIn()
from harness import cli
try:
    cli.main()
except SystemExit as end:
    code = end.code
print("code", code, "loaded", *sorted(sys.modules))
"""


@dataclass(frozen=True)
class Left:
    """What a run on one backend leaves."""

    outcome: Outcome
    features: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]
    loaded: str


@pytest.fixture(scope="module")
def left(smear: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run on a backend, executed once, by the real worker."""
    done: dict[str, Left] = {}

    def on(backend: str) -> Left:
        if importlib.util.find_spec(backend) is None:
            pytest.skip(f"{backend} is not installed")
        if backend not in done:
            output = tmp_path_factory.mktemp(backend)
            environment = worker_environment(Device("cpu", "Test CPU"), backend, None)
            launcher = WorkerProcess(command=(sys.executable, "-c", WORKER))
            job = job_of(smear, output, "lite0", IMAGENET, TUNED)
            ended = launcher(job, environment, lambda _: None)
            assert ended.outcome is not None, ended.failed
            parts = read_predictions(output / PREDICTIONS)
            done[backend] = Left(
                outcome=ended.outcome,
                features=read_arrays(output / FEATURES),
                probabilities={name: part.probabilities for name, part in parts.items()},
                loaded=(output / LOG).read_text().split("loaded: ")[-1].strip(),
            )
        return done[backend]

    return on


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_only_tensorflow_loads_tensorflow(left: Any, backend: str) -> None:
    """Keras itself looks at jax, where it is installed, on every backend."""
    run = left(backend)
    assert backend in run.loaded.split()
    assert ("tensorflow" in run.loaded.split()) == (backend == "tensorflow")
    assert run.outcome.environment.backend.startswith(f"{backend} ")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_outcome_is_that_of_tensorflow(left: Any, backend: str) -> None:
    """Frozen phase: to the rounding of the features. Fine-tuning: a step of another dropout."""
    ours, theirs = left(backend), left("tensorflow")
    for one, other in zip(ours.outcome.history, theirs.outcome.history, strict=True):
        assert (one.phase, one.epoch) == (other.phase, other.epoch)
        tolerance = 1e-3 if one.phase == "frozen" else 0.1
        assert one.validation_loss == pytest.approx(other.validation_loss, rel=tolerance)
    assert ours.outcome.cost.parameters == theirs.outcome.cost.parameters
    assert ours.outcome.cost.multiply_adds == theirs.outcome.cost.multiply_adds
    for name in ("train", "validation", "test"):
        difference = np.abs(ours.features[name] - theirs.features[name]).mean()
        assert difference < 0.05 * np.abs(theirs.features[name]).mean()
        agree = ours.probabilities[name].argmax(axis=1) == theirs.probabilities[name].argmax(axis=1)
        assert agree.mean() > 0.85


def test_the_parent_of_a_sweep_loads_no_framework(tmp_path: Path) -> None:
    """From the images to the tables and figures, whatever computes: with jax, no TensorFlow."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    settings = 'backend = "jax"\n[protocol]\nimage_size = 32\n[weights]\nsource = "random"\n'
    (tmp_path / "benchmark.toml").write_text(settings)
    data = str(make_set(tmp_path / "set.npz"))
    command = ["run", "mobilenet", "--data", data, "--results", "out"]
    root = str(Path(__file__).parents[3])
    answer = subprocess.run(
        [sys.executable, "-c", PARENT, *command, "--profile", "full"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root, "WBC_BENCH_CACHE": str(tmp_path / "cache")},
    )
    code, loaded = answer.stdout.splitlines()[-1].removeprefix("code ").split(" loaded ")
    assert code == "0", answer.stderr
    assert (tmp_path / "out" / "LEADERBOARD.md").exists()
    tops = {name.split(".")[0] for name in loaded.split()}
    assert {"matplotlib", "pydantic"} < tops
    assert not tops & {"tensorflow", "keras", "jax", "torch", "keras_cv"}
