"""What fits a budget, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.execution.devices import Device, cores
from harness.schema.records import Finished, RunRecord
from harness.storage.records import Store
from harness.sweep import estimates
from tests.harness.conftest import SUMMARY, made_planned, made_record, save_finished
from tests.harness.sweep.sweeper import planned_runs as many
from zoo.registry import find

seconds_lists = st.lists(st.floats(0.1, 1000), min_size=1, max_size=12)


def test_each_run_begins_on_the_first_machine_that_is_free() -> None:
    assert estimates.end_times([5, 3, 2, 1], 1) == (5, 8, 10, 11)
    assert estimates.end_times([5, 3, 2, 1], 2) == (5, 3, 5, 6)
    assert estimates.end_times([5, 3], 8) == (5, 3)


@given(seconds_lists, st.integers(1, 8), st.floats(0, 3000))
def test_what_fits_a_budget_ends_within_it(
    seconds: list[float], machines: int, budget: float
) -> None:
    pending = many(1, len(seconds))
    by_id = {planned.run.id: each for planned, each in zip(pending, seconds, strict=True)}
    fits = estimates.within_budget(budget, pending, by_id, machines)
    chosen = [by_id[planned.run.id] for planned in fits]
    if fits:
        assert max(estimates.end_times(chosen, machines)) <= budget
    left_out = [by_id[planned.run.id] for planned in pending if planned not in fits]
    assert max(chosen, default=0) <= min(left_out, default=float("inf"))
    if sum(seconds) <= budget:
        assert fits == tuple(pending)


def test_memory_comes_from_a_record_of_the_same_protocol_and_device(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save_finished(store, made_record("vgg16"))
    records, planned = store.records(), made_planned("vgg16", seed=4)
    assert estimates.memory_mb(planned, records, "Test CPU, 2 cores") == 900
    assert estimates.memory_mb(planned, records, "Another CPU") is None
    assert estimates.memory_mb(made_planned("vgg19"), records, "Test CPU, 2 cores") is None
    assert estimates.disk_mb(planned, SUMMARY) == pytest.approx(100 * 512 * 4 / 1024**2)


def fast(recipe: str, images_per_second: float, device: str) -> RunRecord:
    """A record of this rate on this device."""
    record = made_record(recipe)
    assert isinstance(record.result, Finished)
    cost = record.result.cost
    throughput = cost.throughput.model_copy(update={"median": images_per_second, "device": device})
    result = record.result.model_copy(
        update={"cost": cost.model_copy(update={"throughput": throughput})}
    )
    return record.model_copy(update={"result": result})


def seconds(recipe: str, records: list[RunRecord], device: str = "GPU") -> float:
    """Of the passes over images alone, without what every run adds."""
    total = estimates.estimate_seconds(made_planned(recipe), SUMMARY, records, device, speed=7e10)
    return total - estimates.START_SECONDS - estimates.HEAD_SECONDS


def test_the_default_speed_of_a_gpu_does_not_depend_on_cores() -> None:
    gpu, cpu = (estimates.default_speed(Device(id, "x")) for id in ("gpu:0", "cpu"))
    assert gpu == estimates.GPU_SPEED
    assert cpu == cores() * estimates.CORE_SPEED


def test_a_device_is_as_fast_as_it_was_with_other_recipes() -> None:
    """First the recipe's own rate counts, then the device's median speed, then the default."""
    sizes = {
        name: estimates.multiply_adds(find(name), 96)
        for name in ("vgg16", "vgg19", "resnet50", "lite0")
    }
    speeds = {"vgg19": 9e12, "resnet50": 5e12, "lite0": 1e12}
    others = [fast(name, speed / sizes[name], "GPU") for name, speed in speeds.items()]
    by_default = 100 * sizes["vgg16"] / 7e10
    assert seconds("vgg16", []) == pytest.approx(by_default)
    assert seconds("vgg16", others) == pytest.approx(100 * sizes["vgg16"] / 5e12)
    assert seconds("vgg16", [*others, fast("vgg16", 400.0, "GPU")]) == pytest.approx(100 / 400)
    assert seconds("vgg16", others, "Another GPU") == pytest.approx(by_default)
