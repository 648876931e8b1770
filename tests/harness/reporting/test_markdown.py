"""Records -> tables: what is compared, in which order, and the exact bytes."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import numpy as np
import pytest

from harness.data.corruptions import CORRUPTIONS
from harness.evaluation import metrics
from harness.reporting.columns import COSTS, csv_text, frame, table_of
from harness.reporting.leaderboard import Board
from harness.reporting.leaderboard import boards as ranked
from harness.reporting.markdown import markdown
from harness.reporting.overview import overviews
from harness.reporting.provenance import headings, shared_heading
from harness.reporting.tables import first_table
from harness.schema.predictions import Predictions
from harness.schema.records import Finished, RunRecord
from harness.schema.run import Weights
from tests.harness.conftest import failed_record, made_predictions, made_record
from zoo.registry import RECIPES

GOLDEN = Path(__file__).with_name("golden_leaderboard.md")


def boards(records: list[RunRecord]) -> tuple[Board, ...]:
    """The boards of made-up records, whose predictions follow from their runs."""
    predictions = {record.run.id: made_predictions(record.run) for record in records}
    return ranked(records, predictions)


def some_records() -> list[RunRecord]:
    return [
        made_record("vgg16"),
        made_record("lite0", note="random weights: the ImageNet weights could not be downloaded"),
        made_record("vgg16", seed=1),
        made_record("efficientnetv2s"),
        failed_record("vgg19", "killed (signal 9) | out of memory?"),
    ]


def test_the_golden_leaderboard() -> None:
    """Byte for byte. After an intended change: python -m tests.harness.reporting.golden."""
    assert markdown(boards(some_records())) == GOLDEN.read_text()


def test_what_happened_in_training_is_said_with_its_network_and_seed() -> None:
    note = "training diverged in epoch 3 (fine-tuning): the training loss is not finite"
    second = made_record("vgg16", seed=1)
    changed = {"result": second.result.model_copy(update={"notes": (note,)})}
    text = markdown(boards([*some_records()[:2], second.model_copy(update=changed)]))
    assert f"† Seed 1: {note} (VGG16).\n" in text
    assert "could not be downloaded (EfficientNet-Lite0).\n" in text


def test_compile_seconds_are_a_mean_or_unknown() -> None:
    """A record from before they were counted is read as it was written, and its row says –."""
    old = made_record("vgg16").model_dump_json().replace(',"compile":3.0', "")
    assert "compile" not in old
    before = RunRecord.model_validate_json(old)
    assert before.model_dump_json() == old
    for records, cell in (([before], "–"), ([before, made_record("vgg16", seed=1)], "–"),
                          ([made_record("vgg16")], "3.0")):  # fmt: skip
        (board,) = boards(records)
        table = table_of(COSTS, board.rows)
        (cells,) = table.cells
        headings = [column.heading for column in table.columns]
        assert str(cells[headings.index("Compile (s)")]) == cell


def test_the_order_of_arrival_does_not_matter() -> None:
    records = some_records()
    expected = markdown(boards(records)), csv_text(boards(records))
    for seed in range(5):
        random.Random(seed).shuffle(records)
        assert (markdown(boards(records)), csv_text(boards(records))) == expected


def test_rows_are_best_first_and_seeds_make_one_row() -> None:
    (board,) = boards(some_records())
    scores = [row.macro_f1 for row in board.rows]
    assert scores == sorted(scores, reverse=True)
    vgg16 = next(row for row in board.rows if row.name == "vgg16")
    values = [result.test.macro_f1 for result in vgg16.evaluations]
    assert len(values) == 2
    assert vgg16.macro_f1 == pytest.approx(sum(values) / 2)
    assert vgg16.noise[0] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)


def test_rows_alike_may_all_be_the_best_and_a_clear_loser_may_not() -> None:
    (board,) = boards([made_record("vgg16"), made_record("lite0"), made_record("efficientnetb0")])
    assert [row.rank for row in board.rows] == [1, 2, 3]
    assert all(row.may_be_best for row in board.rows)
    assert 0 < board.smallest_difference < 1
    records = [made_record("vgg16"), made_record("lite0")]
    labels = np.repeat(np.arange(3), 40)
    part = Predictions(np.arange(120), labels, np.eye(3, dtype=np.float32)[labels])
    other = Predictions(np.arange(120), labels, np.eye(3, dtype=np.float32)[(labels + 1) % 3])
    scored = [rescored(record, p) for record, p in zip(records, (part, other), strict=True)]
    (board,) = ranked(
        scored, {r.run.id: {"test": p} for r, p in zip(scored, (part, other), strict=True)}
    )
    assert [(row.rank, row.may_be_best) for row in board.rows] == [(1, True), (2, False)]


def rescored(record: RunRecord, part: Predictions) -> RunRecord:
    assert isinstance(record.result, Finished)
    test = metrics.score(part, record.data.class_names)
    result = record.result.model_copy(update={"test": test})
    return record.model_copy(update={"result": result})


def test_the_interval_holds_the_score() -> None:
    (board,) = boards(some_records())
    for row in board.rows:
        low, high = row.interval
        assert 0 <= low < row.macro_f1 < high <= 1


def changed(record: RunRecord, **changes: object) -> RunRecord:
    return record.model_copy(update={"run": record.run.model_copy(update=changes)})


def test_what_is_not_comparable_stands_apart() -> None:
    record = made_record()
    other_data = changed(record, data="fedcba9876543210")
    other_split = changed(record, split=record.run.split.model_copy(update={"seed": 5}))
    other_protocol = changed(
        record, protocol=record.run.protocol.model_copy(update={"image_size": 64})
    )
    assert len(boards([record, other_data, other_split, other_protocol])) == 4
    other_weights = changed(record, weights=Weights(source="imagenet", digest="md5:0"))
    (board,) = boards([record, other_weights])
    assert len(board.rows) == 2


def test_two_splits_of_one_folder_are_said_in_headings_page_and_csv() -> None:
    record = made_record()
    other = changed(record, split=record.run.split.model_copy(update={"seed": 5}))
    made = boards([record, other])
    assert [heading.partition("split.")[2] for heading in headings(made).values()] == [
        "seed 0", "seed 5"
    ]  # fmt: skip
    lines = list(csv.DictReader(io.StringIO(csv_text(made))))
    assert {line["split"].rpartition(" else ")[2] for line in lines} == {
        f"70/10/20 percent for training, validation and test, drawn with seed {seed}"
        for seed in (0, 5)
    }
    page = markdown(made)
    assert "drawn with seed 0" in page
    assert "drawn with seed 5" in page


def test_the_csv_holds_every_run_unrounded() -> None:
    records = some_records()
    lines = list(csv.DictReader(io.StringIO(csv_text(boards(records)))))
    assert len(lines) == len(records)
    by_run = {record.run.id: record for record in records}
    for line in lines:
        record = by_run[line["run"]]
        if isinstance(record.result, Finished):
            assert float(line["macro_f1"]) == record.result.test.macro_f1
            assert int(line["parameters"]) == record.result.cost.parameters
            gap = float(line["macro_f1"]) - float(line["shifted_macro_f1"])
            assert float(line["shifted_gap"]) == gap
            assert line["shifted_worst_corruption"] in ("", *CORRUPTIONS)
        else:
            assert line["reason"] == record.result.reason


def test_the_frame_has_a_line_per_row_and_unrounded_columns() -> None:
    (board,) = boards(some_records())
    found = frame(board).set_index("recipe")
    assert set(found.index) == {row.name for row in board.rows}
    assert found.loc["vgg16", "macro_f1"] == next(
        row.macro_f1 for row in board.rows if row.name == "vgg16"
    )
    assert found["parameters"].dtype == "Int64"
    assert found["macro_f1"].dtype == "Float64"
    assert found["macro_f1"].is_monotonic_decreasing


def test_the_first_table_has_at_most_eight_columns_and_sixteen_networks() -> None:
    names = [recipe.name for recipe in RECIPES]
    assert len(names) > 15
    other = Weights(source="imagenet", digest="md5:0")
    records = [made_record(name) for name in names]
    (board,) = boards([*records, *(changed(record, weights=other) for record in records)])
    table = first_table(board)
    assert len(table.columns) <= 8
    assert list(table.items) == list(board.rows[:16])
    page = markdown([board])
    assert f"16 of {len(board.rows)} rows" in page


def test_two_boards_never_share_a_heading() -> None:
    record = made_record()
    protocol, split = record.run.protocol, record.run.split
    records = [
        record,
        changed(record, data="fedcba9876543210"),
        changed(record, split=split.model_copy(update={"seed": 5})),
        changed(record, protocol=protocol.model_copy(update={"image_size": 64})),
        changed(record, protocol=protocol.model_copy(update={"test_views": 4})),
    ]
    made = boards(records)
    found = list(headings(made).values())
    assert len(set(found)) == len(found) == 5
    text = "\n".join(found)
    for difference in ("split.seed 5", "image_size 64", "data fedcba98", "averaged over 4 views"):
        assert difference in text
    page = markdown(made)
    assert all(f"## {heading}\n" in page for heading in found)
    assert list(headings(boards([record])).values()) == ["made-up, quick profile"]


def test_boards_on_the_same_images_are_summed_up_first() -> None:
    """Each network once, as its validation images prefer."""
    record, other = made_record("vgg16"), made_record("lite0")
    views = record.run.protocol.model_copy(update={"test_views": 4})
    made = boards([record, other, changed(record, protocol=views)])
    (overview,) = overviews(made)
    assert sorted(row.name for row in overview.rows) == ["lite0", "vgg16"]
    best = max(board_row.validation_f1 for board in made for board_row in board.networks
               if board_row.name == "vgg16")  # fmt: skip
    assert next(r.validation_f1 for r in overview.rows if r.name == "vgg16") == best
    page = markdown(made)
    assert page.index("the best of 2 boards") < page.index("## made-up, quick profile\n")
    two = boards(
        [
            record,
            changed(other, protocol=record.run.protocol.model_copy(update={"inference_batch": 16})),
        ]
    )
    assert shared_heading(two)[0] == "made-up, quick profile", "what both have is said once"
    assert sorted(shared_heading(two)[1].values()) == ["inference_batch 16", "inference_batch 32"]
    assert overviews(boards([record, changed(record, data="fedcba9876543210")])) == ()


def test_an_empty_folder_says_what_to_type() -> None:
    assert "wbc-bench run --all" in markdown(boards([]))


def test_class_names_cannot_break_the_table() -> None:
    record = made_record()
    assert isinstance(record.result, Finished)
    names = ("a|b", "<b>", "c\nd")
    per_class = tuple(
        c.model_copy(update={"name": n})
        for c, n in zip(record.result.test.per_class, names, strict=True)
    )
    test = record.result.test.model_copy(update={"per_class": per_class})
    result = record.result.model_copy(update={"test": test})
    page = markdown(boards([record.model_copy(update={"result": result})]))
    assert "a\\|b" in page
    assert "&lt;b>" in page
    assert "c d" in page
