"""What a trial is worth: a protocol -> its score on the validation images.

Test images are never predicted here: functions that fit take no test arrays.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.data.sampling import sample_indices
from harness.errors import UserError
from harness.evaluation import metrics
from harness.execution.devices import Device
from harness.execution.locks import acquire_gpu
from harness.execution.processes import run_task
from harness.schema.events import Event
from harness.schema.protocol import Protocol
from harness.schema.tuning import TrialOutcome
from harness.storage.files import read_arrays
from harness.storage.records import FEATURES
from harness.sweep.planner import PlannedRun
from harness.sweep.scheduler import SweepContext
from harness.training.head import fit_head
from harness.training.loop import Diverged

COMMAND_MODULE = "harness.training.worker"
POLL_SECONDS = 0.5
"""Between two looks for a GPU that no sweep uses."""

Objective = Callable[[Protocol], TrialOutcome]


class TrialFailed(Exception):
    """A trial has no score; the message says why."""


@dataclass(frozen=True)
class Training:
    """Trains the whole network of each trial, in a child process."""

    base: PlannedRun
    context: SweepContext
    """Its store holds what a trial under way writes."""
    devices: Sequence[Device]
    on_event: Callable[[Event], None] = lambda _: None

    def __call__(self, protocol: Protocol) -> TrialOutcome:
        """Raises TrialFailed."""
        outcome = self.train(protocol)
        shutil.rmtree(self.output(protocol), ignore_errors=True)
        return outcome

    def output(self, protocol: Protocol) -> Path:
        return self.context.store.artefacts(self._run(protocol).run)

    def train(self, protocol: Protocol) -> TrialOutcome:
        """Like calling it, but what was written stays. Raises TrialFailed."""
        device, release = self._acquire()
        try:
            job = self.context.job(self._run(protocol), device)
            job = job.model_copy(update={"trial": True})
            environment = self.context.environment(device)
            outcome, reason = run_task(COMMAND_MODULE, job, environment, self.on_event)
        finally:
            release()
        if reason:
            raise TrialFailed(reason)
        return TrialOutcome.model_validate(outcome)

    def _run(self, protocol: Protocol) -> PlannedRun:
        run = self.base.run.model_copy(update={"protocol": protocol})
        return replace(self.base, run=run)

    def _acquire(self) -> tuple[Device, Callable[[], None]]:
        """The first device that no other process holds for itself, and what lets go of it."""
        while True:
            for device in self.devices:
                if device.id == "cpu":
                    return device, lambda: None
                if lock := acquire_gpu(device):
                    return device, lock.release
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class OnFeatures:
    """Trains the head of each trial on features of the frozen backbone, as the frozen phase does.

    ``features`` (n, width) and one-hot ``targets`` (n, K): of "train" and "validation".
    """

    features: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]
    seed: int

    def __call__(self, protocol: Protocol) -> TrialOutcome:
        """Raises TrialFailed."""
        features, targets = self.features, self.targets
        rows = sample_indices(protocol.loss, targets["train"], self.seed)
        try:
            head = fit_head(
                (features["train"][rows], targets["train"][rows]),
                (features["validation"], targets["validation"]),
                protocol,
                self.seed,
                [features["train"].shape[1]],
            )
        except Diverged as error:
            raise TrialFailed(str(error)) from None
        probabilities = head.predict(features["validation"])
        return metrics.trial_outcome(targets["validation"], probabilities)


def stored_features(
    training: Training, finished: Path, protocol: Protocol
) -> dict[str, np.ndarray]:
    """Features of training and validation images, by part; computed where nobody has yet.

    ``finished``: where a finished run of this protocol has them. Raises UserError.
    """
    own = training.output(protocol) / FEATURES
    path = finished if finished.exists() else own
    if not path.exists():
        try:
            training.train(protocol)
        except TrialFailed as error:
            raise UserError(f"the features could not be computed: {error}") from None
    arrays = read_arrays(path)
    return {part: arrays[part] for part in ("train", "validation")}
