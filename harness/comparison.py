"""Two rows of a leaderboard against each other: is the difference real?"""

from __future__ import annotations

from pathlib import Path

from harness import statistics
from harness.errors import UserError
from harness.leaderboard import Board, Row
from harness.tables import read_boards
from zoo.table import find


def compare(first: str, second: str, results: Path) -> str:
    """A paragraph for every board that has both recipes. Raises UserError where none has."""
    names = find(first).name, find(second).name
    if names[0] == names[1]:
        raise UserError(f"{first} and {second} are the same recipe; name two")
    boards = read_boards(results)
    for name in names:
        if not any(row.name == name for board in boards for row in board.networks):
            raise UserError(
                f"{results}: no finished run of {name}; 'wbc-bench run {name}' makes it"
            )
    pairs = [
        (board, one, other)
        for board in boards
        for one in _rows(board, names[0])
        for other in _rows(board, names[1])
    ]
    if not pairs:
        reason = "not on the same images under one protocol"
        raise UserError(f"{results}: {names[0]} and {names[1]} were both run, but {reason}")
    return "\n\n".join(_paragraph(*pair) for pair in pairs)


def _rows(board: Board, name: str) -> list[Row]:
    return [row for row in board.networks if row.name == name]


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
    paired = statistics.paired(board.labels, a, b, len(board.data.class_names))
    mcnemar = statistics.mcnemar(board.labels, a, b)
    scores = [100 * r.scored[k].test.macro_f1 for r, k in (one, other)]
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
