"""Locks on files, between processes and threads."""

from __future__ import annotations

import threading
from pathlib import Path

from harness.storage.file_lock import FileLock


def test_a_file_lock_excludes_threads_and_other_locks_of_one_process(tmp_path: Path) -> None:
    path, order = tmp_path / "new folder" / "x.lock", list[str]()
    first, second = FileLock(path), FileLock(path)
    assert first.acquire()
    assert not second.acquire(blocking=False)

    def wait() -> None:
        with second:
            order.append("second")

    thread = threading.Thread(target=wait)
    thread.start()
    order.append("first")
    first.release()
    thread.join(20)
    assert order == ["first", "second"]
    first.release()  # Not held any more: nothing happens.
    assert first.acquire(blocking=False)


def test_shared_locks_exclude_exclusive_ones_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with FileLock(path, shared=True), FileLock(path, shared=True):
        assert not FileLock(path).acquire(blocking=False)
    assert FileLock(path).acquire(blocking=False)
