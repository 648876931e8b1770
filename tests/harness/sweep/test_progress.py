"""Where a run is, by its events."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from rich.console import Console

from harness.schema.events import EpochEvent, MemoryEvent, PhaseEvent, StepEvent
from harness.schema.records import Epoch
from harness.sweep.progress import LiveView, ProgressView, duration
from harness.sweep.run_state import RunState
from tests.harness.conftest import failed_record, made_planned, made_record
from tests.harness.training.test_checkpoint import line


@dataclass
class Clocked:
    """A run state whose clock is set by hand."""

    now: float = 0.0
    state: RunState = field(init=False)

    def __post_init__(self) -> None:
        self.state = RunState(clock=lambda: self.now)

    def phase(self, name: str, steps: int) -> None:
        self.state.update(PhaseEvent(name=name, steps=steps))

    def step(self, at: float, done: int, total: int) -> None:
        self.now = at
        self.state.update(StepEvent(done=done, total=total))

    def epoch(self, epoch: Epoch) -> None:
        self.state.update(EpochEvent(epoch=epoch))

    def memory(self, resident_mb: float, device_mb: float | None = None) -> None:
        self.state.update(MemoryEvent(resident_mb=resident_mb, device_mb=device_mb))


def test_the_rate_of_a_pass_is_that_of_its_last_seconds() -> None:
    run = Clocked()
    run.phase("features", 1000)
    run.step(1, 100, 1000)
    assert run.state.rate is None
    run.step(3, 200, 1000)
    assert run.state.rate == pytest.approx(50)
    run.step(12, 650, 1000)
    run.step(13, 700, 1000)  # The first sample is older than the window now.
    assert run.state.rate == pytest.approx((700 - 200) / 10)
    assert (run.state.done, run.state.total) == (700, 1000)
    assert run.state.short == "features 70%"
    assert run.state.sentence == "features, 700 of 1000"


def test_an_epoch_on_images_counts_from_its_own_start() -> None:
    run = Clocked()
    run.phase("fine-tuning", 20)
    run.step(1, 320, 3200)
    run.step(2, 640, 3200)
    assert run.state.short == "fine-tuning 0/20"
    run.epoch(line(1))
    run.step(60, 64, 3200)  # The validation took a minute, which is not in the rate.
    assert run.state.rate == pytest.approx(320)
    run.step(61, 128, 3200)
    assert run.state.rate == pytest.approx(64)
    assert run.state.short == "fine-tuning 1/20"


def test_a_rate_expires_when_no_image_has_passed_for_long() -> None:
    run = Clocked()
    run.phase("features", 1000)
    run.step(1, 100, 1000)
    run.step(2, 200, 1000)
    for now, rate in ((31.0, 100.0), (33.0, None)):
        run.now = now
        run.memory(500.0)
        assert run.state.rate == rate
    run.step(34, 232, 1000)  # Over the time that it waited, too.
    assert run.state.rate == pytest.approx(1)


def test_an_epoch_too_short_for_steps_has_its_own_rate() -> None:
    run = Clocked()
    run.phase("from scratch", 60)
    run.epoch(line(1).model_copy(update={"samples": 300}))
    assert run.state.rate == pytest.approx(300 / 1.5)


def test_rows_of_features_are_not_images() -> None:
    run = Clocked()
    run.phase("frozen", 60)
    run.epoch(line(3).model_copy(update={"phase": "frozen", "samples": 300}))
    assert run.state.rate is None
    assert run.state.images_per_second == ""
    assert run.state.short == "frozen 3/60"


def test_a_phase_begins_with_nothing_known_but_the_memory() -> None:
    run = Clocked()
    run.memory(1144.4, 7629.4)
    run.phase("features", 10)
    run.step(1, 1, 10)
    run.step(2, 3, 10)
    run.phase("frozen", 60)
    assert (run.state.rate, run.state.epoch) == (None, None)
    assert run.state.memory == "1.2+8.0 GB"
    run.phase("start", 1)  # Another process, in micro-batches for example.
    assert run.state.memory == ""


def test_it_survives_the_file_that_status_reads() -> None:
    run = Clocked()
    run.phase("judging", 50)
    run.step(1, 10, 50)
    run.step(2, 30, 50)
    run.memory(500.0)
    restored = RunState.model_validate_json(run.state.model_dump_json())
    assert restored.sentence == "judging, 30 of 50"
    assert (restored.images_per_second, restored.memory) == ("20.0", "0.5 GB")
    run.phase("fine-tuning", 20)
    run.epoch(line(2))
    restored = RunState.model_validate_json(run.state.model_dump_json())
    assert restored.sentence == run.state.sentence
    assert restored.epoch == line(2)


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_view_cuts_nothing_off(width: int) -> None:
    """With the longest names and numbers that a run on a GPU has at once."""
    console = Console(width=width, force_terminal=True, record=True)
    planned = made_planned("efficientnetv2l")
    view = LiveView(console, [planned], {planned.run.id: 35_999.0})
    view.on_event(planned, PhaseEvent(name="from scratch", steps=60))
    view.on_event(planned, MemoryEvent(resident_mb=9_600.0, device_mb=76_000.0))
    epoch = line(1).model_copy(update={"phase": "from scratch", "epoch": 59, "samples": 99_999})
    view.on_event(planned, EpochEvent(epoch=epoch))
    console.print(view.render())
    text = console.export_text()
    for word in ("efficientnetv2l", "from scratch 59/60", "1.000", "66.67", "66,666",
                 "10+80 GB", "~9:59:5"):  # fmt: skip
        assert word in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_the_time_left_is_known_from_the_start_and_by_what_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What failed at once, or was run elsewhere, says nothing about the speed."""
    now = [1000.0]
    monkeypatch.setattr("harness.sweep.progress.time.monotonic", lambda: now[0])
    names = ("vgg16", "vgg19", "lite0", "resnet50")
    planned = [made_planned(name) for name in names]
    estimates = {
        one.run.id: seconds for one, seconds in zip(planned, (40, 30, 20, 10), strict=True)
    }
    view = ProgressView(Console(quiet=True), planned, estimates, machines=2, start=now[0])
    assert view.seconds_left() == 50, "40 + 10 and 30 + 20 on two machines"
    now[0] += 10
    assert view.seconds_left() == 40
    view.on_event(planned[0], PhaseEvent(name="start", steps=1))
    view.on_run_end(planned[0], failed_record(), "killed (signal 9)")
    view.on_run_end(planned[1], made_record("vgg19"), "concluded elsewhere")
    assert view.seconds_left() == 10, "20 and 10 are left, side by side, of which 10 have passed"
    now[0] += 10
    view.on_event(planned[2], PhaseEvent(name="start", steps=1))
    view.on_run_end(planned[2], made_record("lite0"), "finished")
    assert view.seconds_left() == 10, "20 s for 20 of the 30 that were estimated"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (190, "3 min 10 s"), (28_920, "8 h 2 min")],
)
def test_durations_name_their_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
