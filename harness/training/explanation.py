"""Grad-CAM maps of trained networks, computed by a child process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import UserError
from harness.evaluation.deletion import DeletionCurves
from harness.execution.processes import run_task
from harness.schema.base import FrozenModel
from harness.schema.events import Event
from harness.schema.run import Run
from harness.storage.files import read_arrays
from harness.storage.records import BACKBONE_WEIGHTS, HEAD_WEIGHTS

COMMAND_MODULE = "harness.training.explain_worker"


class TrainedNetwork(FrozenModel):
    """A finished run and the folder of its artefacts."""

    run: Run
    artefacts: str
    remedy: str
    """What to do where its weights do not fit."""
    weights: tuple[str | None, ...] = ()
    """Files of the backbone's branches where it stayed frozen."""

    @property
    def head_file(self) -> Path:
        return Path(self.artefacts) / HEAD_WEIGHTS

    @property
    def backbone_file(self) -> Path:
        return Path(self.artefacts) / BACKBONE_WEIGHTS

    @property
    def backbone_trained(self) -> bool:
        return self.run.phase_on_images is not None


class ExplainTask(FrozenModel):
    """What the child process computes: maps of some images for each network."""

    networks: tuple[TrainedNetwork, ...]
    data: str
    """Folder of the decoded data."""
    ids: tuple[int, ...]
    without_head: bool
    """Explain the pooled features instead of the class that is predicted."""
    device: str
    output: str = ""
    """Folder for an npz file a network."""


@dataclass(frozen=True)
class Explanation:
    """Of one network: probabilities (n, K) of the images, and signed maps (n, h, w)."""

    probabilities: np.ndarray
    maps: np.ndarray
    curves: DeletionCurves
    """Of the class that is predicted."""


def explain(
    task: ExplainTask, environment: Mapping[str, str], report: Callable[[Event], None]
) -> Sequence[Explanation | str]:
    """An explanation for each network, or the reason why there is none. Raises UserError.

    ``environment``: of the child process.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = task.model_copy(update={"output": folder})
        outcome, reason = run_task(COMMAND_MODULE, task, environment, report)
        if reason:
            raise UserError(f"nothing was explained: {reason}")
        return [
            problem or _read(Path(folder) / f"{i}.npz")
            for i, problem in enumerate(outcome["problems"])
        ]


def _read(path: Path) -> Explanation:
    arrays = read_arrays(path)
    curves = DeletionCurves(arrays["hottest"], arrays["random"])
    return Explanation(arrays["probabilities"], arrays["maps"], curves)
