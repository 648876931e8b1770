"""What the options of a protocol change: boards that differ in nothing else, side by side.

Options are what a protocol adds to plain training: augmentation, weights in the loss, oversampling,
smoothed labels, test views. Pure functions of boards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean
from typing import Any, Literal

import numpy as np

from harness.evaluation import significance
from harness.evaluation.significance import Paired
from harness.reporting import columns, findings
from harness.reporting.columns import Cell, Table
from harness.reporting.leaderboard import Board, Row
from harness.reporting.provenance import options_in_words, training_in_words
from harness.schema.augmentation import Augmentation
from harness.schema.predictions import SHIFTED
from harness.schema.protocol import Loss, Protocol

OPTIONS: tuple[tuple[str, ...], ...] = (
    ("test_views",), ("loss", "oversampling"), ("loss", "class_weight"),
    ("loss", "label_smoothing"), ("augmentation",),
)  # fmt: skip
"""Where in a protocol its options stand; what is added last to the others comes first."""
PLAIN = Protocol(loss=Loss(), augmentation=Augmentation())
SIGNIFICANT = 0.05

Part = Literal["test", "shifted"]
WHERE: dict[Part, str] = {"test": "Clean test", "shifted": "Shifted test"}


@dataclass(frozen=True, eq=False)
class Study:
    """Boards on the same images that are trained alike but for their options; fewest first."""

    boards: tuple[Board, ...]
    against: tuple[int | None, ...]
    """One a board: the place of the board that lacks one of its options, if there is one."""
    networks: tuple[tuple[str, str, str], ...]
    """Recipe, weights and title of those that stand on two boards or more."""


@dataclass(frozen=True)
class Change:
    """One network under one board's options."""

    macro_f1: float
    difference: float | None
    """To the board that it is compared with; None where there is none."""
    p: float
    """Of no difference, adjusted by Holm for all comparisons of the study's same test."""

    @property
    def significant(self) -> bool:
        return self.difference is not None and self.p < SIGNIFICANT


@cache
def studies(boards: tuple[Board, ...]) -> tuple[Study, ...]:
    """What can be compared among boards; empty where each stands alone."""
    groups: dict[tuple[str, ...], list[Board]] = defaultdict(list)
    for board in boards:
        if board.networks:
            groups[_alike(board)].append(board)
    found = (_study(group) for group in groups.values())
    return tuple(study for study in found if any(place is not None for place in study.against))


def in_order(boards: Sequence[Board]) -> tuple[Board, ...]:
    """By the data, the profile, the split and the training; of each, the fewest options first."""
    return tuple(sorted(boards, key=lambda board: (*_alike(board), _order(board.protocol))))


def _alike(board: Board) -> tuple[str, ...]:
    """What the boards of a study have in common."""
    where = board.data.name, board.profile, board.fingerprint, board.split.canonical()
    return *where, _plain(board.protocol).canonical()


def _study(group: Sequence[Board]) -> Study:
    boards = in_order(group)
    seen: dict[tuple[str, str], list[str]] = defaultdict(list)
    for board in boards:
        for row in board.networks:
            seen[(row.name, row.weights)].append(row.title)
    names = [name for (name, _), titles in seen.items() if len(titles) > 1]
    networks = [
        (name, weights, f"{titles[0]} ({weights})" if names.count(name) > 1 else titles[0])
        for (name, weights), titles in seen.items()
        if len(titles) > 1
    ]
    protocols = [board.protocol for board in boards]
    against = tuple(_parent(protocol, protocols) for protocol in protocols)
    return Study(boards, against, tuple(sorted(networks)))


def _order(protocol: Protocol) -> tuple[Any, ...]:
    """Plain first, then what has one option, and so on; alike ones beside each other."""
    on = [_value(protocol, option) != _value(PLAIN, option) for option in reversed(OPTIONS)]
    return sum(on), [not one for one in on], protocol.canonical()


def _parent(protocol: Protocol, others: Sequence[Protocol]) -> int | None:
    """The place of the protocol that lacks one option, the last one added if there are several."""
    for option in OPTIONS:
        without = _without(protocol, option)
        if without != protocol and without in others:
            return others.index(without)
    plain = _plain(protocol)
    return others.index(plain) if plain != protocol and plain in others else None


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
def changes(study: Study, part: Part) -> tuple[tuple[Change | None, ...], ...]:
    """(boards, networks): what each network makes of each board's options on a test.

    None where a network is not on the board, or was not asked there.
    """
    asked, raw = [], []
    for place, board in enumerate(study.boards):
        for column, (name, weights, _) in enumerate(study.networks):
            row = _row(board, name, weights)
            if row is None or (score := _score(row, part)) is None:
                continue
            other = study.against[place]
            before = _row(study.boards[other], name, weights) if other is not None else None
            asked.append((place, column, score))
            raw.append(_compared(row, before, part) if before else None)
    adjusted = iter(significance.holm([one[1] for one in raw if one]))
    found: list[list[Change | None]] = [[None] * len(study.networks) for _ in study.boards]
    for (place, column, score), one in zip(asked, raw, strict=True):
        p = float(next(adjusted)) if one else 1.0
        found[place][column] = Change(score, one[0] if one else None, p)
    return tuple(map(tuple, found))


def _row(board: Board, name: str, weights: str) -> Row | None:
    matches = (row for row in board.networks if (row.name, row.weights) == (name, weights))
    return next(matches, None)


def _score(row: Row, part: Part) -> float | None:
    return row.macro_f1 if part == "test" else row.shifted(lambda metrics: metrics.macro_f1)


def _compared(row: Row, before: Row, part: Part) -> tuple[float, float] | None:
    """Difference in macro F1 and its p, on the seeds that both have; None where there are none."""
    stored = {"test": "test", "shifted": SHIFTED}[part]
    seeds = [seed for seed in row.seeds if seed in before.seeds]
    held = [
        [each.parts[each.seeds.index(seed)].get(stored) for seed in seeds] for each in (row, before)
    ]
    known = [[one for one in side if one is not None] for side in held]
    if not seeds or min(map(len, known)) < len(seeds):
        return None
    guesses = [np.stack([one.probabilities.argmax(axis=1) for one in side]) for side in known]
    classes = known[0][0].probabilities.shape[1]
    found = significance.pairwise(known[0][0].labels, guesses, classes)
    return float(found.difference[0, 1]), float(found.p[0, 1])


# --- told ----------------------------------------------------------------------------------------


def markdown(study: Study) -> str:
    """Its section of LEADERBOARD.md."""
    lines = [f"## {columns.escape(title(study))}", "", introduction(study), ""]
    for part, where in WHERE.items():
        if compared := table(study, part):
            lines += [f"### {where}", "", columns.markdown(compared), "", f"{words(study, part)}\n"]
    return "\n".join(lines)


def title(study: Study) -> str:
    first = study.boards[0]
    return f"{first.data.name}, {first.profile} profile: what the options change"


def introduction(study: Study) -> str:
    """What all the boards have in common."""
    first = study.boards[0]
    return (
        f"{first.data.train:,} training images, {first.data.test:,} test images at "
        f"{first.data.image_size} px; {training_in_words(first.protocol)}."
    )


def label(board: Board) -> str:
    return "; ".join(options_in_words(board.protocol)) or "plain"


def table(study: Study, part: Part) -> Table | None:
    """One row a board, one column a network; None where nothing was asked."""
    found = changes(study, part)
    if not any(change for line in found for change in line):
        return None
    random = any(weights == "random" for _, weights, _ in study.networks)
    titles = [
        f"{title} †" if weights == "random" else title for _, weights, title in study.networks
    ]
    heads = ["Options", "Against", *titles, "Mean change"]
    rows = []
    for board, other, line in zip(study.boards, study.against, found, strict=True):
        known = [c.difference for c in line if c and c.difference is not None]
        against = label(study.boards[other]) if other is not None else "–"
        mean = f"{100 * fmean(known):+.1f}" if known else "–"
        rows.append([label(board), against, *map(_cell, line), mean])
    legend = (
        "Macro F1 in percent and, in brackets, its change in points against the board that lacks "
        "one of the options; in bold where the change is significant (paired test, Holm-corrected "
        f"for all changes of this table, {100 * SIGNIFICANT:.0f} %)."
    )
    if all(board.seeds == 1 for board in study.boards):
        legend += (
            " One seed each: significant is what other test images would show again; how far "
            "another seed would move a network is not in it (`--seeds`)."
        )
    if random:
        legend += " † Random weights: what an option does to a pretrained network may be another."
    if part == "shifted":
        legend += "".join(dict.fromkeys(map(_forewarned, study.boards)))
    return columns.table(heads, rows, legend)


def _forewarned(board: Board) -> str:
    """The kinds of harm that a board's augmentation has shown its networks, if there are any."""
    if not (seen := findings.seen_in_training(board)):
        return ""
    plain = PLAIN.model_copy(update={"augmentation": board.protocol.augmentation})
    return (
        f" What is {'; '.join(options_in_words(plain))} has seen something like "
        f"{', '.join(seen)}: those kinds surprise it less."
    )


def _cell(change: Change | None) -> str | Cell:
    if change is None:
        return "–"
    text = f"{100 * change.macro_f1:.2f}"
    if change.difference is None:
        return text
    told = f"{text} ({100 * change.difference:+.1f})"
    return Cell(told, "strong") if change.significant else told


def words(study: Study, part: Part) -> str:
    """What is significant, in a sentence."""
    found, said, count = changes(study, part), [], 0
    for board, other, line in zip(study.boards, study.against, found, strict=True):
        count += sum(c is not None and c.difference is not None for c in line)
        moved = [
            f"{title} by {100 * (c.difference or 0):+.1f}"
            for (_, _, title), c in zip(study.networks, line, strict=True)
            if c and c.significant
        ]
        if moved and other is not None:
            said.append(f"*{label(board)}* moves {_listed(moved)} points")
    where = WHERE[part]
    if not count:
        return f"{where}: no network was asked on two of these boards."
    if not said:
        return f"{where}: none of {count} changes is significant."
    return f"{where}: of {count} changes, these are significant: {'; '.join(said)}."


def _listed(items: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


# --- the views of one board ----------------------------------------------------------------------


def views_table(board: Board) -> Table | None:
    """One view against the average of all, on both tests; None where there is only one."""
    found = [(row, dict(findings.effect_of_views(row))) for row in board.networks]
    tests = [name for name in ("test", SHIFTED) if any(name in effects for _, effects in found)]
    if not tests:
        return None
    heads = ["Network"]
    for name in tests:
        of = "Test" if name == "test" else "Shifted"
        heads += [f"{of} F1, one view (%)", f"{of} F1 (%)", "Change", "95 % interval", "p"]
    known = [(effects, name) for _, effects in found for name in tests if name in effects]
    adjusted = significance.holm([effects[name].p for effects, name in known])
    for (effects, name), p in zip(known, adjusted, strict=True):
        effects[name] = replace(effects[name], p=float(p))
    rows = [
        [row.title, *(cell for name in tests for cell in _view_cells(row, name, effects.get(name)))]
        for row, effects in found
    ]
    legend = (
        "Paired, of the first seed; p by Holm for all of this table; images a second are those of "
        "all views together."
    )
    return columns.table(heads, rows, legend)


def _view_cells(row: Row, test: str, change: Paired | None) -> list[str | Cell]:
    first = row.evaluation[0]
    scores = first.shifted if test == SHIFTED else first.test
    if change is None or scores is None:
        return ["–"] * 5
    points = f"{100 * change.difference:+.2f}"
    return [
        f"{100 * (scores.macro_f1 - change.difference):.2f}",
        f"{100 * scores.macro_f1:.2f}",
        Cell(points, "strong") if change.p < 0.05 else points,
        f"{100 * change.low:+.1f} to {100 * change.high:+.1f}",
        f"{change.p:.2g}",
    ]
