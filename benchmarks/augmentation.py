"""Images a second of each augmentation policy: by keras-cv's layers and by our engine.

    python benchmarks/augmentation.py [--data SOURCE] [--images N] [POLICY ...]

Same images, one after the other, the median of several rounds. keras-cv runs as a graph on batches
of 256 and is warm; so are our processes, one for each core. "cached" is what a sweep sees: the
epoch made and written to the cache with its checksums. Two ratios: by the clock, on all cores, and
of processor time, which another program on the machine does not change.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from harness.augmentation import engine
from harness.augmentation.epoch_cache import EpochCache
from harness.augmentation.stream import BATCH, Stream, enlargement, one_opencv_thread
from harness.augmentation.worker import ENVIRONMENT, process_pool
from harness.data.image_cache import open_dataset
from harness.data.sources import prepare
from harness.schema.augmentation import Augmentation, Enlarged, SplitAndRotate, parse

POLICIES = (
    "traditional", "randaugment", "mixup", "cutmix", "mixup+cutmix", "traditional+mixup+cutmix",
    "gridmask", "cutout", "augmix", "report-002", "report-001", "split-and-rotate",
)  # fmt: skip
ROUNDS = 3


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of all cores together."""
    begin, busy = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - begin, time.process_time() - busy


def by_keras_cv(stream: Stream) -> Callable[[], object] | None:
    """The layers as they come, which map images in parallel."""
    import tensorflow as tf

    from harness.augmentation import keras_cv

    steps = stream.augmentation.policy
    images = np.asarray(stream.images[stream.ids[:BATCH]])
    targets = stream.targets[:BATCH]
    if any(isinstance(step, SplitAndRotate) for step in steps):
        return None
    if any(isinstance(step, Enlarged) for step in steps):
        return lambda: keras_cv.augment(steps, images, targets, 1)
    layers = [layer for step in steps for layer in keras_cv.layers(step)]

    @tf.function
    def graph(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels, labels = keras_cv.apply_layers(layers, x, y)
        return tf.cast(pixels, tf.uint8), labels

    x, y = tf.constant(images), tf.constant(targets)
    return lambda: [part.numpy() for part in graph(x, y)]


@dataclass(frozen=True)
class Rates:
    """Images a second that come out: by the clock, and of processor time."""

    clock: float
    busy: float

    @classmethod
    def median(cls, images: int, seconds: Sequence[tuple[float, float]]) -> Rates:
        clock, busy = (statistics.median(times) for times in zip(*seconds, strict=True))
        return cls(images / clock, images / busy)


def rates(stream: Stream, folder: Path) -> tuple[Rates | None, Rates]:
    """Of keras-cv's layers in memory, and of our engine: cached, and of one process in memory."""
    layers = by_keras_cv(stream)
    batch = stream.random_batches(0)[0]
    images = np.asarray(stream.images[batch.ids])
    one_batch = partial(engine.augment, stream.augmentation.policy, images, batch.targets)
    cache = EpochCache(folder, 10**12)
    with process_pool() as processes, one_opencv_thread():
        make = partial(cache.get_or_make, stream, processes=processes)
        if layers is not None:
            layers()
        make(0)
        theirs, clock, busy = ([] for _ in range(3))
        for k in range(1, ROUNDS + 1):
            if layers is not None:
                theirs.append(seconds(layers))
            clock.append(seconds(partial(make, k))[0])
            busy.append(seconds(partial(one_batch, k))[1])
    copies = enlargement(stream.augmentation)
    ours = Rates(stream.rows / statistics.median(clock), len(batch.rows) / statistics.median(busy))
    return Rates.median(BATCH * copies, theirs) if theirs else None, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policies", nargs="*", default=POLICIES)
    parser.add_argument("--data", default="smear@8192")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--images", type=int, default=8192)
    options = parser.parse_args()
    os.environ |= ENVIRONMENT
    cache = Path(tempfile.gettempdir()) / "wbc-bench-benchmarks"
    data = open_dataset(prepare(options.data, options.size, cache))
    ids = np.arange(min(options.images, len(data)))
    targets = np.eye(len(data.class_names), dtype=np.float32)[data.labels[ids]]
    print(f"{data.name}, {len(ids)} images of {options.size} px, images/s, median of {ROUNDS}")
    print(f"{'':26s} {'by the clock':^26s} {'of processor time':^26s}")
    headers = ("keras-cv", "cached", "ratio", "keras-cv", "ours", "ratio")
    print(f"{'policy':26s} " + " ".join(f"{header:>8s}" for header in headers))
    for name in options.policies:
        augmentation = Augmentation(policy=parse(name))
        stream = Stream(data.images, ids, targets, augmentation, 0, data.fingerprint)
        with tempfile.TemporaryDirectory() as folder:
            theirs, ours = rates(stream, Path(folder))
        clock = against(theirs.clock if theirs else None, ours.clock)
        busy = against(theirs.busy if theirs else None, ours.busy)
        print(f"{name:26s} {clock} {busy}", flush=True)


def against(theirs: float | None, ours: float) -> str:
    if theirs is None:
        return f"{'-':>8s} {ours:8.0f} {'-':>8s}"
    return f"{theirs:8.0f} {ours:8.0f} {ours / theirs:7.1f}x"


if __name__ == "__main__":
    main()
