"""Finished runs -> ensembles: group the members, fit the rules, store the records."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from harness.data.sampling import sample_indices
from harness.ensembling.concatenation import fit_concatenation
from harness.ensembling.selection import best_subset, greedy_selection
from harness.ensembling.stacking import fit_stacking
from harness.ensembling.voting import fit_weights
from harness.errors import StoreError, UnknownName, UserError, did_you_mean
from harness.evaluation import calibration, metrics
from harness.evaluation.voting import soft_vote
from harness.schema.predictions import SHIFTED, Predictions
from harness.schema.records import (
    CalibratedMembers,
    Ensemble,
    EnsembleCost,
    EnsembleRecord,
    ExternalRecord,
    Finished,
    Rule,
    RunRecord,
)
from harness.schema.run import Run
from harness.storage.files import read_arrays
from harness.storage.predictions import read_predictions
from harness.storage.records import FEATURES, PREDICTIONS, Store
from zoo.registry import find

T = TypeVar("T")

PARTS = ("validation", "test", SHIFTED)
RULES: tuple[Rule, ...] = ("soft vote", "weighted vote", "greedy", "stacking", "concatenation")
SEARCH_RULES: tuple[Rule, ...] = ("greedy", "best subset")
ALL_RULES: tuple[Rule, ...] = (*RULES, "best subset")
MOST_SEARCHED = 16
"""Members of which all subsets are tried; each further one doubles the work."""

Member = RunRecord | ExternalRecord
PredictPart = Callable[[str], np.ndarray]
"""Name of a part -> the ensemble's probabilities (n, K)."""


def resolve_rules(names: Sequence[str], *, search: bool) -> tuple[Rule, ...]:
    """The rules of these names; without names the default ones. Raises UnknownName."""
    if not names:
        return SEARCH_RULES if search else RULES
    known: dict[str, Rule] = {rule: rule for rule in ALL_RULES}
    for name in names:
        if name.replace("-", " ") not in known:
            raise UnknownName("rule", name, known)
    return tuple(dict.fromkeys(known[name.replace("-", " ")] for name in names))


# --- members -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnsembleMembers:
    """Members that can be combined: they share images, split, protocol and seed."""

    store: Store
    records: tuple[Member, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(_name, self.records))

    @cached_property
    def parts(self) -> tuple[dict[str, Predictions], ...]:
        return tuple(self.store.load_verified(record) for record in self.records)

    def have(self, part: str) -> bool:
        return all(part in parts for parts in self.parts)

    def labels(self, part: str) -> np.ndarray:
        return self.parts[0][part].labels

    def probabilities(self, part: str) -> np.ndarray:
        """(m, n, K). Raises UserError if a member has other images, or another order, of a part."""
        for record, parts in zip(self.records, self.parts, strict=True):
            path = self.store.predictions_path(record.subject)
            if part not in parts:
                raise UserError(f"{path}: has no {part} images, which this rule is fitted on")
            if not np.array_equal(parts[part].ids, self.parts[0][part].ids):
                raise UserError(f"{path}: {part} images other than those of {self.names[0]}")
        return np.stack([parts[part].probabilities for parts in self.parts])

    @cached_property
    def features(self) -> tuple[dict[str, np.ndarray], ...]:
        """Each member's pooled features (n, width) by part. Raises UserError."""
        return tuple(self._read(record, FEATURES, read_arrays) for record in self.records)

    def train_labels(self) -> np.ndarray:
        return self._read(self.records[0], PREDICTIONS, read_predictions)["train"].labels

    def _read(self, record: Member, file: str, read: Callable[[Path], T]) -> T:
        if isinstance(record, ExternalRecord):
            raise UserError(f"{record.external.name} was imported: it has no features")
        path = self.store.artefacts(record.run) / file
        remedy = (
            f"delete {self.store.record_path(record.run)}, then 'wbc-bench run {record.run.recipe}'"
        )
        if not path.exists():
            raise UserError(f"{path} is missing; {remedy}")
        try:
            return read(path)
        except StoreError:
            raise UserError(f"{path} is damaged; {remedy}") from None


def group_members(
    store: Store, names: Sequence[str], reference: Run | None = None
) -> tuple[EnsembleMembers, ...]:
    """The named recipes and imports, once per board and seed for which all are finished.

    Without names: every finished network that is not a joint one. With a ``reference`` run: on
    its board only. Raises UserError where fewer than two members can be combined.
    """
    finished = [r for r in store.records() if r.finished and _same_board(r.run, reference)]
    imported = [record for record in store.external_records() if not record.baseline]
    imported_names = {record.external.name for record in imported}
    requested = tuple(dict.fromkeys(_resolve(name, imported_names) for name in names))
    if names and len(requested) < 2:
        raise UserError("an ensemble needs at least two different members")
    candidates: list[Member] = [r for r in finished if names or not find(r.run.recipe).branches]
    candidates += imported if names else []
    for name in requested:
        if name not in map(_name, candidates):
            raise UserError(f"{store.root}: no finished run of {name}; 'wbc-bench run {name}'")
    groups: dict[tuple[str, ...], list[Member]] = defaultdict(list)
    for record in candidates:
        run = record.run
        key = (record.profile, run.data, run.split.canonical(), run.protocol.canonical())
        groups[(*key, str(run.seed))].append(record)
    selected = [_one_per_name(groups[key], requested) for key in sorted(groups)]
    if not any(len(records) > 1 for records in selected):
        what = " + ".join(requested) or "two finished runs"
        raise UserError(f"{store.root}: no common images, protocol and seed for {what}")
    return tuple(EnsembleMembers(store, records) for records in selected if len(records) > 1)


def _same_board(run: Run, reference: Run | None) -> bool:
    return reference is None or (run.data, run.split, run.protocol) == (
        reference.data, reference.split, reference.protocol,
    )  # fmt: skip


def _resolve(name: str, imported: set[str]) -> str:
    """A recipe's name, or ``@name`` of an import. Raises UserError."""
    plain = name.removeprefix("@")
    if plain in imported:
        return f"@{plain}"
    if name.startswith("@"):
        raise UserError(f"nothing was imported as {plain!r}{did_you_mean(plain, imported)}")
    try:
        return find(name).name
    except UnknownName as error:
        others = f"; imported: {', '.join(sorted(imported))}" if imported else ""
        raise UserError(f"{error}{others}") from None


def _name(record: Member) -> str:
    if isinstance(record, ExternalRecord):
        return f"@{record.external.name}"
    return record.run.recipe


def _one_per_name(records: Sequence[Member], requested: Sequence[str]) -> tuple[Member, ...]:
    """One record per name, in the requested order; pretrained weights before random ones.

    Empty if a requested one is missing.
    """
    best: dict[str, Member] = {}
    for record in sorted(records, key=lambda r: (r.run.weights.source == "random", r.subject.id)):
        best.setdefault(_name(record), record)
    names = requested or sorted(best)
    return tuple(best[name] for name in names) if best.keys() >= set(names) else ()


# --- fitting -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FittedEnsembles:
    """The new ensembles, and each rule that could not be fitted, with the reason."""

    records: tuple[EnsembleRecord, ...]
    left_out: tuple[tuple[Rule, str], ...]


def fit_ensembles(
    members: EnsembleMembers, rules: Sequence[Rule], *, pending: bool = False
) -> FittedEnsembles:
    """Fit every rule and store its predictions and record; if ``pending``, only missing ones.

    Raises UserError if no rule could be fitted, StoreError for what cannot be read.
    """
    records, left_out = [], []
    for rule in rules:
        ensemble = Ensemble(rule=rule, members=tuple(r.subject.id for r in members.records))
        if pending and members.store.record_path(ensemble).exists():
            continue
        try:
            records.append(_fit_ensemble(members, ensemble))
        except StoreError:
            raise
        except UserError as error:
            left_out.append((rule, str(error)))
    if left_out and not records and not pending:
        raise UserError(": ".join(left_out[0]))
    return FittedEnsembles(tuple(records), tuple(left_out))


def _fit_ensemble(members: EnsembleMembers, ensemble: Ensemble) -> EnsembleRecord:
    start, first = time.perf_counter(), members.records[0]
    weights, predict = _fit(members, ensemble.rule)
    parts = {}
    for name in filter(members.have, PARTS):
        part = members.parts[0][name]
        parts[name] = Predictions(part.ids, part.labels, predict(name).astype(np.float32))
    record = EnsembleRecord(
        ensemble=ensemble,
        recipes=members.names,
        shares=tuple(float(weight) for weight in weights / weights.sum()),
        run=first.run,
        profile=first.profile,
        data=first.data,
        cost=_cost(members, ensemble, weights),
        seconds=time.perf_counter() - start,
        calibrated_members=_calibrated_members(members, ensemble.rule, weights),
        **dict(metrics.evaluate(parts, first.data.class_names)),
    )
    members.store.save_predictions(ensemble, parts)
    members.store.save(record)
    return record


def _fit(members: EnsembleMembers, rule: Rule) -> tuple[np.ndarray, PredictPart]:
    """The members' weights, and what predicts a part; fitted on train and validation only."""
    weights = np.ones(len(members.records))
    if rule == "concatenation":
        return weights, _fit_concatenation(members)
    if rule != "soft vote":
        votes, labels = members.probabilities("validation"), members.labels("validation")
        if rule == "best subset" and len(votes) > MOST_SEARCHED:
            raise UserError(f"{len(votes)} members are too many: {MOST_SEARCHED} at most")
        if rule == "stacking":
            stacked = fit_stacking(votes, labels)
            return weights, lambda part: stacked(members.probabilities(part))
        fits = {
            "weighted vote": fit_weights, "greedy": greedy_selection, "best subset": best_subset,
        }  # fmt: skip
        weights = fits[rule](votes, labels).astype(float)
    return weights, lambda part: soft_vote(members.probabilities(part), weights)


def _fit_concatenation(members: EnsembleMembers) -> PredictPart:
    def features(part: str) -> np.ndarray:
        return np.concatenate([arrays[part] for arrays in members.features], axis=1)

    run = members.records[0].run
    one_hot = np.eye(len(members.records[0].data.class_names), dtype=np.float32)
    inputs, targets = features("train"), one_hot[members.train_labels()]
    rows = sample_indices(run.protocol.loss, targets, run.seed)
    head = fit_concatenation(
        (inputs[rows], targets[rows]),
        (features("validation"), one_hot[members.labels("validation")]),
        run.protocol,
        run.seed,
        [arrays["train"].shape[1] for arrays in members.features],
    )
    return lambda part: head.predict(features(part))


def _calibrated_members(
    members: EnsembleMembers, rule: Rule, weights: np.ndarray
) -> CalibratedMembers | None:
    """The same vote of calibrated members, each by its own temperature from validation."""
    if rule in {"stacking", "concatenation"} or not members.have("validation"):
        return None
    labels = members.labels("validation")
    temperatures = [
        calibration.fit_temperature(probabilities, labels)
        for probabilities in members.probabilities("validation")
    ]
    calibrated = map(calibration.soften, members.probabilities("test"), temperatures)
    vote, labels = soft_vote(np.stack(list(calibrated)), weights), members.labels("test")
    return CalibratedMembers(
        temperatures=tuple(temperatures),
        macro_f1=metrics.macro_f1(labels, vote.argmax(axis=1), vote.shape[1]),
        **calibration.scores(labels, vote),
    )


def _cost(members: EnsembleMembers, ensemble: Ensemble, weights: np.ndarray) -> EnsembleCost | None:
    """Summed over the members with a weight; a rate measured before of the same ones is kept."""
    used = [(n, r) for n, r, w in zip(members.names, members.records, weights, strict=True) if w]
    costs = [
        record.result.cost
        for _, record in used
        if isinstance(record, RunRecord) and isinstance(record.result, Finished)
    ]
    if len(costs) < len(used):
        return None
    before = members.store.find(ensemble)
    throughput = None
    if before and before.cost and before.used_recipes == tuple(name for name, _ in used):
        throughput = before.cost.throughput
    return EnsembleCost(
        parameters=sum(cost.parameters for cost in costs),
        multiply_adds=sum(cost.multiply_adds for cost in costs),
        images_per_second=1 / sum(1 / cost.throughput.median for cost in costs),
        device="; ".join(sorted({cost.throughput.device for cost in costs})),
        throughput=throughput,
    )


# --- verification --------------------------------------------------------------------------------


def vote_mismatch(members: EnsembleMembers, record: EnsembleRecord) -> str:
    """How a vote's stored predictions differ from the vote of its members; "" if they do not.

    Stacking and concatenation are not votes and are not recomputed.
    """
    rule, weights = record.ensemble.rule, np.array(record.shares)
    if rule in {"stacking", "concatenation"}:
        return ""
    vote = soft_vote(members.probabilities("test"), weights)
    stored = members.store.predictions(record.ensemble)["test"].probabilities
    if np.abs(vote - stored).max() > 1e-6:
        return "the stored predictions are not the vote of its members"
    recorded = record.calibrated_members
    computed = _calibrated_members(members, rule, weights)
    if recorded is None or computed is None:
        return "" if recorded is computed else "calibrated_members is missing"
    if not np.allclose(_numbers(recorded), _numbers(computed), rtol=0, atol=1e-9):
        return f"calibrated_members is {recorded}, the predictions give {computed}"
    return ""


def _numbers(values: CalibratedMembers) -> list[float]:
    return [*values.temperatures, *list(values.model_dump(exclude={"temperatures"}).values())]
