"""Records -> tables: what is compared, in which order, and the exact bytes."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pytest

from harness.leaderboard import boards
from harness.nouns import Finished, RunRecord, Weights
from harness.report import csv_text, markdown

from .conftest import failed_record, made_record

GOLDEN = Path(__file__).with_name("golden_leaderboard.md")


def some_records() -> list[RunRecord]:
    return [
        made_record("vgg16"),
        made_record("lite0", note="random weights: the ImageNet weights could not be downloaded"),
        made_record("vgg16", seed=1),
        made_record("efficientnetv2s"),
        failed_record("vgg19", "killed (signal 9) | out of memory?"),
    ]


def test_the_golden_leaderboard() -> None:
    """The page, byte for byte. After a wanted change: python -m tests.harness.golden."""
    assert markdown(boards(some_records())) == GOLDEN.read_text()


def test_the_order_of_arrival_does_not_matter() -> None:
    records = some_records()
    expected = markdown(boards(records)), csv_text(boards(records))
    for seed in range(5):
        random.Random(seed).shuffle(records)
        assert (markdown(boards(records)), csv_text(boards(records))) == expected


def test_rows_are_best_first_and_seeds_make_one_row() -> None:
    (board,) = boards(some_records())
    scores = [row.test(lambda m: m.macro_f1) for row in board.rows]
    assert scores == sorted(scores, reverse=True)
    vgg16 = next(row for row in board.rows if row.recipe == "vgg16")
    values = [result.test.macro_f1 for result in vgg16.results]
    assert len(values) == 2
    assert vgg16.test(lambda m: m.macro_f1) == pytest.approx(sum(values) / 2)
    spread = vgg16.spread(lambda r: r.test.macro_f1)
    assert spread == pytest.approx(abs(values[0] - values[1]) / 2**0.5)


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
        else:
            assert line["reason"] == record.result.reason


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
