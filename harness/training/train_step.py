"""A network's two steps, compiled on any backend: one forward, and one of training.

Neither is waited for: what they give is the backend's own tensor, still on the device and perhaps
still being computed, until ``numbers`` fetches it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from harness.training.model import folded_for_inference, jit


def to_numpy(tensor: Any) -> np.ndarray:
    """Any backend's tensor or variable as an array of the host's, once it is computed."""
    return np.asarray(ops.convert_to_numpy(tensor))


def compiled(function: Callable[..., Any], donate: tuple[int, ...] = ()) -> Callable[..., Any]:
    """``function`` as the backend runs it best; it may overwrite the arguments in ``donate``."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function, donate_argnums=donate)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=jit() or None)
    return function


@dataclass
class CompileTimer:
    """The seconds that steps took to compile: what a shape's first call took beyond its second.

    Both are waited for, so that their times are those of the whole step.
    """

    _taken: dict[tuple[Any, ...], list[float]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return sum(max(0.0, first - sum(second)) for first, *second in self._taken.values())

    def watch(self, step: Callable[..., Any], *batch: Any) -> Any:
        """``step`` of a batch, timed if that is news."""
        taken = self._taken.setdefault((id(step), *(each.shape for each in batch)), [])
        if len(taken) == 2:
            return step(*batch)
        begin = time.perf_counter()
        found = step(*batch)
        to_numpy(found)
        taken.append(time.perf_counter() - begin)
        return found


class Forward:
    """Pooled features, float32, of a batch of images, the host's or the device's."""

    def __init__(self, network: keras.Model, compiling: CompileTimer | None = None) -> None:
        self._network = folded_for_inference(network)
        self._compiling = compiling or CompileTimer()
        self._step = self._on_jax() if keras.backend.backend() == "jax" else self._elsewhere()

    def __call__(self, images: Any) -> Any:
        return self._compiling.watch(self._step, images)

    def _features(self, images: Any) -> Any:
        return ops.cast(self._network(images, training=False), "float32")

    def _on_jax(self) -> Callable[[Any], Any]:
        # All variables in one list: which of them learn changes, and nothing recompiles.
        variables = self._network.variables

        def features(values: list[Any], images: Any) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return self._features(images)

        step = compiled(features)
        return lambda images: step([variable.value for variable in variables], images)

    def _elsewhere(self) -> Callable[[Any], Any]:
        if keras.backend.backend() == "torch":
            import torch

            return torch.no_grad()(self._features)
        return compiled(self._features)


class TrainingStep:
    """One step of a model along the gradient of its cross-entropy and its penalties.

    On JAX the weights leave the model's variables for as long as steps follow each other;
    ``settle`` brings them back, and must come before anybody else looks at the model.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.Optimizer,
        compiling: CompileTimer | None = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self._compiling = compiling or CompileTimer()
        self._rate: float | None = None
        self._state: tuple[list[Any], ...] | None = None
        optimizer.build(model.trainable_variables)
        match keras.backend.backend():
            case "jax":
                self._stateless = compiled(self._on_jax, donate=(0,))
                self._step = self._carried
            case "tensorflow":
                self._step = compiled(self._on_tensorflow)
            case _:
                self._step = self._on_torch

    def __call__(self, images: Any, targets: np.ndarray, aims: np.ndarray) -> Any:
        """The batch's mean cross-entropy to ``targets`` before the step, without penalties.

        The step goes along that to ``aims`` (see harness.training.loop). Both: float32 (n, K).
        """
        return self._compiling.watch(self._step, images, targets, aims)

    def pace(self, learning_rate: float) -> None:
        """The learning rate of the steps to come."""
        if learning_rate != self._rate:
            self.settle()
            self.optimizer.learning_rate = self._rate = learning_rate

    def settle(self) -> None:
        """Bring the weights and the optimizer's state back to their variables."""
        if self._state is not None:
            for variables, values in zip(self._variables(), self._state, strict=True):
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(value)
            self._state = None

    def _variables(self) -> tuple[list[keras.Variable], ...]:
        model = self.model
        return model.trainable_variables, model.non_trainable_variables, self.optimizer.variables

    def _told(self, predicted: Any, penalties: Any, targets: Any, aims: Any) -> tuple[Any, Any]:
        """What is minimised, and what is told."""
        # TensorFlow's kernel takes it for granted that what it is given sums to 1.
        mass = ops.sum(aims, axis=1, keepdims=True)
        shares = aims / ops.maximum(mass, keras.config.epsilon())
        pulled, plain = (
            keras.losses.categorical_crossentropy(to, predicted) for to in (shares, targets)
        )
        return ops.mean(pulled * mass[:, 0]) + sum(penalties), ops.mean(plain)

    # JAX

    def _carried(self, *batch: Any) -> Any:
        if self._state is None:
            self._state = tuple([v.value for v in variables] for variables in self._variables())
        plain, self._state = self._stateless(self._state, *batch)
        plain.copy_to_host_async()  # It will be there when the epoch is over.
        return plain

    def _on_jax(self, state: Any, images: Any, targets: Any, aims: Any) -> Any:
        import jax

        learning, others, moments = state

        def loss(learning: Any) -> Any:
            predicted, after, penalties = self.model.stateless_call(
                learning, others, images, return_losses=True, training=True
            )
            total, plain = self._told(predicted, penalties, targets, aims)
            return total, (plain, after)

        gradients, (plain, others) = jax.grad(loss, has_aux=True)(learning)
        learning, moments = self.optimizer.stateless_apply(moments, gradients, learning)
        return plain, (learning, others, moments)

    # TensorFlow

    def _on_tensorflow(self, images: Any, targets: Any, aims: Any) -> Any:
        import tensorflow as tf

        learning = self.model.trainable_weights
        with tf.GradientTape() as tape:
            predicted = self.model(images, training=True)
            total, plain = self._told(predicted, self.model.losses, targets, aims)
        self.optimizer.apply(tape.gradient(total, learning), learning)
        return plain

    # PyTorch

    def _on_torch(self, images: Any, targets: Any, aims: Any) -> Any:
        import torch

        learning = self.model.trainable_weights
        self.model.zero_grad()
        predicted = self.model(images, training=True)
        total, plain = self._told(predicted, self.model.losses, targets, aims)
        total.backward()
        with torch.no_grad():
            self.optimizer.apply([variable.value.grad for variable in learning], learning)
        return plain.detach()
