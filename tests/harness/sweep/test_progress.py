"""Where a run is, by its events."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from harness.sweep.progress import LiveView, ProgressView
from harness.sweep.run_state import RunState
from tests.harness.conftest import failed_record, made_planned, made_record
from tests.harness.training.test_checkpoint import line


@dataclass
class Told:
    """A standing whose clock is set by hand."""

    now: float = 0.0
    standing: RunState = field(init=False)

    def __post_init__(self) -> None:
        self.standing = RunState(clock=lambda: self.now)

    def phase(self, name: str, steps: int) -> None:
        self.standing.hear({"event": "phase", "name": name, "steps": steps})

    def step(self, at: float, done: int, of: int) -> None:
        self.now = at
        self.standing.hear({"event": "step", "done": done, "of": of})


def test_the_rate_of_a_pass_is_that_of_its_last_seconds() -> None:
    told = Told()
    told.phase("features", 1000)
    told.step(1, 100, 1000)
    assert told.standing.rate is None
    told.step(3, 200, 1000)
    assert told.standing.rate == pytest.approx(50)
    told.step(12, 650, 1000)
    told.step(13, 700, 1000)  # The first look is older than the window now.
    assert told.standing.rate == pytest.approx((700 - 200) / 10)
    assert (told.standing.done, told.standing.of) == (700, 1000)
    assert told.standing.short == "features 70%"
    assert told.standing.sentence == "features, 700 of 1000"


def test_an_epoch_on_images_counts_from_its_own_beginning() -> None:
    told = Told()
    told.phase("fine-tuning", 20)
    told.step(1, 320, 3200)
    told.step(2, 640, 3200)
    assert told.standing.short == "fine-tuning 0/20"
    told.standing.hear({"event": "epoch", "line": line(1).model_dump(mode="json")})
    told.step(60, 64, 3200)  # The validation took a minute, which is not in the rate.
    assert told.standing.rate == pytest.approx(320)
    told.step(61, 128, 3200)
    assert told.standing.rate == pytest.approx(64)
    assert told.standing.short == "fine-tuning 1/20"


def test_a_rate_goes_when_no_image_has_passed_for_long() -> None:
    told = Told()
    told.phase("features", 1000)
    told.step(1, 100, 1000)
    told.step(2, 200, 1000)
    beat = {"event": "memory", "resident_mb": 500.0, "device_mb": None}
    for now, rate in ((31.0, 100.0), (33.0, None)):
        told.now = now
        told.standing.hear(beat)
        assert told.standing.rate == rate
    told.step(34, 232, 1000)  # Over the time that it waited, too.
    assert told.standing.rate == pytest.approx(1)


def test_an_epoch_too_short_for_steps_tells_its_own_rate() -> None:
    told = Told()
    told.phase("from scratch", 60)
    one = line(1).model_copy(update={"samples": 300}).model_dump(mode="json")
    told.standing.hear({"event": "epoch", "line": one})
    assert told.standing.rate == pytest.approx(300 / 1.5)


def test_rows_of_features_are_no_images() -> None:
    told = Told()
    told.phase("frozen", 60)
    one = line(3).model_copy(update={"phase": "frozen", "samples": 300})
    told.standing.hear({"event": "epoch", "line": one.model_dump(mode="json")})
    assert told.standing.rate is None
    assert told.standing.images_per_second == ""
    assert told.standing.short == "frozen 3/60"


def test_a_phase_begins_with_nothing_known_but_the_memory() -> None:
    told = Told()
    told.standing.hear({"event": "memory", "resident_mb": 1144.4, "device_mb": 7629.4})
    told.phase("features", 10)
    told.step(1, 1, 10)
    told.step(2, 3, 10)
    told.phase("frozen", 60)
    assert (told.standing.rate, told.standing.line) == (None, None)
    assert told.standing.memory == "1.2+8.0 GB"
    told.phase("start", 1)  # In smaller parts, say: another process.
    assert told.standing.memory == ""


def test_it_survives_the_file_that_status_reads() -> None:
    told = Told()
    told.phase("judging", 50)
    told.step(1, 10, 50)
    told.step(2, 30, 50)
    told.standing.hear({"event": "memory", "resident_mb": 500.0, "device_mb": None})
    again = RunState.from_told(json.loads(json.dumps(told.standing.told())))
    assert again.sentence == "judging, 30 of 50"
    assert (again.images_per_second, again.memory) == ("20.0", "0.5 GB")


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_view_cuts_nothing_off(width: int) -> None:
    """With the longest names and numbers that a run on a GPU has at once."""
    console = Console(width=width, force_terminal=True, record=True)
    planned = made_planned("efficientnetv2l")
    view = LiveView(console, [planned], {planned.run.id: 35_999.0})
    view.event(planned, {"event": "phase", "name": "from scratch", "steps": 60})
    view.event(planned, {"event": "memory", "resident_mb": 9_600.0, "device_mb": 76_000.0})
    one = line(1).model_copy(update={"phase": "from scratch", "epoch": 59, "samples": 99_999})
    view.event(planned, {"event": "epoch", "line": one.model_dump(mode="json")})
    console.print(view._render())
    text = console.export_text()
    for word in ("efficientnetv2l", "from scratch 59/60", "1.000", "66.67", "66,666",
                 "10+80 GB", "~9:59:5"):  # fmt: skip
        assert word in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_the_whole_is_foreseen_from_the_start_and_by_what_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What failed at once, or was run elsewhere, says nothing of the pace."""
    now = [1000.0]
    monkeypatch.setattr("harness.sweep.progress.time.monotonic", lambda: now[0])
    names = ("vgg16", "vgg19", "lite0", "resnet50")
    planned = [made_planned(name) for name in names]
    estimates = {
        one.run.id: seconds for one, seconds in zip(planned, (40, 30, 20, 10), strict=True)
    }
    watch = ProgressView(Console(quiet=True), planned, estimates, machines=2, began=now[0])
    assert watch.eta() == 50, "40 + 10 and 30 + 20 on two machines"
    now[0] += 10
    assert watch.eta() == 40
    watch.event(planned[0], {"event": "phase", "name": "start", "steps": 1})
    watch.ended(planned[0], failed_record(), "killed (signal 9)")
    watch.ended(planned[1], made_record("vgg19"), "concluded elsewhere")
    assert watch.eta() == 10, "20 and 10 are left, side by side, of which 10 have passed"
    now[0] += 10
    watch.event(planned[2], {"event": "phase", "name": "start", "steps": 1})
    watch.ended(planned[2], made_record("lite0"), "finished")
    assert watch.eta() == 10, "20 s for 20 of the 30 that were foreseen"
