"""The whole network, learning from images: the Learner of all phases but the frozen one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from harness.checkpoint import Progress
from harness.learn import PhaseName, Stage, class_weights, sample_weights

if TYPE_CHECKING:
    from harness.train import _Bench as Bench


@dataclass
class ImageLearner:
    """The whole network, learning from images. See harness.learn."""

    model: keras.Model
    bench: Bench
    head: keras.Model
    epochs: int
    """At most."""
    parts: int = 1

    def __post_init__(self) -> None:
        self._images = self.bench.data.images
        self._ids = self.bench.ids("train")[self.bench.drawn]
        self._targets = self.bench.labels[0]
        self._class_weights = class_weights(self.bench.run.protocol.loss, self._targets)
        self._weights = sample_weights(self._targets, self._class_weights)
        self._done = 0

    def begin(self, epoch: int) -> None:
        self._done = 0
        if self.bench.reader is not None:
            made = self.bench.reader.read(epoch, self.epochs)
            self._images, self._ids = made.images, np.arange(len(made.images))
            self._targets = made.targets
            self._weights = sample_weights(made.targets, self._class_weights)

    def step(self, order: np.ndarray, learning_rate: float) -> float:
        """In parts of equal size, so that the mean of their losses is that of the batch."""
        self.model.optimizer.learning_rate = learning_rate
        losses = [self._gradient(part) for part in np.split(order, self.parts)]
        self._done += len(order)
        self.bench.events.step(self._done, len(self._ids))
        return float(np.mean(losses))

    def _gradient(self, order: np.ndarray) -> float:
        images = np.asarray(self._images[self._ids[order]])
        with self.bench.events.quiet.working():
            logs = self.model.train_on_batch(
                images, self._targets[order], self._weights[order], return_dict=True
            )
        return float(logs["plain"])

    def validate(self) -> np.ndarray:
        features = self.bench.sweep_over("validation")
        return numbers(self.head(features, training=False))

    def state(self) -> list[np.ndarray]:
        return self.model.get_weights()

    def restore(self, state: list[np.ndarray]) -> None:
        self.model.set_weights(state)

    # Across processes

    def keep(self, name: PhaseName, stage: Stage) -> None:
        keeper = self.bench.events.keeper
        if keeper is None or not keeper.due():
            return
        arrays = {f"model-{i}": numbers(v) for i, v in enumerate(self.model.variables)}
        arrays |= {f"optimizer-{i}": numbers(v) for i, v in enumerate(self._moments())}
        arrays["steps"] = numbers(self.model.optimizer.iterations)
        if stage.pace.best_epoch != stage.pace.epoch:
            arrays |= {f"best-{i}": value for i, value in enumerate(stage.best)}
        keeper.keep(name, Progress(stage.pace, stage.curve, arrays))

    def recall(self, name: PhaseName) -> Stage | None:
        keeper = self.bench.events.keeper
        kept = keeper.recall(name) if keeper is not None else None
        if kept is None:
            return None
        optimizer = self.model.optimizer
        optimizer.build(self.model.trainable_variables)
        for prefix, variables in (("model", self.model.variables), ("optimizer", self._moments())):
            for i, variable in enumerate(variables):
                variable.assign(kept.arrays[f"{prefix}-{i}"])
        # Keras counts micro-batches; the checkpoint counts steps, and fits any number of parts.
        optimizer.variables[0].assign(kept.arrays["steps"] * self.parts)
        best = [array for key, array in kept.arrays.items() if key.startswith("best-")]
        return Stage(kept.pace, kept.curve, best or self.state())

    def _moments(self) -> list[keras.Variable]:
        """What the optimizer remembers from one step to the next, beside their number."""
        return [
            variable
            for variable in self.model.optimizer.variables[1:]
            if "gradient_accumulator" not in variable.path
        ]


def numbers(tensor: Any) -> np.ndarray:
    """Any backend's tensor or variable as an array of the host's."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))
