"""The rows that matter: of a board, and of several boards on the same test images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from harness.reporting.findings import chosen
from harness.reporting.leaderboard import Board, Ranking, rank_rows
from harness.reporting.rows import Row, with_distinct_titles

MOST_NETWORKS = 16


@dataclass(frozen=True, eq=False)
class Overview(Ranking):
    """The best rows of several boards on the same test images, ranked against each other."""

    boards: tuple[Board, ...]
    board_of: Mapping[str, Board]
    """By the id of a row's first record."""


def first_rows(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The best networks, the best ensemble by validation of each set of members, and all others.

    In the order of ``rows``.
    """
    networks = [row for row in rows if row.kind == "network"][:MOST_NETWORKS]
    best = {*networks, *_best(rows, "ensemble")}
    return tuple(row for row in rows if row in best or row.kind in {"imported", "baseline"})


@cache
def overviews(boards: tuple[Board, ...]) -> tuple[Overview, ...]:
    """An overview for each group of two or more boards on the same test images."""
    groups: dict[tuple[str, str], list[Board]] = defaultdict(list)
    for board in boards:
        if board.rows:
            groups[board.fingerprint, board.split.canonical()].append(board)
    return tuple(_overview(tuple(group)) for group in groups.values() if len(group) > 1)


def _overview(boards: tuple[Board, ...]) -> Overview:
    every = [row for board in boards for row in board.rows]
    best = [row for kind in ("network", "ensemble", "imported", "baseline")
            for row in _best(every, kind)]  # fmt: skip
    records = {record.subject.id: record for row in every for record in row.records}
    best = with_distinct_titles(best, records)
    ranking = rank_rows(best, boards[0].labels, len(boards[0].data.class_names))
    board_of = {row.records[0].subject.id: board for board in boards for row in board.rows}
    return Overview(**vars(ranking), boards=boards, board_of=board_of)


def _best(rows: Iterable[Row], kind: str) -> list[Row]:
    """The row that the validation images prefer, for each network or set of members."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.kind == kind:
            recipes = row.ensembles[0].recipes if row.ensembles else (row.name, row.weights)
            groups[tuple(sorted(recipes))].append(row)
    return [chosen(group) for group in groups.values()]
