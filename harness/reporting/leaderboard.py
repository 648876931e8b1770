"""Records and predictions -> boards of rows. Pure: no clock, no order of arrival, no files.

Only what is comparable stands in one table: the same images, the same split, the same protocol.
Rows that the test images cannot tell apart share a rank; a suspect row has none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from zoo.registry import find

NAMED_MEMBERS = 4
FAR_BELOW = 0.25
"""In macro F1 under the median network: no backbone of the zoo is that much worse than its peers
when it is fed, loaded and trained rightly."""
ENOUGH_FOR_A_MEDIAN = 5

Kind = Literal["network", "ensemble", "imported", "baseline"]
Parts = Mapping[str, Predictions]


@dataclass(frozen=True, eq=False)
class Row:
    """A network, an ensemble or an import, once a seed, in the order of the seeds."""

    kind: Kind
    name: str
    """Of the recipe or the import; of an ensemble its rule and members."""
    title: str
    weights: str
    note: str
    records: tuple[Record, ...]
    evaluation: tuple[Evaluation, ...]
    parts: tuple[Parts, ...]

    @property
    def runs(self) -> tuple[Finished, ...]:
        """The results of a network's runs; none for another row."""
        return tuple(result for result in self.evaluation if isinstance(result, Finished))

    @property
    def ensembles(self) -> tuple[EnsembleRecord, ...]:
        return tuple(result for result in self.evaluation if isinstance(result, EnsembleRecord))

    @property
    def cost(self) -> Cost | EnsembleCost | None:
        """Of the first seed; None where it is not known."""
        first = self.evaluation[0]
        return first.cost if isinstance(first, Finished | EnsembleRecord) else None

    @property
    def images_per_second(self) -> float | None:
        """Measured, or by formula for an ensemble that was not; None where it is not known."""
        match self.cost:
            case Cost(throughput=throughput) | EnsembleCost(throughput=throughput) if throughput:
                return throughput.median
            case EnsembleCost(images_per_second=by_formula):
                return by_formula
        return None

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(record.run.seed for record in self.records)

    @property
    def guesses(self) -> np.ndarray:
        """(seeds, n): the class given to each test image."""
        return np.stack([parts["test"].probabilities.argmax(axis=1) for parts in self.parts])

    def test(self, measure: Callable[[Metrics], float]) -> float:
        """The mean over the seeds of a test metric."""
        return fmean(measure(result.test) for result in self.evaluation)

    def validation(self, measure: Callable[[Metrics], float]) -> float | None:
        """The same of the validation images; None where there are none."""
        known = [measure(result.validation) for result in self.evaluation if result.validation]
        return fmean(known) if known else None

    def shifted(self, measure: Callable[[Metrics], float]) -> float | None:
        """The same of the shifted test; None where not every seed was asked."""
        known = [measure(result.shifted) for result in self.evaluation if result.shifted]
        return fmean(known) if len(known) == len(self.evaluation) else None

    @property
    def macro_f1(self) -> float:
        return self.test(lambda metrics: metrics.macro_f1)

    @property
    def noise(self) -> tuple[float | None, float]:
        """Standard deviations of macro F1: over the seeds, None for one; over test sets."""
        return significance.split_spread(
            [result.test.macro_f1 for result in self.evaluation],
            [result.test.macro_f1_sd for result in self.evaluation],
        )

    @property
    def interval(self) -> tuple[float, float]:
        """95 % of the test macro F1, over test sets like this one; the mean of the seeds' ends."""
        low, high = np.mean([result.test.macro_f1_interval for result in self.evaluation], axis=0)
        return float(low), float(high)

    @property
    def auc(self) -> float | None:
        """Mean over the seeds; None if it was undefined in any."""
        known = [result.test.auc for result in self.evaluation]
        return None if None in known else fmean(value for value in known if value is not None)


@dataclass(frozen=True, eq=False)
class Board:
    """Everything that was run on one split of one data set under one protocol."""

    fingerprint: str
    data: DataSummary
    split: Split
    protocol: Protocol
    profile: str
    rows: tuple[Row, ...]
    """Best mean test macro F1 first."""
    suspects: tuple[str, ...]
    """One a row: why a recipe is suspect, or nothing."""
    ranks: tuple[int | None, ...]
    """One a row: rows that share one cannot be told apart. None for suspects and baselines."""
    smallest_difference: float
    """In macro F1, that these test images would show between two rows; NaN for a single row."""
    failed: tuple[RunRecord, ...]
    labels: np.ndarray
    """(n,): the true classes of the test images, in the order of the rows' guesses."""
    predictions: Mapping[str, Parts]
    """By the id of the run, ensemble or import."""

    @property
    def networks(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.runs)

    @property
    def ensembles(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.ensembles)

    @property
    def ranked(self) -> tuple[Row, ...]:
        """The rows that have a rank."""
        return tuple(row for row, rank in zip(self.rows, self.ranks, strict=True) if rank)

    @property
    def devices(self) -> tuple[str, ...]:
        names = {r.cost.throughput.device for row in self.networks for r in row.runs}
        return tuple(sorted(names))

    @property
    def seeds(self) -> int:
        return max((len(row.evaluation) for row in self.rows), default=0)


def boards(records: Sequence[Record], predictions: Mapping[str, Parts]) -> tuple[Board, ...]:
    """The boards of a results folder, ordered by the data's name, then by what was asked of it.

    ``predictions``: the parts by the id of the run, ensemble or import, for all that is judged.
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
    rows.sort(key=lambda row: (-row.macro_f1, row.name, row.weights))
    labels = rows[0].parts[0]["test"].labels if rows else np.empty(0, int)
    classes = len(first.data.class_names)
    suspects = _suspects(rows, labels, classes)
    ranked = [i for i, row in enumerate(rows) if row.kind != "baseline" and not suspects[i]]
    guesses = [rows[i].guesses for i in ranked]
    pairs = significance.pairwise(labels, guesses, classes)
    places = significance.rank_groups(pairs)
    ranks = dict(zip(ranked, places, strict=True))
    return Board(
        fingerprint=first.run.data,
        data=first.data,
        split=first.run.split,
        protocol=first.run.protocol,
        profile=first.profile,
        rows=tuple(rows),
        suspects=tuple(suspects),
        ranks=tuple(map(ranks.get, range(len(rows)))),
        smallest_difference=significance.smallest_difference(pairs),
        labels=labels,
        failed=tuple(r for r in records if isinstance(r, RunRecord) and not r.finished),
        predictions=predictions,
    )


# --- rows ----------------------------------------------------------------------------------------


def _identity(record: Record) -> tuple[str, ...]:
    """What the seeds of one row have in common."""
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
            name, weights, note = first.external.name, "–", first.note
            title = name.replace("-", " ").capitalize() if first.baseline else name
        case _:
            kind, name, title = "network", first.run.recipe, find(first.run.recipe).title
            weights, note = first.run.weights.source, first.note
    return Row(
        kind=kind,
        name=name,
        title=title,
        weights=weights,
        note=note,
        records=tuple(records),
        evaluation=tuple(record.evaluation for record in records if record.evaluation),
        parts=tuple(predictions[record.subject.id] for record in records),
    )


def _ensemble_title(record: EnsembleRecord) -> str:
    """The rule, and whom it kept while they can be named in a few words."""
    names, rule = record.used_recipes, record.ensemble.rule.capitalize()
    if len(names) <= NAMED_MEMBERS:
        return f"{rule}: {' + '.join(map(title_of, names))}"
    return f"{rule}: {len(names)} of {len(record.recipes)} networks"


def title_of(member: str) -> str:
    """A recipe's title; the name itself of predictions from outside, which begin with ``@``."""
    return member[1:] if member.startswith("@") else find(member).title


# --- suspects ------------------------------------------------------------------------------------


def _suspects(rows: Sequence[Row], labels: np.ndarray, classes: int) -> list[str]:
    """Why each row is suspect: a network below the pixels themselves, or far below its peers."""
    networks = [row.macro_f1 for row in rows if row.kind == "network"]
    middle = median(networks) if len(networks) >= ENOUGH_FOR_A_MEDIAN else -np.inf
    floor = next((row for row in rows if row.kind == "baseline"), None)
    reasons = []
    for row in rows:
        reason = ""
        if row.kind == "network" and row.macro_f1 < middle - FAR_BELOW:
            reason = f"{100 * (middle - row.macro_f1):.0f} points below the median network"
        elif row.kind == "network" and floor and row.macro_f1 < floor.macro_f1:
            pair = significance.pairwise(labels, [floor.guesses, row.guesses], classes)
            if pair.p[0, 1] < 0.05:
                reason = f"below the raw-pixel floor of {100 * floor.macro_f1:.2f} %"
        reasons.append(reason)
    return reasons
