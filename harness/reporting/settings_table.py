"""What any setting changes: the networks of all boards on the same test images, in one table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from harness.evaluation import significance
from harness.evaluation.significance import Paired
from harness.reporting import ablation
from harness.reporting.columns import FIRST, shown_in
from harness.reporting.leaderboard import Board, compare_placed
from harness.reporting.provenance import differing_settings, variant_of
from harness.reporting.rows import Row
from harness.reporting.table import Column, Emphasis, Table, points


@dataclass(frozen=True, eq=False)
class Line:
    """A network with the settings of its board, and its change against the reference board."""

    row: Row
    settings: str
    variant: str
    reference: bool
    change: Paired | None
    """Adjusted by Holm for all changes of the table."""


@dataclass(frozen=True, eq=False)
class JoinedBoards:
    """Boards on the same test images, not all of which are in one study of options."""

    boards: tuple[Board, ...]
    lines: tuple[Line, ...]
    """By network; of each that on the board with the most networks first, then the best. Changes
    are against the first one."""

    @property
    def shifted_tests(self) -> int:
        """How many there are: one for each split of images at one size."""
        return len({(board.fingerprint, board.split.canonical()) for board in self.boards})


@cache
def joined_boards(boards: tuple[Board, ...]) -> tuple[JoinedBoards, ...]:
    """The groups of two or more boards whose settings differ in more than options.

    Without those that share no network and whose rows an Overview has.
    """
    groups: dict[tuple[str, ...], list[Board]] = defaultdict(list)
    for board in boards:
        if board.networks:
            groups[board.test_images].append(board)
    found = []
    for group in groups.values():
        in_a_study = [board for study in ablation.studies(tuple(group)) for board in study.boards]
        together = len(ablation.studies(tuple(group))) == 1 and len(in_a_study) == len(group)
        if len(group) > 1 and not together:
            joined = _join(ablation.in_order(group))
            if joined.shifted_tests > 1 or any(line.change for line in joined.lines):
                found.append(joined)
    return tuple(found)


def _join(boards: Sequence[Board]) -> JoinedBoards:
    reference = max(boards, key=lambda board: len(board.networks))
    before = {(row.name, row.weights): (reference, row) for row in reference.networks}
    pairs = [(board, row) for board in boards for row in board.networks]
    settings = dict(zip((row for _, row in pairs), differing_settings(pairs), strict=True))
    changes = significance.adjusted({
        row: compare_placed((board, row), before[row.name, row.weights])
        for board, row in pairs
        if board is not reference and (row.name, row.weights) in before
    })  # fmt: skip
    best: dict[str, float] = {}
    for _, row in pairs:
        best[row.name] = max(row.macro_f1, best.get(row.name, 0.0))
    lines = [
        Line(row, settings[row], variant_of(row), board is reference, changes.get(row))
        for board, row in pairs
    ]
    lines.sort(
        key=lambda line: (
            -best[line.row.name], line.row.name, line.row.weights, not line.reference,
            -line.row.macro_f1,
        )
    )  # fmt: skip
    return JoinedBoards(tuple(boards), tuple(lines))


def table(joined: JoinedBoards) -> Table[Line]:
    """A line for each network on each board."""
    _, _, f1, *others, _ = shown_in(FIRST)

    def network(line: Line) -> str:
        """With the weights that are not ImageNet's, in place of a mark."""
        weights = "" if line.row.weights == "imagenet" else f" ({line.row.weights} weights)"
        return line.row.title.removesuffix(f" ({line.row.weights})") + weights

    def of_row(column: Column[Row]) -> Column[Line]:
        return Column(
            column.key, column.heading, lambda line: column.value(line.row), column.format,
            column.align, lambda line: column.mark(line.row),
        )  # fmt: skip

    def bold(line: Line) -> Emphasis:
        return "**" if line.change and line.change.significant else ""

    columns: list[Column[Line]] = [
        Column("title", "Network", network, align="left"),
        Column("settings", "Settings", lambda line: line.settings, align="left"),
        of_row(f1),
        Column("change", "Change", lambda line: line.change.difference if line.change else None,
               points, emphasis=bold),
        *map(of_row, others),
        Column("run", "Run", lambda line: line.row.records[0].subject.id[:8], align="left"),
    ]  # fmt: skip
    if any(line.variant for line in joined.lines):
        name: Column[Line] = Column("variant", "Variant", lambda line: line.variant or None,
                                    align="left")  # fmt: skip
        columns.insert(1, name)
    return Table(columns, joined.lines)
