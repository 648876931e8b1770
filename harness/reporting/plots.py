"""What a board's figures show, as plain data; figures.py draws them.

A figure is a pure function of its plot. The digest of the plot stands in the files that were drawn
of it, so that they are drawn again only when it changes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from harness.evaluation.calibration import reliability
from harness.reporting import findings
from harness.reporting.leaderboard import Board, Kind, Row

STYLE = 1
"""Of the drawing. Raised by hand when it changes: then every figure is drawn again."""
DIGITS = 6
"""Kept of every number: another processor may add up the last bits in another order."""

FOREST_ROWS = 120
MATRIX_PANELS, RELIABILITY_PANELS = 4, 4
DISAGREEING, HARDENED = 30, 40


@dataclass(frozen=True)
class Plot:
    """What one figure shows."""

    board: str
    """Its title: data and profile."""
    name: ClassVar[str]
    caption: ClassVar[str]

    @property
    def digest(self) -> str:
        """sha256 of everything that is drawn, and of the style it is drawn in."""
        told = [self.name, STYLE, _rounded(asdict(self))]
        text = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Mark:
    """A row as it stands in a figure."""

    title: str
    short: str
    """Of an ensemble its rule and the number of its members."""
    kind: Kind
    rank: int | None
    f1: float
    low: float
    high: float


@dataclass(frozen=True)
class Against(Plot):
    """Macro F1 against a cost. ``costs`` and ``front`` are one a mark."""

    marks: tuple[Mark, ...]
    costs: tuple[float, ...]
    front: tuple[bool, ...]
    axis: ClassVar[str]


@dataclass(frozen=True)
class AgainstThroughput(Against):
    name: ClassVar[str] = "f1-throughput"
    caption: ClassVar[str] = (
        "Macro F1 against images a second, with 95 % intervals. Dashed: the Pareto front; no row "
        "is both better and faster than one that stands on it."
    )
    axis: ClassVar[str] = "images/s (more is better)"


@dataclass(frozen=True)
class AgainstParameters(Against):
    name: ClassVar[str] = "f1-parameters"
    caption: ClassVar[str] = (
        "Macro F1 against millions of parameters, with 95 % intervals. Dashed: the Pareto front; "
        "no row is both better and smaller than one that stands on it."
    )
    axis: ClassVar[str] = "parameters (M; fewer is better)"


@dataclass(frozen=True)
class Forest(Plot):
    """Rows, best first; ``omitted`` more are worse than the last."""

    marks: tuple[Mark, ...]
    omitted: int
    name: ClassVar[str] = "forest"
    caption: ClassVar[str] = (
        "Every row with its 95 % interval. Rows of one colour share a rank: these test images "
        "cannot tell them apart. Grey: not ranked."
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
        "Test images of the best networks: the true class down, the guess across; coloured by the "
        "share of the true class."
    )


@dataclass(frozen=True)
class Trusted:
    """``bins``: number of images, mean confidence, accuracy. Of all seeds together."""

    title: str
    error: float
    bins: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class Reliability(Plot):
    panels: tuple[Trusted, ...]
    name: ClassVar[str] = "reliability"
    caption: ClassVar[str] = (
        "Accuracy against confidence of the best rows, before any temperature; the larger the "
        "dot, the more test images. Below the diagonal: surer than right."
    )


@dataclass(frozen=True)
class Disagreement(Plot):
    titles: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    name: ClassVar[str] = "disagreement"
    caption: ClassVar[str] = (
        "Percent of the test images that exactly one of two networks guesses right: what a vote "
        "of the two could gain from."
    )


@dataclass(frozen=True)
class Shifted(Plot):
    titles: tuple[str, ...]
    columns: tuple[str, ...]
    """Clean, shifted, then the kinds of harm, from the mildest on average to the worst."""
    scores: tuple[tuple[float, ...], ...]
    name: ClassVar[str] = "shifted"
    caption: ClassVar[str] = (
        "Macro F1 in percent on the test images as they are, on their shifted copy, and on the "
        "images of each kind of harm."
    )


NAMES = tuple(
    kind.name
    for kind in (AgainstThroughput, AgainstParameters, Forest, Confusions, Shifted, Reliability,
                 Disagreement)
)  # fmt: skip
"""In the order in which they are shown."""


def plots(board: Board) -> tuple[Plot, ...]:
    """Every figure that the board has something to show in."""
    if not board.rows:
        return ()
    title = printable(f"{board.data.name}, {board.profile} profile")
    marks = tuple(map(_mark, board.rows, board.ranks))
    found: list[Plot] = [*_against(board, title, marks)]
    shown = marks[:FOREST_ROWS]
    found.append(Forest(title, shown, len(marks) - len(shown)))
    if board.networks:
        found.append(_confusions(board, title))
    found += _shifted(board, title)
    found.append(_reliability(board, title))
    if sum(row.kind == "network" for row in board.ranked) > 1:
        found.append(_disagreement(board, title))
    return tuple(found)


def slug(board: Board) -> str:
    """A board's name in file names and addresses; the same while its question is the same."""
    words = re.sub(r"[^a-z0-9]+", "-", board.data.name.lower()).strip("-")[:40] or "data"
    asked = board.fingerprint + board.split.canonical() + board.protocol.canonical()
    return f"{words}-{board.profile}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def printable(text: str) -> str:
    """On one line, without what XML and fonts cannot show."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}"
                   for c in " ".join(text.split()))  # fmt: skip


# --- each of them --------------------------------------------------------------------------------


def _mark(row: Row, rank: int | None) -> Mark:
    short = row.title
    if row.ensembles:
        record = row.ensembles[0]
        short = f"{record.ensemble.rule.capitalize()} ({len(record.used_recipes)})"
    low, high = row.interval
    title, short = printable(row.title), printable(short)
    return Mark(title, short, row.kind, rank, row.macro_f1, low, high)


def _against(board: Board, title: str, marks: Sequence[Mark]) -> list[Plot]:
    known = [i for i, row in enumerate(board.rows) if row.cost and row.images_per_second]
    if not known:
        return []
    shown = tuple(marks[i] for i in known)
    rates = tuple(board.rows[i].images_per_second or 0.0 for i in known)
    sizes = tuple(cost.parameters / 1e6 for i in known if (cost := board.rows[i].cost))
    fronts = findings.fronts(board)
    return [
        AgainstThroughput(title, shown, rates, tuple(fronts[i][0] for i in known)),
        AgainstParameters(title, shown, sizes, tuple(fronts[i][1] for i in known)),
    ]


def confusion(row: Row) -> np.ndarray:
    """(K, K) counts of the test images, rows the true classes, summed over the seeds."""
    return np.sum([result.test.confusion for result in row.evaluation], axis=0)


def _confusions(board: Board, title: str) -> Plot:
    panels = tuple(
        Confusion(
            printable(row.title), row.macro_f1, tuple(map(tuple, confusion(row).tolist()))
        )
        for row in board.networks[:MATRIX_PANELS]
    )  # fmt: skip
    return Confusions(title, tuple(map(printable, board.data.class_names)), panels)


def _shifted(board: Board, title: str) -> list[Plot]:
    pairs = [(row, findings.robustness_of(row)) for row in board.rows[:HARDENED]]
    told = [(printable(row.title), hard) for row, hard in pairs if hard]
    if not told:
        return []
    kinds = np.array([[kind.macro_f1 for kind in hard.kinds] for _, hard in told])
    order = np.argsort(-np.nan_to_num(kinds.mean(axis=0), nan=1.0), kind="stable")
    columns = ("clean", "shifted", *(told[0][1].kinds[i].name for i in order))
    scores = tuple(
        (hard.clean, hard.shifted, *map(float, line[order]))
        for (_, hard), line in zip(told, kinds, strict=True)
    )
    return [Shifted(title, tuple(name for name, _ in told), columns, scores)]


def _reliability(board: Board, title: str) -> Plot:
    return Reliability(title, tuple(map(_trusted, board.rows[:RELIABILITY_PANELS])))


def _trusted(row: Row) -> Trusted:
    tests = [parts["test"] for parts in row.parts]
    bins = reliability(
        np.concatenate([part.labels for part in tests]),
        np.concatenate([part.probabilities for part in tests]),
    )
    error = row.test(lambda m: m.calibration_error)
    told = tuple((b.count, b.confidence, b.accuracy) for b in bins)
    return Trusted(printable(row.title), error, told)


def _disagreement(board: Board, title: str) -> Plot:
    rows, shares = findings.disagreement(board)
    # A suspect row disagrees with all: it would only bleach the others.
    ranked = {id(row) for row in board.ranked}
    shown = [i for i, row in enumerate(rows) if id(row) in ranked][:DISAGREEING]
    told = tuple(map(tuple, shares[np.ix_(shown, shown)].tolist()))
    return Disagreement(title, tuple(printable(rows[i].title) for i in shown), told)


def _rounded(told: object) -> object:
    if isinstance(told, float):
        return round(told, DIGITS)
    if isinstance(told, Mapping):
        return {key: _rounded(value) for key, value in told.items()}
    if isinstance(told, tuple | list):
        return [_rounded(value) for value in told]
    return told
