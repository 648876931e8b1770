"""The whole network, learning from images: the Learner of all phases but the frozen one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from harness.training.checkpoint import Checkpoint
from harness.training.context import RunContext
from harness.training.device_images import DeviceImages
from harness.training.loop import PhaseName, TrainState
from harness.training.losses import class_weights, loss_targets
from harness.training.train_step import TrainingStep, to_numpy


@dataclass
class NetworkLearner:
    """The whole network, learning from images. See harness.training.loop."""

    training: TrainingStep
    context: RunContext
    head: keras.Model
    epochs: int
    """At most."""
    parts: int = 1

    def __post_init__(self) -> None:
        self._images: DeviceImages | None = None
        self._ids = self.context.ids("train")[self.context.sample_indices]
        self._targets = self.context.labels[0]
        self._class_weights = class_weights(self.context.run.protocol.loss, self._targets)
        self._aims = self._aimed()
        self._done = 0

    def begin(self, epoch: int) -> None:
        self._done = 0
        if self.context.reader is None:
            self._images = self.context.resident
        else:
            made = self.context.reader.read(epoch, self.epochs)
            self._images = None  # Let go of its memory before the next is laid there.
            self._images, self._ids = self.context.laid(made.images), np.arange(len(made.images))
            self._targets = made.targets
            self._aims = self._aimed()

    def step(self, order: np.ndarray, learning_rate: float) -> Any:
        """In parts of equal size, so that the mean of their losses is that of the batch."""
        self.training.pace(learning_rate)
        losses = [self._gradient(part) for part in np.split(order, self.parts)]
        self._done += len(order)
        self.context.events.step(self._done, len(self._ids))
        return sum(losses) / self.parts

    def _gradient(self, order: np.ndarray) -> Any:
        """The loss, still on the device if that is the run's own: nothing waits for it."""
        assert self._images is not None, "an epoch begins before its steps"
        device_lock = self.context.events.device_lock
        with device_lock.shared():
            images = self._images.take(self._ids[order])
            loss = self.training(images, self._targets[order], self._aims[order])
            return loss if device_lock.own else float(to_numpy(loss))

    def _aimed(self) -> np.ndarray:
        smoothing = self.context.run.protocol.loss.label_smoothing
        return loss_targets(self._targets, self._class_weights, smoothing)

    def validate(self) -> np.ndarray:
        self.training.settle()
        features = self.context.sweep_over("validation")
        return to_numpy(self.head(features, training=False))

    def state(self) -> list[np.ndarray]:
        self.training.settle()
        return [np.array(value) for value in self.model.get_weights()]  # JAX's are views.

    def restore(self, state: list[np.ndarray]) -> None:
        self.training.settle()
        self.model.set_weights(state)

    @property
    def model(self) -> keras.Model:
        return self.training.model

    # Across processes

    def keep(self, name: PhaseName, stage: TrainState) -> None:
        keeper = self.context.events.keeper
        if keeper is None or not keeper.due():
            return
        self.training.settle()
        arrays = {f"model-{i}": to_numpy(v) for i, v in enumerate(self.model.variables)}
        arrays |= {f"optimizer-{i}": to_numpy(v) for i, v in enumerate(self._moments())}
        arrays["steps"] = to_numpy(self.training.optimizer.iterations)
        if stage.pace.best_epoch != stage.pace.epoch:
            arrays |= {f"best-{i}": value for i, value in enumerate(stage.best)}
        keeper.keep(name, Checkpoint(stage.pace, stage.curve, arrays))

    def recall(self, name: PhaseName) -> TrainState | None:
        keeper = self.context.events.keeper
        kept = keeper.recall(name) if keeper is not None else None
        if kept is None:
            return None
        for prefix, variables in (("model", self.model.variables), ("optimizer", self._moments())):
            for i, variable in enumerate(variables):
                variable.assign(kept.arrays[f"{prefix}-{i}"])
        # Keras counts micro-batches; the checkpoint counts steps, and fits any number of parts.
        self.training.optimizer.variables[0].assign(kept.arrays["steps"] * self.parts)
        best = [array for key, array in kept.arrays.items() if key.startswith("best-")]
        return TrainState(kept.pace, kept.curve, best or self.state())

    def _moments(self) -> list[keras.Variable]:
        """What the optimizer remembers from one step to the next, beside their number."""
        return [
            variable
            for variable in self.training.optimizer.variables[1:]
            if "gradient_accumulator" not in variable.path
        ]
