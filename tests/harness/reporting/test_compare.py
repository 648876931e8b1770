"""`compare` and the sentences of the leaderboard answer one question with one p."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.evaluation.significance import mcnemar, paired
from harness.reporting.compare import compare
from harness.reporting.publish import read_boards
from harness.reporting.rows import Row
from harness.storage.records import Store
from tests.harness.conftest import CLASSES, made_record, save_finished


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three networks, one of them with a second seed."""
    store = Store(tmp_path)
    for name, seed in (("vgg16", 0), ("vgg16", 1), ("lite0", 0), ("resnet50", 0)):
        save_finished(store, made_record(name, seed))
    return tmp_path


def rows_by_name(results: Path) -> dict[str, Row]:
    (board,) = read_boards(results)
    return {row.name: row for row in board.rows}


@pytest.mark.parametrize(("first", "second"), [("vgg16", "lite0"), ("lite0", "resnet50")])
def test_the_p_is_that_of_the_paired_test_on_the_seeds_in_common(
    results: Path, first: str, second: str
) -> None:
    (board,) = read_boards(results)
    rows = rows_by_name(results)
    test = paired(board.labels, rows[first].y_pred[:1], rows[second].y_pred[:1], len(CLASSES))
    text = compare(first, second, results)
    assert f"(p = {test.p:.2g}; one seed: what other seeds would give is not in it)" in text
    assert f"difference {100 * test.difference:+.2f} points" in text
    assert ("no significant difference" in text) == (test.p >= 0.05)


def test_rank_and_mark_stand_beside_the_p(results: Path) -> None:
    (board,) = read_boards(results)
    assert board.rows[0].may_be_best
    for row in board.rows:
        other = next(r.name for r in board.rows if r is not row)
        best = ", may be the best" if row.may_be_best else ""
        score = f"macro F1 {100 * row.macro_f1:.2f} %"
        text = compare(row.name, other, results)
        assert re.search(rf"{score}.*, rank {row.rank}{best}\n", text)


def test_the_interval_excludes_zero_exactly_where_p_is_small(results: Path) -> None:
    for pair in (("vgg16", "lite0"), ("vgg16", "resnet50"), ("lite0", "resnet50")):
        text = compare(*pair, results)
        low, high = map(float, re.findall(r"interval (\S+) to ([^:]+):", text)[0])
        assert (low <= 0 <= high) == ("no significant difference" in text)


def test_accuracy_is_tested_seed_by_seed(results: Path) -> None:
    (board,) = read_boards(results)
    rows = rows_by_name(results)
    a, b = rows["vgg16"].y_pred[0], rows["lite0"].y_pred[0]
    text = compare("vgg16", "lite0", results)
    assert f"seed 0: the two disagree on {(a != b).sum()} images" in text
    assert f"exact McNemar test: p = {mcnemar(board.labels, a, b):.2g}" in text
    assert "seed 1" not in text
    assert "mean of 2 seeds" in text
