"""Learning curves, read back with TensorBoard's own reader."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.execution.processes import ProcessResult
from harness.schema.events import EpochEvent, PhaseEvent
from harness.schema.records import Epoch, Failed
from harness.sweep.planner import PlannedRun
from harness.sweep.scheduler import sweep
from tests.harness.conftest import StandIn, made_planned
from tests.harness.sweep.test_scheduler import made_context
from tests.harness.test_cli import SETTINGS, Cli, make_set, wbc

__all__ = ["wbc"]


def test_without_the_library_one_line_says_so(wbc: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def find(name: str, *rest: Any) -> Any:
        return None if name == "tensorboard" else real(name, *rest)

    monkeypatch.setattr("importlib.util.find_spec", find)
    code, _, err = wbc("run", "lite0", "--tensorboard", "tb")
    assert (code, err) == (
        2,
        "wbc-bench: --tensorboard needs TensorBoard: pip install tensorboard\n",
    )
    assert not Path("tb").exists()


@pytest.fixture
def curves() -> Any:
    pytest.importorskip("tensorboard")
    from harness.sweep import tensorboard as curves

    return curves


def epoch(phase: Any, number: int, samples: int = 640) -> Epoch:
    return Epoch(
        phase=phase,
        epoch=number,
        learning_rate=1e-3 / number,
        train_loss=1 / number,
        validation_loss=1.5 / number,
        validation_f1=1 - 0.5 / number,
        seconds=2.0,
        samples=samples,
    )


class Learning(StandIn):
    """Reports the epochs of each of its processes; the first ones run out of memory."""

    def __init__(self, *processes: tuple[Epoch, ...]) -> None:
        super().__init__()
        self.processes = list(processes)

    def __call__(self, job, environment, report):  # type: ignore[no-untyped-def]
        report(PhaseEvent(name="start", steps=1))
        for epoch in self.processes.pop(0):
            report(EpochEvent(epoch=epoch))
        if self.processes:
            return ProcessResult("out of memory", failed=Failed(reason="no memory", log_tail=()))
        return super().__call__(job, environment, report)


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> steps and values of one run's folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def written(curves: Any, tmp_path: Path, planned: list[PlannedRun], launcher: StandIn) -> None:
    callback = curves.TensorBoardCallback(tmp_path / "tb", print)
    summary = sweep(planned, made_context(tmp_path / "results", slots=1), launcher, [callback])
    assert summary.finished == len(planned)


def test_the_option_of_run_writes_them(
    curves: Any, wbc: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = Learning((epoch("frozen", 1),))
    monkeypatch.setattr("harness.execution.processes.WorkerProcess", lambda **limits: launcher)
    (tmp_path / "benchmark.toml").write_text('[data]\nsource = "set.npz"\n' + SETTINGS)
    make_set(tmp_path / "set.npz")
    code, _, _ = wbc("run", "lite0", "--tensorboard", "logs/tb")
    assert code == 0
    (folder,) = (tmp_path / "logs" / "tb").iterdir()
    assert folder.name.startswith("lite0-seed0-")
    assert read(folder)["frozen/train_loss"] == [(1, 1.0)]


def test_each_run_has_its_folder_with_its_curves(curves: Any, tmp_path: Path) -> None:
    frozen = tuple(epoch("frozen", k) for k in (1, 2, 3))
    tuned = tuple(epoch("fine-tuning", k, 512) for k in (1, 2))
    planned = [made_planned("lite0"), made_planned("vgg16", 4)]
    launched = [Learning((*frozen, *tuned)), Learning(tuple(epoch("from scratch", 1) for _ in "a"))]
    for one, launcher in zip(planned, launched, strict=True):
        written(curves, tmp_path, [one], launcher)
    names = [f"lite0-seed0-{planned[0].run.id}", f"vgg16-seed4-{planned[1].run.id}"]
    assert sorted(path.name for path in (tmp_path / "tb").iterdir()) == names
    scalars = read(tmp_path / "tb" / names[0])
    for phase, lines, rate in (
        ("frozen", frozen, "feature_rows_per_second"),
        ("fine-tuning", tuned, "images_per_second"),
    ):
        expected = {
            "train_loss": [line.train_loss for line in lines],
            "validation_loss": [line.validation_loss for line in lines],
            "validation_macro_f1": [line.validation_f1 for line in lines],
            "learning_rate": [line.learning_rate for line in lines],
            rate: [line.samples / 2 for line in lines],
        }
        for tag, values in expected.items():
            steps, read_values = zip(*scalars.pop(f"{phase}/{tag}"), strict=True)
            assert steps == tuple(range(1, len(lines) + 1))
            assert read_values == pytest.approx(values)
    assert scalars == {}
    assert "from-scratch/train_loss" in read(tmp_path / "tb" / names[1])


def test_a_run_that_goes_on_tells_its_curve_once(curves: Any, tmp_path: Path) -> None:
    """Its second process tells all epochs again, from its checkpoint, and then some."""
    lines = tuple(epoch("fine-tuning", k) for k in (1, 2, 3, 4))
    written(curves, tmp_path, [made_planned("lite0")], Learning(lines[:3], lines))
    (folder,) = (tmp_path / "tb").iterdir()
    assert len(list(folder.iterdir())) == 1
    assert [step for step, _ in read(folder)["fine-tuning/train_loss"]] == [1, 2, 3, 4]


def test_a_loss_that_is_not_finite_is_still_shown(curves: Any, tmp_path: Path) -> None:
    callback = curves.TensorBoardCallback(tmp_path, print)
    infinite = epoch("frozen", 1).model_copy(update={"train_loss": math.inf})
    callback.on_event(made_planned(), EpochEvent.model_construct(epoch=infinite))
    (folder,) = tmp_path.iterdir()
    assert read(folder)["frozen/train_loss"] == [(1, math.inf)]


def test_a_disk_that_is_full_ends_the_curves_and_not_the_sweep(
    curves: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    callback = curves.TensorBoardCallback(tmp_path / "tb", warnings.append)
    lines = tuple(epoch("frozen", k) for k in (1, 2))
    summary = sweep([made_planned()], made_context(tmp_path), Learning(lines), [callback])
    assert summary.finished == 1
    assert warnings == [f"{tmp_path / 'tb'}: no more learning curves: No space left on device"]


def test_a_folder_that_cannot_be_is_one_line(curves: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--tensorboard .*file/tb: Not a directory"):
        curves.TensorBoardCallback(tmp_path / "file" / "tb", print)
