"""Two rows of a leaderboard against each other: is the difference real?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import UnknownName, UserError
from harness.evaluation import significance
from harness.reporting.leaderboard import Board, Row
from harness.reporting.publish import read_boards
from zoo.registry import find

SHORTEST_ID = 4


def compare(first: str, second: str, results: Path) -> str:
    """A paragraph for every board that has both rows.

    A row is named by its recipe, its import's name, or the id of a run or ensemble (its first
    characters). Raises UserError where there is none, or none beside the other.
    """
    boards = read_boards(results)
    ones, others = rows_named(boards, first, results), rows_named(boards, second, results)
    if {id(row) for _, row in ones} & {id(row) for _, row in others}:
        raise UserError(f"{first} and {second} are the same row; name two")
    pairs = [
        (board, one, other) for board, one in ones for beside, other in others if board is beside
    ]
    if not pairs:
        reason = "not on the same images under one protocol"
        raise UserError(f"{results}: {first} and {second} are both there, but {reason}")
    return "\n\n".join(_paragraph(*pair) for pair in pairs)


def rows_named(boards: Sequence[Board], name: str, results: Path) -> list[tuple[Board, Row]]:
    """All rows of this name, each with its board. Raises UserError if there is none."""
    rows = [(board, row) for board in boards for row in board.rows]
    plain = name.removeprefix("@")
    imported = [(board, row) for board, row in rows if row.name == plain]
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
    except UnknownName as error:
        raise UserError(f"{error}, or the id of a row in {results / 'leaderboard.csv'}") from None
    found = [(board, row) for board, row in rows if row.name == recipe]
    if not found:
        raise UserError(
            f"{results}: no finished run of {recipe}; 'wbc-bench run {recipe}' makes it"
        )
    return found


def _paragraph(board: Board, one: Row, other: Row) -> str:
    """Seed by seed; the seeds that both have."""
    names = f"{one.title} ({one.weights})", f"{other.title} ({other.weights})"
    lines = [f"{board.data.name}, {board.profile} profile, {board.data.test:,} test images"]
    shared = [seed for seed in one.seeds if seed in other.seeds]
    for seed in shared:
        pair = (one, one.seeds.index(seed)), (other, other.seeds.index(seed))
        lines += _sentence(board, *pair, names)
    if not shared:
        lines.append("  no seed was run of both")
    return "\n".join(lines)


def _sentence(
    board: Board, one: tuple[Row, int], other: tuple[Row, int], names: tuple[str, str]
) -> list[str]:
    (row, i), (against, j) = one, other
    a, b = row.guesses[i], against.guesses[j]
    paired = significance.paired(board.labels, a, b, len(board.data.class_names))
    mcnemar = significance.mcnemar(board.labels, a, b)
    scores = [100 * r.evaluation[k].test.macro_f1 for r, k in (one, other)]
    verdict = (
        f"{names[0] if paired.difference > 0 else names[1]} is better (p = {paired.p:.2g})"
        if paired.p < 0.05
        else f"no significant difference (p = {paired.p:.2g})"
    )
    told = " and ".join(f"{s:.2f} % for {n}" for s, n in zip(scores, names, strict=True))
    return [
        f"  seed {row.seeds[i]}: macro F1 {told}",
        f"    difference {100 * paired.difference:+.2f} points, "
        f"95 % interval {100 * paired.low:+.2f} to {100 * paired.high:+.2f}: {verdict}",
        f"    the two disagree on {int((a != b).sum()):,} images; accuracy, exact McNemar test: "
        f"p = {mcnemar:.2g}",
    ]
