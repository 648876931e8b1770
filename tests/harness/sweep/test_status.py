"""What another terminal can see of a sweep."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from harness.execution.child import wait_reporter
from harness.execution.locks import RunLock
from harness.schema.events import EpochEvent, PhaseEvent
from harness.storage.records import Store
from harness.sweep.progress import PlainLog
from harness.sweep.scheduler import sweep
from harness.sweep.status import StatusCallback, report, running_runs
from tests.harness.conftest import StandIn, failed_record, made_planned, made_record, save_finished
from tests.harness.sweep.test_scheduler import made_context
from tests.harness.training.test_checkpoint import line


def test_a_folder_without_a_sweep_has_nothing_running(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save_finished(store, made_record("vgg16"))
    store.save(failed_record("vgg19"))
    page = report(store, 0)
    assert page.startswith("1 finished, 1 failed, 0 running")
    assert "failed: vgg19: killed (signal 9)" in page


def test_a_run_under_way_shows_its_state(tmp_path: Path) -> None:
    store, pages = Store(tmp_path), list[str]()

    class Observed(StandIn):
        def __call__(self, job, environment, report_event):  # type: ignore[no-untyped-def]
            report_event(PhaseEvent(name="fine-tuning", steps=20))
            owner = RunLock(store.artefacts(job.run)).owner()
            assert owner is not None
            assert owner.since is not None
            (run,) = running_runs(store, owner.since + 90)
            assert (run.owner, run.seconds) == (owner, 90)
            assert (owner.recipe, owner.seed, owner.pid) == ("lite0", 2, os.getpid())
            assert run.log == store.artefacts(job.run) / "log.txt"
            pages.append(report(store, owner.since + 90))
            return super().__call__(job, environment, report_event)

    summary = sweep([made_planned("lite0", 2)], made_context(tmp_path), Observed())
    assert summary.finished == 1
    assert "1 running" in pages[0]
    assert "fine-tuning, 0 of 20" in pages[0]
    assert running_runs(store, 0) == ()


def test_whom_a_run_waits_for_is_in_the_view_the_log_and_the_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, pages = Store(tmp_path), list[str]()
    output = io.StringIO()
    planned, reason = made_planned("lite0"), "waiting for cpu, held by pid 7 (sweep in /other)"
    view = PlainLog(Console(file=output, width=200), [planned], {})

    class Waiting(StandIn):
        def __call__(self, job, environment, report_event):  # type: ignore[no-untyped-def]
            wait_reporter(report_event)(reason, 5.0)
            pages.append(report(store, 0))
            return super().__call__(job, environment, report_event)

    sweep([planned], made_context(tmp_path), Waiting(), [view])
    assert f"lite0: {reason}" in output.getvalue()
    assert f"start: {reason}" in pages[0]
    assert capsys.readouterr().err == f"{reason}\n", "a worker's stderr is its log"


def test_an_epoch_is_shown_with_its_losses(tmp_path: Path) -> None:
    planned, store = made_planned("lite0"), Store(tmp_path)
    lock = RunLock(store.artefacts(planned.run))
    assert lock.acquire_for("lite0", 0)
    now = [100.0]
    callback = StatusCallback(store, clock=lambda: now[0])
    callback.on_event(planned, PhaseEvent(name="fine-tuning", steps=20))
    now[0] += 60
    callback.on_event(planned, EpochEvent(epoch=line(2)))
    (run,) = running_runs(store, 0)
    assert run.state.sentence == (
        "fine-tuning, epoch 2 of 20 at most: loss 0.300, validation 0.500, F1 66.67 %"
    )
    lock.release()
    assert running_runs(store, 0) == ()


def test_a_status_file_of_another_version_is_ignored(tmp_path: Path) -> None:
    planned, store = made_planned("lite0"), Store(tmp_path)
    lock = RunLock(store.artefacts(planned.run))
    assert lock.acquire_for("lite0", 0)
    (store.artefacts(planned.run) / "status.json").write_text('{"stage": "features"}')
    (run,) = running_runs(store, 0)
    assert run.state.sentence == "start"
