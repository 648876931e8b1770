"""The fairness ledger: what is counted, once and only once."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from harness.execution.devices import Device, slots
from harness.execution.locks import DeviceLock
from harness.reporting.columns import COSTS, csv_text, table_of
from harness.reporting.markdown import markdown
from harness.reporting.tables import first_table
from harness.schema.ledger import Ledger
from harness.schema.protocol import Loss, Phase
from harness.schema.records import Finished, RunRecord
from tests.harness.conftest import made_outcome, made_record
from tests.harness.reporting.test_markdown import boards
from tests.harness.training.test_trainer import IMAGENET, protocol, smear, train

__all__ = ["smear"]

LEDGER = Ledger(
    epochs_on_features=30,
    feature_rows_learnt=9600,
    images_embedded=320,
    epochs_on_images=20,
    images_learnt=6400,
    device_seconds=81.25,
    energy_joules=4321.0,
    energy_exclusive=True,
)
SCRATCH = protocol(from_scratch=Phase(epochs=2, batch_size=24, patience=2))


def with_ledger(record: RunRecord, **changes: Any) -> RunRecord:
    assert isinstance(record.result, Finished)
    result = record.result.model_copy(update=changes)
    return record.model_copy(update={"result": result})


# --- counting ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_micro_batches_do_not_count_twice(smear: Path, tmp_path: Path, micro_batches: int) -> None:
    """64 training images in batches of 24: two whole ones an epoch, however they are split."""
    from harness.schema.run import Weights

    random = Weights(source="random")
    trained = train(smear, "basic", random, SCRATCH, tmp_path, micro_batches=micro_batches)
    assert trained.counts == {
        "epochs_on_features": 0,
        "feature_rows_learnt": 0,
        "images_embedded": 0,
        "epochs_on_images": 2,
        "images_learnt": 2 * 48,
    }


@pytest.mark.slow
def test_augmented_passes_of_the_frozen_backbone_count_one_by_one(
    smear: Path, tmp_path: Path
) -> None:
    from harness.schema.augmentation import Augmentation

    varied = Augmentation(policy="traditional", frozen_epochs=2)
    chosen = protocol(augmentation=varied)
    counts = train(smear, "lite0", IMAGENET, chosen, tmp_path).counts
    assert counts["images_embedded"] == 64 + 2 * 64
    assert counts["feature_rows_learnt"] == counts["epochs_on_features"] * 64
    assert (counts["epochs_on_images"], counts["images_learnt"]) == (0, 0)


@pytest.mark.slow
def test_oversampled_rows_count_as_often_as_they_are_learnt(smear: Path, tmp_path: Path) -> None:
    chosen = protocol(loss=Loss(oversampling=True))
    counts = train(smear, "lite0", IMAGENET, chosen, tmp_path).counts
    assert counts["images_embedded"] == 64
    assert counts["feature_rows_learnt"] > counts["epochs_on_features"] * 64


def test_time_under_the_device_lock_counts_and_waiting_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [10.0]
    monkeypatch.setattr("harness.execution.locks.time.perf_counter", lambda: now[0])
    device_lock = DeviceLock("cpu", tmp_path)
    with device_lock.shared():
        now[0] += 2.5
    now[0] += 100.0
    with device_lock.exclusive():
        now[0] += 1.0
    assert device_lock.seconds == pytest.approx(2.5 + 1.0)
    assert device_lock.waits.seconds == 0


def test_a_device_is_shared_where_it_has_several_slots() -> None:
    cpu, gpus = (Device("cpu", "CPU"),), (Device("gpu:0", "GPU"), Device("gpu:1", "GPU"))
    assert [device.shared for device in slots(cpu, 2, 1)] == [True, True]
    assert [device.shared for device in slots(cpu, 1, 4)] == [False]
    assert [device.shared for device in slots(gpus, 2, 1)] == [False, False]
    assert all(device.shared for device in slots(gpus, 1, 2))


# --- telling -------------------------------------------------------------------------------------


def test_a_record_without_a_ledger_keeps_its_bytes() -> None:
    assert "ledger" not in made_outcome().model_dump(mode="json")
    outcome = made_outcome().model_copy(update={"ledger": LEDGER})
    reloaded = type(outcome).model_validate_json(outcome.model_dump_json())
    assert reloaded.ledger == LEDGER


LEDGER_COLUMNS = (
    "epochs_on_features", "epochs_on_images", "images_embedded", "images_learnt", "device_seconds",
    "energy_joules",
)  # fmt: skip


def ledger_cells(*records: RunRecord) -> list[str]:
    (board,) = boards(list(records))
    table = table_of(COSTS, board.rows)
    cells = {c.key: str(cell) for c, cell in zip(table.columns, table.cells[0], strict=True)}
    return [cells[key] for key in LEDGER_COLUMNS]


def test_the_table_shows_means_over_the_seeds_and_a_dash_for_what_is_unknown() -> None:
    one = with_ledger(made_record("vgg16"), ledger=LEDGER)
    assert ledger_cells(one) == ["30", "20", "320", "6,400", "81.2", "4.32"]
    assert ledger_cells(made_record("vgg16")) == ["–"] * 6
    silent = LEDGER.model_copy(update={"energy_joules": None, "epochs_on_features": 31})
    other = with_ledger(made_record("vgg16", seed=1), ledger=silent)
    assert ledger_cells(one, other) == ["30.5", "20", "320", "6,400", "81.2", "4.32"]
    assert ledger_cells(other)[-1] == "–"


def test_energy_of_a_shared_device_is_marked() -> None:
    shared = LEDGER.model_copy(update={"energy_exclusive": False})
    assert ledger_cells(with_ledger(made_record(), ledger=shared))[-1] == "4.32 ‡"


def test_the_csv_has_every_field_of_it() -> None:
    split = with_ledger(made_record("vgg16"), ledger=LEDGER, micro_batches=2)
    records = [split, made_record("lite0")]
    lines = {
        line["recipe"]: line for line in csv.DictReader(io.StringIO(csv_text(boards(records))))
    }
    for name, value in LEDGER.model_dump().items():
        assert lines["vgg16"][name] == str(value)
        assert lines["lite0"][name] == ""
    assert [lines[name]["micro_batches"] for name in ("vgg16", "lite0")] == ["2", "1"]


def test_a_row_with_micro_batches_is_marked_and_explained() -> None:
    whole, split = made_record("lite0"), with_ledger(made_record("vgg16", seed=1), micro_batches=4)
    (board,) = boards([whole, made_record("vgg16"), split])
    table = first_table(board)
    titles = {row.name: str(cells[1]) for row, cells in zip(board.rows, table.cells, strict=True)}
    assert titles == {"vgg16": "VGG16 ¶", "lite0": "EfficientNet-Lite0"}
    (note,) = (line for line in markdown([board]).splitlines() if line.startswith("¶"))
    assert "(VGG16 4)" in note
    assert "dropout drew other masks" in note
    assert "BatchNorm" in note
    (board,) = boards([whole])
    assert "¶" not in markdown([board])
