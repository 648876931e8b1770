"""`compare` and the ranks of the leaderboard answer one question with one p."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from harness.evaluation.significance import holm, mcnemar, pairwise
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
def test_the_p_is_the_one_that_ranks_rest_on(results: Path, first: str, second: str) -> None:
    """The same whatever other rows the table has, over all seeds of both rows."""
    (board,) = read_boards(results)
    table = pairwise(board.labels, [row.y_pred for row in board.rows], len(CLASSES))
    place = {row.name: i for i, row in enumerate(board.rows)}
    p = table.p[place[first], place[second]]
    text = compare(first, second, results)
    assert f"(p = {p:.2g})" in text
    difference = 100 * table.difference[place[first], place[second]]
    assert f"difference {difference:+.2f} points" in text
    assert ("no significant difference" in text) == (p >= 0.05)


def test_the_ranks_stand_beside_the_p(results: Path) -> None:
    (board,) = read_boards(results)
    table = pairwise(board.labels, [row.y_pred for row in board.rows], len(CLASSES))
    told_apart = min(holm(table.p[np.triu_indices(3, 1)])) < 0.05
    assert told_apart == (max(row.rank or 0 for row in board.rows) > 1)
    for row in board.rows:
        other = next(r.name for r in board.rows if r is not row)
        score = f"macro F1 {100 * row.macro_f1:.2f} %"
        assert re.search(rf"{score}.*, rank {row.rank}\n", compare(row.name, other, results))


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
