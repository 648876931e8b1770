"""What distinguishes boards, and their protocols in words."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

import pandas as pd

from harness.reporting.leaderboard import Board
from harness.reporting.rows import Row
from harness.schema.augmentation import NAMED_POLICIES, Step
from harness.schema.dataset import Split
from harness.schema.protocol import Phase, Protocol
from harness.schema.records import RunRecord

MOST_KEYS = 4
"""In a heading; boards that differ in more are named by their variants, where these have names."""
OPTION_KEYS = ("augmentation", "loss", "test_views")
"""Keys of a protocol that ``options_in_words`` describes."""


@cache
def headings(boards: tuple[Board, ...]) -> dict[Board, str]:
    """A heading for each board, no two the same: data, profile, options.

    Boards that share these are distinguished by every key of split and protocol that differs.
    """
    groups: dict[str, list[Board]] = defaultdict(list)
    for board in boards:
        what = "predictions of other programs" if board.external else f"{board.profile} profile"
        groups[common_heading(board.data.name, what, board.protocol)].append(board)
    return {
        board: ", ".join([heading, *difference])
        for heading, group in groups.items()
        for board, difference in zip(group, _differences(group), strict=True)
    }


def shared_heading(boards: tuple[Board, ...]) -> tuple[str, dict[Board, str]]:
    """What the headings of several boards have in common, and what each has besides."""
    words = {board: heading.split(", ") for board, heading in headings(boards).items()}
    shared = [word for word in words[boards[0]] if all(word in own for own in words.values())]
    own = {board: ", ".join(w for w in words[board] if w not in shared) for board in boards}
    return ", ".join(shared), own


def common_heading(data: str, what: str, protocol: Protocol) -> str:
    """Data, profile and options, without what distinguishes boards that share these."""
    return ": ".join(filter(None, [f"{data}, {what}", "; ".join(options_in_words(protocol))]))


def _differences(boards: Sequence[Board]) -> list[list[str]]:
    """For each board the settings, as keys with values, that differ between the boards."""
    settings = [
        {"data": board.fingerprint, "split": json.loads(board.split.canonical())}
        | json.loads(board.protocol.canonical())
        for board in boards
    ]
    texts = _texts(settings)
    differing = texts.loc[:, texts.nunique() > 1]
    found = [
        [f"{key} {json.loads(text)}" for key, text in row.items() if text != "null"]
        or ["default settings"] * len(row[:1])
        for _, row in differing.iterrows()
    ]
    variants = ["; ".join(dict.fromkeys(filter(None, map(variant_of, b.rows)))) for b in boards]
    if max(map(len, found)) > MOST_KEYS and len(set(variants)) == len(variants) and all(variants):
        return [[variant] for variant in variants]
    return found


def _texts(settings: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A line for each, a column for each key of nested settings; values as JSON, absent ones null.

    Each is flattened alone: in a common table integers of a column with gaps would become floats.
    """
    flat = [pd.json_normalize(one).to_dict("records")[0] for one in settings]
    return pd.DataFrame(
        [{key: json.dumps(value) for key, value in one.items()} for one in flat]
    ).fillna("null")  # fmt: skip


def variant_of(row: Row) -> str:
    """The name that a settings file gave to the row's protocol; empty for the base protocol."""
    names = [record.variant for record in row.records if isinstance(record, RunRecord)]
    return ", ".join(dict.fromkeys(filter(None, names)))


PHASES = {"fine_tuning": "fine-tuned", "from_scratch": "trained from scratch"}


def phase_in_words(board: Board, row: Row) -> str:
    """How a network was trained, or all networks of an ensemble's board; else empty."""
    protocol = board.protocol
    if row.kind == "ensemble":
        phases = {phase_in_words(board, network) for network in board.networks}
        return phases.pop() if len(phases) == 1 else ""
    if row.kind != "network":
        return ""
    if row.weights == "random" and protocol.from_scratch is not None:
        return PHASES["from_scratch"]
    return PHASES["fine_tuning"] if protocol.fine_tuning else "frozen backbone"


def differing_settings(places: Sequence[tuple[Board, Row]]) -> list[str]:
    """For each row on its board the settings that not all have, in words and as keys with values.

    Settings of phases that a network does not go through are left out.
    """
    settings, found = [], []
    for board, row in places:
        keys = json.loads(board.protocol.canonical())
        from_scratch = row.weights == "random" and board.protocol.from_scratch is not None
        unused = ("frozen", "fine_tuning") if from_scratch else ("from_scratch",)
        for name in (*OPTION_KEYS, "version", *unused):
            keys.pop(name, None)
        settings.append(
            {"data": board.data.name, "profile": board.profile,
             "split": json.loads(board.split.canonical())} | keys
        )  # fmt: skip
        found.append(options_in_words(board.protocol))
    for phase, words in PHASES.items():
        has = [bool(keys.get(phase)) for keys in settings]
        for names, present in zip(found, has, strict=True):
            names += [words] if present and not all(has) else []
    texts = _texts(settings)
    for column in texts:
        known = texts[column] != "null"
        if texts[column][known].nunique() > 1:
            for names, text in zip(found, texts[column].where(known), strict=True):
                names += [f"{column} {json.loads(text)}"] if isinstance(text, str) else []
    return ["; ".join(names) or "plain" for names in found]


def split_in_words(split: Split) -> str:
    """How the images came into their parts."""
    ratios = "/".join(f"{100 * ratio:g}" for ratio in split.ratios)
    words = [f"{ratios} percent for training, validation and test, drawn with seed {split.seed}"]
    if split.counts:
        words = [f"{', '.join(map(str, split.counts))} images, drawn with seed {split.seed}"]
    if split.folds:
        words.append(f"the test is fold {split.fold} of {split.folds}")
    if split.balanced_test:
        words.append("a balanced test")
    if split.group_near_copies:
        words.append("near copies in one part")
    if split.use_given:
        words[0] = f"the source's own, if it has one, else {words[0]}"
    if limit := split.subset:
        words.append(f"at most {limit.train:,}, {limit.validation:,} and {limit.test:,} images")
    return "; ".join(words)


def training_in_words(protocol: Protocol) -> str:
    """Head, phases and precision: everything but the options."""
    units = " + ".join(map(str, protocol.head.units))
    head = f"head of {units} units" if units else "head without a hidden layer"
    words = [f"{head} on the frozen backbone's features"]
    if protocol.head.damping:
        words.append(f"damping {protocol.head.damping:g}")
    phases = [_phase_in_words(protocol.frozen)]
    if tuning := protocol.fine_tuning:
        part = tuning.unfreeze
        last = f"{part:.0%}" if isinstance(part, float) else f"{part} layers"
        what = f"the last {last} of the backbone"
        if tuning.frozen_layers:
            what = f"all but the first {tuning.frozen_layers} layers of the backbone"
        words.append(f"then {what} fine-tuned with it")
        phases.append(f"then {_phase_in_words(tuning)}")
    text = f"{', '.join(words)} ({'; '.join(phases)}), {protocol.precision}"
    if protocol.from_scratch:
        text += "; networks with random weights are trained from scratch instead"
        text += f" ({_phase_in_words(protocol.from_scratch)})"
    return text


def _phase_in_words(phase: Phase) -> str:
    return (
        f"at most {phase.epochs} epochs, {phase.optimizer.name} at "
        f"{phase.optimizer.learning_rate:g}, batches of {phase.batch_size}"
    )


def options_in_words(protocol: Protocol) -> list[str]:
    """What a protocol adds to plain training; empty for plain training."""
    loss, augmentation = protocol.loss, protocol.augmentation
    words = []
    if augmentation.policy:
        by = "" if augmentation.provider == "wbc-bench" else f" of {augmentation.provider}"
        alone = ", the copies alone" if augmentation.only_copies else ""
        words.append(f"augmented by {_policy_in_words(augmentation.policy)}{by}{alone}")
    if share := augmentation.validation_share:
        policy = _policy_in_words(augmentation.validation_policy)
        words.append(f"{share:.0%} of the validation images augmented by {policy}")
    if loss.oversampling:
        up_to = "" if loss.oversampling is True else f" up to {loss.oversampling:,} images"
        words.append(f"rare classes oversampled{up_to}")
    if loss.class_weight != "none":
        balanced = loss.class_weight == "balanced"
        words.append("loss weighted by class" + (", balanced" if balanced else ""))
    if loss.label_smoothing:
        words.append(f"label smoothing {loss.label_smoothing:g}")
    if protocol.test_views > 1:
        words.append(f"predictions averaged over {protocol.test_views} views")
    return words


def _policy_in_words(policy: tuple[Step, ...]) -> str:
    name = next((name for name, steps in NAMED_POLICIES.items() if steps == policy), "")
    return name or " + ".join(map(_step_in_words, policy))


def _step_in_words(step: Step) -> str:
    """Its name, and the parameters that are not the default."""
    default = type(step)()
    changed = [
        f"{key} {value:g}" if isinstance(value, int | float) else f"{key} {value}"
        for key, value in step
        if value != getattr(default, key) and key != "copies"
    ]
    return f"{step.name} ({', '.join(changed)})" if changed else step.name


def command(board: Board) -> str:
    """The command that makes the board's runs from ``SOURCE``, or imports its predictions."""
    if board.external:
        return f"wbc-bench import FILE --as NAME --data {shlex.quote(board.data.name)}"
    names = " ".join(sorted({row.name for row in board.networks}))
    seeds = f"--seeds {board.seeds}" if board.seeds > 1 else ""
    words = ["wbc-bench run", names, "--profile", board.profile, "--data SOURCE", seeds]
    return " ".join(filter(None, words))


def environments(board: Board) -> list[str]:
    """Versions and platforms that the runs were made with."""
    found = {run.environment for row in board.networks for run in row.runs}
    return sorted(
        f"wbc-bench {e.wbc_bench}, Keras {e.keras} on {e.backend}, Python {e.python}, {e.platform}"
        for e in found
    )


def settings_json(board: Board) -> str:
    """Protocol and split as the records hold them."""
    return f'{{"protocol": {board.protocol.canonical()},\n "split": {board.split.canonical()}}}'
