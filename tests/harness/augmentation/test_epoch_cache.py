"""Epochs on disk: whole or made again, the same whoever makes them, within their limit."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.augmentation import engine
from harness.augmentation.epoch_cache import IMAGES, META, TARGETS, EpochCache, Reader, in_memory
from harness.execution import devices
from harness.schema.dataset import Dataset
from tests.harness.augmentation.conftest import stream_of

POLICY = "traditional+mixup"
LARGE = 10**9


class Counted:
    """The engine, counting its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> engine.Batch:
        with self._lock:
            self.calls += 1
        return engine.augment(*arguments)


def assert_same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.targets, other.targets)


def test_an_epoch_depends_on_the_stream_and_its_number_alone(
    smear: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = stream_of(smear, POLICY, 580)
    first = in_memory(stream, 3)
    assert first.images.shape == (580, 48, 48, 3)
    np.testing.assert_allclose(first.targets.sum(axis=1), 1, atol=1e-6)
    monkeypatch.setattr(devices, "cores", lambda: 7)
    assert_same(in_memory(stream, 3), first)
    kept = EpochCache(tmp_path, LARGE).keep(stream, 3)
    assert_same(kept, first)
    assert isinstance(kept.images, np.memmap)  # type: ignore[union-attr]
    for other in (in_memory(stream, 4), in_memory(stream_of(smear, POLICY, 580, seed=6), 3)):
        assert (other.images != first.images).any(axis=(1, 2, 3)).mean() > 0.9


def test_every_image_is_there_once(smear: Dataset) -> None:
    stream = stream_of(smear, "none", 580)
    made = in_memory(stream, 0)
    np.testing.assert_array_equal(made.images, smear.images[stream.ids])
    np.testing.assert_array_equal(made.targets, stream.targets)


def test_mixing_finds_partners_of_other_classes(smear: Dataset) -> None:
    """Images lie sorted by class in some sources; batches are drawn at random."""
    order = np.argsort(smear.labels, kind="stable")
    stream = stream_of(smear, "cutmix", 580)
    ids = order[:580]
    targets = np.eye(8, dtype=np.float32)[smear.labels[ids]]
    sorted_stream = type(stream)(smear.images, ids, targets, stream.augmentation, 1, "")
    made = in_memory(sorted_stream, 0)
    assert (made.targets.max(axis=1) < 0.99).mean() > 0.6


def test_the_fixed_set_has_one_epoch_of_five_times_the_images(
    smear: Dataset, tmp_path: Path
) -> None:
    stream = stream_of(smear, "report-001")
    reader = Reader(stream, EpochCache(tmp_path, LARGE))
    first = reader.read(0, 10)
    assert len(first.images) == stream.rows == 1500
    np.testing.assert_array_equal(first.images[:300], smear.images[stream.ids])
    np.testing.assert_array_equal(first.targets[:300], stream.targets)
    assert reader.read(7, 10) is first
    assert [path.name for path in tmp_path.glob("*/epoch-*")] == ["epoch-0000"]


def test_the_next_recipe_makes_nothing(smear: Dataset, tmp_path: Path) -> None:
    stream, shelf, counted = stream_of(smear, POLICY), EpochCache(tmp_path, LARGE), Counted()
    made = [Reader(stream, shelf, {"augment": counted}).read(k, 2) for k in range(2)]
    calls = counted.calls
    assert calls > 0
    for _ in range(2):
        reader = Reader(stream_of(smear, POLICY), shelf, {"augment": counted})
        for k in range(2):
            assert_same(reader.read(k, 2), made[k])
    assert counted.calls == calls


@pytest.mark.parametrize(
    "changes",
    [{"policy": "mixup"}, {"count": 299}, {"seed": 6}, {"policy": "traditional+mixup+noise"}],
)
def test_the_key_covers_what_the_pixels_depend_on(smear: Dataset, changes: Any) -> None:
    usual = {"policy": POLICY, "count": 300, "seed": 5}
    assert stream_of(smear, **usual).key == stream_of(smear, **usual).key
    assert stream_of(smear, **usual).key != stream_of(smear, **{**usual, **changes}).key


# --- torn, missing, crowded ----------------------------------------------------------------------


def _cut(folder: Path) -> None:
    with (folder / IMAGES).open("r+b") as file:
        file.truncate(5000)


def _flip(folder: Path) -> None:
    with (folder / IMAGES).open("r+b") as file:
        file.seek(100_000)
        byte = file.read(1)
        file.seek(100_000)
        file.write(bytes([byte[0] ^ 1]))


def _lose(folder: Path) -> None:
    (folder / TARGETS).unlink()


def _scribble(folder: Path) -> None:
    (folder / META).write_text(json.dumps([1, 2]))


@pytest.mark.parametrize("harm", [_cut, _flip, _lose, _scribble])
def test_a_torn_epoch_is_made_again(smear: Dataset, tmp_path: Path, harm: Any) -> None:
    stream, shelf = stream_of(smear, POLICY), EpochCache(tmp_path, LARGE)
    before = in_memory(stream, 0)
    assert shelf.keep(stream, 0) is not None
    harm(shelf.folder(stream, 0))
    assert shelf.find(stream, 0) is None
    assert_same(shelf.keep(stream, 0), before)
    assert_same(shelf.find(stream, 0), before)


def test_several_at_once_make_an_epoch_once(smear: Dataset, tmp_path: Path) -> None:
    stream, counted = stream_of(smear, POLICY), Counted()
    found: list[Any] = []

    def want() -> None:
        found.append(EpochCache(tmp_path, LARGE).keep(stream, 0, augment=counted))

    threads = [threading.Thread(target=want) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        assert_same(one, found[0])
    once = Counted()
    in_memory(stream, 0, augment=once)
    assert counted.calls == once.calls


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full for larger files: the kernel itself refuses to write on."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("allocates", [True, False])
def test_a_full_disk_is_told_and_the_epoch_comes_from_memory(
    smear: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allocates: bool
) -> None:
    if not allocates:  # A file system that only says so in the middle.
        monkeypatch.delattr(os, "posix_fallocate")
    stream, told = stream_of(smear, POLICY), list[str]()
    shelf = EpochCache(tmp_path, LARGE, told.append)
    with files_of_at_most(1_000_000):
        assert_same(Reader(stream, shelf).read(0, 3), in_memory(stream, 0))
    assert len(told) == 1
    assert "cannot keep augmented epochs" in told[0]
    assert [path for path in tmp_path.rglob("*epoch*") if path.is_dir()] == []
    assert_same(Reader(stream, shelf).read(0, 3), in_memory(stream, 0))  # There is room again.
    assert shelf.find(stream, 0) is not None


def test_what_is_over_the_limit_is_made_in_memory(smear: Dataset, tmp_path: Path) -> None:
    stream, told = stream_of(smear, POLICY), list[str]()
    shelf = EpochCache(tmp_path, int(2.5 * stream.bytes), told.append)
    reader = Reader(stream, shelf)
    made = [reader.read(k, 4) for k in range(4)]
    assert [shelf.find(stream, k) is not None for k in range(4)] == [True, True, False, False]
    assert_same(made[3], in_memory(stream, 3))
    assert "limit" in told[0]
    assert "augmented_gigabytes" in told[0]


def test_what_can_never_fit_sends_nobody_away(smear: Dataset, tmp_path: Path) -> None:
    small, large = stream_of(smear, POLICY, 300), stream_of(smear, POLICY, 580)
    shelf = EpochCache(tmp_path, int(1.5 * small.bytes))
    assert large.bytes > shelf.limit
    assert shelf.keep(small, 0) is not None
    assert shelf.keep(large, 0) is None
    assert shelf.find(small, 0) is not None


def test_the_oldest_epochs_of_other_streams_make_way(smear: Dataset, tmp_path: Path) -> None:
    one, two, three = (stream_of(smear, POLICY, seed=seed) for seed in (1, 2, 3))
    shelf = EpochCache(tmp_path, int(2.5 * one.bytes))
    for i, stream in enumerate((one, two)):
        assert shelf.keep(stream, 0) is not None
        os.utime(shelf.folder(stream, 0), (i, i))
    assert shelf.find(one, 0) is not None  # Reading counts.
    assert shelf.keep(three, 0) is not None
    kept = [shelf.find(stream, 0) is not None for stream in (one, two, three)]
    assert kept == [True, False, True]


def test_what_a_dead_process_left_is_swept_away(smear: Dataset, tmp_path: Path) -> None:
    stream, shelf = stream_of(smear, POLICY), EpochCache(tmp_path, LARGE)
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    left = tmp_path / "0123" / f".making-epoch-0000-{socket.gethostname()}-{int(child.stdout)}"
    mine = left.with_name(f".making-epoch-0001-{socket.gethostname()}-{os.getpid()}")
    for folder in (left, mine):
        folder.mkdir(parents=True)
    assert shelf.keep(stream, 0) is not None
    assert not left.exists()
    assert mine.exists()


def test_a_folder_that_cannot_be_written_is_told(smear: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    stream, told = stream_of(smear, POLICY), list[str]()
    reader = Reader(stream, EpochCache(tmp_path / "file", LARGE, told.append))
    assert_same(reader.read(0, 1), in_memory(stream, 0))
    assert str(tmp_path / "file") in told[0]
