"""What a board says beyond its rows: the front, the members, the confusions, in numbers and words.

Pure functions of a Board; what takes long is done once a board. Comparisons are made on the first
seed that the rows share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from harness.ensembling.voting import soft_vote
from harness.evaluation import robustness
from harness.evaluation import significance as statistics
from harness.evaluation.metrics import macro_f1
from harness.evaluation.robustness import Robustness
from harness.evaluation.significance import Paired
from harness.reporting.leaderboard import Board, Row, title_of
from harness.schema.metrics import Metrics
from harness.schema.predictions import SHIFTED

RESAMPLES = 2000

CONFUSED = (
    ("ig", "neutrophil"),
    ("ig", "monocyte"),
    ("neutrophil", "ig"),
    ("neutrophil", "monocyte"),
    ("monocyte", "ig"),
    ("monocyte", "neutrophil"),
)
"""True class, guess: the neighbours that people and networks confuse. An immature granulocyte
(ig) becomes a neutrophil, and its younger forms look like monocytes (Acevedo et al. 2019)."""


# --- cost ----------------------------------------------------------------------------------------


@cache
def fronts(board: Board) -> tuple[tuple[bool, bool], ...]:
    """Of each row: is it on the Pareto front of F1 against images/s, and against parameters?

    Rows without a rank or without a known cost are on no front.
    """
    points = np.full((len(board.rows), 3), np.nan)
    for i, (row, rank) in enumerate(zip(board.rows, board.ranks, strict=True)):
        if rank and row.cost and row.images_per_second:
            points[i] = row.macro_f1, row.images_per_second, -row.cost.parameters
    speed, size = statistics.pareto(points[:, [0, 1]]), statistics.pareto(points[:, [0, 2]])
    return tuple((bool(a), bool(b)) for a, b in zip(speed, size, strict=True))


# --- members -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Member:
    """What one member brings to a soft vote."""

    title: str
    alone: float
    """Its own test macro F1."""
    without: float
    """The vote's without it."""
    gain: Paired
    """Macro F1 of the vote with it minus without it."""
    disagreement: float
    """Mean over the others of the share of images that exactly one of the two guesses right."""
    q_statistic: float
    """Mean over the others of Yule's Q; NaN where none is defined."""

    @property
    def verdict(self) -> str:
        if self.gain.p >= 0.05:
            return f"drop {self.title}: no significant loss"
        return f"{self.title} {'helps' if self.gain.difference > 0 else 'hurts'}"


@dataclass(frozen=True)
class Membership:
    """A soft vote taken apart."""

    row: Row
    members: tuple[Member, ...]
    oracle: float
    """Macro F1 of one who always believes a member that is right, if there is one."""


@cache
def memberships(board: Board) -> tuple[Membership, ...]:
    """Every soft vote of the board, taken apart; one a set of members."""
    found: dict[frozenset[str], Membership] = {}
    for row in board.ensembles:
        record = row.ensembles[0]
        if record.ensemble.rule not in {"soft vote", "best subset"} or len(record.used_recipes) < 2:
            continue
        shares = zip(record.ensemble.members, record.recipes, record.shares, strict=True)
        kept = {id_: name for id_, name, share in shares if share > 0}
        if frozenset(kept) not in found and all(id_ in board.predictions for id_ in kept):
            found[frozenset(kept)] = _membership(board, row, kept)
    return tuple(found.values())


def _membership(board: Board, row: Row, kept: dict[str, str]) -> Membership:
    classes = len(board.data.class_names)
    votes = np.stack([board.predictions[id_]["test"].probabilities for id_ in kept])
    together = soft_vote(votes).argmax(axis=1)
    guesses = [vote.argmax(axis=1) for vote in votes]
    diversity = statistics.diversity(board.labels, guesses, classes)
    members = []
    for i, name in enumerate(kept.values()):
        others = np.arange(len(votes)) != i
        without = soft_vote(votes[others]).argmax(axis=1)
        q = diversity.q_statistic[i, others]
        members.append(
            Member(
                title=title_of(name),
                alone=_macro_f1(board, guesses[i]),
                without=_macro_f1(board, without),
                gain=statistics.paired(board.labels, together, without, classes, RESAMPLES),
                disagreement=float(diversity.disagreement[i, others].mean()),
                q_statistic=float(np.nanmean(q)) if np.isfinite(q).any() else np.nan,
            )
        )
    return Membership(row, tuple(members), diversity.oracle_macro_f1)


def _macro_f1(board: Board, guess: np.ndarray) -> float:
    return macro_f1(board.labels, guess, len(board.data.class_names))


@cache
def disagreement(board: Board) -> tuple[tuple[Row, ...], np.ndarray]:
    """The networks and, of each two, the share of images that exactly one guesses right (m, m)."""
    rows = board.networks
    guesses = [row.guesses[0] for row in rows]
    found = statistics.diversity(board.labels, guesses, len(board.data.class_names))
    return rows, found.disagreement


# --- classes -------------------------------------------------------------------------------------


def confusions(board: Board) -> tuple[tuple[str, ...], list[list[float]]]:
    """Of each known confusion that the data has the classes for: its name, and a row's shares.

    The share is of the true class's test images, mean over the seeds.
    """
    place = {_field_name(name): k for k, name in enumerate(board.data.class_names)}
    pairs = [(t, g) for t, g in CONFUSED if t in place and g in place]
    shares = [[_share(row, place[t], place[g]) for t, g in pairs] for row in board.rows]
    return tuple(f"{t} → {g}" for t, g in pairs), shares


def _field_name(class_name: str) -> str:
    name = class_name.lower()
    if name.startswith("immature"):
        return "ig"
    return next((known for known in ("neutrophil", "monocyte") if known in name), name)


def _share(row: Row, true: int, guess: int) -> float:
    counts = np.array([result.test.confusion[true] for result in row.evaluation], dtype=float)
    return float((counts[:, guess] / np.maximum(counts.sum(axis=1), 1)).mean())


# --- the shifted test ----------------------------------------------------------------------------


@cache
def robustness_of(row: Row, *, intervals: bool = False) -> Robustness | None:
    """What harm costs a row, mean over its seeds; None where not all of them were asked."""
    if not all(SHIFTED in parts for parts in row.parts):
        return None
    pairs = zip(row.records, row.parts, strict=True)
    return robustness.mean(
        [
            robustness.robustness(
                parts["test"], parts[SHIFTED], record.run, intervals=intervals
            )
            for record, parts in pairs
        ]
    )  # fmt: skip


@cache
def effect_of_views(row: Row) -> dict[str, Paired]:
    """What they add to a row's first seed, by test; empty where there was one view only."""
    return robustness.effect_of_views(row.parts[0])


def seen_in_training(board: Board) -> tuple[str, ...]:
    """The kinds of harm that the protocol's augmentation resembles."""
    return robustness.overlap(board.protocol.augmentation.operations())


@cache
def choices(board: Board) -> tuple[str, ...]:
    """What choosing a network by validation costs on either test, and how alike they rank."""
    rows = [row for row in board.ranked if row.kind == "network" and row.validation(_f1)]
    if len(rows) < 2:
        return ()
    names, validation = [row.title for row in rows], [row.validation(_f1) or 0 for row in rows]
    guesses = [row.guesses for row in rows]
    lines = [robustness.choice("test", names, validation, board.labels, guesses).sentence]
    columns = {"validation": validation, "test": [row.macro_f1 for row in rows]}
    if all(SHIFTED in parts for row in rows for parts in row.parts):
        held = [np.stack([parts[SHIFTED].probabilities for parts in row.parts]) for row in rows]
        harmed, labels = [votes.argmax(axis=2) for votes in held], rows[0].parts[0][SHIFTED].labels
        found = robustness.choice("shifted test", names, validation, labels, harmed)
        lines.append(found.sentence)
        columns["shifted test"] = [row.shifted(_f1) or 0 for row in rows]
    agreements = robustness.rank_agreement(columns)
    if agreements:
        told = (f"{a.first} and {a.second} {a.spearman:.2f}" for a in agreements)
        lines.append(f"How alike they order the networks (Spearman's rho): {', '.join(told)}.")
    return tuple(lines)


def _f1(of: Metrics) -> float:
    return of.macro_f1


# --- words ---------------------------------------------------------------------------------------


@cache
def significance(board: Board) -> tuple[str, ...]:
    """What the ranks mean, what this test set can and cannot show, and what ensembles gained."""
    if len(board.ranked) < 2:
        return ()
    points = 100 * board.smallest_difference
    lines = [
        "Rows that share a rank cannot be told apart on these test images (paired test of macro "
        "F1, Holm-corrected for all pairs, 5 %); two rows that differ by less than about "
        f"{points:.1f} points would mostly not be told apart even as a single planned comparison."
    ]
    best = [rank for rank in board.ranks if rank == 1]
    if len(best) > 1:
        lines[0] += f" {len(best)} rows share the first rank."
    networks = [row for row in board.ranked if row.kind == "network"]
    if networks and board.ensembles:
        lines.append(_gain_of_ensembles(board, _chosen(board.ensembles), _chosen(networks)))
    return tuple(lines)


def _chosen(rows: Sequence[Row]) -> Row:
    """What one would take who sees the validation images only."""
    return max(rows, key=lambda row: (row.validation(_f1) or 0, row.name))


def _gain_of_ensembles(board: Board, chosen: Row, single: Row) -> str:
    found = statistics.paired(
        board.labels,
        chosen.guesses[0],
        single.guesses[0],
        len(board.data.class_names),
        RESAMPLES,
    )
    verdict = "a significant" if found.p < 0.05 else "no significant"
    return (
        f"Chosen on validation, the best ensemble is *{chosen.title}* and the best network "
        f"**{single.title}**: on the test images {verdict} difference "
        f"({100 * found.difference:+.1f} points, 95 % interval {100 * found.low:+.1f} to "
        f"{100 * found.high:+.1f}, p = {found.p:.2g})."
    )
