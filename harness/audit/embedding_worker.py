"""The child process that computes embeddings: ``python -m harness.audit.embedding_worker``.

A FeatureJob comes on stdin; pooled features of the named images go to a file. The rest is as with
harness.training.worker.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.execution.child import serve, throttled


def main() -> int:
    return serve(_execute)


def _execute(job_text: str, emit: Any) -> dict[str, Any]:
    from harness.audit.embeddings import FeatureJob
    from harness.execution.locks import DeviceLock

    job = FeatureJob.model_validate_json(job_text)
    device_lock = DeviceLock(job.device)
    emit("phase", name="start", steps=1)
    with device_lock.shared():
        import keras

        from harness.training.model import make_deterministic
        from harness.training.train_step import Forward, to_numpy
        from zoo.factory import build
        from zoo.registry import find

        make_deterministic(keras.backend.backend())
        network = build(find(job.recipe), job.image_size, Path(job.weights))
        forward = Forward(network)

    from harness.data.image_cache import open_dataset
    from harness.storage.files import write_atomically

    dataset = open_dataset(Path(job.data))
    ids = np.unique(dataset.groups)
    features = np.empty((len(ids), network.output.shape[-1]), np.float32)
    step = throttled(lambda done, of: emit("step", done=done, of=of))
    begin = time.perf_counter()
    for at in range(0, len(ids), job.batch):
        # Short batches are filled up: nothing recompiles.
        batch = _resized(dataset.images[np.resize(ids[at : at + job.batch], job.batch)], job)
        with device_lock.shared():
            found = to_numpy(forward(batch))
        features[at : at + job.batch] = found[: len(ids) - at]
        step(min(at + job.batch, len(ids)), len(ids))
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    write_atomically(Path(job.output), buffer.getvalue())
    return {"images": len(ids), "seconds": time.perf_counter() - begin}


def _resized(images: np.ndarray, job: Any) -> np.ndarray:
    from harness.data.image_cache import square

    return np.stack([square(image, job.image_size) for image in images])


if __name__ == "__main__":
    sys.exit(main())
