"""What a sweep does with the shifted test: sent to workers, stored, scored, verified."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from harness.commands.verify import verify
from harness.evaluation import metrics
from harness.execution.devices import Device
from harness.execution.processes import ProcessResult
from harness.reporting.publish import write_tables
from harness.schema.events import Event
from harness.schema.predictions import Predictions
from harness.schema.records import Finished
from harness.schema.run import Job
from harness.storage.predictions import write_predictions
from harness.storage.records import PREDICTIONS, Store
from harness.sweep.estimates import estimate_seconds
from harness.sweep.scheduler import SweepContext, sweep
from tests.harness.conftest import (
    CLASSES,
    SUMMARY,
    StandIn,
    made_outcome,
    made_planned,
    made_predictions,
    made_record,
    save_finished,
)


class Corrupted(StandIn):
    """Predicts the shifted copy too, worse than the test, as a worker does whose job has one."""

    def __call__(
        self, job: Job, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> ProcessResult:
        parts = made_predictions(job.run)
        del parts["shifted"]
        if job.shifted:
            test = parts["test"]
            mixed = np.roll(test.probabilities, len(test.ids) // 3, axis=0)
            parts["shifted"] = Predictions(test.ids, test.labels, mixed)
        write_predictions(Path(job.output) / PREDICTIONS, parts)
        self.launched.append(str(job.shifted))
        return ProcessResult("finished", outcome=made_outcome())


def swept(tmp_path: Path, shifted: Path | None) -> tuple[Store, Finished]:
    store, planned = Store(tmp_path / "results"), made_planned()
    context = SweepContext(
        store, tmp_path, SUMMARY, "quick", lambda: [Device("cpu", "Test CPU")], shifted
    )
    launch = Corrupted()
    sweep([planned], context, launch)
    assert launch.launched == [str(shifted.resolve()) if shifted else "None"]
    record = store.find(planned.run)
    assert record is not None
    assert isinstance(record.result, Finished)
    return store, record.result


def test_a_run_is_scored_on_the_shifted_copy_too(tmp_path: Path) -> None:
    store, result = swept(tmp_path, tmp_path / "shifted.npy")
    parts = store.predictions(made_planned().run)
    assert set(parts) == {"validation", "test", "shifted"}
    assert result.shifted == metrics.score(parts["shifted"], CLASSES)
    assert result.shifted is not None
    assert result.shifted.macro_f1 < result.test.macro_f1
    assert result.predictions_sha256 == metrics.digest(parts)
    write_tables(store.root)
    assert verify(store.root) == []


def test_a_run_without_it_is_as_it_was(tmp_path: Path) -> None:
    """The same id, the same digest, the same bytes of the record as before there was such a test.

    So what is committed stays valid, and a record may lack what another has.
    """
    store, result = swept(tmp_path, None)
    assert result.shifted is None
    assert "shifted" not in result.model_dump(mode="json")
    parts = made_predictions(made_planned().run)
    old = metrics.digest({name: parts[name] for name in ("validation", "test")})
    assert result.predictions_sha256 == old
    save_finished(store, made_record("vgg19"))
    write_tables(store.root)
    assert verify(store.root) == []


@pytest.mark.parametrize(
    ("shift", "views", "images"), [("none", 1, 100), ("mixed", 1, 120), ("full", 1, 1220),
                                   ("none", 3, 160), ("mixed", 3, 220)]
)  # fmt: skip
def test_the_plan_counts_the_passes(shift: str, views: int, images: int) -> None:
    """70 training, 10 validation and 20 test images, each at the network's rate."""
    one = made_planned()
    protocol = one.run.protocol.model_copy(update={"test_views": views})
    run = one.run.model_copy(update={"protocol": protocol})
    one = type(one)(run, one.recipe, None, "")
    records = [made_record()]
    seconds = [
        estimate_seconds(one, SUMMARY, records, "Test CPU, 2 cores", 4e10, s)  # type: ignore[arg-type]
        for s in ("none", shift)
    ]
    plain = estimate_seconds(made_planned(), SUMMARY, records, "Test CPU, 2 cores", 4e10)
    assert seconds[1] - plain == pytest.approx((images - 100) / 25.0)


def test_a_rate_over_several_views_is_that_of_one_times_their_number() -> None:
    record = made_record()
    protocol = record.run.protocol.model_copy(update={"test_views": 4})
    run = record.run.model_copy(update={"protocol": protocol})
    several_views = record.model_copy(update={"run": run})
    slow, fast = (
        estimate_seconds(made_planned(), SUMMARY, [r], "Test CPU, 2 cores", 4e10)
        for r in (record, several_views)
    )
    assert slow - fast == pytest.approx(100 / 25 - 100 / 100)


def test_the_digest_holds_the_shifted_part() -> None:
    part = made_predictions(made_planned().run)["test"]
    other = Predictions(part.ids, part.labels, part.probabilities[::-1])
    assert metrics.digest({"test": part}) != metrics.digest({"test": part, "shifted": part})
    assert metrics.digest({"test": part, "shifted": part}) != metrics.digest(
        {"test": part, "shifted": other}
    )
