"""Augmented epochs: made once, kept on disk, read by every recipe.

A Stream is the endless row of epochs of one training set under one policy and seed. Epoch k is a
function of the stream and of k alone, so it does not matter who makes it, when, or whether it
comes from disk. On a Shelf lie ``KEY/epoch-0003/`` with ``images.npy`` (uint8), ``targets.npy``
(float32) and ``meta.json`` with their checksums; the folder is renamed to this name when it is
whole. One that is torn is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import cv2
import numpy as np

from harness.augmentation import engine
from harness.augmentation.engine import Batch
from harness.execution import devices
from harness.execution.locks import FileLock
from harness.schema.augmentation import STREAM, Augmentation, Enlarged, Step
from harness.schema.dataset import Dataset
from harness.schema.run import Run

BATCH = 256
"""Images that are augmented together, at least, where there are as many; partners of mixing."""
OVERHEAD = 1024
"""Bytes of an epoch's headers and checksums, at most."""
IMAGES, TARGETS, META = "images.npy", "targets.npy", "meta.json"

Augmenter = Callable[[tuple[Step, ...], np.ndarray, np.ndarray, Any], Batch]
Turn = Callable[[], AbstractContextManager[None]]


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

    @cached_property
    def key(self) -> str:
        """Of everything that the pixels depend on."""
        steps = [json.loads(step.canonical()) for step in self.augmentation.policy]
        told = [self.data, hashlib.sha256(self.ids.tobytes()).hexdigest(), steps, self.seed,
                self.images.shape[1], self.augmentation.provider, STREAM,
                cv2.__version__, np.__version__, BATCH]  # fmt: skip
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]

    @property
    def rows(self) -> int:
        """Images of one epoch."""
        return len(self.ids) * enlargement(self.augmentation)

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.rows, *self.images.shape[1:]), (self.rows, self.targets.shape[1])

    @property
    def bytes(self) -> int:
        return epoch_bytes(self.augmentation, len(self.ids), self.images.shape[1], self.classes)

    @property
    def classes(self) -> int:
        return int(self.targets.shape[1])


def enlargement(augmentation: Augmentation) -> int:
    """Images of an epoch for each training image."""
    return next((1 + len(s.copies) for s in augmentation.policy if isinstance(s, Enlarged)), 1)


def epoch_bytes(augmentation: Augmentation, images: int, size: int, classes: int) -> int:
    """Of disk, headers and checksums included."""
    return images * enlargement(augmentation) * (3 * size**2 + 4 * classes) + OVERHEAD


@dataclass(frozen=True)
class Epoch:
    """``images`` uint8 (rows, S, S, 3), mapped or in memory; ``targets`` float32 (rows, K)."""

    images: np.ndarray
    targets: np.ndarray


# --- making --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """The pixels of an epoch as a .npy file that has its header, and its length."""

    path: Path
    begin: int
    """Where the first image is, in bytes."""

    def put(self, rows: np.ndarray, images: np.ndarray) -> None:
        with self.path.open("r+b") as file:
            for i, image in zip(rows.tolist(), images, strict=True):
                at = self.begin + i * image.nbytes
                _write_at(file.fileno(), memoryview(image).cast("B"), at)


@dataclass(frozen=True)
class Memory:
    pixels: np.ndarray

    def put(self, rows: np.ndarray, images: np.ndarray) -> None:
        self.pixels[rows] = images


class Place(Protocol):
    """Where the pixels of an epoch go, from any thread or process."""

    def put(self, rows: np.ndarray, images: np.ndarray) -> None: ...


Part = tuple[np.ndarray, np.ndarray]
"""Rows of an epoch, int (n,), and their targets, float32 (n, K)."""
Crew = Callable[[int, Place, range], Iterable[Part]]
"""Makes these parts of an epoch, side by side, and puts their pixels where they belong."""


def parts(stream: Stream) -> int:
    """Random batches of which an epoch is made."""
    return max(1, len(stream.ids) // BATCH)


def make_part(
    stream: Stream, epoch: int, to: Place, part: int, augment: Augmenter = engine.augment
) -> Part:
    count, copies = len(stream.ids), enlargement(stream.augmentation)
    order = np.random.default_rng([stream.seed, epoch, *b"order"]).permutation(count)
    chosen = np.array_split(order, parts(stream))[part]
    images = np.asarray(stream.images[stream.ids[chosen]])
    steps, seed = stream.augmentation.policy, [stream.seed, epoch, part]
    made, targets = augment(steps, images, stream.targets[chosen], seed)
    rows = np.concatenate([chosen + k * count for k in range(copies)])
    to.put(rows, made)
    return rows, targets


def make(
    stream: Stream,
    epoch: int,
    to: Place,
    augment: Augmenter = engine.augment,
    turn: Turn = nullcontext,
    crew: Crew | None = None,
) -> np.ndarray:
    """Compute an epoch: its targets come back, float32 (rows, K); its pixels go ``to`` there.

    ``turn`` is entered for every stretch of work. Without a ``crew``, threads do it.
    """
    targets = np.empty(stream.shapes[1], np.float32)
    count, at_once = parts(stream), 8 * devices.cores()
    with threads(stream, augment) if crew is None else nullcontext(crew) as hands:
        for begin in range(0, count, at_once):
            with turn():
                for rows, made in hands(epoch, to, range(begin, min(begin + at_once, count))):
                    targets[rows] = made
    return targets


@contextmanager
def threads(stream: Stream, augment: Augmenter) -> Iterator[Crew]:
    """A crew of this process."""
    with one_core_each(), ThreadPoolExecutor(_abreast(augment)) as pool:
        yield lambda epoch, to, which: pool.map(
            lambda part: make_part(stream, epoch, to, part, augment), which
        )


def _abreast(augment: Augmenter) -> int:
    """keras-cv draws from one generator, in order."""
    return devices.cores() if augment is engine.augment else 1


@contextmanager
def one_core_each() -> Iterator[None]:
    """OpenCV would share out every small image over all cores, and wait for itself."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def in_memory(stream: Stream, epoch: int, **how: Any) -> Epoch:
    pixels = np.empty(stream.shapes[0], np.uint8)
    return Epoch(pixels, make(stream, epoch, Memory(pixels), **how))


# --- keeping -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EpochCache:
    """A folder for epochs of many streams, with a limit in bytes."""

    root: Path
    limit: int
    tell: Callable[[str], None] = lambda _: None
    """Hears, in one line, why an epoch could not be kept."""

    def folder(self, stream: Stream, epoch: int) -> Path:
        return self.root / stream.key / f"epoch-{epoch:04}"

    def find(self, stream: Stream, epoch: int) -> Epoch | None:
        """The epoch if it lies here, whole."""
        return _read(self.folder(stream, epoch), stream)

    def keep(self, stream: Stream, epoch: int, **how: Any) -> Epoch | None:
        """The epoch from here, made now unless it is there; None where it cannot be kept.

        A process that makes the same epoch is waited for. What is torn is made again.
        """
        folder = self.folder(stream, epoch)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f".{folder.name}.lock")):
                found = self.find(stream, epoch)
                if found is None and self._room(stream):
                    self._make(folder, stream, epoch, how)
                    found = _opened(folder)
                return found
        except OSError as error:
            self.tell(
                f"{self.root}: cannot keep augmented epochs ({error.strerror or error}); "
                "they are made in memory, for each recipe again"
            )
            return None

    def _make(self, folder: Path, stream: Stream, epoch: int, how: dict[str, Any]) -> None:
        making = folder.with_name(f".making-{folder.name}-{socket.gethostname()}-{os.getpid()}")
        try:
            making.mkdir()
            _write(making, stream, epoch, how)
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(FileExistsError):
                making.rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _room(self, stream: Stream) -> bool:
        """Whether one more epoch fits; the oldest epochs of other streams make way for it."""
        with FileLock(self.root / ".room.lock"):
            _sweep(self.root)
            epochs = {path: _size(path) for path in self.root.glob("*/*epoch-*") if path.is_dir()}
            free = self.limit - sum(epochs.values())
            whole = (path for path in epochs if path.name.startswith("epoch-"))
            others = [path for path in whole if path.parent.name != stream.key]
            if free + sum(epochs[path] for path in others) < stream.bytes:
                others = []  # Their going would not be enough.
            for path in sorted(others, key=_last_read):
                if free >= stream.bytes:
                    break
                shutil.rmtree(path, ignore_errors=True)
                free += epochs[path]
        if free < stream.bytes:
            self.tell(
                f"{self.root}: the limit of {self.limit / 1e9:.1f} GB is reached; more augmented "
                "epochs are made in memory, for each recipe again (sweep.augmented_gigabytes)"
            )
        return free >= stream.bytes


def _write(folder: Path, stream: Stream, epoch: int, how: dict[str, Any]) -> None:
    shape, path = stream.shapes[0], folder / IMAGES
    with path.open("wb") as file:
        begin = _header(file, shape)
        if hasattr(os, "posix_fallocate"):  # A full disk says so now, and not in the middle.
            os.posix_fallocate(file.fileno(), 0, begin + int(np.prod(shape)))
    np.save(folder / TARGETS, make(stream, epoch, File(path, begin), **how), allow_pickle=False)
    # Not synced: a file that a power cut tears does not match its checksum, and is made again.
    sums = {name: _checksum(folder / name) for name in (IMAGES, TARGETS)}
    (folder / META).write_text(json.dumps(sums), "utf-8")


def _header(file: BinaryIO, shape: tuple[int, ...]) -> int:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.flush()
    return file.tell()


def _write_at(descriptor: int, pixels: memoryview, at: int) -> None:
    """All of it: a disk that fills writes a part before it refuses."""
    while pixels:
        done = os.pwrite(descriptor, pixels, at)
        pixels, at = pixels[done:], at + done


def _checksum(path: Path) -> int:
    """CRC-32 of the content; some gigabytes a second."""
    total = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            total = zlib.crc32(block, total)
    return total


def _read(folder: Path, stream: Stream) -> Epoch | None:
    try:
        sums = json.loads((folder / META).read_text("utf-8"))
        if any(_checksum(folder / name) != sums[name] for name in (IMAGES, TARGETS)):
            return None
        epoch = _opened(folder)
        os.utime(folder)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return epoch if (epoch.images.shape, epoch.targets.shape) == stream.shapes else None


def _opened(folder: Path) -> Epoch:
    return Epoch(
        np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False),
        np.load(folder / TARGETS, allow_pickle=False),
    )


def _sweep(root: Path) -> None:
    """Remove what processes of this machine left behind that died while they made an epoch."""
    for path in root.glob(f"*/.making-*-{socket.gethostname()}-*"):
        try:
            os.kill(int(path.name.rpartition("-")[2]), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (OSError, ValueError):
            continue


def _size(folder: Path) -> int:
    total = 0
    with suppress(OSError):  # It may be renamed or removed meanwhile.
        total = sum(path.stat().st_size for path in folder.iterdir())
    return total


def _last_read(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


# --- reading -------------------------------------------------------------------------------------


@dataclass
class Reader:
    """A training's view of its stream: epoch after epoch, from the shelf or from memory."""

    stream: Stream
    shelf: EpochCache | None
    how: dict[str, Any] = field(default_factory=dict)
    """``augment``, ``turn`` and ``crew`` of ``make``."""
    ahead: Callable[[int, int], None] = lambda first, end: None
    """Told which epochs will be wanted next: from the first up to, not including, the end."""
    _last: tuple[int, Epoch] | None = None

    def read(self, epoch: int, end: int) -> Epoch:
        """``end``: of the epochs that this phase may read, so that no more are made ahead."""
        epoch, end = (self.stream.augmentation.stream_epoch(k) for k in (epoch, end))
        if self._last is not None and self._last[0] == epoch:
            return self._last[1]
        self._last = None  # Let go of its memory before the next is made.
        self.ahead(epoch, end)
        made = self.shelf.keep(self.stream, epoch, **self.how) if self.shelf else None
        self._last = epoch, made or in_memory(self.stream, epoch, **self.how)
        return self._last[1]


def varied_validation(run: Run, data: Dataset, ids: np.ndarray, augment: Augmenter) -> np.ndarray:
    """The validation images (n, S, S, 3), a share of them augmented; the same for all recipes."""
    settings = run.protocol.augmentation
    images = np.array(data.images[ids])
    rng = np.random.default_rng([run.seed, *b"validation"])
    count = round(settings.validation_share * len(ids))
    chosen = np.sort(rng.permutation(len(ids))[:count])
    if count:
        none = np.zeros((count, 1), np.float32)
        policy, seed = settings.validation_policy, [run.seed, *b"validation"]
        images[chosen], _ = augment(policy, images[chosen], none, seed)
    return images
