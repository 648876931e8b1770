"""Measures networks one after the other: ``python -m harness.ensembling.throughput_worker``.

Reads a ThroughputTask from stdin and returns MeasuredRates. The networks have random weights, which
do not change their speed.
"""

from __future__ import annotations

import sys
from itertools import repeat
from typing import Any

import numpy as np

from harness.execution.child import Emit, serve, wait_reporter


def _execute(task_text: str, emit: Emit) -> dict[str, Any]:
    from harness.ensembling.throughput import MeasuredRates, ThroughputTask
    from harness.execution.lock_holders import Waits
    from harness.execution.locks import DeviceLock

    task = ThroughputTask.model_validate_json(task_text)
    device_lock = DeviceLock(task.device.id, waits=Waits(wait_reporter(emit)))
    with device_lock.shared():
        import keras

        from harness.training.compilation import to_numpy
        from harness.training.device_memory import device_memory
        from harness.training.model import backend_version, make_deterministic, set_xla
        from harness.training.throughput import Meter, further_sizes
        from harness.training.train_step import Forward
        from zoo.factory import build
        from zoo.registry import find

        make_deterministic(keras.backend.backend())  # As runs are.
        keras.config.set_dtype_policy(task.precision)
        set_xla(task.xla)
        networks = [Forward(build(find(name), task.image_size)) for name in task.recipes]
    rng, side = np.random.default_rng(0), task.image_size

    def sample(size: int) -> np.ndarray:
        return rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8)

    def predict_all(images: np.ndarray) -> np.ndarray:
        return [to_numpy(forward(images)) for forward in networks][-1]

    batch = sample(task.batch)
    with device_lock.shared():
        predict_all(batch)  # The first call compiles.
    further = further_sizes(task.batch, gpu=device_memory() is not None)
    meter = Meter(task.views, further_sizes=further if len(networks) == 1 else ())
    meter.measure(predict_all, repeat(batch), sample, device_lock)
    rates = meter.rates(task.batch, task.precision, task.device.name)
    result = MeasuredRates(rates=rates, backend=backend_version())
    return result.model_dump(mode="json")


if __name__ == "__main__":
    sys.exit(serve(_execute))
