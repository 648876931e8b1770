"""What the options of a protocol change: boards that differ in options only, compared.

Options are what a protocol adds to plain training: augmentation, class weights, oversampling,
label smoothing, test views. Pure functions of boards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from statistics import fmean
from typing import Any, Literal

from harness.evaluation import robustness, significance
from harness.evaluation.robustness import Agreement
from harness.evaluation.significance import Paired
from harness.reporting.leaderboard import Board
from harness.reporting.provenance import OPTION_KEYS, options_in_words
from harness.reporting.rows import Row, compare_rows, title_of
from harness.reporting.table import Column, Emphasis, Table, percent, points
from harness.schema.predictions import SHIFTED
from harness.schema.protocol import Protocol

OPTIONS = ("test_views", "loss.oversampling", "loss.class_weight", "loss.label_smoothing",
           "augmentation")  # fmt: skip
"""What a protocol can add. A board is compared with the board that lacks one of its options, the
first of these."""
PLAIN = Protocol()

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
    test: Paired | None
    """Adjusted by Holm for all comparisons of the study on the same part; None without a
    reference."""


@dataclass(frozen=True)
class Preference:
    """Which options a network's scores prefer, and how alike the scores order them."""

    title: str
    preferred: tuple[tuple[str, str], ...]
    """A score, and the options with the highest: validation, test, and shifted test where known."""
    boards: int
    agreements: tuple[Agreement, ...]


@dataclass(frozen=True)
class Line:
    """One board of a study: its options, its reference, and a change for each network."""

    options: str
    reference: str | None
    changes: tuple[Change | None, ...]
    """None where the network is not on the board or has no predictions of the test."""

    @property
    def tests(self) -> list[Paired]:
        return [change.test for change in self.changes if change and change.test]


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
    return *where, board.protocol.with_defaults(*OPTION_KEYS).canonical()


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
    options = [options_of(board.protocol) for board in boards]
    return Study(boards, tuple(_reference(own, options) for own in options), networks)


def options_of(protocol: Protocol) -> dict[str, Any]:
    """The options that are on, with their values."""
    found = {
        name: value
        for name in OPTIONS
        if (value := attrgetter(name)(protocol)) != attrgetter(name)(PLAIN)
    }
    augmentation = protocol.augmentation
    if not (augmentation.policy or augmentation.validation_share):
        found.pop("augmentation", None)  # Its other settings have no effect.
    return found


def _order(protocol: Protocol) -> tuple[Any, ...]:
    """Sort key: plain first, then one option, two, ...; boards with the same options together."""
    options = options_of(protocol)
    return len(options), [name not in options for name in reversed(OPTIONS)], protocol.canonical()


def _reference(own: dict[str, Any], others: Sequence[dict[str, Any]]) -> int | None:
    """The index of the options without one of these, else without any."""
    fewer = [{name: own[name] for name in own if name != lacking} for lacking in own]
    return next((others.index(options) for options in (*fewer, {}) if own and options in others),
                None)  # fmt: skip


# --- the changes ---------------------------------------------------------------------------------


@cache
def lines(study: Study, test: Test) -> tuple[Line, ...]:
    """One line a board: each network's score on it, and its change."""
    scores: dict[tuple[int, int], float] = {}
    tests: dict[tuple[int, int], Paired] = {}
    for i, (board, reference) in enumerate(zip(study.boards, study.references, strict=True)):
        for j, network in enumerate(study.networks):
            row = _row(board, network)
            score = _score(row, test)
            if row is None or score is None:
                continue
            scores[i, j] = score
            before = None if reference is None else _row(study.boards[reference], network)
            if before and network.seeds and (paired := compare_rows(row, before, PARTS[test])):
                tests[i, j] = paired
    adjusted = significance.adjusted(tests)
    changes = {place: Change(score, adjusted.get(place)) for place, score in scores.items()}
    return tuple(
        Line(
            label(board),
            None if reference is None else label(study.boards[reference]),
            tuple(changes.get((i, j)) for j in range(len(study.networks))),
        )
        for i, (board, reference) in enumerate(zip(study.boards, study.references, strict=True))
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


@cache
def preferences(study: Study) -> tuple[Preference, ...]:
    """For each network that is on three boards or more, with validation predictions on all."""
    found = []
    for network in study.networks:
        pairs = [(label(board), _row(board, network)) for board in study.boards]
        known = [(options, row) for options, row in pairs if row is not None]
        columns: dict[str, list[float | None]] = {
            "validation": [row.validation_f1 for _, row in known],
            "test": [row.macro_f1 for _, row in known],
            "shifted test": [row.shifted_f1 for _, row in known],
        }
        scores = {
            name: [score for score in column if score is not None]
            for name, column in columns.items()
            if None not in column
        }
        agreements = robustness.rank_agreement(scores)
        if "validation" in scores and agreements:
            best = {name: column.index(max(column)) for name, column in scores.items()}
            preferred = [(name, known[place][0]) for name, place in best.items()]
            found.append(Preference(network.title, tuple(preferred), len(known), agreements))
    return tuple(found)


# --- its table -----------------------------------------------------------------------------------


def title(study: Study) -> str:
    first = study.boards[0]
    return f"{first.data.name}, {first.profile} profile: what the options change"


def label(board: Board) -> str:
    return "; ".join(options_in_words(board.protocol)) or "plain"


def table(study: Study, test: Test) -> Table[Line] | None:
    """A row for each board, a column for each network; None without predictions of the test."""
    rows = lines(study, test)
    if not any(change for line in rows for change in line.changes):
        return None
    columns: list[Column[Line]] = [
        Column("options", "Options", lambda line: line.options, align="left"),
        Column("reference", "Compared with", lambda line: line.reference, align="left"),
        *(_network_column(j, network) for j, network in enumerate(study.networks)),
        Column("mean", "Mean change", lambda line: fmean(test.difference for test in line.tests)
               if line.tests else None, points),
    ]  # fmt: skip
    return Table(columns, rows)


def _network_column(j: int, network: Network) -> Column[Line]:
    def score(line: Line) -> float | None:
        change = line.changes[j]
        return change.macro_f1 if change else None

    def test(line: Line) -> Paired | None:
        change = line.changes[j]
        return change.test if change else None

    def emphasis(line: Line) -> Emphasis:
        return "**" if (found := test(line)) and found.significant else ""

    def difference(line: Line) -> str:
        return f"({points(found.difference)})" if (found := test(line)) else ""

    heading = f"{network.title} †" if network.weights == "random" else network.title
    return Column(network.recipe, heading, score, percent, mark=difference, emphasis=emphasis)


def significant_changes(
    study: Study, test: Test
) -> tuple[int, list[tuple[str, list[tuple[str, float]]]]]:
    """How many changes were tested; and by options, the significant ones: title, difference."""
    rows = lines(study, test)
    significant = [
        (line.options, [(network.title, change.test.difference)
                        for network, change in zip(study.networks, line.changes, strict=True)
                        if change and change.test and change.test.significant])
        for line in rows
    ]  # fmt: skip
    compared = sum(len(line.tests) for line in rows)
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
