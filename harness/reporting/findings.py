"""What a board says beyond its rows, in numbers: members, confusions, the shifted test, choices.

Pure functions of a Board, cached where they take long. Two rows are compared on the seeds that both
have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean

import numpy as np

from harness.evaluation import calibration, metrics, robustness
from harness.evaluation import significance as statistics
from harness.evaluation.metrics import macro_f1
from harness.evaluation.robustness import Agreement, Robustness
from harness.evaluation.significance import Paired
from harness.evaluation.voting import soft_vote
from harness.reporting.leaderboard import Board
from harness.reporting.rows import Row, compare_rows, title_of
from harness.schema.predictions import SHIFTED, Predictions
from harness.schema.records import EnsembleRecord

NEGLIGIBLE = 0.01
"""Macro F1: a member that adds less can be dropped."""

CONFUSED = (
    ("ig", "neutrophil"),
    ("ig", "monocyte"),
    ("neutrophil", "ig"),
    ("neutrophil", "monocyte"),
    ("monocyte", "ig"),
    ("monocyte", "neutrophil"),
)
"""(true class, predicted class) that people and networks confuse: an immature granulocyte (ig)
becomes a neutrophil, and its younger forms look like monocytes (Acevedo et al. 2019)."""


# --- members -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """What one member adds to a soft vote, means over its seeds."""

    title: str
    alone: float
    """Its own test macro F1."""
    without: float
    """Macro F1 of the vote without it."""
    gain: Paired
    """Macro F1 of the vote minus that without the member; p is Holm-corrected for the members."""
    disagreement: float
    """Share of images that exactly one of two members predicts correctly, mean over the others."""
    q_statistic: float | None
    """Yule's Q, mean over the others; None where it is undefined for all."""

    @property
    def verdict(self) -> str:
        """That no loss is significant does not show that there is none: the interval must."""
        if self.gain.significant:
            return "helps" if self.gain.difference > 0 else "hurts"
        return "can be dropped" if self.gain.high < NEGLIGIBLE else "inconclusive"


@dataclass(frozen=True)
class Membership:
    """A soft vote and what each of its members adds."""

    row: Row
    members: tuple[Member, ...]
    macro_f1: float
    """Of the vote, on the seeds in which these members vote."""
    oracle: float
    """Macro F1 if each image were predicted by a member that is correct, where there is one."""


@cache
def memberships(board: Board) -> tuple[Membership, ...]:
    """The soft votes of the board, one a set of members."""
    found: dict[frozenset[str], Membership] = {}
    for row in board.ensembles:
        members = row.ensembles[0].used
        if row.ensembles[0].ensemble.rule not in {"soft vote", "best subset"} or len(members) < 2:
            continue
        votes = _votes(board, row)
        if frozenset(members) not in found and votes is not None:
            found[frozenset(members)] = _membership(board, row, votes)
    return tuple(found.values())


def _votes(board: Board, row: Row) -> np.ndarray | None:
    """(seeds, members, n, K): test probabilities, of the seeds in which the same recipes vote.

    None where predictions of the first seed are not there.
    """
    seeds, known = [record.used for record in row.ensembles], board.predictions.keys()
    votes = [
        [board.predictions[id_]["test"].probabilities for id_ in members]
        for members in seeds
        if [*members.values()] == [*seeds[0].values()] and members.keys() <= known
    ]
    return np.stack(votes) if seeds[0].keys() <= known else None


def _membership(board: Board, row: Row, votes: np.ndarray) -> Membership:
    classes, names = len(board.data.class_names), row.ensembles[0].used_recipes
    together = _soft_votes(votes)
    y_pred = votes.argmax(axis=-1)
    diversities = [statistics.diversity(board.labels, seed, classes) for seed in y_pred]
    disagreement = np.mean([d.disagreement for d in diversities], axis=0)
    q_statistic = np.stack([d.q_statistic for d in diversities])
    withouts = [_soft_votes(np.delete(votes, i, axis=1)) for i in range(len(names))]
    gains = statistics.adjusted({
        i: statistics.paired(board.labels, together, without, classes, same_networks=True)
        for i, without in enumerate(withouts)
    })  # fmt: skip
    analysed = []
    for i, (name, without) in enumerate(zip(names, withouts, strict=True)):
        others = np.arange(len(names)) != i
        q = q_statistic[:, i, others]
        analysed.append(
            Member(
                title=title_of(name),
                alone=_mean_f1(board, y_pred[:, i]),
                without=_mean_f1(board, without),
                gain=gains[i],
                disagreement=float(disagreement[i, others].mean()),
                q_statistic=float(np.nanmean(q)) if np.isfinite(q).any() else None,
            )
        )
    oracle = fmean(d.oracle_macro_f1 for d in diversities)
    return Membership(row, tuple(analysed), _mean_f1(board, together), oracle)


def _soft_votes(votes: np.ndarray) -> np.ndarray:
    """Predicted classes, (seeds, members, n, K) -> (seeds, n)."""
    return np.stack([soft_vote(seed).argmax(axis=1) for seed in votes])


def _mean_f1(board: Board, y_preds: np.ndarray) -> float:
    """Macro F1 of predictions (seeds, n), mean over the seeds."""
    return fmean(macro_f1(board.labels, y_pred, len(board.data.class_names)) for y_pred in y_preds)


def gain_over_soft_vote(board: Board, row: Row) -> Paired | None:
    """What an ensemble's rule adds to the members' mean on the validation images, over the seeds.

    None for the soft vote itself, and where the rule or a member has not predicted these images.
    """
    pairs = [_rule_and_soft_vote(board, record) for record in row.ensembles]
    known = [pair for pair in pairs if pair]
    if not known or len(known) < len(pairs):
        return None
    return statistics.paired_predictions(*zip(*known, strict=True), same_networks=True)


def _rule_and_soft_vote(
    board: Board, record: EnsembleRecord
) -> tuple[Predictions, Predictions] | None:
    """Of the validation images."""
    parts = [board.predictions.get(id_, {}) for id_ in record.ensemble.members]
    if record.ensemble.rule == "soft vote":
        return None
    if not all("validation" in part for part in parts):
        return None
    fitted = board.predictions[record.ensemble.id]["validation"]
    vote = soft_vote(np.stack([part["validation"].probabilities for part in parts]))
    return fitted, replace(fitted, probabilities=vote)


@cache
def disagreement(board: Board) -> tuple[tuple[Row, ...], np.ndarray]:
    """The ranked networks, and the share of images that exactly one of two predicts correctly.

    The shares are (m, m), means over the seeds that two networks have in common; NaN where there
    are none. A suspect row is left out: it disagrees with all others.
    """
    rows = tuple(row for row in board.ranked if row.kind == "network")
    if len(rows) < 2:
        return (), np.empty((0, 0))
    shares, seeds = np.zeros((2, len(rows), len(rows)))
    for seed in {seed for row in rows for seed in row.seeds}:
        having = [i for i, row in enumerate(rows) if seed in row.seeds]
        y_pred = [rows[i].y_pred[rows[i].seeds.index(seed)] for i in having]
        diversity = statistics.diversity(board.labels, y_pred, len(board.data.class_names))
        shares[np.ix_(having, having)] += diversity.disagreement
        seeds[np.ix_(having, having)] += 1
    return rows, np.divide(shares, seeds, out=np.full(shares.shape, np.nan), where=seeds > 0)


# --- what chance makes of a score ----------------------------------------------------------------


@cache
def worst_recall_interval(row: Row) -> tuple[float, float]:
    """95 % interval of the lowest true recall of a class, each end averaged over the seeds."""
    if len(row.evaluations) > 1:
        low, high = np.mean(list(map(worst_recall_interval, row.per_seed)), axis=0).tolist()
        return low, high
    confusion = np.array(row.evaluations[0].test.confusion)
    return metrics.worst_recall_interval(np.diag(confusion), confusion.sum(axis=1))


@cache
def calibration_error_by_chance(row: Row) -> float:
    """Of a perfectly calibrated network with the row's confidences, averaged over the seeds."""
    if len(row.parts) > 1:
        return fmean(map(calibration_error_by_chance, row.per_seed))
    return calibration.calibration_error_by_chance(row.parts[0]["test"].probabilities)


@cache
def calibrated_error_by_chance(row: Row) -> float | None:
    """The same with the temperature applied; None where there is none."""
    if len(row.parts) > 1:
        errors = list(map(calibrated_error_by_chance, row.per_seed))
        return None if None in errors else fmean(error for error in errors if error is not None)
    calibrated = row.evaluations[0].calibrated
    if not calibrated:
        return None
    probabilities = row.parts[0]["test"].probabilities
    return calibration.calibration_error_by_chance(
        calibration.soften(probabilities, calibrated.temperature)
    )


# --- classes -------------------------------------------------------------------------------------


def confusions(board: Board) -> tuple[tuple[str, int, int], ...]:
    """The confusions of ``CONFUSED`` whose classes the data has: (name, true class, prediction)."""
    index = {_field_name(name): k for k, name in enumerate(board.data.class_names)}
    return tuple(
        (f"{true} → {predicted}", index[true], index[predicted])
        for true, predicted in CONFUSED
        if true in index and predicted in index
    )


def _field_name(class_name: str) -> str:
    name = class_name.lower()
    if name.startswith("immature"):
        return "ig"
    return next((known for known in ("neutrophil", "monocyte") if known in name), name)


def confused_share(row: Row, true: int, predicted: int) -> float:
    """Share of a class's test images that got the other class, mean over the seeds."""
    counts = np.array([result.test.confusion[true] for result in row.evaluations], dtype=float)
    return float((counts[:, predicted] / np.maximum(counts.sum(axis=1), 1)).mean())


# --- the shifted test ----------------------------------------------------------------------------


@cache
def robustness_of(row: Row) -> Robustness | None:
    """What the corruptions cost a row, mean over its seeds; None unless all were evaluated."""
    if not all(SHIFTED in parts for parts in row.parts):
        return None
    if len(row.parts) > 1:
        seeds = map(robustness_of, row.per_seed)
        return robustness.mean([seed for seed in seeds if seed])
    (parts,) = row.parts
    return robustness.robustness(parts["test"], parts[SHIFTED], row.records[0].run)


def half_width(row: Row) -> float:
    """Half the widest 95 % interval of a corruption's macro F1 on the row's first seed."""
    return robustness.half_width(row.parts[0][SHIFTED], row.records[0].run)


@cache
def effect_of_views(row: Row) -> dict[str, Paired]:
    """What test views add to a row, by test; empty for a single view."""
    return robustness.effect_of_views(row.parts)


# --- choices -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """What choosing a network by validation costs on a test."""

    where: str
    """``test`` or ``shifted test``."""
    chosen: Row
    best: Row
    chosen_f1: float
    difference: Paired
    """Macro F1 of the best row minus the chosen one, on the seeds that both have."""
    p: float
    """Of the difference, corrected for the number of other networks (Bonferroni): any of them
    might have come out best by chance."""

    @property
    def wrong(self) -> bool:
        """Whether another row is significantly better."""
        return self.chosen is not self.best and self.difference.difference > 0 and self.p < 0.05


@dataclass(frozen=True)
class Choices:
    """What choosing a network by its validation F1 costs, and how alike the scores rank them."""

    choices: tuple[Choice, ...]
    """On the test and, where all networks have predictions of it, on the shifted test."""
    agreements: tuple[Agreement, ...]


@cache
def choices(board: Board) -> Choices:
    """Among all networks with validation predictions; empty for fewer than two.

    Suspects too: what leaves by its test score could not be found to be a wrong choice.
    """
    rows = [row for row in board.networks if row.validation_f1]
    if len(rows) < 2:
        return Choices((), ())
    scores = {"validation": [row.validation_f1 for row in rows]}
    scores["test"] = [row.macro_f1 for row in rows]
    shifted = [row.shifted_f1 for row in rows if row.shifted_f1 is not None]
    if len(shifted) == len(rows):
        scores["shifted test"] = shifted
    tests = {"test": "test", "shifted test": SHIFTED}
    picked = [
        _choice(rows, where, tests[where], scores[where]) for where in scores if where in tests
    ]
    return Choices(tuple(c for c in picked if c), robustness.rank_agreement(scores))


def _choice(rows: Sequence[Row], where: str, part: str, scores: Sequence[float]) -> Choice | None:
    """None where a seed of either row has no predictions of the part."""
    picked = chosen(rows)
    f1, best = scores[rows.index(picked)], rows[int(np.argmax(scores))]
    if f1 == max(scores):
        best = picked
    test = compare_rows(best, picked, part)
    if test is None:
        return None
    return Choice(where, picked, best, f1, test, p=min(1.0, test.p * (len(rows) - 1)))


@dataclass(frozen=True)
class Gain:
    """The best ensemble and the best network by validation, compared on the test images."""

    ensemble: Row
    network: Row
    difference: Paired


@cache
def gain_of_ensembles(board: Board) -> Gain | None:
    """None without a network, or an ensemble, that has validation predictions."""
    networks = [row for row in board.networks if row.validation_f1]
    ensembles = [row for row in board.ensembles if row.validation_f1]
    if not networks or not ensembles:
        return None
    ensemble, network = chosen(ensembles), chosen(networks)
    test = compare_rows(ensemble, network)
    return Gain(ensemble, network, test) if test else None


def chosen(rows: Sequence[Row]) -> Row:
    """The row that the validation images prefer: by macro F1, of equals by log loss."""

    def preference(row: Row) -> tuple[float, float, str, str]:
        log_loss = row.validation(lambda metrics: metrics.log_loss)
        loss = math.inf if log_loss is None else log_loss
        return row.validation_f1, -loss, row.name, row.weights

    return max(rows, key=preference)
