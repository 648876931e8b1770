"""Joules from stand-ins for the kernel's counters and for NVIDIA's library."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.execution.energy import EnergyCounter, EnergyMeter, PowerSensor


def zone(powercap: Path, name: str, label: str, microjoules: float, maximum: float = 1e9) -> Path:
    folder = powercap / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "max_energy_range_uj").write_text(f"{maximum:.0f}\n")
    (folder / "energy_uj").write_text(f"{microjoules:.0f}\n")
    return folder


def test_packages_are_added_up_and_their_sub_zones_are_not(tmp_path: Path) -> None:
    for i, start in enumerate((5e6, 7e6)):
        zone(tmp_path, f"intel-rapl:{i}", f"package-{i}", start)
    zone(tmp_path, "intel-rapl:0:0", "core", 1e6)
    zone(tmp_path, "intel-rapl:2", "psys", 1e6)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5e6)
    meter = EnergyMeter.of_device("cpu", tmp_path)
    assert meter.joules == 0
    zone(tmp_path, "intel-rapl:0", "package-0", 8e6)
    zone(tmp_path, "intel-rapl:1", "package-1", 7.5e6)
    zone(tmp_path, "intel-rapl:0:0", "core", 900e6)
    zone(tmp_path, "intel-rapl:2", "psys", 900e6)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 8e6)
    meter.sample()
    assert meter.joules == pytest.approx(3 + 0.5)


def test_a_counter_that_starts_again_at_zero_has_gone_on(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 95e6, maximum=100e6)
    meter = EnergyMeter.of_device("cpu", tmp_path)
    for microjoules in (99e6, 3e6, 50e6, 1e6):
        zone(tmp_path, "intel-rapl:0", "package-0", microjoules, maximum=100e6)
        meter.sample()
    assert meter.joules == pytest.approx(4 + 4 + 47 + 51)


def test_without_counters_the_energy_is_unknown(tmp_path: Path) -> None:
    assert EnergyMeter.of_device("cpu", tmp_path / "none").joules is None
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 5e6)
    (folder / "energy_uj").unlink()  # As for users who may not read it; root may read all.
    assert EnergyMeter.of_device("cpu", tmp_path).joules is None


def test_a_counter_that_fails_later_makes_the_sum_unknown(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 5e6)
    meter = EnergyMeter.of_device("cpu", tmp_path)
    (folder / "energy_uj").write_text("what?\n")
    meter.sample()
    (folder / "energy_uj").write_text("6000000\n")
    meter.sample()
    assert meter.joules is None


def test_power_is_integrated_between_samples() -> None:
    clock, watts = iter([0.0, 2.0, 5.0]), iter([100.0, 200.0, 50.0])
    meter = EnergyMeter([PowerSensor(lambda: next(watts), lambda: next(clock))])
    for _ in range(3):
        meter.sample()
    assert meter.joules == pytest.approx(2 * 150 + 3 * 125)


def test_several_sources_make_one_sum() -> None:
    one, other = iter([1.0, 4.0]), iter([10.0, 11.0])
    meter = EnergyMeter([EnergyCounter(lambda: next(one)), EnergyCounter(lambda: next(other))])
    meter.sample()
    meter.sample()
    assert meter.joules == pytest.approx(4)


class NvmlError(Exception):
    pass


def library(monkeypatch: pytest.MonkeyPatch, **calls: Any) -> None:
    """Replace NVIDIA's library by one in which only these functions work."""

    def refuse(*_: object) -> None:
        raise NvmlError("not supported")

    functions: dict[str, Any] = {
        "NVMLError": NvmlError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetTotalEnergyConsumption": refuse,
        "nvmlDeviceGetPowerUsage": refuse,
    }
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**functions | calls))


def test_a_gpu_has_a_counter_in_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    consumed = {0: 1_000, 3: 50_000}
    library(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=consumed.__getitem__)
    meter = EnergyMeter.of_device("gpu:3")
    consumed[3] += 2_500
    meter.sample()
    assert meter.joules == pytest.approx(2.5)


def test_an_older_gpu_has_its_power(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, nvmlDeviceGetPowerUsage=lambda gpu: 40_000)
    meter = EnergyMeter.of_device("gpu:0")
    (source,) = meter.sources
    assert isinstance(source, PowerSensor)
    assert source.read() == pytest.approx(40)
    meter.sample()
    assert meter.joules is not None
    assert meter.joules > 0


def test_a_gpu_without_either_and_a_missing_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library(monkeypatch)
    assert EnergyMeter.of_device("gpu:0").joules is None

    def no_driver() -> None:
        raise NvmlError("no driver")

    library(monkeypatch, nvmlInit=no_driver)
    assert EnergyMeter.of_device("gpu:0").joules is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert EnergyMeter.of_device("gpu:0").joules is None
