"""The Learner of the phases on images: the whole network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from harness.schema.protocol import Phase
from harness.training.batchnorm import BatchNormEstimator
from harness.training.checkpoint import Checkpoint
from harness.training.compilation import to_numpy
from harness.training.context import RunContext
from harness.training.device_images import DeviceImages
from harness.training.loop import BatchResults, Learner, PhaseName, TrainState
from harness.training.losses import class_weights, loss_targets
from harness.training.model import build_optimizer, equal_micro_batches
from harness.training.throughput import count_parameters
from harness.training.train_step import TrainStep

ESTIMATION_SHARE = 0.15
"""Of the training images, on which BatchNorm statistics are estimated. It takes about 5 % of an
epoch's time, since a training step costs three forward passes."""
FEWEST_BATCHES, MOST_BATCHES = 8, 40
"""Of that estimation."""


class NetworkLearner(Learner):
    """Trains the trainable layers of the run's backbone, and the head on it, on images."""

    def __init__(self, context: RunContext, head: keras.Model, phase: Phase) -> None:
        self._context, self._head, self._epochs = context, head, phase.epochs
        self._loss = context.run.protocol.loss
        self._class_weights = class_weights(self._loss, context.stream.targets)
        self._images: DeviceImages | None = None
        self._model = keras.Model(context.network.input, head(context.network.output))
        self.trainable_parameters = count_parameters(self._model.trainable_weights)
        batch_size = min(phase.batch_size, self.sample_count)
        self.micro_batches = equal_micro_batches(batch_size, context.options.micro_batches)
        optimizer = build_optimizer(phase.optimizer, self.micro_batches)
        timer = context.compile_timer
        self._step = TrainStep(self._model, optimizer, timer)
        self._batchnorm = BatchNormEstimator(self._model, context.device_lock, timer)
        self._batch_size = batch_size // self.micro_batches
        self._estimation_batches = _estimation_batches(context, self._batch_size)

    @property
    def programs(self) -> tuple[Callable[[], None], ...]:
        """What compiles every program of an epoch before the first one."""
        shape = (self._batch_size, *self._model.input.shape[1:])
        classes = len(self._context.data.class_names)
        images = self._context.epoch_on_device if self._step.chunk > 1 else None
        return (
            partial(self._step.compile_ahead, shape, classes, images),
            partial(self._batchnorm.compile_ahead, shape),
            *self._context.forward_programs,
        )

    @property
    def sample_count(self) -> int:
        return self._context.stream.rows

    def clock(self) -> float:
        """Seconds without those in which the process waited."""
        return self._context.device_lock.waits.clock()

    def on_epoch_begin(self, epoch: int) -> None:
        self._images = None  # Frees the memory of an augmented epoch before the next one.
        training_epoch = self._context.training_epoch(epoch, self._epochs)
        self._images, self._rows, self._targets = training_epoch
        self._chunk = self._step.chunk if self._images.on_device else 1
        smoothing = self._loss.label_smoothing
        self._loss_targets = loss_targets(self._targets, self._class_weights, smoothing)
        self._on_batch_end = self._context.callbacks.counter(self.sample_count)

    def train_on_batches(self, batches: np.ndarray, learning_rate: float) -> BatchResults:
        """In micro-batches of equal size: the mean of their losses is that of the batch."""
        self._step.set_learning_rate(learning_rate)
        parts = batches.reshape(len(batches) * self.micro_batches, -1)
        chunks = np.array_split(parts, -(-len(parts) // self._chunk))
        device_lock, results = self._context.device_lock, []
        for chunk in chunks:
            with device_lock.shared():
                result = self._train_on(chunk)
                # On a device of the run's own it is read when the epoch is over.
                results.append(result if device_lock.own else to_numpy(result))
            self._on_batch_end(chunk.size)
        rows = [
            to_numpy(result).reshape(-1, 1 + parts.shape[1])[: len(chunk)]
            for result, chunk in zip(results, chunks, strict=True)
        ]
        losses, y_pred = np.split(np.concatenate(rows), [1], axis=1)
        return BatchResults(
            losses.reshape(len(batches), -1).mean(axis=1, dtype=np.float64),
            self._targets[parts.ravel()].argmax(axis=1),
            y_pred.ravel().astype(int),
        )

    def _train_on(self, chunk: np.ndarray) -> Any:
        """What the steps on the batches at these indices (n, B) return, at least n."""
        assert self._images is not None, "an epoch begins before its batches"
        batches = self._rows[chunk], self._targets[chunk], self._loss_targets[chunk]
        if self._chunk > 1:
            return self._step.loop(self._images.array, *batches)
        ((rows,), (targets,), (loss_targets,)) = batches
        return self._step(self._images.take(rows), targets, loss_targets)

    def predict_validation(self) -> np.ndarray:
        self._step.sync_variables()
        if self._batchnorm.layers:
            images, _ = self._context.device_images("train")
            self._batchnorm.estimate(images.take, self._estimation_batches)
        images, rows = self._context.device_images("validation")
        features = self._context.extractor.extract(images.take, rows)
        return self._context.classify(self._head, features)

    def get_weights(self) -> list[np.ndarray]:
        with self._context.device_lock.shared():
            self._step.sync_variables()
            return [np.array(value) for value in self._model.get_weights()]  # JAX's are views.

    def set_weights(self, weights: list[np.ndarray]) -> None:
        with self._context.device_lock.shared():
            self._step.sync_variables()
            self._model.set_weights(weights)

    def save_checkpoint(self, phase: PhaseName, state: TrainState) -> None:
        checkpoints = self._context.options.checkpoints
        weights, moments = self._model.variables, self._moments()
        # The best weights are saved too, where they are not the present ones.
        size = 4 * count_parameters([*weights, *weights, *moments])
        if checkpoints is None or not checkpoints.due(state.history, size):
            return
        with self._context.device_lock.shared():
            self._step.sync_variables()
            arrays = {f"model-{i}": to_numpy(v) for i, v in enumerate(weights)}
            arrays |= {f"optimizer-{i}": to_numpy(v) for i, v in enumerate(moments)}
            arrays["steps"] = to_numpy(self._step.optimizer.iterations)
            if state.schedule.best_epoch != state.schedule.epoch:
                arrays |= {f"best-{i}": value for i, value in enumerate(state.best_weights)}
            checkpoints.save(phase, Checkpoint(state.schedule, state.history, arrays))

    def load_checkpoint(self, phase: PhaseName) -> TrainState | None:
        checkpoints = self._context.options.checkpoints
        checkpoint = checkpoints.load(phase) if checkpoints is not None else None
        if checkpoint is None:
            return None
        arrays = checkpoint.arrays
        for name, variables in (("model", self._model.variables), ("optimizer", self._moments())):
            for i, variable in enumerate(variables):
                variable.assign(arrays[f"{name}-{i}"])
        # Keras counts micro-batches; the checkpoint counts steps, for any number of them.
        self._step.optimizer.variables[0].assign(arrays["steps"] * self.micro_batches)
        best = [array for name, array in arrays.items() if name.startswith("best-")]
        return TrainState(checkpoint.schedule, checkpoint.history, best or self.get_weights())

    def _moments(self) -> list[keras.Variable]:
        """The optimizer's state without its number of steps and its sums over micro-batches."""
        return [
            variable
            for variable in self._step.optimizer.variables[1:]
            if "gradient_accumulator" not in variable.path
        ]


def _estimation_batches(context: RunContext, batch_size: int) -> list[np.ndarray]:
    """Rows of training images, not augmented, in batches of one size; the same in every epoch."""
    rows = np.random.default_rng([context.run.seed, *b"batchnorm"]).permutation(
        context.ids("train")
    )
    batch_size = min(batch_size, len(rows))
    count = round(ESTIMATION_SHARE * len(rows) / batch_size)
    count = min(max(count, FEWEST_BATCHES), MOST_BATCHES, len(rows) // batch_size)
    return list(rows[: count * batch_size].reshape(count, batch_size))
