"""What fits a budget, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.execution.devices import Device, cores
from harness.schema.records import Finished, RunRecord
from harness.storage.records import Store
from harness.sweep import planner
from tests.harness.conftest import SUMMARY, made_planned, made_record, save_finished
from tests.harness.sweep.sweeper import planned as many
from zoo.registry import find

seconds_lists = st.lists(st.floats(0.1, 1000), min_size=1, max_size=12)


def test_each_run_begins_on_the_first_machine_that_is_free() -> None:
    assert planner.end_times([5, 3, 2, 1], 1) == (5, 8, 10, 11)
    assert planner.end_times([5, 3, 2, 1], 2) == (5, 3, 5, 6)
    assert planner.end_times([5, 3], 8) == (5, 3)


@given(seconds_lists, st.integers(1, 8), st.floats(0, 3000))
def test_what_fits_a_budget_ends_within_it(
    seconds: list[float], machines: int, budget: float
) -> None:
    pending = many(1, len(seconds))
    told = {one.run.id: each for one, each in zip(pending, seconds, strict=True)}
    fits = planner.within_budget(budget, pending, told, machines)
    if fits:
        assert max(planner.end_times([told[one.run.id] for one in fits], machines)) <= budget
    left = [told[one.run.id] for one in pending if one not in fits]
    # What is left out is no shorter than anything that was taken.
    assert all(told[one.run.id] <= min(left, default=float("inf")) for one in fits)
    if sum(seconds) <= budget:
        assert fits == tuple(pending)


def test_memory_comes_from_a_record_of_the_same_protocol_and_device(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save_finished(store, made_record("vgg16"))
    records, one = store.records(), made_planned("vgg16", seed=4)
    assert planner.memory_mb(one, records, "Test CPU, 2 cores") == 900
    assert planner.memory_mb(one, records, "Another CPU") is None
    assert planner.memory_mb(made_planned("vgg19"), records, "Test CPU, 2 cores") is None
    assert planner.disk_mb(one, SUMMARY) == pytest.approx(100 * 512 * 4 / 1024**2)


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
    told = planner.estimate(made_planned(recipe), SUMMARY, records, device, guess=7e10)
    return told - planner.START_SECONDS - planner.HEAD_SECONDS


def test_a_gpu_is_not_guessed_by_the_hosts_cores() -> None:
    gpu, cpu = (planner.first_guess(Device(id, "x")) for id in ("gpu:0", "cpu"))
    assert gpu == planner.GPU_MULTIPLY_ADDS
    assert cpu == cores() * planner.CORE_MULTIPLY_ADDS


def test_a_device_is_as_fast_as_it_was_with_other_recipes() -> None:
    """Its own rate is believed first, then the device's median speed, then a guess."""
    sizes = {name: planner.work(find(name), 96) for name in ("vgg16", "vgg19", "resnet50", "lite0")}
    speeds = {"vgg19": 9e12, "resnet50": 5e12, "lite0": 1e12}
    others = [fast(name, speed / sizes[name], "GPU") for name, speed in speeds.items()]
    by_guess = 100 * sizes["vgg16"] / 7e10
    assert seconds("vgg16", []) == pytest.approx(by_guess)
    assert seconds("vgg16", others) == pytest.approx(100 * sizes["vgg16"] / 5e12)
    assert seconds("vgg16", [*others, fast("vgg16", 400.0, "GPU")]) == pytest.approx(100 / 400)
    assert seconds("vgg16", others, "Another GPU") == pytest.approx(by_guess)
