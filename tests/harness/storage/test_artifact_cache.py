"""The artifact cache: created once, complete or not at all, within its limit."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import DataError, NoRoom, StoreError
from harness.execution.locks import FileLock
from harness.storage import artifact_cache
from harness.storage.artifact_cache import MANIFEST, ArtifactCache, damage


class Creator:
    """Writes two files, and counts how often."""

    def __init__(self, size: int = 100) -> None:
        self.size = size
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "rows").write_bytes(bytes(self.size))
        (folder / "inner").mkdir()
        (folder / "inner" / "note").write_text("note")


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, warnings: list[str]) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache", warn=warnings.append)


def artifacts(cache: ArtifactCache) -> set[str]:
    """Everything but lock files."""
    locks = {path for path in cache.root.rglob(".*.lock") if path.is_file()}
    paths = {p for depth in ("*", "*/*") for p in cache.root.glob(depth)} - locks
    return {path.relative_to(cache.root).as_posix() for path in paths}


def with_limit(cache: ArtifactCache, limit: int) -> ArtifactCache:
    return ArtifactCache(cache.root, limit, cache.warn)


def test_an_artifact_is_created_once(cache: ArtifactCache) -> None:
    create = Creator()
    assert cache.find("a") is None
    folder = cache.get_or_create("a", create)
    assert folder == cache.root / "a"
    assert (folder / "inner" / "note").read_text() == "note"
    assert cache.get_or_create("a", create, verify=True) == cache.find("a", verify=True) == folder
    assert create.calls == 1
    cache.get_or_create("group/b", create)
    assert create.calls == 2


def create_at_once(barrier: object, root: Path, calls: object) -> None:
    create = Creator()
    barrier.wait(30)
    ArtifactCache(root).get_or_create("a", create)
    calls.put(create.calls)


def test_of_several_processes_one_creates_it(cache: ArtifactCache) -> None:
    context = multiprocessing.get_context("fork")
    barrier, calls = context.Barrier(4), context.Queue()
    processes = [
        context.Process(target=create_at_once, args=(barrier, cache.root, calls)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    assert sorted(calls.get(timeout=60) for _ in processes) == [0, 0, 0, 1]
    for process in processes:
        process.join(30)


# --- damage --------------------------------------------------------------------------------------


def shorten(folder: Path) -> None:
    (folder / "rows").write_bytes(b"short")


def lose_a_file(folder: Path) -> None:
    (folder / "inner" / "note").unlink()


def lose_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def spoil_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"files": [1]}')


def empty_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (shorten, "rows has the wrong size"),
        (lose_a_file, "note is missing"),
        (lose_manifest, "manifest.json is missing"),
        (spoil_manifest, "manifest.json cannot be read"),
        (empty_manifest, "manifest.json cannot be read"),
    ],
)
def test_a_damaged_artifact_is_created_again_with_one_warning(
    cache: ArtifactCache, warnings: list[str], spoil: Callable[[Path], None], reason: str
) -> None:
    create = Creator()
    folder = cache.get_or_create("a", create)
    spoil(folder)
    assert cache.find("a") is None
    assert cache.get_or_create("a", create) == folder
    assert create.calls == 2
    assert damage(folder, verify=True) is None
    assert warnings == [f"{folder}: {reason}; it is created again"]
    assert artifacts(cache) == {"a", "a/rows", "a/inner", "a/manifest.json"}


def test_a_changed_byte_is_found_by_its_checksum(cache: ArtifactCache, warnings: list[str]) -> None:
    create = Creator()
    folder = cache.get_or_create("a", create)
    (folder / "rows").write_bytes(bytes(99) + b"1")
    assert cache.find("a") == folder
    assert cache.find("a", verify=True) is None
    cache.get_or_create("a", create, verify=True)
    assert (folder / "rows").read_bytes() == bytes(100)
    assert warnings == [f"{folder}: rows does not match its checksum; it is created again"]


def test_a_checksum_is_computed_once_in_a_command(cache: ArtifactCache) -> None:
    folder = cache.get_or_create("a", Creator())
    before = artifact_cache._checksum.cache_info().misses
    for _ in range(3):
        assert cache.find("a", verify=True) == folder
    assert artifact_cache._checksum.cache_info().misses == before + 2  # Of two files.


def test_all_is_synced_before_it_is_published(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    before_rename: list[int] = []
    fsync, rename = os.fsync, Path.rename

    def record_sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def record_rename(self: Path, target: Path) -> Path:
        before_rename.extend(synced)
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "rename", record_rename)
    folder = cache.get_or_create("a", Creator())
    assert {path.stat().st_ino for path in (folder, *folder.rglob("*"))} <= set(before_rename)
    assert synced[-1] == cache.root.stat().st_ino


# --- failures ------------------------------------------------------------------------------------


def test_a_failure_leaves_nothing(cache: ArtifactCache) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise DataError("the source is broken")

    with pytest.raises(DataError, match="the source is broken"):
        cache.get_or_create("a", fail)
    assert artifacts(cache) == set()


def die(root: Path) -> None:
    def kill(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    ArtifactCache(root).get_or_create("dead", kill)


@pytest.mark.parametrize("next_key", ["dead", "other"])
def test_what_a_killed_process_left_is_deleted_by_the_next(
    cache: ArtifactCache, next_key: str
) -> None:
    process = multiprocessing.get_context("fork").Process(target=die, args=(cache.root,))
    process.start()
    process.join(30)
    assert any(".creating-" in name for name in artifacts(cache))
    cache.get_or_create(next_key, Creator())
    assert {name for name in artifacts(cache) if "/" not in name} == {next_key}


def test_an_artifact_under_creation_is_left_alone(cache: ArtifactCache) -> None:
    def create_both(folder: Path) -> None:
        cache.get_or_create("b", Creator())
        Creator()(folder)

    assert damage(cache.get_or_create("a", create_both)) is None


class NoLock(FileLock):
    """As on a file system without locks, where each is granted."""

    def acquire(self, blocking: bool = True) -> bool:
        self.enforced = False
        return True


def test_without_locks_nobody_deletes_what_another_creates(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_cache, "FileLock", NoLock)
    create = Creator()

    def create_twice(folder: Path) -> None:
        cache.get_or_create("a", create)
        create(folder)

    folder = cache.get_or_create("a", create_twice)
    assert damage(folder, verify=True) is None
    assert create.calls == 2
    assert {name for name in artifacts(cache) if "/" not in name} == {"a"}


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"file: the cache cannot be written"):
        ArtifactCache(tmp_path / "file").get_or_create("a", Creator())


# --- room ----------------------------------------------------------------------------------------


def test_room_is_checked_before_anything_is_created(
    cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.root.mkdir()
    usage = shutil.disk_usage(cache.root)._replace(free=2 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    create = Creator()
    with pytest.raises(NoRoom, match=r"a takes 3\.0 GB, but 2\.0 GB are free there"):
        cache.get_or_create("a", create, size=3 * 10**9)
    assert create.calls == 0
    assert artifacts(cache) == set()


def test_a_disk_that_fills_meanwhile_is_one_line(cache: ArtifactCache) -> None:
    def fill(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(NoRoom, match="the disk is full"):
        cache.get_or_create("a", fill)
    assert artifacts(cache) == set()


def used(cache: ArtifactCache, key: str, at: int) -> None:
    os.utime(cache.root / key, (at, at))


def folders(cache: ArtifactCache) -> set[str]:
    return {path.parent.relative_to(cache.root).as_posix() for path in cache.root.rglob(MANIFEST)}


def test_the_least_recently_used_is_evicted(cache: ArtifactCache) -> None:
    for at, key in enumerate(("old", "young", "group/oldest")):
        cache.get_or_create(key, Creator(1000))
        used(cache, key, 1000 + at)
    used(cache, "group/oldest", 1)
    cache.find("old")
    with_limit(cache, 4000).get_or_create("new", Creator(1000), size=1000)
    assert folders(cache) == {"old", "young", "new"}
    used(cache, "new", 3000)
    with_limit(cache, 4000).get_or_create("newer", Creator(1000), size=1000)
    assert folders(cache) == {"old", "new", "newer"}


def test_a_group_does_not_evict_its_own(cache: ArtifactCache) -> None:
    small = with_limit(cache, 2800)
    small.get_or_create("group/1", Creator(1000), size=1000)
    small.get_or_create("group/2", Creator(1000), size=1000)
    with pytest.raises(NoRoom, match=r"the cache's limit of 0\.0 GB is reached"):
        small.get_or_create("group/3", Creator(1000), size=1000)
    assert folders(cache) == {"group/1", "group/2"}
    small.get_or_create("other/1", Creator(1000), size=1000)
    assert folders(cache) == {"group/2", "other/1"}


def test_nothing_is_evicted_where_that_is_not_enough(cache: ArtifactCache) -> None:
    cache.get_or_create("a", Creator(1000))
    with pytest.raises(NoRoom):
        with_limit(cache, 2000).get_or_create("b", Creator(), size=3000)
    assert folders(cache) == {"a"}


def test_an_artifact_under_repair_is_not_evicted(cache: ArtifactCache) -> None:
    folder = cache.get_or_create("a", Creator(1000))
    (folder / "rows").write_bytes(bytes(999) + b"1")

    def create_both(_: Path) -> None:
        with pytest.raises(NoRoom):
            with_limit(cache, 1500).get_or_create("b", Creator(1000), size=1000)

    cache.get_or_create("a", create_both, verify=True)
    assert folders(cache) == {"a"}


def test_an_artifact_under_creation_counts(cache: ArtifactCache) -> None:
    small = with_limit(cache, 3000)

    def create_both(folder: Path) -> None:
        with pytest.raises(NoRoom):
            small.get_or_create("b", Creator(), size=2000)

    small.get_or_create("a", create_both, size=2000)
