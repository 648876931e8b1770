"""Records and predictions -> boards of rows: a pure function, whatever order they come in.

Rows of one board are comparable: the same images, the same split, the same protocol. Rows that the
test images cannot tell apart share a rank; a suspect row has none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, median
from typing import Literal

import numpy as np

from harness.evaluation import significance
from harness.schema.dataset import DataSummary, Split
from harness.schema.metrics import Evaluation, Metrics
from harness.schema.predictions import Predictions
from harness.schema.protocol import Protocol
from harness.schema.records import (
    Cost,
    EnsembleCost,
    EnsembleRecord,
    ExternalRecord,
    Finished,
    Record,
    RunRecord,
)
from harness.schema.run import EXTERNAL
from zoo.registry import find

NAMED_MEMBERS = 4
"""An ensemble of more members is titled by their number."""
FAR_BELOW = 0.25
"""Macro F1 below the median network that makes a row suspect: no backbone of the zoo is that much
worse than the others when it is loaded, fed and trained correctly."""
ENOUGH_FOR_A_MEDIAN = 5

Kind = Literal["network", "ensemble", "imported", "baseline"]
Parts = Mapping[str, Predictions]


@dataclass(frozen=True, eq=False)
class Row:
    """A network, an ensemble, or external predictions; a record for each seed, by seed."""

    kind: Kind
    name: str
    """The recipe, the imported name, or an ensemble's rule and members."""
    title: str
    weights: str
    note: str
    records: tuple[Record, ...]
    evaluations: tuple[Evaluation, ...]
    parts: tuple[Parts, ...]
    rank: int | None = None
    """Shared by rows that cannot be told apart; None for suspect rows and the pixel baseline."""
    suspect: str = ""
    """Why the recipe is suspect, or empty."""
    fronts: tuple[str, ...] = ()
    """"speed": no row is better and faster; "size": no row is better and smaller."""

    @property
    def runs(self) -> tuple[Finished, ...]:
        """The results of a network's runs; empty for other kinds."""
        return tuple(result for result in self.evaluations if isinstance(result, Finished))

    @property
    def ensembles(self) -> tuple[EnsembleRecord, ...]:
        """The records of an ensemble; empty for other kinds."""
        return tuple(result for result in self.evaluations if isinstance(result, EnsembleRecord))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(record.run.seed for record in self.records)

    @cached_property
    def per_seed(self) -> tuple[Row, ...]:
        """A row for each seed."""
        triples = zip(self.records, self.evaluations, self.parts, strict=True)
        return tuple(
            replace(self, records=(record,), evaluations=(evaluation,), parts=(parts,))
            for record, evaluation, parts in triples
        )

    @property
    def cost(self) -> Cost | EnsembleCost | None:
        """The first seed's; None where it is unknown."""
        first = self.evaluations[0]
        return first.cost if isinstance(first, Finished | EnsembleRecord) else None

    @property
    def images_per_second(self) -> float | None:
        """Measured, or computed from the members' rates; None where it is unknown."""
        match self.cost:
            case Cost(throughput=throughput) | EnsembleCost(throughput=throughput) if throughput:
                return throughput.median
            case EnsembleCost(images_per_second=computed):
                return computed
        return None

    @cached_property
    def y_pred(self) -> np.ndarray:
        """(seeds, n): the predicted class of each test image."""
        return np.stack([parts["test"].probabilities.argmax(axis=1) for parts in self.parts])

    def test(self, measure: Callable[[Metrics], float]) -> float:
        """A test metric, averaged over the seeds."""
        return fmean(measure(result.test) for result in self.evaluations)

    def validation(self, measure: Callable[[Metrics], float]) -> float | None:
        """A validation metric, averaged over the seeds that have validation predictions."""
        known = [measure(result.validation) for result in self.evaluations if result.validation]
        return fmean(known) if known else None

    def shifted(self, measure: Callable[[Metrics], float]) -> float | None:
        """A metric of the shifted test; None unless every seed has predictions of it."""
        known = [measure(result.shifted) for result in self.evaluations if result.shifted]
        return fmean(known) if len(known) == len(self.evaluations) else None

    @property
    def macro_f1(self) -> float:
        return self.test(lambda metrics: metrics.macro_f1)

    @property
    def fitted_on_validation(self) -> bool:
        """Whether its validation score is of the images it was fitted on, and so too high."""
        return any(record.fitted_on_validation for record in self.ensembles)

    @property
    def validation_f1(self) -> float:
        """0 without validation predictions, or where they are of the images it was fitted on."""
        if self.fitted_on_validation:
            return 0.0
        return self.validation(lambda metrics: metrics.macro_f1) or 0.0

    @property
    def shifted_f1(self) -> float | None:
        return self.shifted(lambda metrics: metrics.macro_f1)

    @property
    def noise(self) -> tuple[float | None, float]:
        """Standard deviations of macro F1: over the seeds (None for one), over test sets."""
        return significance.split_spread(
            [result.test.macro_f1 for result in self.evaluations],
            [result.test.macro_f1_sd for result in self.evaluations],
        )

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the test macro F1, each end averaged over the seeds."""
        low, high = np.mean([result.test.macro_f1_interval for result in self.evaluations], axis=0)
        return float(low), float(high)


@dataclass(frozen=True, eq=False)
class Board:
    """Every result on one split of one data set under one protocol."""

    fingerprint: str
    data: DataSummary
    split: Split
    protocol: Protocol
    profile: str
    rows: tuple[Row, ...]
    """Best mean test macro F1 first."""
    smallest_difference: float
    """In macro F1, that these test images would show between two rows; NaN for a single row."""
    failed: tuple[RunRecord, ...]
    labels: np.ndarray
    """(n,): the true classes of the test images."""
    predictions: Mapping[str, Parts]
    """By the id of the run, ensemble or external predictions."""

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
    def ranked(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.rank)

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(sorted({r.cost.throughput.device for row in self.rows for r in row.runs}))

    @property
    def seeds(self) -> int:
        """The largest number of seeds that a row has."""
        return max((len(row.records) for row in self.rows), default=0)


def boards(records: Sequence[Record], predictions: Mapping[str, Parts]) -> tuple[Board, ...]:
    """The boards of a results folder, by data name, profile, split and protocol.

    ``predictions``: the parts by the id of the run, ensemble or external predictions, for every
    record that has an evaluation.
    """
    groups: dict[tuple[str, str, str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        run = record.run
        key = (record.data.name, record.profile, run.data)
        groups[(*key, run.split.canonical(), run.protocol.canonical())].append(record)
    return tuple(_board(groups[key], predictions) for key in sorted(groups))


def _board(records: Sequence[Record], predictions: Mapping[str, Parts]) -> Board:
    records = sorted(records, key=lambda record: (record.run.seed, record.subject.id))
    first = records[0]
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record.evaluation:
            groups[_identity(record)].append(record)
    rows = [_row(group, predictions) for group in groups.values()]
    labels = rows[0].parts[0]["test"].labels if rows else np.empty(0, int)
    classes = len(first.data.class_names)
    suspects = _suspects(rows, labels, classes)
    rows = [replace(row, suspect=reason) for row, reason in zip(rows, suspects, strict=True)]
    ranked, smallest_difference = rank_rows(rows, labels, classes)
    return Board(
        fingerprint=first.run.data,
        # Imports without validation images know fewer than others.
        data=max((record.data for record in records), key=lambda data: data.validation),
        split=first.run.split,
        protocol=first.run.protocol,
        profile=first.profile,
        rows=ranked,
        smallest_difference=smallest_difference,
        labels=labels,
        failed=tuple(r for r in records if isinstance(r, RunRecord) and not r.finished),
        predictions=predictions,
    )


def rank_rows(
    rows: Sequence[Row], labels: np.ndarray, classes: int
) -> tuple[tuple[Row, ...], float]:
    """The rows, best first, with their ranks and fronts; and the smallest difference shown.

    ``labels`` (n,) are of the test images, which are the same for all rows.
    """
    rows = sorted(rows, key=lambda row: (-row.macro_f1, row.name, row.weights))
    eligible = [row for row in rows if row.kind != "baseline" and not row.suspect]
    y_pred = [row.y_pred for row in eligible]
    pairs = significance.pairwise(labels, y_pred, classes)
    ranks, smallest = significance.rank_groups(pairs), significance.smallest_difference(pairs)
    places, fronts = dict(zip(eligible, ranks, strict=True)), _fronts(eligible)
    ranked = [replace(row, rank=places.get(row), fronts=fronts.get(row, ())) for row in rows]
    return tuple(ranked), smallest


def _fronts(rows: Sequence[Row]) -> dict[Row, tuple[str, ...]]:
    """Which Pareto fronts of macro F1 each row is on; rows of unknown cost are on none."""
    points = {
        row: (row.macro_f1, row.images_per_second, -row.cost.parameters)
        for row in rows
        if row.cost and row.images_per_second
    }
    array = np.array(list(points.values()), dtype=float).reshape(-1, 3)
    speed, size = (significance.pareto(array[:, [0, axis]]) for axis in (1, 2))
    return {
        row: tuple(name for name, on in (("speed", fast), ("size", small)) if on)
        for row, fast, small in zip(points, speed, size, strict=True)
    }


# --- rows ----------------------------------------------------------------------------------------


def _identity(record: Record) -> tuple[str, ...]:
    """The key that the seeds of one row share."""
    match record:
        case EnsembleRecord():
            return ("ensemble", record.ensemble.rule, *record.recipes)
        case ExternalRecord():
            return ("external", record.external.name)
    return ("network", record.run.recipe, record.run.weights.canonical())


def _row(records: Sequence[Record], predictions: Mapping[str, Parts]) -> Row:
    first = records[0]
    kind: Kind
    match first:
        case EnsembleRecord():
            kind, name = "ensemble", f"{first.ensemble.rule} of {'+'.join(first.recipes)}"
            title, weights, note = _ensemble_title(first), "ensemble", ""
        case ExternalRecord():
            kind = "baseline" if first.baseline else "imported"
            name, weights = first.external.name, "–"
            note = first.note.removeprefix("floor: ")  # Older records begin with it.
            title = name.replace("-", " ").capitalize() if first.baseline else name
        case _:
            kind, name, title = "network", first.run.recipe, find(first.run.recipe).title
            weights, note = first.run.weights.source, _note(records)
    return Row(
        kind=kind,
        name=name,
        title=title,
        weights=weights,
        note=note,
        records=tuple(records),
        evaluations=tuple(record.evaluation for record in records if record.evaluation),
        parts=tuple(predictions[record.subject.id] for record in records if record.evaluation),
    )


def _note(records: Sequence[Record]) -> str:
    """The notes of a network's runs; of several seeds, which one it is."""
    notes: dict[str, None] = {}
    for record in records:
        if isinstance(record, RunRecord):
            seed = f"seed {record.run.seed}: " if len(records) > 1 else ""
            happened = record.result.notes if isinstance(record.result, Finished) else ()
            notes |= dict.fromkeys([record.note, *(seed + note for note in happened)])
    return "; ".join(filter(None, notes))


def failed_row(record: RunRecord) -> Row:
    """A failed run as a row without evaluations."""
    return _row([record], {})


def _ensemble_title(record: EnsembleRecord) -> str:
    names, rule = record.used_recipes, record.ensemble.rule.capitalize()
    if len(names) <= NAMED_MEMBERS:
        return f"{rule}: {' + '.join(map(title_of, names))}"
    return f"{rule}: {len(names)} of {len(record.recipes)} networks"


def title_of(member: str) -> str:
    """A recipe's title; of external predictions, which begin with ``@``, their name."""
    return member[1:] if member.startswith("@") else find(member).title


# --- suspects ------------------------------------------------------------------------------------


def _suspects(rows: Sequence[Row], labels: np.ndarray, classes: int) -> list[str]:
    """Why each row is suspect: significantly below the pixel baseline, or far below the median."""
    networks = [row.macro_f1 for row in rows if row.kind == "network"]
    middle = median(networks) if len(networks) >= ENOUGH_FOR_A_MEDIAN else -np.inf
    baseline = next((row for row in rows if row.kind == "baseline"), None)
    reasons = []
    for row in rows:
        reason = ""
        if row.kind == "network" and row.macro_f1 < middle - FAR_BELOW:
            reason = f"{100 * (middle - row.macro_f1):.0f} points below the median network"
        elif row.kind == "network" and baseline and row.macro_f1 < baseline.macro_f1:
            pair = significance.pairwise(labels, [baseline.y_pred, row.y_pred], classes)
            if pair.p[0, 1] < 0.05:
                reason = f"below the pixel baseline of {100 * baseline.macro_f1:.2f} %"
        reasons.append(reason)
    return reasons
