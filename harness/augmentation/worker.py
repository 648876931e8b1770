"""Makes augmented epochs ahead of a training: ``python -m harness.augmentation.worker``.

The worker's job comes as one line on stdin, then a line ``FIRST END`` whenever the training turns
to another epoch. Epochs that already lie on the shelf are left alone. When stdin closes, the
training has ended or died, and so do we.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from harness.augmentation.epoch_cache import (
    Augmenter,
    Crew,
    EpochCache,
    Part,
    Place,
    Stream,
    make_part,
    parts,
)
from harness.data.image_cache import open_dataset
from harness.data.sampling import sample_indices
from harness.data.splitting import split_indices
from harness.execution import devices
from harness.execution.processes import module_command
from harness.schema.augmentation import Augmentation
from harness.schema.dataset import Dataset
from harness.schema.run import Job, Run

AHEAD = 3
"""Epochs made before they are wanted: enough to be early, and little to waste on an early stop."""
WORTH_A_CREW = 8
"""Parts of an epoch from which on it pays to start processes, which takes each a second."""
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""For glibc: what a part needed is kept for the next. Taking megabytes from the kernel anew each
time costs as much as the cheaper policies do."""


def augmenter(augmentation: Augmentation) -> Augmenter:
    """The code that carries the steps out; keras-cv loads TensorFlow."""
    if augmentation.provider == "keras-cv":
        from harness.augmentation import keras_cv

        return keras_cv.augment
    from harness.augmentation import engine

    return engine.augment


def stream_of(run: Run, data: Dataset) -> Stream:
    """Of a run's training images, rare ones again if so told; the same for every recipe."""
    ids = split_indices(run.split, data).train
    targets = np.eye(len(data.class_names), dtype=np.float32)[data.labels[ids]]
    rows = sample_indices(run.protocol.loss, targets, run.seed)
    augmentation = run.protocol.augmentation
    return Stream(data.images, ids[rows], targets[rows], augmentation, run.seed, data.fingerprint)


@dataclass
class EpochPrefetcher:
    """The worker's end: starts the process when first asked, and ends it."""

    job: Job
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def __call__(self, first: int, end: int) -> None:
        if self.job.epochs is None:
            return
        if self._process is None:
            self._process = subprocess.Popen(
                module_command("harness.augmentation.worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                env={**os.environ, "TF_NUM_INTEROP_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"},
            )
            self._tell(self.job.model_dump_json())
        self._tell(f"{first} {end}")

    def _tell(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except OSError:
            pass  # It has died; the training makes its epochs itself.

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


# --- the process ---------------------------------------------------------------------------------


def main() -> int:
    job = Job.model_validate_json(sys.stdin.readline())
    if job.epochs is None:
        return 0
    wanted = _Wanted()
    threading.Thread(target=_listen, args=(wanted,), daemon=True).start()

    from harness.execution.locks import DeviceLock

    if job.run.protocol.augmentation.provider == "keras-cv":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    stream = stream_of(job.run, open_dataset(Path(job.data)))
    shelf = EpochCache(Path(job.epochs.folder), job.epochs.limit_bytes)
    augment = augmenter(job.run.protocol.augmentation)
    how = {"augment": augment, "turn": DeviceLock(job.device).shared}
    ours = job.run.protocol.augmentation.provider == "wbc-bench"
    if ours and parts(stream) >= WORTH_A_CREW:
        with processes(stream, Path(job.data)) as crew:
            _follow(wanted, stream, shelf, {**how, "crew": crew})
    else:
        _follow(wanted, stream, shelf, how)
    return 0


# --- its helpers ---------------------------------------------------------------------------------


@contextmanager
def processes(stream: Stream, folder: Path) -> Iterator[Crew]:
    """A crew of as many processes as there are cores, for a stream of the data set ``folder``.

    Our engine's calls are so short that threads would spend a third of their time on Python's lock.
    """
    os.environ.update(KEEP_MEMORY)
    sent = replace(stream, images=np.empty(0, np.uint8))  # Each maps the pixels itself.
    count = min(devices.cores(), parts(stream))
    with ProcessPoolExecutor(count, get_context("spawn"), _join, (sent, folder)) as pool:
        yield lambda epoch, to, which: pool.map(partial(_part, epoch, to), which)


_joined: list[Stream] = []
"""In a helper: what it makes parts of."""


def _join(stream: Stream, folder: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    _joined.append(replace(stream, images=open_dataset(folder).images))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _part(epoch: int, to: Place, part: int) -> Part:
    return make_part(_joined[0], epoch, to, part)


@dataclass
class _Wanted:
    """The epochs that the training wants next; a new line on stdin replaces them."""

    span: tuple[int, int] = (0, 0)
    news: threading.Event = field(default_factory=threading.Event)


def _listen(wanted: _Wanted) -> None:
    for line in sys.stdin:
        first, end = (int(word) for word in line.split())
        wanted.span = first, end
        wanted.news.set()
    os._exit(0)


def _follow(wanted: _Wanted, stream: Stream, shelf: EpochCache, how: dict[str, Any]) -> None:
    while True:
        wanted.news.wait()
        wanted.news.clear()
        first, end = wanted.span
        for epoch in range(first, min(end, first + 1 + AHEAD)):
            if shelf.keep(stream, epoch, **how) is None:
                return  # No room: the training makes what it needs, in its memory.
            if wanted.news.is_set():
                break


if __name__ == "__main__":
    sys.exit(main())
