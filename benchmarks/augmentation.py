"""Images a second that each augmentation policy costs, by keras-cv's layers and by our engine.

    python benchmarks/augmentation.py [--data SOURCE] [--images N] [POLICY ...]

Same images, same process, one after the other, the median of several rounds. keras-cv runs as a
graph on batches of 256 and is warm; so is ours. Two rates: images a second by the clock, on all
cores, and images a second of processor time, which another program on the machine does not change.
"kept" is what a sweep sees: the epoch made by all cores, written to disk, read back and checked.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from harness.augment import epochs
from harness.augment.epochs import BATCH, Shelf, Stream
from harness.data.decoded import open_dataset
from harness.data.sources import prepare
from harness.policies import Augmentation, Enlarged, SplitAndRotate, parse

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

    from harness.augment import kerascv

    steps = stream.augmentation.policy
    images = np.asarray(stream.images[stream.ids[:BATCH]])
    targets = stream.targets[:BATCH]
    if any(isinstance(step, SplitAndRotate) for step in steps):
        return None
    if any(isinstance(step, Enlarged) for step in steps):
        return lambda: kerascv.augment(steps, images, targets, 1)
    layers = [layer for step in steps for layer in kerascv.layers(step)]

    @tf.function
    def graph(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels, labels = kerascv.carry_out(layers, x, y)
        return tf.cast(pixels, tf.uint8), labels

    x, y = tf.constant(images), tf.constant(targets)
    return lambda: [part.numpy() for part in graph(x, y)]


Rates = tuple[float, float]


def rates(stream: Stream, folder: Path) -> tuple[Rates | None, Rates, Rates]:
    """Images a second that come out: keras-cv, ours in memory, ours kept on disk."""
    copies = epochs.enlargement(stream.augmentation)
    theirs = by_keras_cv(stream)
    shelf = Shelf(folder, 10**12)
    if theirs is not None:
        theirs()
    made = partial(epochs.make, stream, write=lambda rows, batch: None)
    made(0)
    taken: list[list[tuple[float, float]]] = [[], [], []]
    for k in range(1, ROUNDS + 1):
        if theirs is not None:
            taken[0].append(seconds(theirs))
        taken[1].append(seconds(partial(made, k)))
        taken[2].append(seconds(partial(shelf.keep, stream, k)))
    first = rate(BATCH * copies, taken[0]) if taken[0] else None
    return first, rate(stream.rows, taken[1]), rate(stream.rows, taken[2])


def rate(images: int, taken: list[tuple[float, float]]) -> Rates:
    clock, busy = (statistics.median(times) for times in zip(*taken, strict=True))
    return images / clock, images / busy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policies", nargs="*", default=POLICIES)
    parser.add_argument("--data", default="smear@2100")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--images", type=int, default=2048)
    asked = parser.parse_args()
    cache = Path(tempfile.gettempdir()) / "wbc-bench-benchmarks"
    data = open_dataset(prepare(asked.data, asked.size, cache))
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
            theirs, made, kept = rates(stream, Path(folder))
        cells = [against(theirs, made, 0), f"{kept[0]:8.0f}", against(theirs, made, 1)]
        print(f"{name:26s} {' '.join(cells)}", flush=True)


def against(theirs: Rates | None, ours: Rates, which: int) -> str:
    if theirs is None:
        return f"{'-':>8s} {ours[which]:8.0f} {'-':>8s}"
    return f"{theirs[which]:8.0f} {ours[which]:8.0f} {ours[which] / theirs[which]:7.1f}x"


if __name__ == "__main__":
    main()
