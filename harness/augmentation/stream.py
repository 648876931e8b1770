"""Augmented epochs of one training set: which pixels they have, and making them on several cores.

A Stream is the endless sequence of epochs of one training set under one policy and seed. Epoch k is
a function of the stream and of k alone, whoever makes it and when.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from harness.augmentation import engine
from harness.execution import devices
from harness.schema.augmentation import STREAM, Augmentation, Enlarged, Step

BATCH = 256
"""Images that are augmented together, at least, where there are as many; partners of mixing."""
OVERHEAD_BYTES = 2048
"""Of an epoch's headers and checksums, at most."""


Augment = Callable[[Sequence[Step], np.ndarray, np.ndarray, Any], engine.Batch]
"""Steps, images, targets and seed -> new images and targets."""


@dataclass(frozen=True)
class RandomBatch:
    """Some images of an epoch: those that mixing takes partners from."""

    ids: np.ndarray
    targets: np.ndarray
    """float32 (n, K) of the images ``ids`` (n,)."""
    rows: np.ndarray
    """Where the augmented images go in the epoch, int (copies n,)."""
    seed: list[int] | None
    """None: they stay as they are."""


@dataclass(frozen=True)
class Stream:
    """What the epochs are made of. ``targets``: one-hot float32 (n, K) of the images ``ids``."""

    images: np.ndarray
    """Of the whole data set, uint8 (N, S, S, 3); only read where ``ids`` (n,) say."""
    ids: np.ndarray
    targets: np.ndarray
    augmentation: Augmentation
    seed: int
    data: str
    """Fingerprint of the data set."""
    augment: Augment = engine.augment
    """The code of the augmentation's provider."""
    plain: int = 0
    """The first images that stay as they are."""

    @cached_property
    def key(self) -> str:
        """Hash of everything that the pixels depend on."""
        steps = [json.loads(step.canonical()) for step in self.augmentation.policy]
        provider = self.augmentation.provider
        content = [self.data, hashlib.sha256(self.ids.tobytes()).hexdigest(), steps, self.seed,
                   self.images.shape[1], provider, STREAM[provider],
                   cv2.__version__, np.__version__, BATCH, *filter(None, [self.plain])]  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]

    @property
    def rows(self) -> int:
        """Images of one epoch."""
        return len(self.ids) * enlargement(self.augmentation)

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of an epoch's images and targets."""
        return (self.rows, *self.images.shape[1:]), (self.rows, self.targets.shape[1])

    @property
    def bytes(self) -> int:
        size, classes = self.images.shape[1], self.targets.shape[1]
        return epoch_bytes(self.augmentation, len(self.ids), size, classes)

    def random_batches(self, epoch: int) -> list[RandomBatch]:
        """The images of an epoch, divided at random; those that stay as they are, in order."""
        count = len(self.ids)
        augmented = count - self.plain
        order = np.random.default_rng([self.seed, epoch, *b"order"]).permutation(augmented)
        copies = range(enlargement(self.augmentation))
        parts = np.array_split(self.plain + order, max(1, augmented // BATCH))
        unchanged = np.array_split(np.arange(self.plain), -(-self.plain // BATCH) or 1)
        return [
            RandomBatch(
                ids=self.ids[chosen],
                targets=self.targets[chosen],
                rows=np.concatenate([chosen + k * count for k in copies]),
                seed=seed,
            )
            for chosen, seed in (
                *((part, [self.seed, epoch, number]) for number, part in enumerate(parts)),
                *((part, None) for part in unchanged),
            )
            if len(chosen)
        ]


def enlargement(augmentation: Augmentation) -> int:
    """Images of an epoch for each training image."""
    return next((1 + len(s.copies) for s in augmentation.policy if isinstance(s, Enlarged)), 1)


def epoch_bytes(augmentation: Augmentation, images: int, size: int, classes: int) -> int:
    """Bytes of an epoch on disk, headers and checksums included."""
    return images * enlargement(augmentation) * (3 * size**2 + 4 * classes) + OVERHEAD_BYTES


@dataclass(frozen=True)
class Epoch:
    """``images`` uint8 (rows, S, S, 3), mapped or in memory; ``targets`` float32 (rows, K)."""

    images: np.ndarray
    targets: np.ndarray


def make_in_memory(stream: Stream, epoch: int, **options: Any) -> Epoch:
    """An epoch in memory; ``options`` as for ``make_epoch``."""
    pixels = np.empty(stream.shapes[0], np.uint8)
    return Epoch(pixels, make_epoch(stream, epoch, pixels, **options))


def make_epoch(
    stream: Stream,
    epoch: int,
    pixels: np.ndarray | Path,
    *,
    share_device: Callable[[], AbstractContextManager[None]] = nullcontext,
    processes: ProcessPoolExecutor | None = None,
) -> np.ndarray:
    """Write the images of an epoch into ``pixels``; its targets, float32 (rows, K).

    ``pixels``: an array, or a .npy file. ``share_device`` is entered for every stretch of work.
    Threads do it, or ``processes``, which need files here and for the stream's images.
    """
    targets = np.empty(stream.shapes[1], np.float32)
    batches, at_once = stream.random_batches(epoch), 8 * devices.cores()
    source = Path(stream.images.filename) if processes else stream.images  # type: ignore[attr-defined]
    augment = partial(stream.augment, stream.augmentation.policy)
    write = partial(_write_augmented, augment, source, pixels)
    with nullcontext(processes) if processes else _threads(stream) as executor:
        for begin in range(0, len(batches), at_once):
            stretch = batches[begin : begin + at_once]
            with share_device():
                made = list(executor.map(write, stretch))
            for batch, soft in zip(stretch, made, strict=True):
                targets[batch.rows] = soft
    return targets


def _write_augmented(
    augment: Callable[[np.ndarray, np.ndarray, list[int]], engine.Batch],
    source: np.ndarray | Path,
    pixels: np.ndarray | Path,
    batch: RandomBatch,
) -> np.ndarray:
    """Write the augmented images of a batch to their rows of ``pixels``; their targets."""
    source = _mapped(source) if isinstance(source, Path) else source
    images, targets = np.asarray(source[batch.ids]), batch.targets
    if batch.seed is not None:
        images, targets = augment(images, targets, batch.seed)
    if isinstance(pixels, np.ndarray):
        pixels[batch.rows] = images
        return targets
    begin = np.load(pixels, mmap_mode="r", allow_pickle=False).offset
    with pixels.open("r+b") as file:  # In half the time of a mapping, and a full disk raises.
        for row, image in zip(batch.rows.tolist(), images, strict=True):
            file.seek(begin + row * image.nbytes)
            file.write(image.data)
    return targets


@lru_cache(maxsize=1)
def _mapped(path: Path) -> np.ndarray:
    """Mapped once in a process, not for each batch."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


@contextmanager
def _threads(stream: Stream) -> Iterator[Executor]:
    # keras-cv draws from one generator, in order.
    count = 1 if stream.augmentation.provider == "keras-cv" else devices.cores()
    with one_opencv_thread(), ThreadPoolExecutor(count) as executor:
        yield executor


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """OpenCV would share out every small image over all cores, and wait for itself."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
