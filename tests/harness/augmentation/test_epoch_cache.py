"""Epochs on disk: whole or made again, the same whoever makes them, within their limit."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from harness.augmentation import engine
from harness.augmentation.epoch_cache import IMAGES, TARGETS, EpochCache, EpochReader
from harness.augmentation.stream import make_in_memory
from harness.augmentation.training_images import training_stream
from harness.data.splitting import split_indices
from harness.execution import devices
from harness.schema.augmentation import Augmentation
from harness.schema.dataset import Dataset, Split
from harness.schema.protocol import Loss, Protocol
from harness.schema.run import Run, Weights
from tests.harness.augmentation.conftest import make_stream

POLICY = "traditional+mixup"
LARGE = 10**9


class Counter:
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
    stream = make_stream(smear, POLICY, 580)
    first = make_in_memory(stream, 3)
    assert first.images.shape == (580, 48, 48, 3)
    np.testing.assert_allclose(first.targets.sum(axis=1), 1, atol=1e-6)
    monkeypatch.setattr(devices, "cores", lambda: 7)
    assert_same(make_in_memory(stream, 3), first)
    cached = EpochCache(tmp_path, LARGE).get_or_make(stream, 3)
    assert_same(cached, first)
    assert isinstance(cached.images, np.memmap)  # type: ignore[union-attr]
    for other in (
        make_in_memory(stream, 4),
        make_in_memory(make_stream(smear, POLICY, 580, seed=6), 3),
    ):
        assert (other.images != first.images).any(axis=(1, 2, 3)).mean() > 0.9


def test_every_image_is_there_once(smear: Dataset) -> None:
    stream = make_stream(smear, "none", 580)
    made = make_in_memory(stream, 0)
    np.testing.assert_array_equal(made.images, smear.images[stream.ids])
    np.testing.assert_array_equal(made.targets, stream.targets)


def test_only_the_copies_are_augmented(smear: Dataset, tmp_path: Path) -> None:
    """Those that oversampling adds: the images themselves come first, as they are."""
    loss, augmentation = Loss(oversampling=True), Augmentation(policy="noise", only_copies=True)
    weights, split = Weights(source="random"), Split()
    protocol = Protocol(loss=loss, augmentation=augmentation)
    run = Run(
        recipe="lite0", weights=weights, protocol=protocol, data=smear.fingerprint, split=split
    )
    stream, train = training_stream(run, smear), split_indices(split, smear).train
    assert 0 < len(train) < stream.rows
    made = make_in_memory(stream, 2)
    originals = smear.images[stream.ids]
    np.testing.assert_array_equal(made.images[: len(train)], smear.images[train])
    changed = (made.images != originals).any(axis=(1, 2, 3))
    assert changed[len(train) :].mean() > 0.9
    np.testing.assert_array_equal(made.targets, stream.targets)
    all_augmented = replace(stream, plain=0)
    assert stream.key != all_augmented.key
    assert_same(EpochCache(tmp_path, LARGE).get_or_make(stream, 2), made)


@pytest.mark.parametrize(
    ("loss", "policy", "message"),
    [
        (Loss(), "noise", "no copies without"),
        (Loss(oversampling=9), "report-001", "whole training"),
    ],
)
def test_copies_alone_need_copies(loss: Loss, policy: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Protocol(loss=loss, augmentation=Augmentation(policy=policy, only_copies=True))


def test_mixing_finds_partners_of_other_classes(smear: Dataset) -> None:
    """Images lie sorted by class in some sources; batches are drawn at random."""
    order = np.argsort(smear.labels, kind="stable")
    stream = make_stream(smear, "cutmix", 580)
    ids = order[:580]
    targets = np.eye(8, dtype=np.float32)[smear.labels[ids]]
    sorted_stream = type(stream)(smear.images, ids, targets, stream.augmentation, 1, "")
    made = make_in_memory(sorted_stream, 0)
    assert (made.targets.max(axis=1) < 0.99).mean() > 0.6


def test_the_fixed_set_has_one_epoch_of_five_times_the_images(
    smear: Dataset, tmp_path: Path
) -> None:
    stream = make_stream(smear, "report-001")
    reader = EpochReader(stream, EpochCache(tmp_path, LARGE))
    first = reader.read(0, 10)
    assert len(first.images) == stream.rows == 1500
    np.testing.assert_array_equal(first.images[:300], smear.images[stream.ids])
    np.testing.assert_array_equal(first.targets[:300], stream.targets)
    assert reader.read(7, 10) is first
    assert [path.name for path in tmp_path.glob("*/epoch-*")] == ["epoch-0000"]


def test_the_next_recipe_makes_nothing(smear: Dataset, tmp_path: Path) -> None:
    counter, cache = Counter(), EpochCache(tmp_path, LARGE)
    stream = replace(make_stream(smear, POLICY), augment=counter)
    made = [EpochReader(stream, cache).read(k, 2) for k in range(2)]
    calls = counter.calls
    assert calls > 0
    for _ in range(2):
        reader = EpochReader(replace(make_stream(smear, POLICY), augment=counter), cache)
        for k in range(2):
            assert_same(reader.read(k, 2), made[k])
    assert counter.calls == calls


@pytest.mark.parametrize(
    "changes",
    [{"policy": "mixup"}, {"count": 299}, {"seed": 6}, {"policy": "traditional+mixup+noise"}],
)
def test_the_key_covers_what_the_pixels_depend_on(smear: Dataset, changes: Any) -> None:
    usual = {"policy": POLICY, "count": 300, "seed": 5}
    assert make_stream(smear, **usual).key == make_stream(smear, **usual).key
    assert make_stream(smear, **usual).key != make_stream(smear, **{**usual, **changes}).key


# --- damaged, missing, no room -------------------------------------------------------------------


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


@pytest.mark.parametrize("damage", [_cut, _flip, _lose])
def test_a_damaged_epoch_is_made_again(smear: Dataset, tmp_path: Path, damage: Any) -> None:
    stream, cache = make_stream(smear, POLICY), EpochCache(tmp_path, LARGE)
    before = make_in_memory(stream, 0)
    assert cache.get_or_make(stream, 0) is not None
    damage(tmp_path / stream.key / "epoch-0000")
    assert cache.find(stream, 0) is None
    assert_same(cache.get_or_make(stream, 0), before)
    assert_same(cache.find(stream, 0), before)


def test_several_at_once_make_an_epoch_once(smear: Dataset, tmp_path: Path) -> None:
    counter = Counter()
    stream = replace(make_stream(smear, POLICY), augment=counter)
    with ThreadPoolExecutor(6) as threads:
        epochs = list(
            threads.map(lambda _: EpochCache(tmp_path, LARGE).get_or_make(stream, 0), range(6))
        )
    calls = counter.calls
    for epoch in epochs:
        assert_same(epoch, epochs[0])
    make_in_memory(stream, 0)
    assert counter.calls == 2 * calls


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
def test_a_full_disk_is_warned_of_and_the_epoch_comes_from_memory(
    smear: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allocates: bool
) -> None:
    if not allocates:  # A file system that only says so in the middle.
        monkeypatch.delattr(os, "posix_fallocate")
    stream, warnings = make_stream(smear, POLICY), list[str]()
    cache = EpochCache(tmp_path, LARGE, warnings.append)
    with files_of_at_most(1_000_000):
        assert_same(EpochReader(stream, cache).read(0, 3), make_in_memory(stream, 0))
    assert len(warnings) == 1
    assert "no room for more augmented epochs" in warnings[0]
    assert [path for path in tmp_path.rglob("*epoch*") if path.is_dir()] == []
    assert_same(
        EpochReader(stream, cache).read(0, 3), make_in_memory(stream, 0)
    )  # There is room again.
    assert cache.find(stream, 0) is not None


def test_what_is_over_the_limit_is_made_make_in_memory(smear: Dataset, tmp_path: Path) -> None:
    stream, warnings = make_stream(smear, POLICY), list[str]()
    cache = EpochCache(tmp_path, int(2.5 * stream.bytes), warnings.append)
    reader = EpochReader(stream, cache)
    made = [reader.read(k, 4) for k in range(4)]
    assert [cache.find(stream, k) is not None for k in range(4)] == [True, True, False, False]
    assert_same(made[3], make_in_memory(stream, 3))
    assert "limit" in warnings[0]
    assert "augmented_gigabytes" in warnings[0]


def test_what_can_never_fit_evicts_nothing(smear: Dataset, tmp_path: Path) -> None:
    small, large = make_stream(smear, POLICY, 300), make_stream(smear, POLICY, 580)
    cache = EpochCache(tmp_path, int(1.5 * small.bytes))
    assert large.bytes > cache.limit_bytes
    assert cache.get_or_make(small, 0) is not None
    assert cache.get_or_make(large, 0) is None
    assert cache.find(small, 0) is not None


def test_the_least_recently_read_epochs_of_other_streams_are_evicted(
    smear: Dataset, tmp_path: Path
) -> None:
    one, two, three = (make_stream(smear, POLICY, seed=seed) for seed in (1, 2, 3))
    cache = EpochCache(tmp_path, int(2.5 * one.bytes))
    for i, stream in enumerate((one, two)):
        assert cache.get_or_make(stream, 0) is not None
        os.utime(tmp_path / stream.key / "epoch-0000", (i, i))
    assert cache.find(one, 0) is not None  # Reading counts.
    assert cache.get_or_make(three, 0) is not None
    present = [cache.find(stream, 0) is not None for stream in (one, two, three)]
    assert present == [True, False, True]


def test_a_folder_that_cannot_be_written_is_warned_of(smear: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    stream, warnings = make_stream(smear, POLICY), list[str]()
    reader = EpochReader(stream, EpochCache(tmp_path / "file", LARGE, warnings.append))
    assert_same(reader.read(0, 1), make_in_memory(stream, 0))
    assert str(tmp_path / "file") in warnings[0]
