"""Images a second that each augmentation policy costs, by keras-cv's layers and by our engine.

    python benchmarks/augmentation.py [--data SOURCE] [--images N] [POLICY ...]

Same images, one after the other, the median of several rounds. keras-cv runs as a graph on batches
of 256 and is warm; so are our processes, one for each core. "kept" is what a sweep sees: the epoch
made, written to disk, read back and checked. Two ratios: by the clock, on all cores, and of
processor time, which another program on the machine does not change.
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

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from harness.augmentation import epoch_cache
from harness.augmentation.epoch_cache import BATCH, EpochCache, Stream
from harness.augmentation.worker import processes
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


class Nowhere:
    """In place of a file or memory for pixels."""

    def put(self, rows: np.ndarray, images: np.ndarray) -> None:
        pass


@dataclass(frozen=True)
class Rates:
    """Images a second that come out: by the clock, and of processor time."""

    clock: float
    busy: float

    @classmethod
    def of(cls, images: int, taken: Sequence[tuple[float, float]]) -> Rates:
        clock, busy = (statistics.median(times) for times in zip(*taken, strict=True))
        return cls(images / clock, images / busy)


def rates(stream: Stream, data: Path, folder: Path) -> tuple[Rates | None, Rates, float]:
    """keras-cv's, ours in memory, and by the clock ours kept on disk."""
    theirs = by_keras_cv(stream)
    shelf = EpochCache(folder, 10**12)
    with processes(stream, data) as crew:
        made = partial(epoch_cache.make, stream, to=Nowhere(), crew=crew)
        if theirs is not None:
            theirs()
        made(0)
        layers, clock, kept, busy = ([] for _ in range(4))
        for k in range(1, ROUNDS + 1):
            if theirs is not None:
                layers.append(seconds(theirs))
            clock.append(seconds(partial(made, k))[0])
            kept.append(seconds(partial(shelf.keep, stream, k, crew=crew))[0])
            busy.append(seconds(partial(one_part, stream, k))[1])
    copies = epoch_cache.enlargement(stream.augmentation)
    part = copies * len(stream.ids) / epoch_cache.parts(stream)
    first = Rates.of(BATCH * copies, layers) if layers else None
    ours = Rates(stream.rows / statistics.median(clock), part / statistics.median(busy))
    return first, ours, stream.rows / statistics.median(kept)


def one_part(stream: Stream, epoch: int) -> None:
    with epoch_cache.one_core_each():
        epoch_cache.make_part(stream, epoch, Nowhere(), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policies", nargs="*", default=POLICIES)
    parser.add_argument("--data", default="smear@8192")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--images", type=int, default=8192)
    asked = parser.parse_args()
    cache = Path(tempfile.gettempdir()) / "wbc-bench-benchmarks"
    decoded = prepare(asked.data, asked.size, cache)
    data = open_dataset(decoded)
    ids = np.arange(min(asked.images, len(data)))
    targets = np.eye(len(data.class_names), dtype=np.float32)[data.labels[ids]]
    print(f"{data.name}, {len(ids)} images of {asked.size} px, images/s, median of {ROUNDS}")
    print(f"{'':26s} {'by the clock':^35s} {'of processor time':^26s}")
    heads = ("keras-cv", "ours", "ratio", "kept", "keras-cv", "ours", "ratio")
    print(f"{'policy':26s} " + " ".join(f"{head:>8s}" for head in heads))
    for name in asked.policies:
        augmentation = Augmentation(policy=parse(name))
        stream = Stream(data.images, ids, targets, augmentation, 0, data.fingerprint)
        with tempfile.TemporaryDirectory() as folder:
            theirs, ours, kept = rates(stream, decoded, Path(folder))
        clock = against(theirs.clock if theirs else None, ours.clock)
        busy = against(theirs.busy if theirs else None, ours.busy)
        print(f"{name:26s} {clock} {kept:8.0f} {busy}", flush=True)


def against(theirs: float | None, ours: float) -> str:
    if theirs is None:
        return f"{'-':>8s} {ours:8.0f} {'-':>8s}"
    return f"{theirs:8.0f} {ours:8.0f} {ours / theirs:7.1f}x"


if __name__ == "__main__":
    main()
