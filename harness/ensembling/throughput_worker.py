"""Measures members one after the other: ``python -m harness.ensembling.throughput_worker``.

Reads a ThroughputTask from stdin and returns a Throughput. The networks have random weights, which
do not change their speed.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from harness.execution.child import Emit, serve, step_reporter


def main() -> int:
    return serve(_execute)


def _execute(task_text: str, emit: Emit) -> dict[str, Any]:
    from harness.ensembling.throughput import ThroughputTask
    from harness.execution.locks import DeviceLock

    task = ThroughputTask.model_validate_json(task_text)
    protocol, device_lock = task.protocol, DeviceLock(task.device)
    with device_lock.shared():
        import keras

        from harness.augmentation.test_time import apply_view
        from harness.training.throughput import Meter
        from harness.training.train_step import Forward, to_numpy
        from zoo.factory import build
        from zoo.registry import find

        keras.config.set_dtype_policy(protocol.precision)
        networks = [Forward(build(find(name), protocol.image_size)) for name in task.recipes]
    size = protocol.image_size
    shape = (protocol.inference_batch, size, size, 3)
    batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    views = [apply_view(batch, view) for view in range(protocol.test_views)]

    def predict_all() -> None:
        for forward in networks:
            for view in views:
                to_numpy(forward(view))

    meter, step = Meter(), step_reporter(emit)
    with device_lock.exclusive() as meter.exclusive:
        predict_all()  # Warm up: the first call compiles.
        while not meter.enough():
            start = time.perf_counter()
            predict_all()
            meter.seconds.append(time.perf_counter() - start)
            step(len(meter.seconds), len(meter.seconds))
    result = meter.result(len(batch), protocol.precision, task.device_name)
    return result.model_dump(mode="json")


if __name__ == "__main__":
    sys.exit(main())
