"""Augmented epochs on disk: made once, read by every recipe.

``KEY/epoch-0003`` holds ``images.npy`` (uint8) and ``targets.npy`` (float32) of one epoch of the
stream KEY. When the limit is reached, epochs of other streams are evicted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.augmentation.stream import Epoch, Stream, make_epoch, make_in_memory
from harness.errors import NoRoom, StoreError
from harness.storage.artifact_cache import ArtifactCache

IMAGES, TARGETS = "images.npy", "targets.npy"


@dataclass(frozen=True)
class EpochCache:
    """A folder for epochs of many streams, with a limit in bytes."""

    root: Path
    limit_bytes: int
    warn: Callable[[str], object] = logging.getLogger(__name__).warning
    """Receives one line when an epoch cannot be kept."""

    @property
    def _artifacts(self) -> ArtifactCache:
        return ArtifactCache(self.root, self.limit_bytes, self.warn)

    def find(self, stream: Stream, epoch: int) -> Epoch | None:
        """The epoch if it is here, undamaged."""
        folder = self._artifacts.find(_key(stream, epoch), verify=True)
        return _open(folder) if folder else None

    def get_or_make(self, stream: Stream, epoch: int, **options: Any) -> Epoch | None:
        """The epoch from here, made now if it is absent; None where it cannot be kept.

        ``options`` as for ``make_epoch``. A process that makes the same epoch is waited for.
        """

        def create(folder: Path) -> None:
            _allocate(folder / IMAGES, stream.shapes[0])
            targets = make_epoch(stream, epoch, folder / IMAGES, **options)
            np.save(folder / TARGETS, targets, allow_pickle=False)

        try:
            return _open(
                self._artifacts.get_or_create(
                    _key(stream, epoch), create, size=stream.bytes, verify=True
                )
            )
        except NoRoom:
            reason = (
                f"{self.root}: no room for more augmented epochs (limit "
                f"{self.limit_bytes / 1e9:.1f} GB, sweep.augmented_gigabytes)"
            )
        except StoreError as error:
            reason = f"cannot keep augmented epochs: {error}"
        self.warn(f"{reason}; they are made in memory, for each recipe again")
        return None


def _key(stream: Stream, epoch: int) -> str:
    return f"{stream.key}/epoch-{epoch:04}"


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Write a .npy file of zeros, uint8; where disks can reserve space, a full one raises here."""
    np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _open(folder: Path) -> Epoch:
    return Epoch(
        np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False),
        np.load(folder / TARGETS, allow_pickle=False),
    )


@dataclass
class EpochReader:
    """Reads the epochs of a training one after another, from the cache or made in memory."""

    stream: Stream
    cache: EpochCache | None
    options: dict[str, Any] = field(default_factory=dict)
    """As for ``make_epoch``."""
    prefetch: Callable[[int, int], None] = lambda first, end: None
    """Receives the epochs to make ahead: from the first up to, not including, the end."""
    _last: tuple[int, Epoch] | None = None

    def read(self, epoch: int, end: int) -> Epoch:
        """``end``: of the epochs that this phase may read, so that no more are made ahead."""
        epoch, end = (self.stream.augmentation.stream_epoch(k) for k in (epoch, end))
        if self._last is not None and self._last[0] == epoch:
            return self._last[1]
        self._last = None  # Frees its memory before the next is made.
        self.prefetch(epoch, end)
        made = self.cache.get_or_make(self.stream, epoch, **self.options) if self.cache else None
        self._last = epoch, made or make_in_memory(self.stream, epoch, **self.options)
        return self._last[1]
