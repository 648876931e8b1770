"""The tables of a board whose columns depend on its data, or that list something else than rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from harness.evaluation import significance
from harness.evaluation.robustness import Robustness
from harness.evaluation.significance import Paired
from harness.reporting import findings
from harness.reporting.columns import COLUMNS, FIRST, recall, shown_in
from harness.reporting.findings import Member
from harness.reporting.leaderboard import Board
from harness.reporting.overview import Overview, first_rows
from harness.reporting.provenance import phase_in_words, shared_heading
from harness.reporting.rows import Row, failed_row, title_of
from harness.reporting.table import Column, Table, number, p_value, percent, percent_1
from harness.schema.predictions import SHIFTED

_BY_KEY = {column.key: column for column in COLUMNS}
_WORST_CORRUPTION = replace(
    _BY_KEY["shifted_worst_corruption"],
    align="left",
    value=lambda row: _BY_KEY["shifted_worst_corruption"].value(row) or None,
)
NETWORK: Column[Row] = Column("title", "Network", lambda row: row.title, align="left")


def first_table(board: Board, *, every: bool = False) -> Table[Row]:
    """The rows that matter, or every row, in at most eight columns."""
    return Table(shown_in(FIRST), board.rows if every else first_rows(board.rows))


def overview_table(overview: Overview) -> Table[Row]:
    """The rows of several boards that matter, with the board of each."""
    _, own = shared_heading(overview.boards)

    def training(row: Row) -> str:
        board = overview.board_of[row.records[0].subject.id]
        return ", ".join(filter(None, (phase_in_words(board, row), own[board])))

    column: Column[Row] = Column("board", "Training", training, align="left")
    return Table((*shown_in(FIRST), column), first_rows(overview.rows))


def recall_table(board: Board) -> Table[Row]:
    classes = board.rows[0].evaluations[0].test.per_class
    columns = [
        Column(c.name, f"{c.name} ({c.support})", recall(k), percent)
        for k, c in enumerate(classes)
    ]  # fmt: skip
    return Table([NETWORK, *columns], board.rows)


def class_table(row: Row) -> Table[int]:
    """Precision, recall and F1 of each class, averaged over the seeds."""
    classes = row.evaluations[0].test.per_class

    def measured(measure: str) -> Callable[[int], float]:
        return lambda k: row.test(lambda metrics: getattr(metrics.per_class[k], measure))

    columns: list[Column[int]] = [
        Column("class", "Class", lambda k: classes[k].name, align="left"),
        Column("images", "Images", lambda k: classes[k].support, number(0)),
        *(Column(measure, f"{heading} (%)", measured(measure), percent)
          for measure, heading in (("precision", "Precision"), ("recall", "Recall"), ("f1", "F1"))),
    ]  # fmt: skip
    return Table(columns, range(len(classes)))


def confusion_table(board: Board) -> Table[Row] | None:
    """Shares of one class's images that got another; None for data without these classes."""

    def column(name: str, true: int, predicted: int) -> Column[Row]:
        return Column(
            name, name, lambda row: findings.confused_share(row, true, predicted), percent_1
        )

    columns = [column(*confusion) for confusion in findings.confusions(board)]
    return Table([NETWORK, *columns], board.rows) if columns else None


def shift_table(board: Board) -> Table[Row] | None:
    """Macro F1 of each corruption and severity; None without predictions of the shifted test."""
    rows = [row for row in board.rows if findings.robustness_of(row)]
    if not rows:
        return None
    first = _robustness(rows[0])

    def column(group: str, i: int, heading: str) -> Column[Row]:
        return Column(
            heading, heading, lambda row: getattr(_robustness(row), group)[i].macro_f1, percent
        )

    columns = [
        *(column("corruptions", i, c.name) for i, c in enumerate(first.corruptions)),
        *(column("severities", i, f"Severity {s.name}") for i, s in enumerate(first.severities)),
    ]
    return Table([NETWORK, _WORST_CORRUPTION, *columns], rows)


def _robustness(row: Row) -> Robustness:
    found = findings.robustness_of(row)
    assert found is not None, "only of rows that have predictions of the shifted test"
    return found


def ensemble_table(board: Board) -> Table[Row]:
    """Every ensemble: what its rule made of the members, and what that is worth."""
    gains = {row: findings.gain_over_soft_vote(board, row) for row in board.ensembles}

    def difference(row: Row) -> float | None:
        gain = gains[row]
        return gain.difference if gain else None

    gain: Column[Row] = Column(
        "gain", "Gain over soft vote (points, 95 % interval)", difference, number(2, 100, "+"),
        mark=lambda row: interval_mark(paired) if (paired := gains[row]) else "",
    )  # fmt: skip
    at = next(i for i, column in enumerate(ENSEMBLE_COLUMNS) if column.key == "macro_f1")
    return Table([*ENSEMBLE_COLUMNS[:at], gain, *ENSEMBLE_COLUMNS[at:]], board.ensembles)


def _shares(row: Row) -> str:
    record = row.ensembles[0]
    pairs = zip(record.recipes, record.shares, strict=True)
    return ", ".join(f"{title_of(n)} {100 * s:.0f} %" for n, s in pairs if s > 0)


ENSEMBLE_COLUMNS: tuple[Column[Row], ...] = (
    Column("title", "Ensemble", lambda row: row.title, align="left"),
    Column("members", "Members and their shares", _shares, align="left"),
    _BY_KEY["validation_macro_f1"],
    replace(_BY_KEY["macro_f1"], heading="Test F1 (%)", mark=lambda _: ""),
    _BY_KEY["weight_bytes"],
    Column("fit_seconds", "Fit (s)", lambda row: fmean(r.seconds for r in row.ensembles),
           number(2)),
)  # fmt: skip


def member_table(members: Sequence[Member]) -> Table[Member]:
    """What each member of a soft vote adds to it."""
    return Table(MEMBER_COLUMNS, members)


def interval_mark(paired: Paired) -> str:
    return f"({100 * paired.low:+z.1f} to {100 * paired.high:+z.1f})"


MEMBER_COLUMNS: tuple[Column[Member], ...] = (
    Column("title", "Member", lambda m: m.title, align="left"),
    Column("alone", "Alone F1 (%)", lambda m: m.alone, percent),
    Column("without", "Vote without it (%)", lambda m: m.without, percent),
    Column("gain", "It adds (points, 95 % interval)", lambda m: m.gain.difference,
           number(2, 100, "+"), mark=lambda m: interval_mark(m.gain)),
    Column("disagreement", "Disagreement (%)", lambda m: m.disagreement, percent_1),
    Column("q_statistic", "Q", lambda m: m.q_statistic, number(2)),
    Column("verdict", "Verdict", lambda m: m.verdict, align="left"),
)  # fmt: skip


def views_table(board: Board) -> Table[Row] | None:
    """One test view against the average of all, on both tests; None where there is only one."""
    effects = significance.adjusted({
        (row, test): effect
        for row in board.networks
        for test, effect in findings.effect_of_views(row).items()
    })  # fmt: skip
    tests = [test for test in ("test", SHIFTED) if any(test == part for _, part in effects)]
    columns = [column for test in tests for column in _view_columns(test, effects)]
    return Table([NETWORK, *columns], board.networks) if columns else None


def _view_columns(test: str, effects: Mapping[tuple[Row, str], Paired]) -> list[Column[Row]]:
    name = "Test" if test == "test" else "Shifted"

    def of_effect(measure: Callable[[Row, Paired], Any]) -> Callable[[Row], Any]:
        return lambda row: measure(row, effects[row, test]) if (row, test) in effects else None

    def score(row: Row) -> float:
        f1 = row.macro_f1 if test == "test" else row.shifted_f1
        assert f1 is not None
        return f1

    return [
        Column(f"{test}_single", f"{name} F1, one view (%)",
               of_effect(lambda row, effect: score(row) - effect.difference), percent),
        Column(f"{test}_all", f"{name} F1, all views (%)",
               of_effect(lambda row, _: score(row)), percent),
        Column(f"{test}_change", "Change (points, 95 % interval)",
               of_effect(lambda _, effect: effect.difference), number(2, 100, "+"),
               mark=lambda row: interval_mark(effects[row, test]),
               emphasis=lambda row: "**" if (row, test) in effects
               and effects[row, test].significant else ""),
        Column(f"{test}_p", "p", of_effect(lambda _, effect: effect.p), p_value),
    ]  # fmt: skip


def failed_table(board: Board) -> Table[Row]:
    return Table([NETWORK, _BY_KEY["seed"], _BY_KEY["reason"]], list(map(failed_row, board.failed)))
