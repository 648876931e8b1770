"""Records -> boards of rows. Pure: no clock, no order of arrival, no files.

Only what is comparable stands in one table: the same images, the same split, the same protocol.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from harness.nouns import DataSummary, Finished, Metrics, Protocol, RunRecord, Split, Weights


@dataclass(frozen=True)
class Row:
    """One recipe with its weights: its finished runs, one a seed, in the order of the seeds."""

    recipe: str
    weights: Weights
    note: str
    records: tuple[RunRecord, ...]
    results: tuple[Finished, ...]

    def mean(self, measure: Callable[[Finished], float]) -> float:
        return fmean(measure(result) for result in self.results)

    def spread(self, measure: Callable[[Finished], float]) -> float | None:
        """Sample standard deviation over the seeds; None for one seed."""
        if len(self.results) < 2:
            return None
        return stdev(measure(result) for result in self.results)

    def test(self, measure: Callable[[Metrics], float]) -> float:
        return self.mean(lambda result: measure(result.test))

    @property
    def auc(self) -> float | None:
        """Mean over the seeds; None if it was undefined in any."""
        known = [result.test.auc for result in self.results]
        return None if None in known else fmean(value for value in known if value is not None)

    @property
    def first(self) -> Finished:
        return self.results[0]


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
    failed: tuple[RunRecord, ...]

    @property
    def devices(self) -> tuple[str, ...]:
        names = {r.cost.throughput.device for row in self.rows for r in row.results}
        return tuple(sorted(names))

    @property
    def seeds(self) -> int:
        return max((len(row.results) for row in self.rows), default=0)


def boards(records: Sequence[RunRecord]) -> tuple[Board, ...]:
    """The boards of a results folder, ordered by the data's name, then by what was asked of it."""
    groups: dict[tuple[str, str, str, str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        run = record.run
        key = (record.data.name, record.profile, run.data)
        groups[(*key, run.split.canonical(), run.protocol.canonical())].append(record)
    return tuple(_board(groups[key]) for key in sorted(groups))


def _board(records: Sequence[RunRecord]) -> Board:
    records = sorted(records, key=lambda record: (record.run.recipe, record.run.seed))
    first = records[0]
    members: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.finished:
            members[(record.run.recipe, record.run.weights.canonical())].append(record)
    rows = [_row(group) for group in members.values()]
    rows.sort(
        key=lambda row: (-row.test(lambda m: m.macro_f1), row.recipe, row.weights.canonical())
    )
    return Board(
        fingerprint=first.run.data,
        data=first.data,
        split=first.run.split,
        protocol=first.run.protocol,
        profile=first.profile,
        rows=tuple(rows),
        failed=tuple(record for record in records if not record.finished),
    )


def _row(records: Sequence[RunRecord]) -> Row:
    first = records[0]
    results = tuple(r.result for r in records if isinstance(r.result, Finished))
    return Row(first.run.recipe, first.run.weights, first.note, tuple(records), results)
