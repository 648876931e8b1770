"""The cache of everything that is expensive to compute: each artifact is created once.

An artifact is a folder of files, ``ROOT/KEY`` or ``ROOT/GROUP/KEY``. It is created by one process
at a time, in a hidden folder next to it; sizes and checksums go into its ``manifest.json``, files
and folders are synced, and the folder is renamed. The kernel drops the lock of a process that dies,
by which its leftovers are recognised.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

from harness.errors import NoRoom, StoreError, is_no_room
from harness.storage.file_lock import FileLock
from harness.storage.files import sync_file, sync_folder

MANIFEST = "manifest.json"
_TEMPORARY = ".creating-"
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class ArtifactCache:
    """A folder of artifacts by key, a hash of everything that the artifact depends on."""

    root: Path
    limit_bytes: int | None = None
    """Of all artifacts; None: as much as the disk holds."""
    warn: Callable[[str], object] = logging.getLogger(__name__).warning
    """Receives a line for each damaged artifact that is created again."""

    def find(self, key: str, *, verify: bool = False) -> Path | None:
        """The folder of an artifact; None where it is absent or damaged.

        ``verify``: compare checksums (a gigabyte per second), not only sizes; a file that has not
        been written since, once in this process.
        """
        folder = self.root / key
        if damage(folder, verify=verify):
            return None
        with suppress(OSError):  # A cache that can only be read has no order of use.
            os.utime(folder)
        return folder

    def get_or_create(
        self, key: str, create: Callable[[Path], object], *, size: int = 0, verify: bool = False
    ) -> Path:
        """The folder of an artifact, whose files ``create`` writes where it is absent or damaged.

        ``size``: the bytes that it will need. Artifacts of other groups are evicted to make room,
        least recently used first. Waits for a process that creates the same artifact.
        Raises NoRoom, StoreError where the cache cannot be written, and what ``create`` raises.
        """
        if folder := self.find(key, verify=verify):
            return folder
        folder = self.root / key
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _lock(folder) as lock:
                if self.find(key, verify=verify):
                    return folder
                if folder.exists():
                    self.warn(f"{folder}: {damage(folder, verify=verify)}; it is created again")
                if lock.enforced:
                    self._remove_leftovers(folder)
                with self._temporary_folder(folder, size) as temporary:
                    create(temporary)
                    _write_manifest(temporary)
                    _publish(temporary, folder)
        except OSError as error:
            if is_no_room(error):
                raise NoRoom.at(self.root) from error
            raise StoreError(f"{self.root}: the cache cannot be written: {error}") from error
        return folder

    @contextmanager
    def _temporary_folder(self, folder: Path, size: int) -> Iterator[Path]:
        temporary = folder.with_name(f".{folder.name}{_TEMPORARY}{size}-{uuid4().hex[:12]}")
        with FileLock(self.root / ".room.lock"):
            self._make_room(folder, size)
            temporary.mkdir()
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _remove_leftovers(self, folder: Path) -> None:
        """Delete what dead processes left: the lock of its artifact is free, or ours."""
        for temporary in self._temporaries():
            artifact = temporary.with_name(temporary.name[1:].partition(_TEMPORARY)[0])
            with _unless_locked(artifact) as unlocked:
                if unlocked or artifact == folder:
                    shutil.rmtree(temporary, ignore_errors=True)

    def _make_room(self, folder: Path, size: int) -> None:
        if self.limit_bytes is not None:
            self._evict(folder, size, self.limit_bytes)
        free = shutil.disk_usage(self.root).free
        if size > free:
            raise NoRoom(
                f"{self.root}: {folder.name} takes {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB "
                "are free there"
            )

    def _evict(self, folder: Path, size: int, limit: int) -> None:
        """Delete artifacts until ``size`` more bytes fit; none where that would not be enough."""
        sizes = {path.parent: _bytes(path.parent) for path in self._manifests()}
        sizes.pop(folder, None)  # It is replaced.
        free = limit - sum(sizes.values()) - sum(map(_reserved_bytes, self._temporaries()))
        own_group = folder.parent if folder.parent != self.root else None
        evictable = [path for path in sizes if path.parent != own_group]
        if free + sum(sizes[path] for path in evictable) >= size:
            for path in sorted(evictable, key=_last_used):
                if free >= size:
                    return
                with _unless_locked(path) as unlocked:
                    if unlocked:
                        shutil.rmtree(path, ignore_errors=True)
                        free += sizes[path]
        if free < size:
            raise NoRoom(f"{self.root}: the cache's limit of {limit / 1e9:.1f} GB is reached")

    def _manifests(self) -> Iterator[Path]:
        for depth in ("*", "*/*"):
            for path in self.root.glob(f"{depth}/{MANIFEST}"):
                if not path.parent.name.startswith("."):
                    yield path

    def _temporaries(self) -> list[Path]:
        return [path for depth in ("", "*/") for path in self.root.glob(f"{depth}.*{_TEMPORARY}*")]


def damage(folder: Path, *, verify: bool = False) -> str | None:
    """What is wrong with the artifact in a folder; None if it is complete."""
    try:
        files = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
        for name, entry in files.items():
            status = (folder / name).stat()
            if status.st_size != entry["bytes"]:
                return f"{name} has the wrong size"
            version = status.st_ino, status.st_mtime_ns, status.st_ctime_ns
            if verify and _checksum(folder / name, version) != entry["crc32"]:
                return f"{name} does not match its checksum"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def _write_manifest(folder: Path) -> None:
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        entry = {"bytes": path.stat().st_size, "crc32": _checksum(path)}
        files[path.relative_to(folder).as_posix()] = entry
        sync_file(path)
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1), "utf-8")
    sync_file(folder / MANIFEST)
    for inner in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        sync_folder(inner)


def _publish(temporary: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        temporary.rename(folder)
    except OSError:
        if damage(folder):  # Else another process was faster, on a disk without locks.
            raise
    sync_folder(folder.parent)


def _lock(folder: Path) -> FileLock:
    return FileLock(folder.with_name(f".{folder.name}.lock"))


@contextmanager
def _unless_locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of an artifact if it is free; yields whether it was."""
    lock = _lock(folder)
    try:
        yield lock.acquire(blocking=False)
    finally:
        lock.release()


@lru_cache(maxsize=4096)
def _checksum(path: Path, version: tuple[int, ...] = ()) -> int:
    """``version``: changes whenever the file is written."""
    total = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            total = zlib.crc32(block, total)
    return total


def _bytes(folder: Path) -> int:
    with suppress(OSError):  # Another process may delete it meanwhile.
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return 0


def _reserved_bytes(temporary: Path) -> int:
    return int(temporary.name.partition(_TEMPORARY)[2].partition("-")[0])


def _last_used(folder: Path) -> float:
    with suppress(OSError):
        return folder.stat().st_mtime
    return 0.0
