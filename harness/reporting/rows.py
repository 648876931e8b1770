"""A row of the leaderboard: records of one network, ensemble or import, one for each seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Literal

import numpy as np

from harness.evaluation import significance
from harness.evaluation.significance import Paired
from harness.schema.metrics import Evaluation, Metrics
from harness.schema.predictions import Predictions
from harness.schema.records import (
    Cost,
    EnsembleCost,
    EnsembleRecord,
    ExternalRecord,
    Finished,
    Record,
    RunRecord,
    Throughput,
)
from zoo.registry import find

NAMED_MEMBERS = 4
"""An ensemble of more members is titled by their number."""

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
    """The place by macro F1; None for suspect rows and the pixel baseline."""
    may_be_best: bool = False
    """Whether it is in the 95 % model confidence set of the ranked rows."""
    suspect: str = ""
    """Why the recipe is suspect, or empty."""
    fronts: tuple[str, ...] = ()
    """"speed": no ranked row on the same device is at least as good in macro F1 and in images/s,
    and better in one of them; "size": the same for macro F1 and the number of parameters, of all
    ranked rows of known cost."""

    @cached_property
    def runs(self) -> tuple[Finished, ...]:
        """The results of a network's runs; empty for other kinds."""
        return tuple(result for result in self.evaluations if isinstance(result, Finished))

    @cached_property
    def ensembles(self) -> tuple[EnsembleRecord, ...]:
        """The records of an ensemble; empty for other kinds."""
        return tuple(result for result in self.evaluations if isinstance(result, EnsembleRecord))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        return tuple(record.run.seed for record in self.records)

    @cached_property
    def per_seed(self) -> tuple[Row, ...]:
        """A row for each seed."""
        return tuple(self._at([i]) for i in range(len(self.records)))

    def of_seeds(self, seeds: Collection[int]) -> Row:
        """The row with these of its seeds alone."""
        return self._at([i for i, seed in enumerate(self.seeds) if seed in seeds])

    def _at(self, places: Sequence[int]) -> Row:
        return replace(
            self,
            records=tuple(self.records[i] for i in places),
            evaluations=tuple(self.evaluations[i] for i in places),
            parts=tuple(self.parts[i] for i in places),
        )

    @property
    def cost(self) -> Cost | EnsembleCost | None:
        """The first seed's; None where it is unknown."""
        first = self.evaluations[0]
        return first.cost if isinstance(first, Finished | EnsembleRecord) else None

    @property
    def throughput(self) -> Throughput | None:
        """As it was measured; None where it was computed, or is unknown."""
        return self.cost.throughput if self.cost else None

    @property
    def images_per_second(self) -> float | None:
        """Measured, or computed from the members' rates; None where it is unknown."""
        if self.throughput:
            return self.throughput.median
        return self.cost.images_per_second if isinstance(self.cost, EnsembleCost) else None

    @property
    def device(self) -> str | None:
        """On which ``images_per_second``, or the members', was measured; None where it is None."""
        if self.throughput:
            return self.throughput.device
        cost = self.cost
        return cost.device if isinstance(cost, EnsembleCost) and cost.images_per_second else None

    @cached_property
    def y_pred(self) -> np.ndarray:
        """(seeds, n): the predicted class of each test image."""
        return np.stack([parts["test"].y_pred for parts in self.parts])

    def test(self, measure: Callable[[Metrics], float]) -> float:
        """A test metric, averaged over the seeds."""
        return fmean([measure(result.test) for result in self.evaluations])

    def validation(self, measure: Callable[[Metrics], float]) -> float | None:
        """A validation metric, averaged over the seeds that have validation predictions."""
        known = [measure(result.validation) for result in self.evaluations if result.validation]
        return fmean(known) if known else None

    def shifted(self, measure: Callable[[Metrics], float]) -> float | None:
        """A metric of the shifted test; None unless every seed has predictions of it."""
        known = [measure(result.shifted) for result in self.evaluations if result.shifted]
        return fmean(known) if len(known) == len(self.evaluations) else None

    @cached_property
    def macro_f1(self) -> float:
        return self.test(lambda metrics: metrics.macro_f1)

    @property
    def validation_f1(self) -> float:
        """0 without validation predictions."""
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


def compare_rows(row: Row, other: Row, part: str = "test") -> Paired | None:
    """The paired test of two rows of the same images on the seeds that both have.

    Where they have none in common, on all seeds of each. None where a seed lacks the part.
    """
    shared = {*row.seeds} & {*other.seeds}
    sides = [side.of_seeds(shared) if shared else side for side in (row, other)]
    known = [[parts[part] for parts in side.parts if part in parts] for side in sides]
    if any(len(found) < len(side.parts) for found, side in zip(known, sides, strict=True)):
        return None
    return significance.paired_predictions(*known)


# --- from records --------------------------------------------------------------------------------


def identity(record: Record, members: Mapping[str, Record]) -> tuple[str, ...]:
    """The key that the seeds of one row share. ``members``: the board's records by their id."""
    match record:
        case EnsembleRecord(ensemble=ensemble):
            weights = (_source(members[id_]) for id_ in ensemble.members if id_ in members)
            return ("ensemble", ensemble.rule, *record.recipes, *weights)
        case ExternalRecord():
            return ("external", record.external.name)
    return ("network", record.run.recipe, record.run.weights.canonical())


def _source(record: Record) -> str:
    return record.run.weights.canonical() if isinstance(record, RunRecord) else ""


def row_of(records: Sequence[Record], predictions: Mapping[str, Parts]) -> Row:
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
            notes |= dict.fromkeys([_on_weights(record), *(seed + note for note in happened)])
    return "; ".join(filter(None, notes))


def _on_weights(record: RunRecord) -> str:
    """The note of the plan, which does not know that random weights were trained from scratch."""
    if record.run.from_scratch:
        return record.note.replace("random weights", "trained from scratch")
    return record.note


def with_distinct_titles(rows: Sequence[Row], members: Mapping[str, Record]) -> list[Row]:
    """Rows whose title is another's too get their weights in brackets, else the first id."""

    def weights(row: Row) -> str:
        if not row.ensembles:
            return row.weights
        records = (members.get(id_) for id_ in row.ensembles[0].ensemble.members)
        return " + ".join(
            dict.fromkeys(r.run.weights.source for r in records if isinstance(r, RunRecord))
        )

    def id_of(row: Row) -> str:
        return row.records[0].subject.id[:8]

    for suffix in (weights, id_of):
        shared = Counter(row.title for row in rows)
        longer = [f"{row.title} ({suffix(row)})" for row in rows]
        rows = [
            replace(row, title=title) if shared[row.title] > 1 and longer.count(title) == 1 else row
            for row, title in zip(rows, longer, strict=True)
        ]
    return list(rows)


def failed_row(record: RunRecord) -> Row:
    """A failed run as a row without evaluations."""
    return row_of([record], {})


def _ensemble_title(record: EnsembleRecord) -> str:
    names, rule = record.used_recipes, record.ensemble.rule.capitalize()
    if len(names) <= NAMED_MEMBERS:
        return f"{rule}: {' + '.join(map(title_of, names))}"
    return f"{rule}: {len(names)} of {len(record.recipes)} networks"


def title_of(member: str) -> str:
    """A recipe's title; of external predictions, which begin with ``@``, their name."""
    return member[1:] if member.startswith("@") else find(member).title
