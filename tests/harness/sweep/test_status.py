"""What another terminal can see of a sweep."""

from __future__ import annotations

import os
from pathlib import Path

from harness.execution.locks import RunLock
from harness.execution.processes import Event
from harness.storage.records import Store
from harness.sweep.scheduler import sweep
from harness.sweep.status import StatusWriter, report, running
from tests.harness.conftest import StandIn, failed_record, made_planned, made_record, save_finished
from tests.harness.sweep.test_scheduler import Nobody, setting
from tests.harness.training.test_checkpoint import line


def test_a_folder_without_a_sweep_has_nothing_running(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save_finished(store, made_record("vgg16"))
    store.save(failed_record("vgg19"))
    told = report(store, 0)
    assert told.startswith("1 finished, 1 failed, 0 running")
    assert "failed: vgg19: killed (signal 9)" in told


def test_a_run_under_way_tells_where_it_is(tmp_path: Path) -> None:
    store, seen = Store(tmp_path), list[str]()

    class Looking(StandIn):
        def __call__(self, job, environment, report_event):  # type: ignore[no-untyped-def]
            report_event({"event": "phase", "name": "fine-tuning", "steps": 20})
            owner = RunLock(store.artefacts(job.run)).owner()
            assert owner is not None
            assert owner.since is not None
            (one,) = running(store, owner.since + 90)
            assert (one.recipe, one.seed, one.seconds) == ("lite0", 2, 90)
            assert one.holder.endswith(f":{os.getpid()}")
            assert one.log == store.artefacts(job.run) / "log.txt"
            seen.append(report(store, owner.since + 90))
            return super().__call__(job, environment, report_event)

    ended = sweep([made_planned("lite0", 2)], setting(tmp_path), Looking(), Nobody())
    assert ended.finished == 1
    assert "1 running" in seen[0]
    assert "fine-tuning, 0 of 20" in seen[0]
    assert running(store, 0) == ()


def test_the_trail_passes_every_event_on(tmp_path: Path) -> None:
    heard: list[Event] = []
    trail = StatusWriter(tmp_path, heard.append)
    events: list[Event] = [
        {"event": "phase", "name": "fine-tuning", "steps": 20},
        {"event": "epoch", "line": line(1).model_dump(mode="json")},
        {"event": "warning", "line": "a checkpoint was damaged"},
        {"event": "step", "done": 3, "of": 9},
    ]
    for event in events:
        trail(event)
    assert heard == events


def test_an_epoch_is_told_with_its_losses(tmp_path: Path) -> None:
    folder = tmp_path / "artefacts" / "0123"
    lock = RunLock(folder)
    assert lock.acquire_for("lite0", 0)
    trail = StatusWriter(folder, lambda _: None)
    trail({"event": "phase", "name": "fine-tuning", "steps": 20})
    trail._last -= 60
    trail({"event": "epoch", "line": line(2).model_dump(mode="json")})
    (one,) = running(Store(tmp_path), 0)
    assert one.what == (
        "fine-tuning, epoch 2 of 20 at most: loss 0.300, validation 0.500, F1 66.67 %"
    )
    lock.release()
    assert running(Store(tmp_path), 0) == ()
