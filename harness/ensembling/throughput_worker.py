"""Times members one after the other: ``python -m harness.ensembling.throughput_worker``.

A RelayJob comes on stdin, a Throughput goes back. The networks have random weights: how fast they
are does not depend on what they have learnt. The rest is as with harness.training.worker.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from harness.execution.child import serve, throttled


def main() -> int:
    return serve(_execute)


def _execute(job_text: str, emit: Any) -> dict[str, Any]:
    from harness.ensembling.throughput import RelayJob
    from harness.execution.locks import DeviceLock

    job = RelayJob.model_validate_json(job_text)
    protocol, device_lock = job.protocol, DeviceLock(job.device)
    with device_lock.shared():
        import keras

        from harness.augmentation.test_time import apply_view
        from harness.training.throughput import Meter
        from harness.training.train_step import Forward, to_numpy
        from zoo.factory import build
        from zoo.registry import find

        keras.config.set_dtype_policy(protocol.precision)
        networks = [Forward(build(find(name), protocol.image_size)) for name in job.recipes]
    size = protocol.image_size
    shape = (protocol.inference_batch, size, size, 3)
    batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    views = [apply_view(batch, view) for view in range(protocol.test_views)]

    def relay() -> None:
        for forward in networks:
            for view in views:
                to_numpy(forward(view))

    meter, step = Meter(), throttled(lambda done, of: emit("step", done=done, of=of))
    with device_lock.exclusive() as exclusive:
        relay()  # Warm: the first batch also traces.
        while not meter.enough():
            begin = time.perf_counter()
            relay()
            meter.seconds.append(time.perf_counter() - begin)
            step(len(meter.seconds), len(meter.seconds))
    result = meter.result(len(batch), protocol.precision, job.device_name, exclusive)
    return result.model_dump(mode="json")


if __name__ == "__main__":
    sys.exit(main())
