"""Finished runs -> ensembles: find the members, apply the rules, keep the records."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from harness import ensembles, metrics
from harness.errors import UserError
from harness.nouns import (
    Ensemble,
    EnsembleCost,
    EnsembleRecord,
    Finished,
    Predictions,
    Rule,
    RunRecord,
)
from harness.store import FEATURES, PREDICTIONS, Store, read_arrays, read_predictions
from zoo.table import find

PARTS = ("validation", "test")
RULES: tuple[Rule, ...] = ("soft vote", "weighted vote", "greedy", "stacking", "concatenation")
SEARCH_RULES: tuple[Rule, ...] = ("greedy", "best subset")
LARGEST_SEARCH = 16
"""Members of which all subsets are tried; each further one doubles the work."""

Fitted = tuple[np.ndarray, Callable[[str], np.ndarray]]
"""The shares of the members, and what predicts a part."""


@dataclass(frozen=True)
class Committee:
    """Runs that can vote together: the same images, split, protocol and seed."""

    store: Store
    records: tuple[RunRecord, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(record.run.recipe for record in self.records)

    @cached_property
    def parts(self) -> tuple[dict[str, Predictions], ...]:
        return tuple(self.store.predictions(record.run) for record in self.records)

    def labels(self, part: str) -> np.ndarray:
        return self.parts[0][part].labels

    def probabilities(self, part: str) -> np.ndarray:
        """(m, n, K). Raises UserError if a member's images are not the first one's, in order."""
        first = self.parts[0][part]
        for record, parts in zip(self.records, self.parts, strict=True):
            if not np.array_equal(parts[part].ids, first.ids):
                path = self.store.predictions_path(record.run)
                raise UserError(f"{path}: {part} images other than those of {self.names[0]}")
        return np.stack([parts[part].probabilities for parts in self.parts])

    def features(self, part: str) -> np.ndarray:
        """The members' pooled features side by side, (n, sum of widths)."""
        return np.concatenate([arrays[part] for arrays in self._features], axis=1)

    def train_labels(self) -> np.ndarray:
        return read_predictions(self._artefact(self.records[0], PREDICTIONS))["train"].labels

    @cached_property
    def _features(self) -> tuple[dict[str, np.ndarray], ...]:
        return tuple(read_arrays(self._artefact(record, FEATURES)) for record in self.records)

    def _artefact(self, record: RunRecord, name: str) -> Path:
        path = self.store.artefacts(record.run) / name
        if not path.exists():
            recipe, made = record.run.recipe, self.store.record_path(record.run)
            raise UserError(f"{path} is missing; delete {made}, then 'wbc-bench run {recipe}'")
        return path


def assemble(store: Store, names: Sequence[str]) -> tuple[Committee, ...]:
    """A committee for every board and seed where all these recipes have finished.

    Without names: all that have finished there. Raises UserError for a missing or lonely member.
    """
    wanted = tuple(dict.fromkeys(find(name).name for name in names))
    if names and len(wanted) < 2:
        raise UserError("an ensemble needs at least two different members")
    finished = [record for record in store.records() if record.finished]
    for name in wanted:
        if not any(record.run.recipe == name for record in finished):
            raise UserError(f"{store.root}: no finished run of {name}; 'wbc-bench run {name}'")
    groups: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for record in finished:
        run = record.run
        key = (record.profile, run.data, run.split.canonical(), run.protocol.canonical())
        groups[(*key, str(run.seed))].append(record)
    chosen = [_members(groups[key], wanted) for key in sorted(groups)]
    committees = tuple(Committee(store, members) for members in chosen if len(members) >= 2)
    if not committees:
        what = " + ".join(wanted) or "two finished runs"
        raise UserError(f"{store.root}: no common images, protocol and seed for {what}")
    return committees


def _members(records: Sequence[RunRecord], wanted: Sequence[str]) -> tuple[RunRecord, ...]:
    """One record a recipe, in the order asked for; pretrained weights before random ones."""
    best: dict[str, RunRecord] = {}
    for record in sorted(records, key=lambda r: (r.run.weights.source == "random", r.run.id)):
        best.setdefault(record.run.recipe, record)
    if not wanted:
        return tuple(best[name] for name in sorted(best))
    return tuple(best[name] for name in wanted) if set(wanted) <= best.keys() else ()


def convene(committee: Committee, rules: Sequence[Rule]) -> list[EnsembleRecord]:
    """Apply every rule, and keep predictions and record of each. Raises UserError, StoreError."""
    if "best subset" in rules and len(committee.records) > LARGEST_SEARCH:
        count = len(committee.records)
        raise UserError(f"{count} members are too many for best subset: {LARGEST_SEARCH} at most")
    return [_convene(committee, rule) for rule in rules]


def _convene(committee: Committee, rule: Rule) -> EnsembleRecord:
    began = time.perf_counter()
    shares, predict = _fit(committee, rule)
    ensemble = Ensemble(rule=rule, members=tuple(r.run.id for r in committee.records))
    judged = {}
    for part in PARTS:
        like = committee.parts[0][part]
        judged[part] = Predictions(like.ids, like.labels, predict(part).astype(np.float32))
    first = committee.records[0]
    names = first.data.class_names
    record = EnsembleRecord(
        ensemble=ensemble,
        recipes=committee.names,
        shares=tuple(float(share) for share in shares / shares.sum()),
        run=first.run,
        profile=first.profile,
        data=first.data,
        cost=_cost(committee, shares),
        seconds=time.perf_counter() - began,
        validation=metrics.score(judged["validation"], names),
        test=metrics.score(judged["test"], names),
        predictions_sha256=metrics.digest(judged),
    )
    committee.store.save_predictions(ensemble, judged)
    committee.store.save_ensemble(record)
    return record


def _fit(committee: Committee, rule: Rule) -> Fitted:
    """Learnt from train and validation alone; the test part is only ever predicted."""
    if rule == "concatenation":
        return _fit_concatenation(committee)
    votes, labels = committee.probabilities("validation"), committee.labels("validation")
    shares = np.ones(len(votes))
    if rule == "stacking":
        predict = ensembles.stack(votes, labels)
        return shares, lambda part: predict(committee.probabilities(part))
    if rule == "weighted vote":
        shares = ensembles.fit_weights(votes, labels)
    elif rule == "greedy":
        shares = ensembles.greedy(votes, labels).astype(float)
    elif rule == "best subset":
        shares = ensembles.best_subset(votes, labels).astype(float)
    return shares, lambda part: ensembles.soft_vote(committee.probabilities(part), shares)


def _fit_concatenation(committee: Committee) -> Fitted:
    run = committee.records[0].run
    one_hot = np.eye(len(committee.records[0].data.class_names), dtype=np.float32)
    side = ensembles.TrainingSide(
        train=(committee.features("train"), one_hot[committee.train_labels()]),
        validation=(committee.features("validation"), one_hot[committee.labels("validation")]),
    )
    head = ensembles.concatenate(side, run.protocol, run.seed)
    return np.ones(len(committee.records)), lambda part: head.predict(committee.features(part))


def _cost(committee: Committee, shares: np.ndarray) -> EnsembleCost:
    """Summed over the members that are kept; run one after the other, they add up their times."""
    costs = []
    for record, share in zip(committee.records, shares, strict=True):
        assert isinstance(record.result, Finished)
        if share > 0:
            costs.append(record.result.cost)
    return EnsembleCost(
        parameters=sum(cost.parameters for cost in costs),
        multiply_adds=sum(cost.multiply_adds for cost in costs),
        images_per_second=1 / sum(1 / cost.throughput.median for cost in costs),
        device="; ".join(sorted({cost.throughput.device for cost in costs})),
    )
