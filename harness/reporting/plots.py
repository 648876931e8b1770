"""What a board's figures show, as plain data; figures.py draws them.

A figure is a pure function of its plot. Its files carry the plot's digest, so that they are drawn
again only when the plot changes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from harness.evaluation.calibration import reliability
from harness.reporting import findings
from harness.reporting.leaderboard import Board
from harness.reporting.overview import first_rows
from harness.reporting.rows import Kind, Row

STYLE = 3
"""Raised by hand when the drawing changes, so that every figure is drawn again."""
DIGITS = 6
"""To which numbers are rounded for the digest: other processors may differ in the last bits."""

FOREST_ROWS = 120
CONFUSION_PANELS, RELIABILITY_PANELS = 4, 4
DISAGREEMENT_ROWS, SHIFTED_ROWS = 30, 40
CURVES = 10
"""Of networks in one figure, at most: that many colours can be distinguished."""


@dataclass(frozen=True)
class Plot:
    """What one figure shows."""

    board: str
    """The board's heading."""
    name: ClassVar[str]
    caption: ClassVar[str]

    @cached_property
    def digest(self) -> str:
        """sha256 of what is drawn and of the style."""
        exact = json.dumps([self.name, STYLE, asdict(self)])
        rounded = json.loads(exact, parse_float=lambda text: round(float(text), DIGITS))
        text = json.dumps(rounded, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Mark:
    """A row in a figure."""

    title: str
    short: str
    """For an ensemble the rule and the number of members."""
    kind: Kind
    rank: int | None
    may_be_best: bool
    f1: float
    low: float
    high: float
    named: bool
    """Whether a scatter plot has room for its name."""


@dataclass(frozen=True)
class Against(Plot):
    """Macro F1 against a cost; ``costs`` and ``fronts`` have an entry for each mark."""

    marks: tuple[Mark, ...]
    costs: tuple[float, ...]
    fronts: tuple[str, ...]
    """The name of the front that a mark is on, or empty."""
    axis: ClassVar[str]


@dataclass(frozen=True)
class AgainstThroughput(Against):
    name: ClassVar[str] = "f1-throughput"
    caption: ClassVar[str] = (
        "Macro F1 against images/s, with 95 % intervals. Dashed: the Pareto front of each device; "
        "no ranked row is at least as good and as fast as a row on it, and better in one of the "
        "two."
    )
    axis: ClassVar[str] = "images/s (more is better)"


@dataclass(frozen=True)
class AgainstParameters(Against):
    name: ClassVar[str] = "f1-parameters"
    caption: ClassVar[str] = (
        "Macro F1 against millions of parameters, with 95 % intervals. Dashed: the Pareto front; "
        "no ranked row is at least as good and as small as a row on it, and better in one of the "
        "two."
    )
    axis: ClassVar[str] = "parameters (M; fewer is better)"


@dataclass(frozen=True)
class Forest(Plot):
    """The best rows, best first, and how many were omitted."""

    marks: tuple[Mark, ...]
    omitted: int
    name: ClassVar[str] = "forest"
    caption: ClassVar[str] = (
        "Macro F1 with 95 % intervals. Green: may be the best (95 % model confidence set). "
        "Grey: not ranked."
    )


@dataclass(frozen=True)
class Confusion:
    title: str
    f1: float
    counts: tuple[tuple[int, ...], ...]
    """Rows: the true class; summed over the seeds."""


@dataclass(frozen=True)
class Confusions(Plot):
    class_names: tuple[str, ...]
    panels: tuple[Confusion, ...]
    name: ClassVar[str] = "confusion"
    caption: ClassVar[str] = (
        "Confusion matrices of the best networks on the test images: true class down, predicted "
        "class across; coloured by the share of the true class."
    )


@dataclass(frozen=True)
class ReliabilityCurve:
    """``bins``: number of images, mean confidence, accuracy; all seeds together."""

    title: str
    error: float
    bins: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class Reliability(Plot):
    panels: tuple[ReliabilityCurve, ...]
    name: ClassVar[str] = "reliability"
    caption: ClassVar[str] = (
        "Accuracy against confidence of the best rows, without temperature; the area of a dot "
        "shows the number of test images. Below the diagonal: overconfident."
    )


@dataclass(frozen=True)
class Disagreement(Plot):
    titles: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    name: ClassVar[str] = "disagreement"
    caption: ClassVar[str] = (
        "Percent of the test images that exactly one of two networks predicts correctly: what a "
        "vote of the two could gain from."
    )


@dataclass(frozen=True)
class Shifted(Plot):
    titles: tuple[str, ...]
    columns: tuple[str, ...]
    """Clean, shifted, then the corruptions, from the mildest on average to the worst."""
    scores: tuple[tuple[float, ...], ...]
    name: ClassVar[str] = "shifted"
    caption: ClassVar[str] = (
        "Macro F1 in percent on the test images, on their corrupted copy, and on the images of "
        "each corruption."
    )


@dataclass(frozen=True)
class Curve:
    """The validation loss and macro F1 of a network's epochs."""

    title: str
    losses: tuple[float, ...]
    f1: tuple[float, ...]


@dataclass(frozen=True)
class Curves(Plot):
    curves: tuple[Curve, ...]
    name: ClassVar[str] = "curves"
    caption: ClassVar[str] = (
        "Validation loss and macro F1 after each epoch of the best networks, their first seed. "
        "The epochs of a frozen phase come before those of fine-tuning."
    )


@dataclass(frozen=True)
class Comparison:
    """A row of a report: the reported score, the measured one and its interval, 0 to 1."""

    title: str
    reported: float
    measured: float
    low: float
    high: float
    reproduced: bool
    """False for a trial."""


@dataclass(frozen=True)
class Reported(Plot):
    """The first score of each measured row of a report, in the report's order."""

    rows: tuple[Comparison, ...]
    measure: str
    """Which scores these are."""
    name: ClassVar[str] = "reported"
    caption: ClassVar[str] = (
        "Reported scores and measured ones with 95 % intervals. Trials are no reproductions: the "
        "quick profile, a subset, random weights or other images."
    )


def plots(board: Board, heading: str) -> tuple[Plot, ...]:
    """Every figure that the board has something to show in."""
    if not board.rows:
        return ()
    title = printable(heading)
    named = first_rows(board.rows)
    marks = tuple(
        _mark(row, named=row in named or bool(row.fronts or row.suspect)) for row in board.rows
    )
    shown = marks[:FOREST_ROWS]
    shown_plots: list[Plot] = [
        *_against(board, title, marks),
        Forest(title, shown, len(marks) - len(shown)),
        *_curves(board, title),
        *_confusions(board, title),
        *_shifted(board, title),
        Reliability(title, tuple(map(_reliability_curve, board.rows[:RELIABILITY_PANELS]))),
        *_disagreement(board, title),
    ]
    return tuple(shown_plots)


def slug(board: Board) -> str:
    """A board's name in file names and addresses; it does not depend on the board's rows."""
    words = re.sub(r"[^a-z0-9]+", "-", board.data.name.lower()).strip("-")[:40] or "data"
    key = board.fingerprint + board.split.canonical() + board.protocol.canonical()
    return f"{words}-{board.profile}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def printable(text: str) -> str:
    """On one line, without characters that XML and fonts cannot show."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}"
                   for c in " ".join(text.split()))  # fmt: skip


def confusion(row: Row) -> np.ndarray:
    """(K, K) counts of the test images, rows the true classes, summed over the seeds."""
    return np.sum([result.test.confusion for result in row.evaluations], axis=0)


# --- the plots -----------------------------------------------------------------------------------


def _mark(row: Row, *, named: bool) -> Mark:
    short = row.title
    if row.ensembles:
        record = row.ensembles[0]
        short = f"{record.ensemble.rule.capitalize()} ({len(record.used_recipes)})"
    title, short = printable(row.title), printable(short)
    return Mark(
        title, short, row.kind, row.rank, row.may_be_best, row.macro_f1, *row.interval, named
    )


def _against(board: Board, title: str, marks: Sequence[Mark]) -> list[Plot]:
    placed = list(zip(marks, board.rows, strict=True))
    rates = [
        (mark, row.images_per_second, printable(row.device or "") if "speed" in row.fronts else "")
        for mark, row in placed
        if row.images_per_second
    ]
    sizes = [
        (mark, row.cost.parameters / 1e6, "size" if "size" in row.fronts else "")
        for mark, row in placed
        if row.cost
    ]
    return [
        plot(title, *zip(*known, strict=True))
        for plot, known in ((AgainstThroughput, rates), (AgainstParameters, sizes))
        if known
    ]


def _curves(board: Board, title: str) -> list[Plot]:
    histories = [(row.title, row.runs[0].history) for row in board.networks[:CURVES]]
    curves = tuple(
        Curve(
            printable(name),
            tuple(epoch.validation_loss for epoch in history),
            tuple(epoch.validation_f1 for epoch in history),
        )
        for name, history in histories
        if history
    )
    return [Curves(title, curves)] if curves else []


def _confusions(board: Board, title: str) -> list[Plot]:
    panels = tuple(
        Confusion(
            printable(row.title), row.macro_f1, tuple(map(tuple, confusion(row).tolist()))
        )
        for row in board.networks[:CONFUSION_PANELS]
    )  # fmt: skip
    names = tuple(map(printable, board.data.class_names))
    return [Confusions(title, names, panels)] if panels else []


def _shifted(board: Board, title: str) -> list[Plot]:
    pairs = [(row, findings.robustness_of(row)) for row in board.rows[:SHIFTED_ROWS]]
    known = [(printable(row.title), found) for row, found in pairs if found]
    if not known:
        return []
    by_corruption = np.array(
        [[group.macro_f1 for group in found.corruptions] for _, found in known]
    )
    order = np.argsort(-np.nan_to_num(by_corruption.mean(axis=0), nan=1.0), kind="stable")
    columns = ("clean", "shifted", *(known[0][1].corruptions[i].name for i in order))
    scores = tuple(
        (found.clean, found.shifted, *map(float, line[order]))
        for (_, found), line in zip(known, by_corruption, strict=True)
    )
    return [Shifted(title, tuple(name for name, _ in known), columns, scores)]


def _reliability_curve(row: Row) -> ReliabilityCurve:
    tests = [parts["test"] for parts in row.parts]
    bins = reliability(
        np.concatenate([part.labels for part in tests]),
        np.concatenate([part.probabilities for part in tests]),
    )
    error = row.test(lambda m: m.calibration_error)
    return ReliabilityCurve(
        printable(row.title), error, tuple((b.count, b.confidence, b.accuracy) for b in bins)
    )


def _disagreement(board: Board, title: str) -> list[Plot]:
    rows, shares = findings.disagreement(board)
    shown = slice(DISAGREEMENT_ROWS)
    titles = tuple(printable(row.title) for row in rows[shown])
    values = tuple(map(tuple, shares[shown, shown].tolist()))
    return [Disagreement(title, titles, values)] if len(titles) > 1 else []
