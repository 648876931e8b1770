"""Several callbacks follow one sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.schema.records import RunRecord
from harness.sweep.callbacks import ProgressCallback
from harness.sweep.planner import PlannedRun
from harness.sweep.scheduler import sweep
from tests.harness.conftest import Recorder, StandIn, made_planned
from tests.harness.sweep.test_scheduler import made_context


def test_every_callback_receives_everything(tmp_path: Path) -> None:
    first, second = Recorder(), Recorder()
    planned = [made_planned("vgg16"), made_planned("lite0")]
    sweep(planned, made_context(tmp_path, slots=1), StandIn(), [first, ProgressCallback(), second])
    assert first.messages == {"vgg16": "finished", "lite0": "finished"}
    assert first.phase_names() == ["features", "features"]
    assert first.calls == ["begin", "end"]
    assert vars(first) == vars(second)


def test_the_end_is_announced_after_an_error_too(tmp_path: Path) -> None:
    class Broken(Recorder):
        def on_run_end(self, planned: PlannedRun, record: RunRecord | None, message: str) -> None:
            raise RuntimeError("a bug")

    broken, recorder = Broken(), Recorder()
    with pytest.raises(RuntimeError, match="a bug"):
        sweep([made_planned()], made_context(tmp_path), StandIn(), [recorder, broken])
    assert recorder.calls == ["begin", "end"]
