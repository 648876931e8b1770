"""What the options of a protocol change: boards that differ in options only, compared.

Options are what a protocol adds to plain training: augmentation, class weights, oversampling,
label smoothing, test views. Pure functions of boards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any, Literal

from harness.evaluation import robustness, significance
from harness.evaluation.significance import Paired
from harness.reporting.leaderboard import Board
from harness.reporting.provenance import options_in_words
from harness.reporting.rows import Row, compare_rows, title_of
from harness.reporting.table import Column, Emphasis, Table, percent, points
from harness.schema.augmentation import Augmentation
from harness.schema.predictions import SHIFTED
from harness.schema.protocol import Loss, Protocol

OPTIONS: tuple[tuple[str, ...], ...] = (
    ("test_views",), ("loss", "oversampling"), ("loss", "class_weight"),
    ("loss", "label_smoothing"), ("augmentation",),
)  # fmt: skip
"""Paths of the options in a protocol. A board is compared with the board that lacks one of its
options, the first of these."""
PLAIN = Protocol(loss=Loss(), augmentation=Augmentation())
SIGNIFICANT = 0.05

Test = Literal["test", "shifted"]
PARTS: dict[Test, str] = {"test": "test", "shifted": SHIFTED}
TITLES: dict[Test, str] = {"test": "Clean test", "shifted": "Shifted test"}


@dataclass(frozen=True)
class Network:
    """One that is on two boards of a study or more."""

    recipe: str
    weights: str
    title: str
    seeds: tuple[int, ...]
    """That all boards with the network have. Empty: none; then there is no change to test."""


@dataclass(frozen=True, eq=False)
class Study:
    """Boards on the same images with the same training but for options; fewest options first."""

    boards: tuple[Board, ...]
    references: tuple[int | None, ...]
    """For each board the index of the board that it is compared with, or None."""
    networks: tuple[Network, ...]


@dataclass(frozen=True)
class Change:
    """The score of one network on one board, and its difference to the reference board."""

    macro_f1: float
    difference: float | None
    """None without a reference."""
    p: float
    """Two-sided, adjusted by Holm for all comparisons of the study on the same test."""

    @property
    def significant(self) -> bool:
        return self.difference is not None and self.p < SIGNIFICANT


@dataclass(frozen=True)
class Line:
    """One board of a study: its options, its reference, and a change for each network."""

    options: str
    reference: str | None
    changes: tuple[Change | None, ...]
    """None where the network is not on the board or has no predictions of the test."""

    @property
    def differences(self) -> list[float]:
        return [c.difference for c in self.changes if c and c.difference is not None]


@cache
def studies(boards: tuple[Board, ...]) -> tuple[Study, ...]:
    """What can be compared among boards; empty where no board has a reference."""
    groups: dict[tuple[str, ...], list[Board]] = defaultdict(list)
    for board in boards:
        if board.networks:
            groups[_common(board)].append(board)
    made = (_study(group) for group in groups.values())
    return tuple(study for study in made if any(place is not None for place in study.references))


def in_order(boards: Sequence[Board]) -> tuple[Board, ...]:
    """By data, profile, split and training; within these, the fewest options first."""
    return tuple(sorted(boards, key=lambda board: (*_common(board), _order(board.protocol))))


def _common(board: Board) -> tuple[str, ...]:
    """What the boards of a study share."""
    where = board.data.name, board.profile, board.fingerprint, board.split.canonical()
    return *where, _plain(_effective(board.protocol)).canonical()


def _study(group: Sequence[Board]) -> Study:
    boards = in_order(group)
    seeds: dict[tuple[str, str], list[set[int]]] = defaultdict(list)
    for board in boards:
        for row in board.networks:
            seeds[row.name, row.weights].append({*row.seeds})
    shared = sorted(key for key, of_boards in seeds.items() if len(of_boards) > 1)
    names = [name for name, _ in shared]
    networks = tuple(
        Network(
            name,
            weights,
            f"{title_of(name)} ({weights})" if names.count(name) > 1 else title_of(name),
            tuple(sorted(set.intersection(*seeds[name, weights]))),
        )
        for name, weights in shared
    )
    protocols = [_effective(board.protocol) for board in boards]
    return Study(boards, tuple(_reference(protocol, protocols) for protocol in protocols), networks)


def _order(protocol: Protocol) -> tuple[Any, ...]:
    """Sort key: plain first, then one option, two, ...; boards with the same options together."""
    protocol = _effective(protocol)
    on = [_value(protocol, option) != _value(PLAIN, option) for option in reversed(OPTIONS)]
    return sum(on), [not is_on for is_on in on], protocol.canonical()


def _reference(protocol: Protocol, others: Sequence[Protocol]) -> int | None:
    """The index of the protocol without one of this protocol's options, else of the plain one."""
    for candidate in (*(_without(protocol, option) for option in OPTIONS), _plain(protocol)):
        if candidate != protocol and candidate in others:
            return others.index(candidate)
    return None


def _effective(protocol: Protocol) -> Protocol:
    """The protocol without settings of an augmentation that is off."""
    augmentation = protocol.augmentation
    off = not (augmentation.policy or augmentation.validation_share)
    return _without(protocol, ("augmentation",)) if off else protocol


def _value(protocol: Protocol, option: tuple[str, ...]) -> Any:
    value: Any = protocol
    for key in option:
        value = getattr(value, key)
    return value


def _without(protocol: Protocol, option: tuple[str, ...]) -> Protocol:
    key, *inner = option
    value = _value(PLAIN, option)
    if inner:
        value = getattr(protocol, key).model_copy(update={inner[0]: value})
    return protocol.model_copy(update={key: value})


def _plain(protocol: Protocol) -> Protocol:
    for option in OPTIONS:
        protocol = _without(protocol, option)
    return protocol


# --- the changes ---------------------------------------------------------------------------------


@cache
def changes(study: Study, test: Test) -> tuple[tuple[Change | None, ...], ...]:
    """(boards, networks): each network's score on each board and its change."""
    compared: dict[tuple[int, int], Paired] = {}
    scores: dict[tuple[int, int], float] = {}
    for i, (board, reference) in enumerate(zip(study.boards, study.references, strict=True)):
        for j, network in enumerate(study.networks):
            row = _row(board, network)
            score = _score(row, test)
            if row is None or score is None:
                continue
            scores[i, j] = score
            before = None if reference is None else _row(study.boards[reference], network)
            if before and network.seeds and (paired := compare_rows(row, before, PARTS[test])):
                compared[i, j] = paired
    adjusted = significance.holm([paired.p for paired in compared.values()])
    p_values = dict(zip(compared, map(float, adjusted), strict=True))
    found_changes = {
        place: Change(score, compared[place].difference, p_values[place])
        if place in compared
        else Change(score, None, 1.0)
        for place, score in scores.items()
    }
    return tuple(
        tuple(found_changes.get((i, j)) for j in range(len(study.networks)))
        for i in range(len(study.boards))
    )


def _row(board: Board, network: Network) -> Row | None:
    """With the seeds that all boards have, so that the scores of a column can be subtracted."""
    for row in board.networks:
        if (row.name, row.weights) == (network.recipe, network.weights):
            return row.of_seeds(network.seeds) if network.seeds else row
    return None


def _score(row: Row | None, test: Test) -> float | None:
    if row is None:
        return None
    return row.macro_f1 if test == "test" else row.shifted_f1


# --- its table -----------------------------------------------------------------------------------


def title(study: Study) -> str:
    first = study.boards[0]
    return f"{first.data.name}, {first.profile} profile: what the options change"


def label(board: Board) -> str:
    return "; ".join(options_in_words(board.protocol)) or "plain"


def lines(study: Study, test: Test) -> list[Line]:
    """One line a board."""
    return [
        Line(label(board), None if place is None else label(study.boards[place]), changed)
        for board, place, changed in zip(
            study.boards, study.references, changes(study, test), strict=True
        )
    ]


def table(study: Study, test: Test) -> Table[Line] | None:
    """A row for each board, a column for each network; None without predictions of the test."""
    rows = lines(study, test)
    if not any(change for line in rows for change in line.changes):
        return None
    columns: list[Column[Line]] = [
        Column("options", "Options", lambda line: line.options, align="left"),
        Column("reference", "Compared with", lambda line: line.reference, align="left"),
        *(_network_column(j, network) for j, network in enumerate(study.networks)),
        Column("mean", "Mean change", lambda line: fmean(line.differences)
               if line.differences else None, points),
    ]  # fmt: skip
    return Table(columns, rows)


def _network_column(j: int, network: Network) -> Column[Line]:
    def score(line: Line) -> float | None:
        change = line.changes[j]
        return change.macro_f1 if change else None

    def emphasis(line: Line) -> Emphasis:
        change = line.changes[j]
        return "**" if change and change.significant else ""

    def difference(line: Line) -> str:
        change = line.changes[j]
        return f"({points(change.difference)})" if change and change.difference is not None else ""

    heading = f"{network.title} †" if network.weights == "random" else network.title
    return Column(network.recipe, heading, score, percent, mark=difference, emphasis=emphasis)


def significant_changes(
    study: Study, test: Test
) -> tuple[int, list[tuple[str, list[tuple[str, float]]]]]:
    """How many changes were tested; and by options, the significant ones: title, difference."""
    rows = lines(study, test)
    significant = [
        (line.options, [(network.title, c.difference)
                        for network, c in zip(study.networks, line.changes, strict=True)
                        if c and c.difference is not None and c.significant])
        for line in rows
    ]  # fmt: skip
    compared = sum(len(line.differences) for line in rows)
    return compared, [(options, changed) for options, changed in significant if changed]


def resemblances(study: Study) -> list[tuple[str, tuple[str, ...]]]:
    """The augmentations of the study, each with the corruptions that it resembles, if any."""
    corruptions_by_policy = {}
    for board in study.boards:
        augmentation = board.protocol.augmentation
        words = "; ".join(options_in_words(PLAIN.model_copy(update={"augmentation": augmentation})))
        corruptions_by_policy[words.removeprefix("augmented by ")] = robustness.overlap(
            augmentation.operations()
        )
    return [
        (words, corruptions) for words, corruptions in corruptions_by_policy.items() if corruptions
    ]
