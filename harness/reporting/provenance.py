"""What was run, on what, under which protocol, and how to run it again: a board in words."""

from __future__ import annotations

from harness.reporting.columns import escape
from harness.reporting.leaderboard import Board
from harness.schema.augmentation import NAMED_POLICIES, Step
from harness.schema.protocol import Phase, Protocol


def what_was_run(board: Board) -> list[str]:
    data = board.data
    used = data.train + data.validation + data.test
    part = f"{used:,} of its {data.images:,}" if used < data.images else f"its {data.images:,}"
    networks = _plural(len(board.networks), "network")
    seeds = f", up to {board.seeds} seeds each" if board.seeds > 1 else ""
    random = sum(row.weights == "random" for row in board.networks)
    weights = f"{random} of them with random weights" if random else "all with pretrained weights"
    if random == len(board.networks):
        weights = "all with random weights"
    devices = "; ".join(board.devices) or "none"
    return [
        f"- **Images:** {part} images of {len(data.class_names)} classes at "
        f"{data.image_size} × {data.image_size} pixels: {data.train:,} for training, "
        f"{data.validation:,} for validation, {data.test:,} for the test "
        f"(fingerprint `{board.fingerprint}`).",
        f"- **Protocol:** {_protocol_in_words(board.protocol)}.",
        f"- **Networks:** {networks}{seeds}, {weights}.",
        f"- **Device:** {devices}.",
    ]


def _protocol_in_words(protocol: Protocol) -> str:
    return "; ".join([training_in_words(protocol), *options_in_words(protocol)])


def training_in_words(protocol: Protocol) -> str:
    """Head, phases and precision: everything but the options."""
    units = " + ".join(str(u) for u in protocol.head.units) or "no hidden layer"
    words = [f"head of {units} units trained on the frozen backbone's features"]
    if protocol.head.damping:
        words[0] += f", damping {protocol.head.damping:g}"
    if protocol.fine_tuning:
        part = protocol.fine_tuning.unfreeze
        last = f"{part:.0%}" if isinstance(part, float) else _plural(part, "layer")
        words.append(f"then the last {last} of the backbone fine-tuned with it")
    text = f"{', '.join(words)} ({_phase_in_words(protocol.frozen)}"
    if protocol.fine_tuning:
        text += f"; then {_phase_in_words(protocol.fine_tuning)}"
    text += f"), {protocol.precision}"
    if protocol.from_scratch:
        text += "; networks with random weights are trained from scratch instead"
        text += f" ({_phase_in_words(protocol.from_scratch)})"
    return text


def options_in_words(protocol: Protocol) -> list[str]:
    """What a protocol may add, where it does: two boards that differ must read differently."""
    loss, augmentation = protocol.loss, protocol.augmentation
    words = []
    if augmentation.policy:
        by = "" if augmentation.provider == "wbc-bench" else f" of {augmentation.provider}"
        words.append(f"augmented by {_policy_in_words(augmentation.policy)}{by}")
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
    usual = type(step)()
    changed = [
        f"{key} {value:g}" if isinstance(value, int | float) else f"{key} {value}"
        for key, value in step
        if value != getattr(usual, key) and key != "copies"
    ]
    return f"{step.name} ({', '.join(changed)})" if changed else step.name


def _phase_in_words(phase: Phase) -> str:
    return (
        f"at most {phase.epochs} epochs, {phase.optimizer.name} at "
        f"{phase.optimizer.learning_rate:g}, batches of {phase.batch_size}"
    )


def how_to_reproduce(board: Board) -> str:
    """The command, and the protocol as the records hold it."""
    names = " ".join(sorted({row.name for row in board.networks}))
    environment = sorted(
        {
            f"wbc-bench {r.environment.wbc_bench}, Keras {r.environment.keras} on "
            f"{r.environment.backend}, Python {r.environment.python}, {r.environment.platform}"
            for row in board.networks
            for r in row.runs
        }
    )
    seeds = f" --seeds {board.seeds}" if board.seeds > 1 else ""
    return "\n".join(
        [
            "```",
            f"wbc-bench run {names} --profile {board.profile} --data SOURCE{seeds}".replace(
                "  ", " "
            ),
            "```",
            "",
            f"SOURCE is what `{escape(board.data.name)}` was read from, with `--clean` if it is "
            f"cleaned; its fingerprint must be `{board.fingerprint}`. What is not the default "
            "below belongs in `benchmark.toml`, options in a `[variants.NAME]` of it.",
            "",
            *(f"Made with {line}." for line in environment),
            "",
            "```json",
            f'{{"protocol": {board.protocol.canonical()},',
            f' "split": {board.split.canonical()}}}',
            "```",
        ]
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
