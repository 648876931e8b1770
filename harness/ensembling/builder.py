"""Finished runs -> ensembles: find the members, apply the rules, keep the records."""

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
from harness.ensembling import rules as ensembles
from harness.errors import StoreError, UnknownName, UserError, did_you_mean
from harness.evaluation import calibration, metrics
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
    Throughput,
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
LARGEST_SEARCH = 16
"""Members of which all subsets are tried; each further one doubles the work."""

Fitted = tuple[np.ndarray, Callable[[str], np.ndarray]]
"""The shares of the members, and what predicts a part."""
Member = RunRecord | ExternalRecord


@dataclass(frozen=True)
class EnsembleMembers:
    """Members that can vote together: the same images, split, protocol and seed."""

    store: Store
    records: tuple[Member, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(_name, self.records))

    @cached_property
    def parts(self) -> tuple[dict[str, Predictions], ...]:
        return tuple(self.store.load_verified(record) for record in self.records)

    def labels(self, part: str) -> np.ndarray:
        return self.parts[0][part].labels

    def probabilities(self, part: str) -> np.ndarray:
        """(m, n, K). Raises UserError if a member's images are not the first one's, in order."""
        for record, parts in zip(self.records, self.parts, strict=True):
            path = self.store.predictions_path(record.of)
            if part not in parts:
                raise UserError(f"{path}: has no {part} images, which this rule is fitted on")
            if not np.array_equal(parts[part].ids, self.parts[0][part].ids):
                raise UserError(f"{path}: {part} images other than those of {self.names[0]}")
        return np.stack([parts[part].probabilities for parts in self.parts])

    def features(self, part: str) -> np.ndarray:
        """The members' pooled features side by side, (n, sum of widths)."""
        return np.concatenate([arrays[part] for arrays in self._features], axis=1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of each member's features."""
        return tuple(arrays["train"].shape[1] for arrays in self._features)

    def train_labels(self) -> np.ndarray:
        return self._artefact(self.records[0], PREDICTIONS, read_predictions)["train"].labels

    @cached_property
    def _features(self) -> tuple[dict[str, np.ndarray], ...]:
        return tuple(self._artefact(record, FEATURES, read_arrays) for record in self.records)

    def _artefact(self, record: Member, name: str, read: Callable[[Path], T]) -> T:
        if isinstance(record, ExternalRecord):
            raise UserError(f"{record.outside.name} was imported: it has no features")
        path = self.store.artefacts(record.run) / name
        again = f"delete {self.store.record_path(record.run)}, then 'wbc-bench run"
        if not path.exists():
            raise UserError(f"{path} is missing; {again} {record.run.recipe}'")
        try:
            return read(path)
        except StoreError:
            raise UserError(f"{path} is damaged; {again} {record.run.recipe}'") from None


def chosen_rules(names: Sequence[str], *, search: bool) -> tuple[Rule, ...]:
    """The rules of these names, else all that were asked for. Raises UnknownName."""
    if not names:
        return SEARCH_RULES if search else RULES
    known: dict[str, Rule] = {rule: rule for rule in ALL_RULES}
    for name in names:
        if name.replace("-", " ") not in known:
            raise UnknownName("rule", name, known)
    return tuple(dict.fromkeys(known[name.replace("-", " ")] for name in names))


# --- who votes together --------------------------------------------------------------------------


def group_members(
    store: Store, names: Sequence[str], like: Run | None = None
) -> tuple[EnsembleMembers, ...]:
    """A committee for every board and seed where all these recipes and imports are finished.

    Without names: every single network that has finished there. ``like``: only on the board of
    this run. Raises UserError for a missing or lonely member.
    """
    finished = [r for r in store.records() if r.finished and (not like or _beside(r.run, like))]
    imported = [record for record in store.external_records() if not record.baseline]
    known = {record.outside.name for record in imported}
    wanted = tuple(dict.fromkeys(_resolve(name, known) for name in names))
    if names and len(wanted) < 2:
        raise UserError("an ensemble needs at least two different members")
    singles = [record for record in finished if not find(record.run.recipe).branches]
    members: list[Member] = [*finished, *imported] if names else [*singles]
    for name in wanted:
        if name not in map(_name, members):
            raise UserError(f"{store.root}: no finished run of {name}; 'wbc-bench run {name}'")
    groups: dict[tuple[str, ...], list[Member]] = defaultdict(list)
    for record in members:
        run = record.run
        key = (record.profile, run.data, run.split.canonical(), run.protocol.canonical())
        groups[(*key, str(run.seed))].append(record)
    chosen = [_members(groups[key], wanted) for key in sorted(groups)]
    committees = tuple(EnsembleMembers(store, members) for members in chosen if len(members) >= 2)
    if not committees:
        what = " + ".join(wanted) or "two finished runs"
        raise UserError(f"{store.root}: no common images, protocol and seed for {what}")
    return committees


def _beside(run: Run, other: Run) -> bool:
    return (run.data, run.split, run.protocol) == (other.data, other.split, other.protocol)


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
        return f"@{record.outside.name}"
    return record.run.recipe


def _members(records: Sequence[Member], wanted: Sequence[str]) -> tuple[Member, ...]:
    """One record a name, in the order asked for; pretrained weights before random ones."""
    best: dict[str, Member] = {}
    for record in sorted(records, key=lambda r: (r.run.weights.source == "random", r.of.id)):
        best.setdefault(_name(record), record)
    if not wanted:
        return tuple(best[name] for name in sorted(best))
    return tuple(best[name] for name in wanted) if set(wanted) <= best.keys() else ()


# --- the rules -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FittedEnsembles:
    """The ensembles that were made, and each rule that could not be followed, with the reason."""

    records: tuple[EnsembleRecord, ...]
    left_out: tuple[tuple[Rule, str], ...]


def fit_ensembles(
    committee: EnsembleMembers, rules: Sequence[Rule], *, pending: bool = False
) -> FittedEnsembles:
    """Apply every rule, and keep predictions and record of each; if ``pending``, only new ones.

    A rule that lacks what it is fitted on is left out, with the reason; raises UserError if that
    leaves none, StoreError for what cannot be read.
    """
    made, left_out = [], []
    for rule in rules:
        ensemble = Ensemble(rule=rule, members=tuple(r.of.id for r in committee.records))
        if pending and committee.store.record_path(ensemble).exists():
            continue
        try:
            made.append(_convene(committee, ensemble))
        except StoreError:
            raise
        except UserError as error:
            left_out.append((rule, str(error)))
    if left_out and not made and not pending:
        rule, reason = left_out[0]
        raise UserError(f"{rule}: {reason}")
    return FittedEnsembles(tuple(made), tuple(left_out))


def _convene(committee: EnsembleMembers, ensemble: Ensemble) -> EnsembleRecord:
    began, rule = time.perf_counter(), ensemble.rule
    shares, predict = _fit(committee, rule)
    parts = {}
    for part in PARTS:
        if all(part in held for held in committee.parts):
            like = committee.parts[0][part]
            parts[part] = Predictions(like.ids, like.labels, predict(part).astype(np.float32))
    first = committee.records[0]
    record = EnsembleRecord(
        ensemble=ensemble,
        recipes=committee.names,
        shares=tuple(float(share) for share in shares / shares.sum()),
        run=first.run,
        profile=first.profile,
        data=first.data,
        cost=_cost(committee, ensemble, shares),
        seconds=time.perf_counter() - began,
        calibrated_members=_calibrated_members(committee, rule, shares),
        **dict(metrics.evaluate(parts, first.data.class_names)),
    )
    committee.store.save_predictions(ensemble, parts)
    committee.store.save(record)
    return record


def _fit(committee: EnsembleMembers, rule: Rule) -> Fitted:
    """Learnt from train and validation alone; the test part is only ever predicted."""
    if rule == "concatenation":
        return _fit_concatenation(committee)
    shares = np.ones(len(committee.records))
    if rule != "soft vote":
        votes, labels = committee.probabilities("validation"), committee.labels("validation")
        if rule == "stacking":
            predict = ensembles.stack(votes, labels)
            return shares, lambda part: predict(committee.probabilities(part))
        shares = _fit_shares(rule, votes, labels)
    return shares, lambda part: ensembles.soft_vote(committee.probabilities(part), shares)


def _fit_shares(rule: Rule, votes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if rule == "weighted vote":
        return ensembles.fit_weights(votes, labels)
    if rule == "greedy":
        return ensembles.greedy(votes, labels).astype(float)
    if len(votes) > LARGEST_SEARCH:
        raise UserError(f"{len(votes)} members are too many: {LARGEST_SEARCH} at most")
    return ensembles.best_subset(votes, labels).astype(float)


def _fit_concatenation(committee: EnsembleMembers) -> Fitted:
    run = committee.records[0].run
    one_hot = np.eye(len(committee.records[0].data.class_names), dtype=np.float32)
    features, targets = committee.features("train"), one_hot[committee.train_labels()]
    rows = sample_indices(run.protocol.loss, targets, run.seed)
    side = ensembles.TrainingSide(
        train=(features[rows], targets[rows]),
        validation=(committee.features("validation"), one_hot[committee.labels("validation")]),
    )
    head = ensembles.concatenate(side, run.protocol, run.seed, committee.widths)
    return np.ones(len(committee.records)), lambda part: head.predict(committee.features(part))


def _calibrated_members(
    committee: EnsembleMembers, rule: Rule, shares: np.ndarray
) -> CalibratedMembers | None:
    """The same vote with each member softened first, by a temperature from validation."""
    if rule in {"stacking", "concatenation"} or not all("validation" in p for p in committee.parts):
        return None
    labels = committee.labels("validation")
    temperatures = [
        calibration.fit_temperature(vote, labels) for vote in committee.probabilities("validation")
    ]
    softened = [
        calibration.soften(vote, temperature)
        for vote, temperature in zip(committee.probabilities("test"), temperatures, strict=True)
    ]
    vote, truth = ensembles.soft_vote(np.stack(softened), shares), committee.labels("test")
    return CalibratedMembers(
        temperatures=tuple(temperatures),
        macro_f1=metrics.macro_f1(truth, vote.argmax(axis=1), vote.shape[1]),
        log_loss=calibration.log_loss(truth, vote),
        brier=calibration.brier(truth, vote),
        calibration_error=calibration.expected_calibration_error(truth, vote),
    )


def _cost(
    committee: EnsembleMembers, ensemble: Ensemble, shares: np.ndarray
) -> EnsembleCost | None:
    """Summed over the members that are kept; run one after the other, they add up their times.

    What was measured before of the same members is kept.
    """
    costs = []
    for record, share in zip(committee.records, shares, strict=True):
        if share > 0:
            if not (isinstance(record, RunRecord) and isinstance(record.result, Finished)):
                return None
            costs.append(record.result.cost)
    return EnsembleCost(
        parameters=sum(cost.parameters for cost in costs),
        multiply_adds=sum(cost.multiply_adds for cost in costs),
        images_per_second=1 / sum(1 / cost.throughput.median for cost in costs),
        device="; ".join(sorted({cost.throughput.device for cost in costs})),
        throughput=_measured_before(committee, ensemble, shares),
    )


def _measured_before(
    committee: EnsembleMembers, ensemble: Ensemble, shares: np.ndarray
) -> Throughput | None:
    kept = tuple(name for name, share in zip(committee.names, shares, strict=True) if share > 0)
    before = committee.store.find_ensemble(ensemble)
    return before.cost.throughput if before and before.cost and before.kept == kept else None


# --- the truth of a vote -------------------------------------------------------------------------


def vote_mismatch(committee: EnsembleMembers, record: EnsembleRecord) -> str:
    """What is wrong with a vote's stored predictions, recounted from its members; "" if nothing.

    Stacking and concatenation are no votes: nothing is recounted of them.
    """
    if record.ensemble.rule in {"stacking", "concatenation"}:
        return ""
    shares = np.array(record.shares)
    vote = ensembles.soft_vote(committee.probabilities("test"), shares)
    stored = committee.store.predictions(record.ensemble)["test"].probabilities
    if np.abs(vote - stored).max() > 1e-6:
        return "the stored predictions are not the vote of its members"
    told = record.calibrated_members
    found = _calibrated_members(committee, record.ensemble.rule, shares)
    if (told is None) != (found is None):
        return "calibrated_members is missing"
    if told and found and not np.allclose(_numbers(told), _numbers(found), rtol=0, atol=1e-9):
        return f"calibrated_members is {told}, the predictions give {found}"
    return ""


def _numbers(of: CalibratedMembers) -> list[float]:
    return [*of.temperatures, of.macro_f1, of.log_loss, of.brier, of.calibration_error]
