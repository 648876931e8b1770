"""The child process that computes embeddings: ``python -m harness.audit.embedding_worker``.

An EmbeddingJob comes on stdin; embeddings go to a file, events to stdout.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.execution.child import Emit, serve, step_reporter, wait_reporter
from harness.schema.events import PhaseEvent


def _execute(job_text: str, emit: Emit) -> dict[str, Any]:
    from harness.audit.embeddings import EmbeddingJob
    from harness.execution.lock_holders import Waits
    from harness.execution.locks import DeviceLock

    job = EmbeddingJob.model_validate_json(job_text)
    device_lock = DeviceLock(job.device, waits=Waits(wait_reporter(emit)))
    emit(PhaseEvent(name="start", steps=1))
    with device_lock.shared():
        import keras

        from harness.training.compilation import to_numpy
        from harness.training.model import make_deterministic
        from harness.training.train_step import Forward
        from zoo.factory import build_layer
        from zoo.registry import find

        make_deterministic(keras.backend.backend())
        network = build_layer(find(job.recipe), job.image_size, Path(job.weights), job.layer)
        forward = Forward(network)

    from harness.data.image_cache import open_dataset, square

    dataset = open_dataset(Path(job.data))
    ids = np.unique(dataset.groups)
    embeddings = np.empty((len(ids), network.output.shape[-1]), np.float32)
    report = step_reporter(emit)
    begin = time.perf_counter()
    for start in range(0, len(ids), job.batch):
        # Short batches are filled up: nothing recompiles.
        chosen = np.resize(ids[start : start + job.batch], job.batch)
        batch = np.stack([square(image, job.image_size) for image in dataset.images[chosen]])
        with device_lock.shared():
            computed = to_numpy(forward(batch))
        embeddings[start : start + job.batch] = computed[: len(ids) - start]
        report(min(start + job.batch, len(ids)), len(ids))
    np.save(job.output, embeddings, allow_pickle=False)
    return {"images": len(ids), "seconds": time.perf_counter() - begin}


if __name__ == "__main__":
    sys.exit(serve(_execute))
