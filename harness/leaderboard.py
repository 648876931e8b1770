"""Records and predictions -> boards of rows. Pure: no clock, no order of arrival, no files.

Only what is comparable stands in one table: the same images, the same split, the same protocol.
Rows that the test images cannot tell apart share a rank.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev

import numpy as np

from harness import statistics
from harness.calibration import expected_calibration_error
from harness.nouns import (
    DataSummary,
    EnsembleRecord,
    Finished,
    Metrics,
    Predictions,
    Protocol,
    RunRecord,
    Split,
)
from zoo.table import find

NAMED_MEMBERS = 4
RESAMPLES = 2000
"""Of the intervals in a table: their ends are then good to about a twentieth of their width."""


@dataclass(frozen=True)
class Row:
    """A network or an ensemble, once a seed, in the order of the seeds."""

    name: str
    """Of the recipe; of an ensemble its rule and members."""
    title: str
    weights: str
    note: str
    records: tuple[RunRecord | EnsembleRecord, ...]
    scored: tuple[Finished | EnsembleRecord, ...]
    """Each with its cost and its metrics of validation and test."""
    guesses: np.ndarray
    """(seeds, n): the class given to each test image."""
    calibration_error: float
    """Expected calibration error on the test images, mean over the seeds."""

    @property
    def runs(self) -> tuple[Finished, ...]:
        """The results of a network's runs; none for an ensemble."""
        return tuple(result for result in self.scored if isinstance(result, Finished))

    @property
    def ensembles(self) -> tuple[EnsembleRecord, ...]:
        return tuple(result for result in self.scored if isinstance(result, EnsembleRecord))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(record.run.seed for record in self.records)

    def test(self, measure: Callable[[Metrics], float]) -> float:
        """The mean over the seeds of a test metric."""
        return fmean(measure(result.test) for result in self.scored)

    def validation(self, measure: Callable[[Metrics], float]) -> float:
        return fmean(measure(result.validation) for result in self.scored)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation of the test macro F1 over the seeds; None for one seed."""
        if len(self.scored) < 2:
            return None
        return stdev(result.test.macro_f1 for result in self.scored)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % of the test macro F1, over test sets like this one; the mean of the seeds' ends."""
        ends = [
            statistics.interval(
                statistics.bootstrap(np.array(r.test.confusion), RESAMPLES).macro_f1
            )
            for r in self.scored
        ]
        low, high = np.mean(ends, axis=0)
        return float(low), float(high)

    @property
    def auc(self) -> float | None:
        """Mean over the seeds; None if it was undefined in any."""
        known = [result.test.auc for result in self.scored]
        return None if None in known else fmean(value for value in known if value is not None)


@dataclass(frozen=True)
class Board:
    """Everything that was run on one split of one data set under one protocol."""

    fingerprint: str
    data: DataSummary
    split: Split
    protocol: Protocol
    profile: str
    rows: tuple[Row, ...]
    """Best mean test macro F1 first."""
    ranks: tuple[int, ...]
    """One a row: rows that share one cannot be told apart."""
    smallest_difference: float
    """In macro F1, that these test images would show between two rows; NaN for a single row."""
    failed: tuple[RunRecord, ...]
    labels: np.ndarray
    """(n,): the true classes of the test images, in the order of the rows' guesses."""

    @property
    def networks(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.runs)

    @property
    def ensembles(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.ensembles)

    @property
    def devices(self) -> tuple[str, ...]:
        names = {r.cost.throughput.device for row in self.networks for r in row.runs}
        return tuple(sorted(names))

    @property
    def seeds(self) -> int:
        return max((len(row.scored) for row in self.rows), default=0)


AnyRecord = RunRecord | EnsembleRecord


def boards(
    records: Sequence[AnyRecord], predictions: Mapping[str, Predictions]
) -> tuple[Board, ...]:
    """The boards of a results folder, ordered by the data's name, then by what was asked of it.

    ``predictions``: of the test part, by the id of the run or ensemble, for every finished one.
    """
    groups: dict[tuple[str, str, str, str, str], list[AnyRecord]] = defaultdict(list)
    for record in records:
        run = record.run
        key = (record.data.name, record.profile, run.data)
        groups[(*key, run.split.canonical(), run.protocol.canonical())].append(record)
    return tuple(_board(groups[key], predictions) for key in sorted(groups))


def _board(records: Sequence[AnyRecord], predictions: Mapping[str, Predictions]) -> Board:
    records = sorted(records, key=lambda record: (record.run.seed, _id(record)))
    first = records[0]
    members: dict[tuple[str, str], list[AnyRecord]] = defaultdict(list)
    for record in records:
        if isinstance(record, EnsembleRecord):
            members[(record.ensemble.rule, "+".join(record.recipes))].append(record)
        elif record.finished:
            members[(record.run.recipe, record.run.weights.canonical())].append(record)
    rows = [_row(group, predictions) for group in members.values()]
    rows.sort(key=lambda row: (-row.test(lambda m: m.macro_f1), row.name, row.weights))
    guesses = [row.guesses for row in rows]
    labels = predictions[_id(rows[0].records[0])].labels if rows else np.empty(0, int)
    classes = len(first.data.class_names)
    return Board(
        fingerprint=first.run.data,
        data=first.data,
        split=first.run.split,
        protocol=first.run.protocol,
        profile=first.profile,
        rows=tuple(rows),
        ranks=tuple(statistics.rank_groups(guesses, labels, classes)),
        smallest_difference=statistics.smallest_difference(labels, guesses, classes),
        labels=labels,
        failed=tuple(r for r in records if isinstance(r, RunRecord) and not r.finished),
    )


def _id(record: AnyRecord) -> str:
    return record.ensemble.id if isinstance(record, EnsembleRecord) else record.run.id


def _row(records: Sequence[AnyRecord], predictions: Mapping[str, Predictions]) -> Row:
    guesses = [predictions[_id(record)].probabilities.argmax(axis=1) for record in records]
    first, scored = records[0], [_scored(record) for record in records]
    if isinstance(first, EnsembleRecord):
        name = f"{first.ensemble.rule} of {'+'.join(first.recipes)}"
        title, weights, note = _ensemble_title(first), "ensemble", ""
    else:
        name, title = first.run.recipe, find(first.run.recipe).title
        weights, note = first.run.weights.source, first.note
    errors = [
        expected_calibration_error(part.labels, part.probabilities)
        for part in (predictions[_id(record)] for record in records)
    ]
    return Row(
        name=name,
        title=title,
        weights=weights,
        note=note,
        records=tuple(records),
        scored=tuple(scored),
        guesses=np.stack(guesses),
        calibration_error=fmean(errors),
    )


def _scored(record: AnyRecord) -> Finished | EnsembleRecord:
    if isinstance(record, EnsembleRecord):
        return record
    assert isinstance(record.result, Finished)
    return record.result


def _ensemble_title(record: EnsembleRecord) -> str:
    """The rule, and whom it kept while they can be named in a few words."""
    names, rule = record.kept, record.ensemble.rule.capitalize()
    if len(names) <= NAMED_MEMBERS:
        return f"{rule}: {' + '.join(find(name).title for name in names)}"
    return f"{rule}: {len(names)} of {len(record.recipes)} networks"
