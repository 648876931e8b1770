"""Compiling: functions into programs of the backend, ahead of their first call, and its account."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from harness.execution.child import failure_status
from harness.execution.devices import PREPARING_GB
from harness.training.device_memory import device_memory
from harness.training.model import jit


def to_numpy(tensor: Any) -> np.ndarray:
    """Any backend's tensor or variable as an array of the host, once it is computed."""
    return np.asarray(ops.convert_to_numpy(tensor))


def compiled(function: Callable[..., Any], donate: tuple[int, ...] = ()) -> Callable[..., Any]:
    """``function``, compiled by the backend; it may overwrite the arguments in ``donate``."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function, donate_argnums=donate)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=jit() or None)
    return function


def compiles_ahead() -> bool:
    """Whether the backend compiles a program before its first call."""
    return keras.backend.backend() == "jax"


def array_spec(shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """Stands for an array in ``CompileTimer.compile_ahead``."""
    import jax

    return jax.ShapeDtypeStruct(shape, dtype)


def zeros_like(argument: Any) -> Any:
    """Zeros for an ``array_spec``; any other argument as it is."""
    import jax

    if isinstance(argument, jax.ShapeDtypeStruct):
        return ops.zeros(argument.shape, argument.dtype.name)
    return argument


@dataclass
class CompileTimer:
    """Seconds that steps took to compile: ahead, or a shape's first call less its second."""

    _ahead: float = 0.0
    _calls: dict[tuple[Any, ...], list[float]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self._ahead + sum(
            max(0.0, first - sum(second)) for first, *second in self._calls.values()
        )

    def compile_ahead(
        self, step: Any, *arguments: Any, execute: Callable[[], object] = lambda: None
    ) -> None:
        """Compile what ``compiled`` made, for arguments of these shapes, before its first call.

        Only where ``compiles_ahead``: JAX then calls what has been compiled here. On a GPU
        ``execute`` then calls it once, if that needs no more memory than a run may take that
        prepares: cuDNN seems to compile depthwise convolutions only as they are first executed,
        and no cache keeps them.
        """
        start = time.perf_counter()
        program = step.lower(*arguments).compile()
        if device_memory() is not None and _temporary_bytes(program) <= 1e9 * PREPARING_GB:
            try:
                execute()
            except Exception as error:  # JAX has one of its own.
                if failure_status(error) != "out of memory":  # Another run has it for now.
                    raise
        self._ahead += time.perf_counter() - start

    def call(self, step: Callable[..., Any], *batch: Any) -> Any:
        """``step(*batch)``; the first two of a shape are waited for and timed.

        Where programs are compiled ahead, none is.
        """
        if self._ahead:
            return step(*batch)
        times = self._calls.setdefault((id(step), *(array.shape for array in batch)), [])
        if len(times) == 2:
            return step(*batch)
        start = time.perf_counter()
        result = step(*batch)
        to_numpy(result)
        times.append(time.perf_counter() - start)
        return result


def _temporary_bytes(program: Any) -> float:
    """Memory of a compiled program besides its arguments and results, in bytes."""
    return float(getattr(program.memory_analysis(), "temp_size_in_bytes", math.inf))


class Inference:
    """A function of a batch of images, compiled, with the values that ``variables`` have by then.

    Nothing recompiles when others of them become trainable.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        variables: Sequence[keras.Variable],
        compile_timer: CompileTimer,
    ) -> None:
        self._function, self._variables, self._compile_timer = function, variables, compile_timer
        match keras.backend.backend():
            case "jax":
                self._program = compiled(self._stateless)
                self._step = lambda images: self._program(self._values(), images)
            case "torch":
                import torch

                self._step = torch.no_grad()(function)
            case _:
                self._step = compiled(function)

    def __call__(self, images: Any) -> Any:
        return self._compile_timer.call(self._step, images)

    def compile_ahead(self, shape: tuple[int, ...]) -> None:
        """Compile for uint8 images of this shape (B, S, S, 3) before the first call."""
        images = array_spec(shape, "uint8")
        self._compile_timer.compile_ahead(
            self._program,
            self._values(),
            images,
            execute=lambda: to_numpy(self._program(self._values(), zeros_like(images))),
        )

    def _values(self) -> list[Any]:
        return [variable.value for variable in self._variables]

    def _stateless(self, values: list[Any], images: Any) -> Any:
        mapping = list(zip(self._variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return self._function(images)


@dataclass
class ProgramCount:
    """Programs that XLA was asked for in this process, and those found in the cache."""

    requested: int = 0
    cached: int = 0

    @property
    def compiled(self) -> int:
        return self.requested - self.cached


def count_programs() -> ProgramCount | None:
    """A count from now on; None on a backend that does not report its programs."""
    if keras.backend.backend() != "jax":
        return None
    import jax

    count = ProgramCount()

    def on_event(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            count.cached += 1

    def on_duration(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            count.requested += 1

    jax.monitoring.register_event_listener(on_event)
    jax.monitoring.register_event_duration_secs_listener(on_duration)
    return count
