"""Measures members one after the other: ``python -m harness.ensembling.throughput_worker``.

Reads a ThroughputTask from stdin and returns a Throughput. The networks have random weights, which
do not change their speed.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from harness.execution.child import Emit, serve, step_reporter, wait_reporter


def _execute(task_text: str, emit: Emit) -> dict[str, Any]:
    from harness.ensembling.throughput import ThroughputTask
    from harness.execution.lock_holders import Waits
    from harness.execution.locks import DeviceLock

    task = ThroughputTask.model_validate_json(task_text)
    protocol, waits = task.protocol, Waits(wait_reporter(emit))
    device_lock = DeviceLock(task.device.id, waits=waits)
    with device_lock.shared():
        import keras

        from harness.training.compilation import to_numpy
        from harness.training.throughput import Meter
        from harness.training.train_step import Forward
        from zoo.factory import build
        from zoo.registry import find

        keras.config.set_dtype_policy(protocol.precision)
        networks = [Forward(build(find(name), protocol.image_size)) for name in task.recipes]
    size = protocol.image_size
    shape = (protocol.inference_batch, size, size, 3)
    batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def predict_all(images: np.ndarray) -> np.ndarray:
        return [to_numpy(forward(images)) for forward in networks][-1]

    meter, step = Meter(protocol.test_views), step_reporter(emit)
    with meter.alone(device_lock):
        predict_all(batch)  # Warm up: the first call compiles.
        while not meter.enough():
            meter.measure(predict_all, batch)
            step(len(meter.seconds), len(meter.seconds))
    result = meter.result(len(batch), protocol.precision, task.device.name)
    return result.model_dump(mode="json")


if __name__ == "__main__":
    sys.exit(serve(_execute))
