"""A report's tables, reported and measured: a pure function of its preset and of records.

A row is measured by the runs that have its settings. It is a reproduction only with the report's
weights and images, all of them, in the full profile; anything else is a trial, and said to be one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import pandas as pd

from harness.evaluation.averages import Average, averages
from harness.reporting.rows import Parts
from harness.reports.preset import (
    PresetRow,
    Report,
    ReportedClass,
    rows_by_signature,
    rows_of,
    signature,
)
from harness.schema.predictions import FROZEN
from harness.schema.records import Finished, Record, RunRecord
from zoo.registry import find

IMAGE_TOLERANCE = 0.05
"""Of the number of images, within which a data set may be the report's."""
FEWEST_RANKED = 3
"""Rows from which an order is compared."""


@dataclass(frozen=True, eq=False)
class MeasuredRow:
    """A row of a report with the runs that measure it, one a seed; none where there are none."""

    preset: PresetRow
    records: tuple[RunRecord, ...]
    parts: tuple[Parts, ...]

    @property
    def runs(self) -> tuple[Finished, ...]:
        return tuple(r.result for r in self.records if isinstance(r.result, Finished))

    @cached_property
    def averages(self) -> dict[str, Average]:
        """By name, averaged over the seeds; empty where it is not measured."""
        name = FROZEN if self.preset.row.frozen and self._fine_tuned else "test"
        known = [averages(parts[name]) for parts in self.parts if name in parts]
        if not known or len(known) < len(self.parts):
            return {}
        return {key: _mean([one[key] for one in known]) for key in known[0]}

    @property
    def _fine_tuned(self) -> bool:
        return any(record.run.protocol.fine_tuning is not None for record in self.records)

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Why it is no reproduction; empty where it is one, or is not measured."""
        return _reasons(self.preset, self.records[0]) if self.records else ()

    @property
    def reproduced(self) -> bool:
        return bool(self.averages) and not self.reasons

    @property
    def shifted_f1(self) -> float | None:
        known = [run.shifted.macro_f1 for run in self.runs if run.shifted]
        measured = self.averages and not self.preset.row.frozen
        return fmean(known) if known and measured else None


@dataclass(frozen=True)
class Line:
    """One reported score of a row, from 0 to 1, and the measured one."""

    measured: MeasuredRow
    measure: str
    first: bool
    """Whether it is the row's first, which stands for the row."""

    @property
    def reported(self) -> float:
        return self.measured.preset.row.reported[self.measure] / 100  # type: ignore[index]

    @property
    def average(self) -> Average | None:
        return self.measured.averages.get(self.measure)

    @property
    def difference(self) -> float | None:
        return None if self.average is None else self.average.value - self.reported

    @property
    def inside(self) -> bool | None:
        """Whether the reported score is in the 95 % interval of the measured one."""
        if self.average is None:
            return None
        return self.average.low <= self.reported <= self.average.high


@dataclass(frozen=True)
class ClassLine:
    """A reported class, its images here, and its balanced weight: n / (K n_k)."""

    reported: ReportedClass
    images: int
    weight: float


@dataclass(frozen=True)
class Reproduction:
    """A report, and its rows with what measures them."""

    number: str
    report: Report
    rows: tuple[MeasuredRow, ...]
    class_counts: tuple[int, ...] = ()
    """Images of each class in a data set of about the report's size; empty where there is none."""

    @property
    def class_lines(self) -> list[ClassLine]:
        """The report's classes with those of the data; none without such data."""
        total, classes = sum(self.class_counts), len(self.class_counts)
        pairs = zip(self.report.class_weights, self.class_counts, strict=False)
        return [ClassLine(reported, n, total / (classes * n)) for reported, n in pairs]

    @property
    def slug(self) -> str:
        """Its name in file names and addresses."""
        return f"report-{self.number}"

    def lines(self, table: str | None = None) -> list[Line]:
        """A line for each reported score of one table, or of all."""
        return [
            Line(row, measure, i == 0)
            for row in self.rows
            if table in (None, row.preset.table_name)
            for i, measure in enumerate(row.preset.row.reported)
        ]


def reproductions(
    reports: Mapping[str, Report], records: Sequence[Record], parts: Mapping[str, Parts]
) -> tuple[Reproduction, ...]:
    """Each report with the runs that measure its rows.

    ``parts``: predictions by the id of the run, for every record with an evaluation. Where runs on
    several data sets or machines measure a row, those count that are nearest to a reproduction.
    """
    rows = [row for number, report in reports.items() for row in rows_of(number, report)]
    known = rows_by_signature(rows)
    found: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        if isinstance(record, RunRecord) and record.finished:
            run = record.run
            for row, profile in known.get(signature(run.recipe, run.protocol, run.split), ()):
                if profile == record.profile:
                    found[row.name].append(record)
    measured = {row.name: _measured(row, found[row.name], parts) for row in rows}
    return tuple(
        Reproduction(
            number,
            report,
            tuple(measured[r.name] for r in rows_of(number, report)),
            _class_counts(report, records),
        )
        for number, report in reports.items()
    )


def _class_counts(report: Report, records: Sequence[Record]) -> tuple[int, ...]:
    """Of the data set whose number of images is nearest to the report's."""
    counts = {record.data.class_counts for record in records if record.data.class_counts}
    near = [found for found in counts if min(found) and _is_of_report(report, found)]
    return min(near, key=lambda found: (abs(sum(found) - report.images), found), default=())


def _is_of_report(report: Report, class_counts: Sequence[int]) -> bool:
    near = abs(sum(class_counts) / report.images - 1) <= IMAGE_TOLERANCE
    return near and len(class_counts) == report.classes


def _measured(
    row: PresetRow, records: Sequence[RunRecord], parts: Mapping[str, Parts]
) -> MeasuredRow:
    groups: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        run = record.run
        key = run.data, run.weights.canonical(), run.protocol.canonical(), record.profile
        groups[key].append(record)
    if not groups:
        return MeasuredRow(row, (), ())
    best = min(
        groups,
        key=lambda key: (len(_reasons(row, groups[key][0])), -groups[key][0].data.train, key),
    )
    chosen = sorted(groups[best], key=lambda record: record.run.seed)
    return MeasuredRow(row, tuple(chosen), tuple(parts[record.run.id] for record in chosen))


def _reasons(row: PresetRow, record: RunRecord) -> tuple[str, ...]:
    report, data, weights = row.report, record.data, record.run.weights.source
    reasons = {
        "the quick profile": record.profile == "quick",
        "a subset of the images": record.run.split.subset is not None,
        "random weights": weights == "random" and find(record.run.recipe).pretrained,
        "other weights": weights == "file",
        "other images": len(data.class_names) != report.classes
        or abs(data.images / report.images - 1) > IMAGE_TOLERANCE,
    }
    return tuple(reason for reason, applies in reasons.items() if applies)


def _mean(values: Sequence[Average]) -> Average:
    columns = list(zip(*values, strict=True))
    deviation = None if columns[3][0] is None else fmean(columns[3])
    return Average(fmean(columns[0]), fmean(columns[1]), fmean(columns[2]), deviation)


# --- what agrees ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of so many rows."""

    value: float
    rows: int


def order(lines: Sequence[Line]) -> Correlation | None:
    """Of reported and measured scores, by the first score of each reproduced row."""
    return _correlation(
        [
            (line.reported, line.average.value)
            for line in lines
            if line.first and line.average and line.measured.reproduced
        ]
    )


def robustness(found: Sequence[Reproduction]) -> Correlation | None:
    """Of the online scores and the shifted F1, over the reproduced rows of all reports."""
    pairs = {
        row.records[0].run.id: (row.preset.row.online, row.shifted_f1)
        for reproduction in found
        for row in reproduction.rows
        if row.reproduced and row.shifted_f1 is not None and row.preset.row.online is not None
    }
    return _correlation([(a, b) for a, b in pairs.values() if a is not None and b is not None])


def _correlation(pairs: Sequence[tuple[float, float]]) -> Correlation | None:
    """None for few pairs, or where one side is all ties."""
    left, right = zip(*pairs, strict=True) if pairs else ((), ())
    if len(pairs) < FEWEST_RANKED or len(set(left)) == 1 or len(set(right)) == 1:
        return None
    value = pd.Series(left, dtype=float).corr(pd.Series(right, dtype=float), method="spearman")
    return Correlation(float(value), len(pairs))
