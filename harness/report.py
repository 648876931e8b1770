"""Boards -> Markdown and CSV. Pure functions: generated twice, the same bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from tabulate import tabulate

from harness.leaderboard import Board, Row
from harness.nouns import EnsembleRecord, Failed, Finished, Phase, RunRecord
from zoo.table import find

INTRODUCTION = """\
# Leaderboard

Written by `wbc-bench` from the records beside it; `wbc-bench leaderboard` writes it again. Each
table compares like with like: the same images, the same split, the same protocol for every
network. Networks were chosen and stopped on the validation images; the test images were scored
once, at the end.
"""

EMPTY = """
Nothing has been run yet. `wbc-bench run --all` fills this page.
"""


def markdown(boards: Sequence[Board]) -> str:
    """The whole LEADERBOARD.md."""
    sections = [INTRODUCTION]
    sections += [_section(board) for board in boards] or [EMPTY]
    return "\n".join(sections)


def _section(board: Board) -> str:
    data = board.data
    lines = [f"## {data.name}, {board.profile} profile", "", *_what_was_run(board), ""]
    if board.rows:
        lines += [_main_table(board), "", *_notes(board)]
        lines += ["", *_folded("Recall of every class (%)", _class_table(board))]
        if board.ensembles:
            lines += ["", *_folded("The ensembles", _ensemble_table(board))]
        lines += ["", *_folded("All metrics and all costs", _full_table(board))]
    if board.failed:
        lines += ["", "**Failed**", "", _failed_table(board.failed)]
    lines += ["", *_folded("How to reproduce this", _recipe_for(board)), ""]
    return "\n".join(lines)


# --- what was run --------------------------------------------------------------------------------


def _what_was_run(board: Board) -> list[str]:
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
        f"- **Protocol:** {_protocol_in_words(board)}.",
        f"- **Networks:** {networks}{seeds}, {weights}.",
        f"- **Device:** {devices}.",
    ]


def _protocol_in_words(board: Board) -> str:
    protocol = board.protocol
    units = " + ".join(str(u) for u in protocol.head.units) or "no hidden layer"
    words = [f"head of {units} units trained on the frozen backbone's features"]
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


def _phase_in_words(phase: Phase) -> str:
    return (
        f"at most {phase.epochs} epochs, {phase.optimizer.name} at "
        f"{phase.optimizer.learning_rate:g}, batches of {phase.batch_size}"
    )


# --- the tables ----------------------------------------------------------------------------------


def _main_table(board: Board) -> str:
    heads = [
        "Rank", "Network", "Weights", "Macro F1 (%)", "95 % interval", "Accuracy (%)", "AUC (%)",
        "Worst recall (%)", "Calibration error (%)", "Parameters (M)", "Multiply-adds (G)",
        "Images/s", "Training (s)",
    ]  # fmt: skip
    return _table(heads, list(map(_main_row, board.ranks, board.rows)))


def _main_row(rank: int, row: Row) -> list[str]:
    classes = row.scored[0].test.per_class
    worst = min(range(len(classes)), key=lambda k: _recall(row, k))
    cost = row.scored[0].cost
    return [
        str(rank),
        f"**{_escape(row.title)}**" if row.runs else f"*{_escape(row.title)}*",
        row.weights + (" †" if row.note else ""),
        _with_spread(row),
        f"{100 * row.interval[0]:.1f}–{100 * row.interval[1]:.1f}",
        _percent(row.test(lambda m: m.accuracy)),
        _percent(row.auc),
        f"{_percent(_recall(row, worst))} {_escape(classes[worst].name)}",
        f"{100 * row.calibration_error:.1f}",
        f"{cost.parameters / 1e6:,.2f}",
        f"{cost.multiply_adds / 1e9:,.2f}",
        _images_per_second(row),
        f"{fmean(r.timings.training for r in row.runs):,.1f}" if row.runs else "–",
    ]


def _images_per_second(row: Row) -> str:
    if row.ensembles:
        return f"{_rate(row.ensembles[0].cost.images_per_second)} §"
    throughput = row.runs[0].cost.throughput
    return _rate(throughput.median) + ("" if throughput.exclusive else " ‡")


def _notes(board: Board) -> list[str]:
    lines = [_significance(board)] if len(board.rows) > 1 else []
    lines += [
        "Images/s: raw pixels to pooled features, warm, median of batches of "
        f"{board.protocol.inference_batch} with nothing else of the sweep on the device. "
        "Parameters and multiply-adds: backbone and head, one image."
    ]
    notes = sorted({row.note for row in board.rows if row.note})
    lines += [f"† {note[0].upper()}{note[1:]}." for note in notes]
    if any(not r.cost.throughput.exclusive for row in board.networks for r in row.runs):
        lines.append("‡ Other runs shared the device while this was measured.")
    if board.ensembles:
        lines.append("§ By formula, not measured: the members one after the other.")
    if board.seeds > 1:
        lines.append("±: sample standard deviation over the seeds.")
    return ["  \n".join(lines)]


def _significance(board: Board) -> str:
    """What the ranks mean, and what this test set can and cannot show."""
    points = 100 * board.smallest_difference
    return (
        "Rows that share a rank cannot be told apart on these test images (paired test of macro "
        "F1, Holm-corrected for all pairs, 5 %); two rows that differ by less than about "
        f"{points:.1f} points would mostly not be told apart even as a single planned comparison."
    )


def _class_table(board: Board) -> str:
    classes = board.rows[0].scored[0].test.per_class
    heads = ["Network", *(f"{_escape(c.name)} ({c.support})" for c in classes)]
    rows = [
        [_escape(row.title), *(_percent(_recall(row, k)) for k in range(len(classes)))]
        for row in board.rows
    ]
    return _table(heads, rows) + "\n\nIn brackets: the test images of the class."


def _ensemble_table(board: Board) -> str:
    """What each rule made of its members, and what choosing on validation cost."""
    heads = ["Ensemble", "Members and their shares", "Validation F1 (%)", "Test F1 (%)", "Fit (s)"]
    rows = []
    for row in board.ensembles:
        record = row.ensembles[0]
        shares = zip(record.recipes, record.shares, strict=True)
        kept = ", ".join(f"{find(n).title} {100 * s:.0f} %" for n, s in shares if s > 0)
        rows.append(
            [
                _escape(row.title),
                _escape(kept),
                _percent(row.validation(lambda m: m.macro_f1)),
                _percent(row.test(lambda m: m.macro_f1)),
                f"{fmean(r.seconds for r in row.ensembles):.2f}",
            ]
        )
    return _table(heads, rows) + (
        "\n\nRules are fitted on validation images (concatenation on training images); where a "
        "rule chose among many, the distance from validation to test is what the choice cost."
    )


def _full_table(board: Board) -> str:
    heads = [
        "Network", "Balanced accuracy (%)", "Macro precision (%)", "Macro recall (%)", "Log loss",
        "Validation F1 (%)", "Trained parameters (M)", "Images/s, p5–p95", "Whole run (s)",
        "Peak memory (MiB)",
    ]  # fmt: skip
    rows = []
    for row in board.networks:
        cost = row.runs[0].cost
        low, high = _rate(cost.throughput.p5), _rate(cost.throughput.p95)
        rows.append(
            [
                row.title,
                _percent(row.test(lambda m: m.balanced_accuracy)),
                _percent(row.test(lambda m: m.macro_precision)),
                _percent(row.test(lambda m: m.macro_recall)),
                f"{row.test(lambda m: m.log_loss):.3f}",
                _percent(row.validation(lambda m: m.macro_f1)),
                f"{cost.trainable_parameters / 1e6:,.2f}",
                f"{low}–{high}",
                f"{fmean(r.timings.total for r in row.runs):,.1f}",
                f"{max(r.cost.peak_memory_mb for r in row.runs):,.0f}",
            ]
        )
    return _table(heads, rows)


def _failed_table(failed: Sequence[RunRecord]) -> str:
    rows = []
    for record in failed:
        assert isinstance(record.result, Failed)
        title = find(record.run.recipe).title
        rows.append([title, str(record.run.seed), _escape(record.result.reason)])
    return _table(["Network", "Seed", "Reason"], rows)


def _recipe_for(board: Board) -> str:
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
            f"SOURCE is what `{_escape(board.data.name)}` was read from; its fingerprint must be "
            f"`{board.fingerprint}`.",
            "",
            *(f"Made with {line}." for line in environment),
            "",
            "```json",
            f'{{"protocol": {board.protocol.canonical()},',
            f' "split": {board.split.canonical()}}}',
            "```",
        ]
    )


# --- CSV -----------------------------------------------------------------------------------------


def csv_text(boards: Sequence[Board]) -> str:
    """One line a run, finished or failed, unrounded; fractions are 0-1."""
    lines = [line for board in boards for line in _csv_lines(board)]
    columns = list(_csv_line_columns())
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _csv_lines(board: Board) -> list[dict[str, Any]]:
    rows = [_csv_line(row, record) for row in board.rows for record in row.records]
    return rows + [_csv_line(None, record) for record in board.failed]


def _csv_line_columns() -> tuple[str, ...]:
    return (
        "data", "fingerprint", "profile", "recipe", "weights", "seed", "run", "status", "reason",
        "macro_f1", "accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "auc",
        "log_loss", "validation_macro_f1", "parameters", "trainable_parameters", "multiply_adds",
        "images_per_second", "images_per_second_p5", "images_per_second_p95", "device",
        "training_seconds", "total_seconds", "peak_memory_mb", "note",
    )  # fmt: skip


def _csv_line(row: Row | None, record: RunRecord | EnsembleRecord) -> dict[str, Any]:
    run = record.run
    line: dict[str, Any] = {
        "data": record.data.name,
        "fingerprint": run.data,
        "profile": record.profile,
        "recipe": row.name if row else run.recipe,
        "weights": row.weights if row else run.weights.source,
        "seed": run.seed,
    }
    if isinstance(record, EnsembleRecord):
        cost = {
            "parameters": record.cost.parameters,
            "multiply_adds": record.cost.multiply_adds,
            "images_per_second": record.cost.images_per_second,
            "device": record.cost.device,
        }
        scores = _csv_scores(record)
        return line | {"run": record.ensemble.id, "status": "finished"} | scores | cost
    line |= {"run": run.id, "status": record.result.status, "note": record.note}
    if isinstance(record.result, Failed):
        return line | {"reason": record.result.reason}
    return line | _csv_scores(record.result) | _csv_cost(record.result)


def _csv_scores(result: Finished | EnsembleRecord) -> dict[str, Any]:
    test = result.test
    return {
        "macro_f1": test.macro_f1,
        "accuracy": test.accuracy,
        "balanced_accuracy": test.balanced_accuracy,
        "macro_precision": test.macro_precision,
        "macro_recall": test.macro_recall,
        "auc": "" if test.auc is None else test.auc,
        "log_loss": test.log_loss,
        "validation_macro_f1": result.validation.macro_f1,
    }


def _csv_cost(result: Finished) -> dict[str, Any]:
    cost = result.cost
    return {
        "parameters": cost.parameters,
        "trainable_parameters": cost.trainable_parameters,
        "multiply_adds": cost.multiply_adds,
        "images_per_second": cost.throughput.median,
        "images_per_second_p5": cost.throughput.p5,
        "images_per_second_p95": cost.throughput.p95,
        "device": cost.throughput.device,
        "training_seconds": result.timings.training,
        "total_seconds": result.timings.total,
        "peak_memory_mb": cost.peak_memory_mb,
    }


# --- how things are written ----------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    numbers = {"Rank", "Seed"}
    left = {"Network", "Weights", "Reason", "Ensemble", "Members and their shares"}
    align = ["left" if h in left else "center" if h in numbers else "right" for h in heads]
    return tabulate(rows, heads, tablefmt="github", colalign=align, disable_numparse=True)


def _folded(title: str, body: str) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", body, "", "</details>"]


def _recall(row: Row, k: int) -> float:
    return row.test(lambda m: m.per_class[k].recall)


def _with_spread(row: Row) -> str:
    text = _percent(row.test(lambda m: m.macro_f1))
    return text if row.spread is None else f"{text} ± {100 * row.spread:.2f}"


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def _rate(images_per_second: float) -> str:
    digits = 1 if images_per_second < 100 else 0
    return f"{images_per_second:,.{digits}f}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _escape(text: str) -> str:
    """Safe inside a Markdown table cell."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
