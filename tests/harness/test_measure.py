"""Rates that others disturbed are measured again, without training, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from harness.commands import measure as command
from harness.commands.verify import verify
from harness.ensembling.builder import fit_ensembles
from harness.ensembling.members import group_members
from harness.ensembling.throughput import MeasuredRates, ThroughputTask
from harness.execution.devices import cpu_name
from harness.reporting.publish import write_tables
from harness.schema.records import Finished, Rates, RunRecord, Throughput
from harness.storage.records import Store
from tests.harness.conftest import made_record, save_finished
from tests.harness.test_cli import Cli, wbc

__all__ = ["wbc"]

BACKEND = f"jax {version('jax')}"


def measured_here(record: RunRecord, **changes: Any) -> RunRecord:
    """The record as of a disturbed run on this machine's CPU."""
    assert isinstance(record.result, Finished)
    throughput = record.result.cost.throughput.model_copy(
        update={"device": cpu_name(), "exclusive": False, **changes}
    )
    cost = record.result.cost.model_copy(update={"throughput": throughput})
    environment = record.result.environment.model_copy(update={"backend": BACKEND})
    result = record.result.model_copy(update={"cost": cost, "environment": environment})
    return record.model_copy(update={"result": result})


def cost_of(record: RunRecord) -> Any:
    assert isinstance(record.result, Finished)
    return record.result.cost


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two disturbed rates, with two seeds of the first, one undisturbed, one of another device."""
    store = Store(tmp_path / "results")
    for recipe, seed, changes in (
        ("lite0", 0, {}),
        ("lite0", 1, {}),
        ("mobilenetv2", 0, {}),
        ("vgg16", 0, {"exclusive": True}),
        ("resnet50", 0, {"device": "Test GPU"}),
    ):
        save_finished(store, measured_here(made_record(recipe, seed), **changes))
    fit_ensembles(*group_members(store, ["lite0", "mobilenetv2"])[:1], ("soft vote",))
    write_tables(store.root)
    return store.root


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[ThroughputTask]]:
    """What the child process measures, and the list of what it was asked."""

    def install(backend: str = BACKEND, exclusive: bool = True) -> list[ThroughputTask]:
        asked = []

        def measured(task: ThroughputTask, environment: dict[str, str]) -> MeasuredRates:
            asked.append(task)
            assert environment["KERAS_BACKEND"] == "jax"
            throughput = Throughput(
                median=40, p5=30, p95=50, batches=5, batch_size=task.batch,
                precision=task.precision, device=task.device.name, exclusive=exclusive,
            )  # fmt: skip
            rates = Rates(throughput=throughput, latency_ms=7, best_images_per_second=44)
            return MeasuredRates(rates=rates, backend=backend)

        monkeypatch.setattr(command, "measure_rates", measured)
        return asked

    return install


def test_what_others_disturbed_is_measured_once_for_all_seeds(
    results: Path, answer: Callable[..., list[ThroughputTask]], wbc: Cli
) -> None:
    asked = answer()
    before = {record.run.id: cost_of(record) for record in Store(results).records()}
    code, out, _ = wbc("measure")
    assert code == 0
    assert [task.recipes for task in asked] == [("lite0",), ("mobilenetv2",)]
    assert "ResNet50 at 96 px: kept, Test GPU is not here\n" in out
    assert out.count(" images/s before, 40 now\n") == 2
    for record in Store(results).records():
        cost, old = cost_of(record), before[record.run.id]
        if record.run.recipe in {"lite0", "mobilenetv2"}:
            assert (cost.throughput.median, cost.throughput.exclusive) == (40, True)
            assert (cost.latency_ms, cost.best_images_per_second) == (7, 44)
            assert cost.parameters == old.parameters
        else:
            assert cost == old
    (ensemble,) = Store(results).ensembles()
    assert ensemble.cost is not None
    assert ensemble.cost.images_per_second == pytest.approx(20)
    assert verify(results) == []
    assert wbc("measure")[0] == 0, "only that of another device is left"
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"exclusive": False}, "kept, other programs used the device again"),
        ({"backend": "jax 0.0.1"}, f"kept, it was measured with {BACKEND}, and here is jax 0.0.1"),
    ],
)
def test_a_rate_is_replaced_by_a_comparable_one_alone(
    results: Path,
    answer: Callable[..., list[ThroughputTask]],
    wbc: Cli,
    changes: dict[str, Any],
    line: str,
) -> None:
    answer(**changes)
    before = Store(results).records()
    code, out, _ = wbc("measure", "vgg16")
    assert (code, out.splitlines()[0]) == (0, f"VGG16 at 96 px: {line}")
    assert Store(results).records() == before


def test_nothing_to_measure_and_wrong_names_are_one_line(
    results: Path, answer: Callable[..., list[ThroughputTask]], wbc: Cli
) -> None:
    asked = answer()
    code, _, err = wbc("measure", "vgg19")
    assert code == 2
    assert err == "wbc-bench: results: no finished run of vgg19; 'wbc-bench run vgg19'\n"
    code, _, err = wbc("measure", "vgg61")
    assert code == 2
    assert "did you mean 'vgg16'?" in err
    for record in Store(results).records():
        save_finished(Store(results), measured_here(record, exclusive=True))
    code, out, _ = wbc("measure")
    assert code == 0
    assert out.startswith("no rate was disturbed; name networks")
    assert asked == []
