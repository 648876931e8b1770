"""An ensemble's rate is measured on its networks, or the table says that it was not."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.commands.verify import verify
from harness.ensembling.builder import fit_ensembles
from harness.ensembling.members import group_members
from harness.ensembling.throughput import ThroughputTask, measure, measure_all
from harness.errors import UserError
from harness.execution.devices import Device
from harness.execution.processes import worker_environment
from harness.reporting.plots import Against, plots
from harness.reporting.publish import read_boards, write_tables
from harness.schema.protocol import Protocol
from harness.schema.records import Finished, RunRecord
from harness.storage.records import Store
from tests.harness.conftest import made_record, save_finished

CPU = Device("cpu", "Test CPU")


def made_on_jax(record: RunRecord) -> RunRecord:
    assert isinstance(record.result, Finished)
    environment = record.result.environment.model_copy(update={"backend": "jax 0.8.1"})
    result = record.result.model_copy(update={"environment": environment})
    return record.model_copy(update={"result": result})


def test_members_on_several_devices_have_no_common_rate(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, device in (("lite0", "Test CPU"), ("mobilenetv2", "Test GPU")):
        record = made_record(name)
        assert isinstance(record.result, Finished)
        cost = record.result.cost
        throughput = cost.throughput.model_copy(update={"device": device})
        cost = cost.model_copy(update={"throughput": throughput})
        result = record.result.model_copy(update={"cost": cost})
        save_finished(store, record.model_copy(update={"result": result}))
    fit_ensembles(*group_members(store, ["lite0", "mobilenetv2"]), ("soft vote",))
    (board,) = read_boards(tmp_path)
    ensemble = next(row for row in board.rows if row.kind == "ensemble")
    assert (ensemble.images_per_second, ensemble.device) == (None, None)
    assert ensemble.cost is not None
    speed, size = (plot for plot in plots(board, "") if isinstance(plot, Against))
    assert set(speed.fronts) == {"Test CPU", "Test GPU"}
    assert len(size.marks) == len(speed.marks) + 1, "its size is known"


@pytest.mark.slow
def test_members_are_timed_one_after_the_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("lite0", "mobilenetv2"):
        save_finished(store, made_on_jax(made_record(name)))
    (together,) = group_members(store, ["lite0", "mobilenetv2"])
    fitted = fit_ensembles(together, ("soft vote", "weighted vote"))
    write_tables(tmp_path)
    assert "§ Computed from the members' rates" in (tmp_path / "LEADERBOARD.md").read_text()
    measure_all(store, list(fitted.records), CPU, tmp_path / "compiled")
    assert list((tmp_path / "compiled").rglob("*-cache")), (
        "with the members' backend, and its cache"
    )
    soft, weighted = store.ensembles()
    assert soft.cost is not None
    assert weighted.cost is not None
    measured = soft.cost.throughput
    assert measured is not None
    assert measured == weighted.cost.throughput
    assert 0 < measured.p5 <= measured.median <= measured.p95
    assert measured.batches >= 5
    assert measured.device == "Test CPU"
    fit_ensembles(together, ("soft vote", "weighted vote"))
    assert [r.cost and r.cost.throughput for r in store.ensembles()] == [measured, measured]
    write_tables(tmp_path)
    assert "§" not in (tmp_path / "LEADERBOARD.md").read_text()
    assert verify(tmp_path) == []


@pytest.mark.slow
def test_what_cannot_be_built_is_named() -> None:
    with pytest.raises(UserError, match=r"inceptionv3.*was not measured.*too small"):
        measure(ThroughputTask.of(("inceptionv3", "lite0"), Protocol(image_size=32), CPU), {})


@pytest.mark.slow
def test_of_one_network_latency_and_best_rate_too(tmp_path: Path) -> None:
    task = ThroughputTask.of(("lite0",), Protocol(image_size=32), CPU)
    rates = measure(task, worker_environment(CPU, "jax", tmp_path)).rates
    assert rates.throughput.batches >= 5
    assert rates.latency_ms is not None
    assert rates.latency_ms > 0
    assert rates.best_images_per_second is not None
    assert rates.best_images_per_second > 0
    assert rates.best_batch_size in {1, task.batch}
