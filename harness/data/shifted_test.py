"""The shifted copy of the test images: made once, mapped by every worker.

``mixed``: every test image once, with a corruption and a severity of its own. ``full``: every test
image with each of the 55 pairs of both, pair after pair. Which image gets which pair is a pure
function of the labels, the data's fingerprint and the split; so it is stored nowhere, and scores
by corruption can be computed from stored predictions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from harness.data import corruptions
from harness.errors import DataError
from harness.schema.dataset import Dataset, Split
from harness.schema.predictions import EVERY_SHIFT_COPIES
from harness.storage.artifact_cache import ArtifactCache
from harness.storage.files import write_images

Mode = Literal["mixed", "full"]

PAIRS = tuple(product(corruptions.CORRUPTIONS, corruptions.SEVERITIES))
"""(corruption, severity), 11 x 5, in the order of ``full``."""

SEVERITY_ORDER = np.array([0, 4, 1, 2, 3])
"""Of their indices, in a circle, so that any neighbours have about the mean of all."""

assert len(PAIRS) == EVERY_SHIFT_COPIES

_BATCH = 256


@dataclass(frozen=True)
class Shifted:
    """``images`` uint8 (m, H, W, 3): row i is image ``ids[i]`` corrupted by ``PAIRS[pairs[i]]``."""

    images: np.ndarray
    ids: np.ndarray
    pairs: np.ndarray
    mixed: np.ndarray
    """Rows of the mixed copy, one a test image."""


def assign_corruptions(labels: np.ndarray, data: str, split: Split) -> np.ndarray:
    """The index in ``PAIRS`` (n,) of each test image of the mixed copy.

    ``labels`` (n,) are those of the test images in the order of their ids, ``data`` is the
    fingerprint. Even: over all images, and over the images of a class, each corruption, each
    severity and each pair comes as often as any other, or once more. Shuffled within that.
    """
    rng = np.random.default_rng(_seed(data, split))
    count, severities = len(corruptions.CORRUPTIONS), len(corruptions.SEVERITIES)
    position = np.arange(len(labels))
    corruption = rng.permutation(count)[position % count]
    if split.shift_version == 1:  # Even over all images, but not over those of a class.
        offset = rng.integers(severities, size=count)
        severity = (position // count + offset[corruption]) % severities
    else:
        # 11 and 5 have no common divisor: any 55 neighbours have all the pairs.
        severity = SEVERITY_ORDER[(position + rng.integers(severities)) % severities]
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    pairs = np.empty(len(labels), np.int64)
    pairs[by_class] = corruption * severities + severity
    return pairs


def get_or_corrupt(
    folder: Path, dataset: Dataset, ids: np.ndarray, split: Split, mode: Mode = "mixed"
) -> Path:
    """The file of the shifted copy of the test images ``ids``, made now unless it exists.

    It is kept in the cache that ``folder``, of the decoded images, is in. Raises NoRoom, and
    StoreError where the cache cannot be written.
    """
    pairs = _pairs(dataset, ids, split, mode)
    rows, shape = np.resize(ids, len(pairs)), (len(pairs), *dataset.images.shape[1:])

    def corrupted() -> Iterator[np.ndarray]:
        for start in range(0, len(pairs), _BATCH):
            batch = slice(start, start + _BATCH)
            yield corrupt_images(dataset, rows[batch], pairs[batch], split)

    artifact = ArtifactCache(folder.parent).get_or_create(
        f"shifted-{mode}-{_key(dataset, split)}",
        lambda new: write_images(new / "shifted.npy", shape, corrupted()),
        size=int(np.prod(shape)),
        verify=True,
    )
    return artifact / "shifted.npy"


def open_shifted(path: Path, dataset: Dataset, ids: np.ndarray, split: Split) -> Shifted:
    """The copy in ``path``, mapped and not loaded; DataError if it is not that of these images."""
    mixed = _pairs(dataset, ids, split, "mixed")
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: damaged shifted images; delete it: {error}") from error
    if images.shape == (len(ids), *dataset.images.shape[1:]):
        return Shifted(images, ids, mixed, np.arange(len(ids)))
    full = _pairs(dataset, ids, split, "full")
    if images.shape == (len(full), *dataset.images.shape[1:]):
        rows = mixed * len(ids) + np.arange(len(ids))
        return Shifted(images, np.resize(ids, len(full)), full, rows)
    raise DataError(f"{path}: not the shifted copy of these {len(ids):,} test images; delete it")


def corrupt_images(
    dataset: Dataset, ids: np.ndarray, pairs: np.ndarray, split: Split
) -> np.ndarray:
    """Images uint8 (n, H, W, 3), each corrupted by its pair, whatever the rest of the batch is."""
    corrupted = np.empty((len(ids), *dataset.images.shape[1:]), np.uint8)
    seed = _seed(dataset.fingerprint, split)
    for pair in np.unique(pairs):
        rows = np.flatnonzero(pairs == pair)
        seeds = [(*seed, int(i)) for i in ids[rows]]
        images = np.asarray(dataset.images[ids[rows]])
        corruption, severity = PAIRS[pair]
        corrupted[rows] = corruptions.corrupt(images, corruption, severity, seeds)
    return corrupted


def _pairs(dataset: Dataset, ids: np.ndarray, split: Split, mode: Mode) -> np.ndarray:
    if mode == "full":
        return np.repeat(np.arange(len(PAIRS)), len(ids))
    return assign_corruptions(dataset.labels[ids], dataset.fingerprint, split)


def _seed(data: str, split: Split) -> tuple[int, ...]:
    digest = hashlib.sha256(f"shift {data} {split.canonical()}".encode()).digest()
    return tuple(int(word) for word in np.frombuffer(digest[:16], "<u4"))


def _key(dataset: Dataset, split: Split) -> str:
    import cv2

    parts = [dataset.fingerprint, split.canonical(), corruptions.VERSION, cv2.__version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
