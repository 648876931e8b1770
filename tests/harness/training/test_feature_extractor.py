"""Passes of a backbone: full batches, in order, under the device lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 8, 8, 3), dtype=np.uint8)
ROWS = np.random.default_rng(1).permutation(23)[:17]


class Lock:
    """Stands in for a DeviceLock; records whether work outlasts the lock."""

    def __init__(self, own: bool) -> None:
        self.own, self.running, self.most, self.times = own, 0, 0, 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        self.times += 1
        yield
        assert self.own or not self.running, "the lock was released before the work was done"

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        yield True

    @property
    def device(self) -> str:
        return "gpu:0"


@pytest.fixture(scope="module")
def network() -> Any:
    import keras

    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 3))
    return keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels))


def extractor(network: Any, lock: Lock, batch_size: int = 5) -> Any:
    from harness.training.feature_extractor import FeatureExtractor

    return FeatureExtractor(network, lock, batch_size)  # type: ignore[arg-type]


def test_features_are_those_of_the_rows_in_full_batches(network: Any) -> None:
    sizes, counts = list[int](), list[int]()

    def take(rows: np.ndarray) -> np.ndarray:
        sizes.append(len(rows))
        return IMAGES[rows]

    features = extractor(network, Lock(own=False)).extract(take, ROWS, counts.append)
    np.testing.assert_allclose(features, IMAGES[ROWS].mean(axis=(1, 2)), rtol=1e-5)
    assert set(sizes) == {5}, "another shape would recompile"
    assert counts == [5, 5, 5, 2]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:3]])
def test_a_measurement_ends_after_enough_batches(
    network: Any, monkeypatch: pytest.MonkeyPatch, rows: np.ndarray
) -> None:
    """It returns the features of the rows that it took, and repeats batches of a tiny part."""
    from harness.training import throughput

    monkeypatch.setattr(throughput, "MINIMUM_SECONDS", 0.0)
    meter = throughput.Meter()
    features = extractor(network, Lock(own=False), batch_size=3).measure(IMAGES, rows, meter)
    assert len(meter.seconds) == throughput.MINIMUM_BATCHES
    assert meter.exclusive
    assert len(features) == min(len(rows), 15)
    expected = IMAGES[rows[: len(features)]].mean(axis=(1, 2))
    np.testing.assert_allclose(features, expected, rtol=1e-5)


def test_the_making_of_views_is_within_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an ensemble's rate too, which the same meter measures."""
    from harness.training import throughput

    now = [0.0]

    def turned(batch: np.ndarray, view: int) -> np.ndarray:
        now[0] += 1.0
        return batch

    monkeypatch.setattr(throughput, "apply_view", turned)
    monkeypatch.setattr("harness.training.throughput.time.perf_counter", lambda: now[0])
    meter = throughput.Meter(views=4)
    lock: Any = Lock(own=True)
    meter.measure(lambda batch: batch, [IMAGES[:5]] * 9, lambda size: IMAGES[:size], lock)
    assert meter.seconds == [3.0] * throughput.MINIMUM_BATCHES


def test_further_batch_sizes_are_measured_while_memory_allows(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.training import throughput

    for name in ("MINIMUM_SECONDS", "FURTHER_SECONDS"):
        monkeypatch.setattr(throughput, name, 0.0)
    ours = extractor(network, Lock(own=False), batch_size=3)
    forward, sizes = ours._forward, []

    def limited(batch: np.ndarray) -> Any:
        sizes.append(len(batch))
        if len(batch) > 50:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes")
        return forward(batch)

    monkeypatch.setattr(ours, "_forward", limited)
    meter = throughput.Meter(further_sizes=(1, 40, 99, 200))
    ours.measure(IMAGES, ROWS, meter)
    assert set(meter.further) == {1, 40}
    assert meter.latency_ms() == 1000 * meter.further[1]
    assert sizes.count(99) == 1
    assert 200 not in sizes
    meter.further, meter.seconds = {1: 0.25, 40: 2.0}, [0.2, 0.1, 0.3]
    assert meter.best(3) == (20.0, 40)
    assert throughput.Meter(seconds=[0.5]).latency_ms() is None

    def broken(batch: np.ndarray) -> Any:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(ours, "_forward", broken)
    with pytest.raises(RuntimeError, match="no kernel image"):
        ours.measure(IMAGES, ROWS, throughput.Meter(further_sizes=(1,)))


@pytest.mark.parametrize("own", [True, False])
def test_batches_are_queued_on_a_device_of_the_runs_own(
    network: Any, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    from harness.training import feature_extractor

    lock = Lock(own)
    ours = extractor(network, lock)

    def forward(batch: int) -> int:
        lock.running += 1
        lock.most = max(lock.most, lock.running)
        return batch

    def fetch(features: int) -> np.ndarray:
        lock.running -= 1
        return np.array([features])

    monkeypatch.setattr(ours, "_forward", forward)
    monkeypatch.setattr(feature_extractor, "to_numpy", fetch)
    fetched = [int(features[0]) for features in ours.predict_batches(range(40))]
    assert fetched == list(range(40))
    assert lock.running == 0
    assert lock.most == (feature_extractor.QUEUED + 1 if own else 1)
    assert lock.times >= 40
