"""Joules from stand-ins for the kernel's counters and for NVIDIA's library."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.execution import energy
from harness.execution.energy import Counter, Energy, Power


def zone(powercap: Path, name: str, label: str, microjoules: float, wraps: float = 1e9) -> Path:
    folder = powercap / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps:.0f}\n")
    (folder / "energy_uj").write_text(f"{microjoules:.0f}\n")
    return folder


def test_packages_are_added_up_and_what_is_inside_of_them_is_not(tmp_path: Path) -> None:
    for i, start in enumerate((5e6, 7e6)):
        zone(tmp_path, f"intel-rapl:{i}", f"package-{i}", start)
    zone(tmp_path, "intel-rapl:0:0", "core", 1e6)
    zone(tmp_path, "intel-rapl:2", "psys", 1e6)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5e6)
    told = energy.of("cpu", tmp_path)
    assert told.joules == 0
    zone(tmp_path, "intel-rapl:0", "package-0", 8e6)
    zone(tmp_path, "intel-rapl:1", "package-1", 7.5e6)
    zone(tmp_path, "intel-rapl:0:0", "core", 900e6)
    zone(tmp_path, "intel-rapl:2", "psys", 900e6)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 8e6)
    told.look()
    assert told.joules == pytest.approx(3 + 0.5)


def test_a_counter_that_starts_again_at_zero_has_gone_on(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 95e6, wraps=100e6)
    told = energy.of("cpu", tmp_path)
    for microjoules in (99e6, 3e6, 50e6, 1e6):
        zone(tmp_path, "intel-rapl:0", "package-0", microjoules, wraps=100e6)
        told.look()
    assert told.joules == pytest.approx(4 + 4 + 47 + 51)


def test_without_counters_nothing_is_told(tmp_path: Path) -> None:
    assert energy.of("cpu", tmp_path / "none").joules is None
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 5e6)
    (folder / "energy_uj").unlink()  # As for those who may not read it; root may read all.
    assert energy.of("cpu", tmp_path).joules is None


def test_a_counter_that_is_lost_on_the_way_makes_the_sum_unknown(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 5e6)
    told = energy.of("cpu", tmp_path)
    (folder / "energy_uj").write_text("what?\n")
    told.look()
    (folder / "energy_uj").write_text("6000000\n")
    told.look()
    assert told.joules is None


def test_power_is_integrated_between_looks() -> None:
    clock, watts = iter([0.0, 2.0, 5.0]), iter([100.0, 200.0, 50.0])
    told = Energy([Power(lambda: next(watts), lambda: next(clock))])
    for _ in range(3):
        told.look()
    assert told.joules == pytest.approx(2 * 150 + 3 * 125)


def test_several_gauges_make_one_sum() -> None:
    one, other = iter([1.0, 4.0]), iter([10.0, 11.0])
    told = Energy([Counter(lambda: next(one)), Counter(lambda: next(other))])
    told.look()
    told.look()
    assert told.joules == pytest.approx(4)


class NvmlError(Exception):
    pass


def library(monkeypatch: pytest.MonkeyPatch, **calls: Any) -> None:
    """NVIDIA's library, of which only these functions work."""

    def refuse(*_: object) -> None:
        raise NvmlError("not supported")

    told: dict[str, Any] = {
        "NVMLError": NvmlError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetTotalEnergyConsumption": refuse,
        "nvmlDeviceGetPowerUsage": refuse,
    }
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**told | calls))


def test_a_board_tells_its_own_counter_in_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {0: 1_000, 3: 50_000}
    library(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=drawn.__getitem__)
    told = energy.of("gpu:3")
    drawn[3] += 2_500
    told.look()
    assert told.joules == pytest.approx(2.5)


def test_an_older_board_tells_its_power(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, nvmlDeviceGetPowerUsage=lambda board: 40_000)
    told = energy.of("gpu:0")
    (gauge,) = told.gauges
    assert isinstance(gauge, Power)
    assert gauge.read() == pytest.approx(40)
    told.look()
    assert told.joules is not None
    assert told.joules > 0


def test_a_board_that_tells_nothing_and_a_library_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library(monkeypatch)
    assert energy.of("gpu:0").joules is None

    def absent() -> None:
        raise NvmlError("no driver")

    library(monkeypatch, nvmlInit=absent)
    assert energy.of("gpu:0").joules is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy.of("gpu:0").joules is None
