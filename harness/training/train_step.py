"""The compiled inference step and training step of a network, on any backend.

Neither waits for its result: it returns the backend's tensor, which may still be computed on the
device until ``to_numpy`` fetches it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import ops

from harness.training.compilation import (
    CompileTimer,
    Inference,
    array_spec,
    compiled,
    to_numpy,
    zeros_like,
)
from harness.training.model import jit
from zoo.batchnorm_folding import fold_batchnorm

CHUNK = 16
"""Steps of one call, at most, where the backend runs many in one. Their work on a GPU takes longer
than the host needs to start them; another run on the same device waits no longer than this."""

HEAD_BATCH = 1024
"""Rows of features that a head's program classifies, the last ones filled up."""


class Forward(Inference):
    """A network's output, float32, for a batch of images on the host or the device."""

    def __init__(self, network: keras.Model, compile_timer: CompileTimer | None = None) -> None:
        # Only TensorFlow's CPU kernels leave each BatchNorm as two passes over the feature maps.
        fold = keras.backend.backend() == "tensorflow" and not jit()
        self._network = fold_batchnorm(network) if fold else network
        super().__init__(self._features, self._network.variables, compile_timer or CompileTimer())

    def _features(self, images: Any) -> Any:
        return ops.cast(self._network(images, training=False), "float32")


def classify(head: keras.Model, features: np.ndarray) -> np.ndarray:
    """Probabilities float32 (n, K) of features (n, width).

    On JAX by one program for any n; outside of a program it compiles every operation for every n.
    """
    if keras.backend.backend() != "jax":
        return to_numpy(head(features, training=False)).astype(np.float32)
    forward, width = _forward(head), features.shape[1]
    batches = [features[i : i + HEAD_BATCH] for i in range(0, len(features), HEAD_BATCH)]
    outputs = [forward(np.resize(batch, (HEAD_BATCH, width))) for batch in batches]
    return np.concatenate([to_numpy(output) for output in outputs])[: len(features)]


@cache
def _forward(head: keras.Model) -> Forward:
    return Forward(head)


class TrainStep:
    """One optimizer step of a model on a batch: cross-entropy and the layers' penalties.

    On JAX the weights leave the model's variables while steps follow each other; call
    ``sync_variables`` before the model is used otherwise.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.Optimizer,
        compile_timer: CompileTimer | None = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self._compile_timer = compile_timer or CompileTimer()
        self._learning_rate: float | None = None
        self._state: tuple[list[Any], ...] | None = None
        optimizer.build(model.trainable_variables)
        match keras.backend.backend():
            case "jax":
                self._program = compiled(self._jax_step, donate=(0,))
                self._loop_program = compiled(self._jax_loop, donate=(0,))
                self._step = self._stateful(self._program)
                self._loop = self._stateful(self._loop_program)
            case "tensorflow":
                self._step = compiled(self._tensorflow_step)
            case _:
                self._step = self._torch_step

    def __call__(self, images: Any, targets: np.ndarray, loss_targets: np.ndarray) -> Any:
        """(1 + n,): the batch's mean cross-entropy to ``targets`` before the step, without
        penalties, then the class that each image was predicted as.

        The gradient is that of the cross-entropy to ``loss_targets`` (see
        harness.training.losses). Both float32 (n, K).
        """
        return self._compile_timer.call(self._step, images, targets, loss_targets)

    @property
    def chunk(self) -> int:
        """Steps of one call of ``loop``, at most; 1 where the backend has no such call."""
        return CHUNK if keras.backend.backend() == "jax" else 1

    def loop(
        self, images: Any, rows: np.ndarray, targets: np.ndarray, loss_targets: np.ndarray
    ) -> Any:
        """One step after the other in one call: the batches are ``rows`` (n, B) of the images.

        ``images`` are in the device's memory, the targets (n, B, K). Returns ``CHUNK`` rows, of
        which the first n count: any n is the same compiled program. Not for a CPU, whose
        convolutions XLA computes many times slower inside a loop.
        """
        batches = rows.astype(np.int32), targets, loss_targets
        padded = [np.resize(array, (CHUNK, *array.shape[1:])) for array in batches]
        return self._compile_timer.call(self._loop, images, *padded, np.int32(len(rows)))

    def compile_ahead(self, shape: tuple[int, ...], classes: int, images: Any = None) -> None:
        """Compile for batches of this shape (B, S, S, 3), uint8, before the first call.

        ``images``: those that ``loop`` will read on the device, or an ``array_spec`` of them; None:
        for single steps.
        """
        batch = [array_spec(shape, "uint8"), *[array_spec((shape[0], classes))] * 2]
        program = self._program
        if images is not None:
            targets = array_spec((CHUNK, shape[0], classes))
            batch = [images, array_spec((CHUNK, shape[0]), "int32"), targets, targets, np.int32(1)]
            program = self._loop_program
        self._compile_timer.compile_ahead(
            program, self._values(), *batch, execute=lambda: self._execute_once(program, batch)
        )

    def _execute_once(self, program: Callable[..., Any], batch: Sequence[Any]) -> None:
        """One step that leaves no trace: the program overwrites the state, which is kept here."""
        state = self._values()
        kept = [[np.array(to_numpy(value)) for value in values] for values in state]
        try:
            returned, _ = program(state, *map(zeros_like, batch))
            to_numpy(returned)
        finally:
            self._assign(kept)

    def set_learning_rate(self, learning_rate: float) -> None:
        if learning_rate != self._learning_rate:
            self.sync_variables()
            self.optimizer.learning_rate = self._learning_rate = learning_rate

    def sync_variables(self) -> None:
        """Assign the weights and the optimizer's state to their variables."""
        if self._state is not None:
            self._assign(self._state)
            self._state = None

    def _assign(self, state: Sequence[Sequence[Any]]) -> None:
        for variables, values in zip(self._variables(), state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def _values(self) -> tuple[list[Any], ...]:
        return tuple([v.value for v in variables] for variables in self._variables())

    def _variables(self) -> tuple[list[keras.Variable], ...]:
        model = self.model
        return model.trainable_variables, model.non_trainable_variables, self.optimizer.variables

    def _losses(
        self, predicted: Any, penalties: Any, targets: Any, loss_targets: Any
    ) -> tuple[Any, Any]:
        """The loss to minimise, and what the step returns."""
        # TensorFlow's kernel expects targets that sum to 1.
        mass = ops.sum(loss_targets, axis=1, keepdims=True)
        normalised = loss_targets / ops.maximum(mass, keras.config.epsilon())
        weighted, plain = (
            keras.losses.categorical_crossentropy(to, predicted) for to in (normalised, targets)
        )
        classes = ops.cast(ops.argmax(predicted, axis=-1), "float32")
        returned = ops.concatenate([ops.mean(plain)[None], classes])
        return ops.mean(weighted * mass[:, 0]) + sum(penalties), returned

    def _stateful(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """``step`` with the weights and the optimizer's state that the last call has left."""

        def call(*batch: Any) -> Any:
            if self._state is None:
                self._state = self._values()
            returned, self._state = step(self._state, *batch)
            returned.copy_to_host_async()  # On the host when the epoch is over.
            return returned

        return call

    def _jax_loop(
        self, state: Any, images: Any, rows: Any, targets: Any, loss_targets: Any, count: Any
    ) -> Any:
        import jax

        def step(i: Any, carry: Any) -> Any:
            state, returned = carry
            batch = ops.take(images, rows[i], axis=0), targets[i], loss_targets[i]
            row, state = self._jax_step(state, *batch)
            return state, returned.at[i].set(row)

        empty = ops.zeros((CHUNK, 1 + rows.shape[1]))
        state, returned = jax.lax.fori_loop(0, count, step, (state, empty))
        return returned, state

    def _jax_step(self, state: Any, images: Any, targets: Any, loss_targets: Any) -> Any:
        import jax

        trainable, others, moments = state

        def loss(trainable: Any) -> Any:
            predicted, others_after, penalties = self.model.stateless_call(
                trainable, others, images, return_losses=True, training=True
            )
            total, returned = self._losses(predicted, penalties, targets, loss_targets)
            return total, (returned, others_after)

        gradients, (returned, others) = jax.grad(loss, has_aux=True)(trainable)
        trainable, moments = self.optimizer.stateless_apply(moments, gradients, trainable)
        return returned, (trainable, others, moments)

    def _tensorflow_step(self, images: Any, targets: Any, loss_targets: Any) -> Any:
        import tensorflow as tf

        trainable = self.model.trainable_weights
        with tf.GradientTape() as tape:
            predicted = self.model(images, training=True)
            total, returned = self._losses(predicted, self.model.losses, targets, loss_targets)
        self.optimizer.apply(tape.gradient(total, trainable), trainable)
        return returned

    def _torch_step(self, images: Any, targets: Any, loss_targets: Any) -> Any:
        import torch

        trainable = self.model.trainable_weights
        self.model.zero_grad()
        predicted = self.model(images, training=True)
        total, returned = self._losses(predicted, self.model.losses, targets, loss_targets)
        total.backward()
        with torch.no_grad():
            self.optimizer.apply([variable.value.grad for variable in trainable], trainable)
        return returned.detach()
