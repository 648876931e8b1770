"""The shifted copy of the test images: made once, mapped by every worker.

``mixed``: every test image once, each harmed in its own way. ``full``: every test image in all 55
ways, the ways one after the other. Which image is harmed how is a pure function of the labels, the
data's fingerprint and the split; so it is nowhere stored, and scores of one kind can be taken from
stored predictions. The copy lies beside the decoded images, as one plain array of the rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

import numpy as np

from harness.data import corruptions
from harness.data.image_cache import ABANDONED
from harness.errors import DataError
from harness.schema.dataset import Dataset, Split

Mode = Literal["mixed", "full"]

CORRUPTIONS = tuple(
    (kind, severity) for kind in corruptions.KINDS for severity in corruptions.SEVERITIES
)
"""What can be done to an image: 11 kinds x 5 severities, in the order of ``full``."""

CHUNK = 256
"""Images that are drawn at once."""


@dataclass(frozen=True)
class Shifted:
    """``images`` uint8 (m, H, W, 3): row i is the data's image ``ids[i]`` harmed ``ways[i]``.

    ``mixed``: the rows of the mixed copy, one a test image, whatever else there is.
    """

    images: np.ndarray
    ids: np.ndarray
    ways: np.ndarray
    mixed: np.ndarray


def assign_corruptions(labels: np.ndarray, data: str, split: Split) -> np.ndarray:
    """The way (n,) in which each test image of the mixed copy is harmed: an index of WAYS.

    ``labels`` (n,) are those of the test images in the order of their ids, ``data`` is the
    fingerprint. Dealt evenly: over the images each way comes as often as any other, or once
    more, and over the images of a class each kind does. Shuffled within that.
    """
    rng = np.random.default_rng(_seed(data, split))
    kinds, severities = len(corruptions.KINDS), len(corruptions.SEVERITIES)
    place = np.arange(len(labels))
    # Any 11 neighbours in the deck are all different kinds, and any 55 all different ways.
    kind = rng.permutation(kinds)[place % kinds]
    lag = rng.integers(severities, size=kinds)
    severity = (place // kinds + lag[kind]) % severities
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    ways = np.empty(len(labels), np.int64)
    ways[by_class] = kind * severities + severity
    return ways


def get_or_corrupt(
    folder: Path, dataset: Dataset, ids: np.ndarray, split: Split, mode: Mode = "mixed"
) -> Path:
    """The file of the shifted copy of the test images ``ids``, made now unless it lies there.

    ``folder`` is that of the decoded images. Written beside and renamed, so that a reader never
    sees half of one. Raises DataError where it cannot be written or has no room.
    """
    path = folder / f"shifted-{mode}-{_key(dataset, split)}.npy"
    ways = _ways(dataset, ids, split, mode)
    if _is_whole(path, dataset, len(ways)):
        return path
    making = folder / f".making-{path.name}-{uuid4().hex}"
    try:
        _sweep(folder)
        _check_room(folder, len(ways), dataset)
        _write(making, dataset, (np.resize(ids, len(ways)), ways), split)
        making.replace(path)
    except OSError as error:
        raise DataError(f"{folder}: cannot keep the shifted images there: {error}") from error
    finally:
        with suppress(OSError):
            making.unlink(missing_ok=True)
    return path


def open_shifted(path: Path, dataset: Dataset, ids: np.ndarray, split: Split) -> Shifted:
    """The copy in ``path``, mapped and not loaded; DataError if it is not that of these images."""
    mixed = _ways(dataset, ids, split, "mixed")
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: damaged shifted images; delete it: {error}") from error
    if images.shape == (len(ids), *dataset.images.shape[1:]):
        return Shifted(images, ids, mixed, np.arange(len(ids)))
    full = _ways(dataset, ids, split, "full")
    if images.shape == (len(full), *dataset.images.shape[1:]):
        rows = mixed * len(ids) + np.arange(len(ids))
        return Shifted(images, np.resize(ids, len(full)), full, rows)
    raise DataError(f"{path}: not the shifted copy of these {len(ids):,} test images; delete it")


def harmed(dataset: Dataset, ids: np.ndarray, ways: np.ndarray, split: Split) -> np.ndarray:
    """Images uint8 (n, H, W, 3), each harmed in its way, whatever stands beside it."""
    out = np.empty((len(ids), *dataset.images.shape[1:]), np.uint8)
    seed = _seed(dataset.fingerprint, split)
    for way in np.unique(ways):
        rows = np.flatnonzero(ways == way)
        streams = [(*seed, int(i)) for i in ids[rows]]
        images = np.asarray(dataset.images[ids[rows]])
        kind, severity = CORRUPTIONS[way]
        out[rows] = corruptions.corrupt(images, kind, severity, streams)
    return out


def _ways(dataset: Dataset, ids: np.ndarray, split: Split, mode: Mode) -> np.ndarray:
    if mode == "full":
        return np.repeat(np.arange(len(CORRUPTIONS)), len(ids))
    return assign_corruptions(dataset.labels[ids], dataset.fingerprint, split)


def _seed(data: str, split: Split) -> tuple[int, ...]:
    digest = hashlib.sha256(f"shift {data} {split.canonical()}".encode()).digest()
    return tuple(int(word) for word in np.frombuffer(digest[:16], "<u4"))


def _key(dataset: Dataset, split: Split) -> str:
    import cv2

    parts = [dataset.fingerprint, split.canonical(), corruptions.DRAWING, cv2.__version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _write(path: Path, dataset: Dataset, rows: tuple[np.ndarray, np.ndarray], split: Split) -> None:
    ids, ways = rows
    shape = (len(ids), *dataset.images.shape[1:])
    # Written, not mapped: dirty pages of a mapping would count as memory of this process.
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for at in range(0, len(ids), CHUNK):
            chunk = slice(at, at + CHUNK)
            file.write(harmed(dataset, ids[chunk], ways[chunk], split).data)
        file.flush()
        os.fsync(file.fileno())


def _is_whole(path: Path, dataset: Dataset, rows: int) -> bool:
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError):
        return False
    return bool(shape == (rows, *dataset.images.shape[1:]))


def _check_room(folder: Path, rows: int, dataset: Dataset) -> None:
    need = rows * int(np.prod(dataset.images.shape[1:]))
    free = shutil.disk_usage(folder).free
    if need > free:
        what = f"{rows:,} shifted images take {need / 1e9:.1f} GB"
        raise DataError(f"{folder}: {what}, but {free / 1e9:.1f} GB are free there")


def _sweep(folder: Path) -> None:
    """Remove what a process left behind that died while it drew."""
    for path in folder.glob(".making-shifted-*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
