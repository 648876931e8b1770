"""Members -> ensembles: fit the rules, store the records."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from harness.data.sampling import sample_indices
from harness.ensembling.cross_fitting import (
    cross_fitted_vote,
    fit_without_each_fold,
)
from harness.ensembling.members import PARTS, EnsembleMembers
from harness.ensembling.selection import best_subsets, greedy_selection
from harness.ensembling.stacking import fit_stacking
from harness.ensembling.voting import fit_weights
from harness.errors import StoreError, UnknownName, UserError
from harness.evaluation import calibration, metrics
from harness.evaluation.voting import soft_vote
from harness.schema.predictions import Predictions
from harness.schema.records import (
    CalibratedMembers,
    Ensemble,
    EnsembleCost,
    EnsembleRecord,
    Finished,
    Rule,
    RunRecord,
)
from harness.storage.records import Store
from harness.training.head import fit_head

RULES: tuple[Rule, ...] = ("soft vote", "weighted vote", "greedy", "stacking", "concatenation")
SEARCH_RULES: tuple[Rule, ...] = ("greedy", "best subset")
ALL_RULES: tuple[Rule, ...] = (*RULES, "best subset")
MOST_SEARCHED = 18
"""Members of which all subsets are tried, the whole zoo; each further one doubles the work."""

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


# --- fitting -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FittedEnsembles:
    """The new ensembles, and each rule that could not be fitted, with the reason."""

    records: tuple[EnsembleRecord, ...]
    left_out: tuple[tuple[Rule, str], ...]


def fit_ensembles(
    members: EnsembleMembers, rules: Sequence[Rule], *, pending: bool = False
) -> FittedEnsembles:
    """Fit every rule and store its predictions and record.

    If ``pending``, only those that are missing.
    Raises UserError if no rule could be fitted, StoreError for what cannot be read.
    """
    records, left_out = [], []
    for rule in rules:
        ensemble = Ensemble(rule=rule, members=tuple(r.subject.id for r in members.records))
        if pending and members.store.find(ensemble):
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


@dataclass(frozen=True)
class _FittedRule:
    """What predicts a part, fitted on train and validation only."""

    predict: PredictPart
    weights: np.ndarray
    """Of the members, (m,)."""
    folds: int = 0
    fold_weights: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))


def _fit_ensemble(members: EnsembleMembers, ensemble: Ensemble) -> EnsembleRecord:
    start, first = time.perf_counter(), members.records[0]
    fitted = _fit(members, ensemble.rule)
    parts = {}
    for name in filter(members.have, PARTS):
        part = members.parts[0][name]
        parts[name] = Predictions(part.ids, part.labels, fitted.predict(name).astype(np.float32))
    record = EnsembleRecord(
        ensemble=ensemble,
        recipes=members.names,
        shares=_shares(fitted.weights),
        run=first.run,
        profile=first.profile,
        data=first.data,
        cost=_cost(members, ensemble, fitted.weights),
        seconds=time.perf_counter() - start,
        calibrated_members=_calibrated_members(members, ensemble.rule, fitted.weights),
        folds=fitted.folds,
        fold_shares=tuple(map(_shares, fitted.fold_weights)),
        **dict(metrics.evaluate(parts, first.data.class_names)),
    )
    members.store.save_predictions(ensemble, parts)
    members.store.save(record)
    return record


def _shares(weights: np.ndarray) -> tuple[float, ...]:
    return tuple(float(weight) for weight in weights / weights.sum())


def _fit(members: EnsembleMembers, rule: Rule) -> _FittedRule:
    """Rules that are fitted on validation predict each of its images without having seen it."""
    equal = np.ones(len(members.records))
    if rule == "concatenation":
        return _FittedRule(_fit_concatenation(members), equal)
    if rule == "soft vote":
        return _FittedRule(lambda part: soft_vote(members.probabilities(part)), equal)
    votes, labels = members.probabilities("validation"), members.labels("validation")
    if rule == "best subset" and len(votes) > MOST_SEARCHED:
        raise UserError(f"{len(votes)} members are too many: {MOST_SEARCHED} at most")
    folds = members.folds
    weights, fold_weights = equal, np.empty((0, 0))
    if rule == "stacking":
        combine, cross_fitted = fit_stacking(votes, labels, folds)
    else:
        fits = _fit_vote(rule, votes, labels, folds)
        weights, fold_weights = fits[0], fits[1:]
        combine = partial(soft_vote, weights=weights)
        cross_fitted = cross_fitted_vote(votes, folds, fold_weights)

    def predict(part: str) -> np.ndarray:
        return cross_fitted if part == "validation" else combine(members.probabilities(part))

    return _FittedRule(predict, weights, int(folds.max()) + 1, fold_weights)


def _fit_vote(rule: Rule, votes: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Weights (1 + folds, m): fitted on all images, then without each fold."""
    if rule == "best subset":
        return best_subsets(votes, labels, folds).astype(float)
    fit = fit_weights if rule == "weighted vote" else greedy_selection
    return fit_without_each_fold(fit, votes, labels, folds).astype(float)


def _fit_concatenation(members: EnsembleMembers) -> PredictPart:
    def features(part: str) -> np.ndarray:
        return np.concatenate([arrays[part] for arrays in members.features], axis=1)

    run = members.records[0].run
    one_hot = np.eye(len(members.records[0].data.class_names), dtype=np.float32)
    inputs, targets = features("train"), one_hot[members.train_labels()]
    rows = sample_indices(run.protocol.loss, targets, run.seed)
    head = fit_head(
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


def renew_costs(store: Store) -> None:
    """Compute the costs of all ensembles from their members' again, which were measured anew."""
    by_id = {record.run.id: record for record in store.records()}
    for record in store.ensembles():
        if record.cost and by_id.keys() >= set(record.ensemble.members):
            members = EnsembleMembers(store, tuple(by_id[id] for id in record.ensemble.members))
            cost = _cost(members, record.ensemble, np.array(record.shares))
            store.save(record.model_copy(update={"cost": cost}))


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
    devices = sorted({cost.throughput.device for cost in costs})
    rates = [cost.throughput.median for cost in costs]
    return EnsembleCost(
        parameters=sum(cost.parameters for cost in costs),
        multiply_adds=sum(cost.multiply_adds for cost in costs),
        images_per_second=1 / sum(1 / rate for rate in rates) if len(devices) == 1 else None,
        device="; ".join(devices),
        throughput=throughput,
    )


# --- verification --------------------------------------------------------------------------------


VOTE_ERROR, REFIT_ERROR = 1e-6, 1e-4
"""Of a probability: of votes; of stacking, whose optimiser stops within this of the optimum."""


def fit_mismatch(members: EnsembleMembers, record: EnsembleRecord) -> str:
    """How an ensemble differs from its rule fitted again to its members; "" if it does not.

    Not of concatenation, whose members' features are not kept with the records. Raises UserError
    where the rule cannot be fitted.
    """
    rule = record.ensemble.rule
    if rule == "concatenation":
        return ""
    fitted = _fit(members, rule)
    shares = [_shares(fitted.weights), *map(_shares, fitted.fold_weights)]
    recorded_shares = [record.shares, *record.fold_shares]
    if not _equal(recorded_shares, shares) or record.folds != fitted.folds:
        return f"its shares are {recorded_shares}, the rule fitted again gives {shares}"
    stored = members.store.predictions(record.ensemble)
    tolerance = REFIT_ERROR if rule == "stacking" else VOTE_ERROR
    for part in filter(members.have, stored.keys() & set(PARTS)):
        if np.abs(fitted.predict(part) - stored[part].probabilities).max() > tolerance:
            return f"the stored {part} predictions are not those of its rule fitted again"
    recorded = record.calibrated_members
    computed = _calibrated_members(members, rule, fitted.weights)
    if recorded is None or computed is None:
        return "" if recorded is computed else "calibrated_members is missing"
    if not _equal(_numbers(recorded), _numbers(computed)):
        return f"calibrated_members is {recorded}, the predictions give {computed}"
    return ""


def _equal(recorded: Sequence[Any], computed: Sequence[Any]) -> bool:
    """Up to the last bits, which depend on the order of a processor's additions."""
    return np.shape(recorded) == np.shape(computed) and np.allclose(
        recorded, computed, rtol=0, atol=1e-9
    )


def _numbers(values: CalibratedMembers) -> list[float]:
    return [*values.temperatures, *list(values.model_dump(exclude={"temperatures"}).values())]
