"""A whole sweep with a stand-in trainer."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.execution.devices import Device
from harness.execution.processes import ProcessResult
from harness.reporting.publish import write_tables
from harness.schema.records import Failed, Finished
from harness.storage.records import Store
from harness.sweep.planner import find_pending
from harness.sweep.scheduler import SweepContext, sweep
from tests.harness.conftest import SUMMARY, Recorder, StandIn, made_planned

NAMES = ("vgg16", "resnet50", "mobilenet", "densenet121", "lite0")


def made_context(tmp_path: Path, slots: int = 2) -> SweepContext:
    return SweepContext(
        store=Store(tmp_path),
        data_folder=tmp_path,
        data=SUMMARY,
        profile="quick",
        slots=lambda: (Device("cpu", "Test CPU"),) * slots,
    )


def test_every_pending_run_gets_a_record(tmp_path: Path, stand_in: StandIn) -> None:
    planned, recorder = [made_planned(name) for name in NAMES], Recorder()
    summary = sweep(planned, made_context(tmp_path), stand_in, [recorder])
    assert summary.finished == len(NAMES)
    assert sorted(stand_in.launched) == sorted(NAMES)
    assert all(Store(tmp_path).find(one.run) is not None for one in planned)
    assert recorder.messages == dict.fromkeys(NAMES, "finished")
    assert {name for name, _ in recorder.events} == set(NAMES)
    assert recorder.calls == ["begin", "end"]


def test_a_second_sweep_runs_only_what_is_pending(tmp_path: Path, stand_in: StandIn) -> None:
    planned = [made_planned(name) for name in NAMES]
    sweep(planned[:2], made_context(tmp_path), stand_in)
    left = find_pending(planned, Store(tmp_path))
    assert {one.recipe.name for one in left} == set(NAMES[2:])
    sweep(left, made_context(tmp_path), stand_in)
    assert sorted(stand_in.launched) == sorted(NAMES)
    assert find_pending(planned, Store(tmp_path)) == ()


def test_pending_runs_come_longest_first() -> None:
    left = find_pending([made_planned(name) for name in NAMES], Store(Path("nowhere")))
    assert [one.recipe.name for one in left] == [
        "vgg16", "resnet50", "densenet121", "mobilenet", "lite0",
    ]  # fmt: skip


def test_one_failure_stays_its_own(tmp_path: Path) -> None:
    killed = ProcessResult(
        "failed", failed=Failed(reason="killed (signal 9)", log_tail=("last words",))
    )
    stand_in = StandIn(fails={"resnet50": killed})
    planned = [made_planned(name) for name in NAMES]
    summary = sweep(planned, made_context(tmp_path), stand_in)
    assert summary.finished == len(NAMES) - 1
    record = Store(tmp_path).find(made_planned("resnet50").run)
    assert record is not None
    assert record.result == killed.failed
    # A failed run is done until --retry-failed.
    assert find_pending(planned, Store(tmp_path)) == ()
    again = find_pending(planned, Store(tmp_path), retry_failed=True)
    assert [one.recipe.name for one in again] == ["resnet50"]
    sweep(again, made_context(tmp_path), StandIn())
    record = Store(tmp_path).find(made_planned("resnet50").run)
    assert record is not None
    assert isinstance(record.result, Finished)


def test_wrong_input_leaves_no_record_and_stops_nobody(tmp_path: Path) -> None:
    wrong = ProcessResult("wrong input", failed=Failed(reason="weights x.h5 do not fit vgg16"))
    stand_in = StandIn(fails={"vgg16": wrong})
    planned = [made_planned(name) for name in NAMES]
    summary = sweep(planned, made_context(tmp_path), stand_in)
    assert summary.wrong_input == ["weights x.h5 do not fit vgg16"]
    assert summary.finished == len(NAMES) - 1
    assert [one.recipe.name for one in find_pending(planned, Store(tmp_path))] == ["vgg16"]


def test_an_interrupt_stops_the_children_and_keeps_what_finished(tmp_path: Path) -> None:
    stand_in = StandIn(fails={"densenet121": KeyboardInterrupt()})
    planned = [made_planned(name) for name in NAMES]
    with pytest.raises(KeyboardInterrupt):
        sweep(planned, made_context(tmp_path, slots=1), stand_in)
    assert stand_in.stopped
    # Whatever was launched and ended well has its record; the rest is pending.
    done = {record.run.recipe for record in Store(tmp_path).records()}
    assert done == set(stand_in.launched) - {"densenet121"}
    assert {"vgg16", "resnet50", "mobilenet"} <= done
    assert {one.recipe.name for one in find_pending(planned, Store(tmp_path))} == set(NAMES) - done


def test_the_tables_do_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    planned = [made_planned(name, seed) for name in NAMES for seed in (0, 1)]
    one, other = tmp_path / "one", tmp_path / "other"
    sweep(planned, made_context(one, slots=3), StandIn())
    sweep(planned[::-1], made_context(other, slots=1), StandIn())
    for first, second in zip(write_tables(one), write_tables(other), strict=True):
        assert first.read_bytes() == second.read_bytes()
    table = (one / "LEADERBOARD.md").read_text()
    assert all(name in table for name in NAMES)
