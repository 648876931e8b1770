"""The child process that times members one after the other: ``python -m harness.relay``.

A RelayJob comes on stdin, a Throughput goes back. The networks have random weights: how fast they
are does not depend on what they have learnt. The rest is as with harness.worker.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from harness.worker import seldom, serve


def main() -> int:
    return serve(_execute)


def _execute(job_text: str, emit: Any) -> dict[str, Any]:
    from harness.quiet import Quiet
    from harness.rates import RelayJob

    job = RelayJob.model_validate_json(job_text)
    protocol, quiet = job.protocol, Quiet(job.device)
    with quiet.working():
        import keras

        from harness.steps import Forward, numbers
        from harness.throughput import Meter
        from harness.views import seen
        from zoo.build import build
        from zoo.table import find

        keras.config.set_dtype_policy(protocol.precision)
        networks = [Forward(build(find(name), protocol.image_size)) for name in job.recipes]
    size = protocol.image_size
    shape = (protocol.inference_batch, size, size, 3)
    batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    views = [seen(batch, view) for view in range(protocol.test_views)]

    def relay() -> None:
        for forward in networks:
            for view in views:
                numbers(forward(view))

    meter, step = Meter(), seldom(lambda done, of: emit("step", done=done, of=of))
    with quiet.alone() as exclusive:
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
