"""Two rows of a leaderboard compared: is the difference between them significant?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import UnknownName, UserError
from harness.evaluation import significance
from harness.evaluation.significance import Paired
from harness.reporting.leaderboard import Board, Placed, compare_placed, same_order
from harness.reporting.provenance import differing_settings
from harness.reporting.publish import read_boards
from harness.reporting.rows import Row
from harness.reporting.table import p_equals
from zoo.registry import find

SHORTEST_ID = 4


def compare(first: str, second: str, results: Path) -> str:
    """A paragraph for every board that has both rows; where none has, for boards of the same test.

    A row is named by its recipe, its import's name, or the first characters of the id of a run or
    ensemble. Raises UserError where a row is missing, or their test images are not the same.
    """
    boards = read_boards(results)
    firsts, seconds = rows_named(boards, first, results), rows_named(boards, second, results)
    if {id(row) for _, row in firsts} & {id(row) for _, row in seconds}:
        raise UserError(f"{first} and {second} are the same row; name two")
    pairs = [
        ((board, row), (other_board, other))
        for board, row in firsts
        for other_board, other in seconds
        if board.test_images == other_board.test_images
    ]
    if not pairs:
        reason = "not on the same test images"
        raise UserError(f"{results}: {first} and {second} are both there, but {reason}")
    same = [pair for pair in pairs if pair[0][0] is pair[1][0]]
    return "\n\n".join(_paragraph(*pair) for pair in same or pairs)


def rows_named(boards: Sequence[Board], name: str, results: Path) -> list[tuple[Board, Row]]:
    """All rows of this name, each with its board. Raises UserError if there is none."""
    rows = [(board, row) for board in boards for row in board.rows]
    imported = [(board, row) for board, row in rows if row.name == name.removeprefix("@")]
    if imported:
        return imported
    by_id = [
        (board, row)
        for board, row in rows
        if len(name) >= SHORTEST_ID and any(r.subject.id.startswith(name) for r in row.records)
    ]
    if by_id:
        return by_id
    try:
        recipe = find(name).name
    except UnknownName:
        known = {row.name for _, row in rows if row.kind != "ensemble"}
        listed = f"; {results / 'leaderboard.csv'} has names and ids"
        raise UnknownName("row", name, known, listed) from None
    networks = [(board, row) for board, row in rows if row.name == recipe]
    if not networks:
        raise UserError(
            f"{results}: no finished run of {recipe}; 'wbc-bench run {recipe}' makes it"
        )
    return networks


def _paragraph(first: Placed, second: Placed) -> str:
    """The p is that of every sentence about these two rows; where there are several, corrected."""
    (board, row), (other_board, other) = first, second
    test = compare_placed(first, second)
    same, profile = board is other_board, f", {board.profile} profile"
    where = ["", ""] if same else [f": {s}" for s in differing_settings((first, second))]
    names = [_name(one) + place for one, place in zip((row, other), where, strict=True)]
    better = names[0] if test.difference > 0 else names[1]
    verdict = f"{better} is better" if test.significant else "no significant difference"
    lines = [
        f"{board.data.name}{profile if same else ''}, {board.data.test:,} test images",
        *(
            f"  {name}: {_score(one, ranked=same)}"
            for name, one in zip(names, (row, other), strict=True)
        ),
        f"  difference {100 * test.difference:+z.2f} points, 95 % interval "
        f"{100 * test.low:+z.2f} to {100 * test.high:+z.2f}: {verdict} "
        f"({p_equals(test.p)}; {_seeds(row, other, test)})",
    ]
    ordered = same_order(first, second)
    labels = ordered[0].parts[0]["test"].labels
    for seed in sorted({*row.seeds} & {*other.seeds}):
        a, b = (r.y_pred[r.seeds.index(seed)] for r in ordered)
        mcnemar = significance.mcnemar(labels, a, b)
        lines.append(
            f"  seed {seed}: the two disagree on {int((a != b).sum()):,} images; "
            f"accuracy, exact McNemar test: {p_equals(mcnemar)}"
        )
    return "\n".join(lines)


def _seeds(row: Row, other: Row, test: Paired) -> str:
    if test.seeds == 1:
        return "one seed: what other seeds would give is not in it"
    common = "in common" if {*row.seeds} & {*other.seeds} else "at most, none in common"
    return f"{test.seeds} seeds {common}"


def _name(row: Row) -> str:
    weights = f" ({row.weights})"
    return row.title if row.title.endswith(weights) else row.title + weights


def _score(row: Row, *, ranked: bool) -> str:
    """Ranks of two boards say nothing about each other."""
    seeds = f", mean of {len(row.seeds)} seeds" if len(row.seeds) > 1 else ""
    if not ranked:
        return f"macro F1 {100 * row.macro_f1:.2f} %{seeds}"
    rank = f"rank {row.rank}" if row.rank else "not ranked"
    rank += ", may be the best" if row.may_be_best else ""
    return f"macro F1 {100 * row.macro_f1:.2f} %{seeds}, {rank}"
