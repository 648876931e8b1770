"""Makes augmented epochs ahead of a training: ``python -m harness.augmentation.worker``.

The training's Job comes as one line on stdin, then a line ``FIRST END`` whenever it turns to
another epoch. Epochs that are in the cache are left alone. Each line on stdout is a warning. When
stdin closes, the training has ended or died, and this process ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

from harness.augmentation.epoch_cache import EpochCache
from harness.augmentation.stream import BATCH, Stream
from harness.augmentation.training_images import training_stream
from harness.data.image_cache import open_dataset
from harness.execution import devices
from harness.execution.child import take_stdout
from harness.execution.locks import DeviceLock
from harness.execution.processes import module_command
from harness.schema.run import Job

EPOCHS_AHEAD = 3
"""Enough to be early, and little to waste on an early stop."""
BATCHES_WORTH_PROCESSES = 8
"""Batches of an epoch from which on processes pay, each of which takes a second to start."""
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "OPENCV_FOR_THREADS_NUM": "1",
    # For glibc: keep the memory of a batch for the next. Taking megabytes from the kernel anew each
    # time costs as much as the cheaper policies do.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


@dataclass
class EpochPrefetcher:
    """The training's end: starts the process at the first request, and ends it."""

    job: Job
    warn: Callable[[str], object] = lambda _: None
    """Receives the warnings of the process."""
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def __call__(self, first: int, end: int) -> None:
        """Request the epochs from the first up to, not including, the end."""
        if self.job.epochs is None:
            return
        if self._process is None:
            self._process = subprocess.Popen(
                module_command("harness.augmentation.worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env=os.environ | ENVIRONMENT,
            )
            threading.Thread(target=self._forward_warnings, daemon=True).start()
            self._send(self.job.model_dump_json())
        self._send(f"{first} {end}")

    def _send(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except OSError:
            pass  # It has died; the training makes its epochs itself.

    def _forward_warnings(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.warn(line.rstrip())

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


# --- the process ---------------------------------------------------------------------------------


@dataclass
class _Requests:
    """The epochs that the training reads next; a new line on stdin replaces them."""

    span: tuple[int, int] = (0, 0)
    changed: threading.Event = field(default_factory=threading.Event)

    def receive(self) -> None:
        for line in sys.stdin:
            first, end = (int(word) for word in line.split())
            self.span = first, end
            self.changed.set()
        os._exit(0)


def main() -> int:
    warnings = take_stdout()
    job = Job.model_validate_json(sys.stdin.readline())
    if job.epochs is None:
        return 0
    requests = _Requests()
    threading.Thread(target=requests.receive, daemon=True).start()
    if job.run.protocol.augmentation.provider == "keras-cv":
        import tensorflow as tf

        tf.config.threading.set_inter_op_parallelism_threads(1)
    stream = training_stream(job.run, open_dataset(Path(job.data)))
    warn = partial(print, file=warnings, flush=True)
    cache = EpochCache(Path(job.epochs.folder), job.epochs.limit_bytes, warn)
    _make_epochs(stream, requests, cache, job.device.id)
    return 0


def _make_epochs(stream: Stream, requests: _Requests, cache: EpochCache, device: str) -> None:
    make = partial(cache.get_or_make, stream, share_device=DeviceLock(device).shared)
    many = len(stream.ids) >= BATCHES_WORTH_PROCESSES * BATCH
    parallel = many and stream.augmentation.provider == "wbc-bench"
    with process_pool() if parallel else nullcontext() as processes:
        while True:
            requests.changed.wait()
            requests.changed.clear()
            first, end = requests.span
            for epoch in range(first, min(end, first + 1 + EPOCHS_AHEAD)):
                if not make(epoch=epoch, processes=processes):
                    return  # No room: the training makes what it needs, in its memory.
                if requests.changed.is_set():
                    break


def process_pool() -> ProcessPoolExecutor:
    """As many processes as there are cores, which end with this one. Start it with ENVIRONMENT.

    The engine's calls are so short that threads would spend a third of their time on Python's lock.
    joblib's processes need a third more time for cheap policies: they map the files for each batch.
    """
    return ProcessPoolExecutor(devices.cores(), get_context("spawn"), _end_with_parent)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
