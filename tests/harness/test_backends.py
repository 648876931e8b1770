"""One small recipe through every backend that is installed: the same outcome."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.devices import Device
from harness.launch import LOG, WorkerProcess
from harness.nouns import Optimizer, Outcome, Phase
from harness.store import FEATURES, PREDICTIONS, read_arrays, read_predictions

from .test_resume import job_of
from .test_train import IMAGENET, protocol, smear

__all__ = ["smear"]

TUNED = protocol(
    fine_tuning=Phase(epochs=1, batch_size=16, unfreeze=3, optimizer=Optimizer(learning_rate=1e-4))
)
WORKER = """
import sys
from harness import worker
code = worker.main()
print("loaded:", *sorted({"tensorflow", "jax", "torch"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
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
            environment = {**Device("cpu", "Test CPU").environment, "KERAS_BACKEND": backend}
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
