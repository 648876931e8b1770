"""Records and predictions -> boards of rows: a pure function, whatever order they come in.

Rows of one board are comparable: the same images, the same split, the same protocol. They are
ranked by macro F1, and those that may be the best are marked; a suspect row has no rank.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from types import MappingProxyType

import numpy as np

from harness.evaluation import confidence_set, significance
from harness.evaluation.significance import Paired
from harness.reporting.rows import Parts, Row, compare_rows, identity, row_of, with_distinct_titles
from harness.schema.dataset import DataSummary, ImageIdentities, Split
from harness.schema.predictions import Predictions
from harness.schema.protocol import Protocol
from harness.schema.records import Record, RunRecord
from harness.schema.run import EXTERNAL

FAR_BELOW = 0.25
"""Macro F1 below the median network that makes a row suspect: no backbone of the zoo is that much
worse than the others when it is loaded, fed and trained correctly."""
ENOUGH_FOR_A_MEDIAN = 5


@dataclass(frozen=True, eq=False)
class Ranking:
    """Rows on the same test images, ranked against each other."""

    rows: tuple[Row, ...]
    """Best mean test macro F1 first, with ranks, marks and fronts."""
    smallest_difference: float
    """In macro F1, between two networks, that is found in at least four of five such test sets; NaN
    for fewer than two."""
    selection_bias: float
    """By how much the score of the first row is too high at most, for being the best here."""

    @property
    def ranked(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.rank)

    @property
    def seeds(self) -> int:
        """The largest number of seeds that a row has."""
        return max((len(row.records) for row in self.rows), default=0)


@dataclass(frozen=True, eq=False)
class Board(Ranking):
    """Every result on one split of one data set under one protocol."""

    fingerprint: str
    data: DataSummary
    split: Split
    protocol: Protocol
    profile: str
    failed: tuple[RunRecord, ...]
    labels: np.ndarray
    """(n,): the true classes of the test images."""
    predictions: Mapping[str, Parts]
    """By the id of the run, ensemble or external predictions."""

    hashes: np.ndarray | None = None
    """(n, 32): SHA-256 of each test image as its source has it; None where one is unknown."""

    @cached_property
    def test_order(self) -> np.ndarray:
        """(n,): places of the test images, in an order that boards with the same images share."""
        if self.hashes is None:
            return np.arange(len(self.labels))
        return np.lexsort((self.labels, *self.hashes.T[::-1]))

    @cached_property
    def test_images(self) -> tuple[str, ...]:
        """What boards share whose rows can be compared: classes, and a hash of the test images.

        Images are known as their source has them, so that their size here does not matter; where
        that is unknown, by fingerprint and ids.
        """
        known: tuple[str, ...]
        if self.hashes is None:
            ids = self.rows[0].parts[0]["test"].ids if self.rows else np.empty(0)
            known, content = (self.fingerprint,), np.ascontiguousarray(ids, dtype="<i8").tobytes()
        else:
            labels = self.labels[self.test_order].astype("<i8")
            known = self.data.class_names
            content = self.hashes[self.test_order].tobytes() + labels.tobytes()
        return *known, hashlib.sha256(content).hexdigest()

    def in_test_order(self, row: Row) -> Row:
        """The row with its test predictions alone, in ``test_order``."""
        order = self.test_order
        tests = [parts["test"] for parts in row.parts]
        ordered = [
            Predictions(part.ids[order], part.labels[order], part.probabilities[order])
            for part in tests
        ]
        return replace(row, parts=tuple({"test": part} for part in ordered))

    @property
    def external(self) -> bool:
        """Whether no run is behind it: predictions of other programs, and their ensembles."""
        return self.profile == EXTERNAL

    @property
    def imported(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.kind == "imported")

    @property
    def networks(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.kind == "network")

    @property
    def ensembles(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.kind == "ensemble")

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(sorted({r.cost.throughput.device for row in self.rows for r in row.runs}))


Placed = tuple[Board, Row]
"""A row with its board."""


def compare_placed(first: Placed, second: Placed) -> Paired:
    """The paired test of two rows on the same or on two boards with the same test images."""
    row, other = same_order(first, second)
    test = compare_rows(row, other)
    assert test is not None, "every row has predictions of the test images"
    return test


def same_order(first: Placed, second: Placed) -> tuple[Row, Row]:
    """Both rows, their test predictions in one order."""
    (board, row), (other_board, other) = first, second
    if board.fingerprint == other_board.fingerprint:
        return row, other
    return board.in_test_order(row), other_board.in_test_order(other)


def boards(
    records: Sequence[Record],
    predictions: Mapping[str, Parts],
    images: Mapping[str, ImageIdentities] = MappingProxyType({}),
) -> tuple[Board, ...]:
    """The boards of a results folder, by data name, profile, split and protocol.

    ``predictions``: the parts by the id of the run, ensemble or external predictions, for every
    record that has an evaluation. ``images``: what identifies them, by the data's fingerprint.
    """
    groups: dict[tuple[str, str, str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        run = record.run
        key = (record.data.name, record.profile, run.data)
        groups[(*key, run.split.canonical(), run.protocol.canonical())].append(record)
    return tuple(_board(groups[key], predictions, images) for key in sorted(groups))


def _board(
    records: Sequence[Record],
    predictions: Mapping[str, Parts],
    images: Mapping[str, ImageIdentities],
) -> Board:
    records = sorted(records, key=lambda record: (record.run.seed, record.subject.id))
    first = records[0]
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    members = {record.subject.id: record for record in records}
    for record in records:
        if record.evaluation:
            groups[identity(record, members)].append(record)
    rows = with_distinct_titles([row_of(group, predictions) for group in groups.values()], members)
    labels = rows[0].parts[0]["test"].labels if rows else np.empty(0, int)
    classes = len(first.data.class_names)
    suspects = _suspects(rows)
    rows = [replace(row, suspect=reason) for row, reason in zip(rows, suspects, strict=True)]
    ranking = rank_rows(rows, labels, classes)
    return Board(
        fingerprint=first.run.data,
        # Imports without validation images know fewer than others.
        data=max((record.data for record in records), key=lambda data: data.validation),
        split=first.run.split,
        protocol=first.run.protocol,
        profile=first.profile,
        **vars(ranking),
        labels=labels,
        failed=tuple(r for r in records if isinstance(r, RunRecord) and not r.finished),
        predictions=predictions,
        hashes=_hashes(images.get(first.run.data), rows),
    )


def _hashes(images: ImageIdentities | None, rows: Sequence[Row]) -> np.ndarray | None:
    """Of the test images of these rows; None where one is unknown."""
    if images is None or not rows:
        return None
    ids = rows[0].parts[0]["test"].ids
    if ids.max(initial=-1) >= len(images.sha256) or not images.sha256[ids].any(axis=1).all():
        return None
    return np.asarray(images.sha256[ids])


def rank_rows(rows: Sequence[Row], labels: np.ndarray, classes: int) -> Ranking:
    """Rank rows on the same test images, whose classes are ``labels`` (n,)."""
    rows = sorted(rows, key=lambda row: (-row.macro_f1, row.name, row.weights))
    eligible = [row for row in rows if row.kind != "baseline" and not row.suspect]
    joint = confidence_set.joint_scores(labels, [row.y_pred for row in eligible], classes)
    may_be_best = confidence_set.confidence_set(joint)
    networks = np.array([row.kind in {"network", "imported"} for row in eligible], dtype=bool)
    places = {row: (i + 1, bool(may_be_best[i])) for i, row in enumerate(eligible)}
    fronts = _fronts(eligible)
    ranked = []
    for row in rows:
        rank, best = places.get(row, (None, False))
        ranked.append(replace(row, rank=rank, may_be_best=best, fronts=fronts.get(row, ())))
    return Ranking(
        tuple(ranked),
        confidence_set.smallest_difference(joint, networks),
        confidence_set.selection_bias(joint, may_be_best),
    )


def _fronts(rows: Sequence[Row]) -> dict[Row, tuple[str, ...]]:
    """Which Pareto fronts of macro F1 each row is on; rows of unknown cost are on none.

    Rates of different devices are not compared.
    """
    rates: dict[str | None, list[tuple[Row, float]]] = defaultdict(list)
    sizes: list[tuple[Row, float]] = []
    for row in rows:
        if row.images_per_second:
            rates[row.device].append((row, row.images_per_second))
        if row.cost:
            sizes.append((row, -row.cost.parameters))
    fast, small = {row for group in rates.values() for row in _front(group)}, _front(sizes)
    return {
        row: tuple(name for name, front in (("speed", fast), ("size", small)) if row in front)
        for row, _ in sizes
    }


def _front(rows: Sequence[tuple[Row, float]]) -> set[Row]:
    """The rows on the Pareto front of macro F1 and the number with each; larger is better."""
    points = np.array([(row.macro_f1, value) for row, value in rows], float).reshape(-1, 2)
    return {row for (row, _), on in zip(rows, significance.pareto(points), strict=True) if on}


# --- suspects ------------------------------------------------------------------------------------


def _suspects(rows: Sequence[Row]) -> list[str]:
    """Why each row is suspect: significantly below the pixel baseline, or far below the median.

    The median is that of the networks whose weights have the same source. p is corrected by Holm
    for the number of networks.
    """
    networks = [row for row in rows if row.kind == "network"]
    baseline = next((row for row in rows if row.kind == "baseline"), None)
    reasons = dict.fromkeys(rows, "")
    if baseline:
        tests = [compare_rows(baseline, row) for row in networks]
        p = [test.p if test and test.difference > 0 else 1.0 for test in tests]
        for row, adjusted in zip(networks, significance.holm(p), strict=True):
            if adjusted < 0.05:
                reasons[row] = f"below the pixel baseline of {100 * baseline.macro_f1:.2f} %"
    for row in networks:
        scores = [other.macro_f1 for other in networks if other.weights == row.weights]
        distance = median(scores) - row.macro_f1
        if len(scores) >= ENOUGH_FOR_A_MEDIAN and distance > FAR_BELOW:
            reasons[row] = (
                f"{100 * distance:.0f} points below the median network with {row.weights} weights"
            )
    return list(reasons.values())
