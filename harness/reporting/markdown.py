"""Boards -> Markdown. Pure functions: generated twice, the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from harness.reporting import ablation, columns, cost_columns, findings, provenance
from harness.reporting.columns import Cell, Stress, Table, escape
from harness.reporting.leaderboard import Board, Kind, Row, title_of
from harness.schema.records import Failed, RunRecord
from zoo.registry import find

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

STRESS: dict[Kind, Stress] = {
    "network": "strong", "ensemble": "emphasis", "imported": "emphasis", "baseline": "emphasis",
}  # fmt: skip
CONFUSIONS = "The confusions that the field knows"
CONFUSIONS_LEGEND = (
    "Percent of the first class's test images that were taken for the second; ig: immature "
    "granulocyte."
)


def markdown(boards: Sequence[Board]) -> str:
    """The whole LEADERBOARD.md."""
    sections = [INTRODUCTION]
    sections += [ablation.markdown(study) for study in ablation.studies(tuple(boards))]
    sections += [_section(board) for board in boards] or [EMPTY]
    return "\n".join(sections)


def heading(board: Board) -> str:
    """The data, the profile, and the options that tell the board from its neighbours."""
    options = "; ".join(provenance.options_in_words(board.protocol))
    return f"{board.data.name}, {board.profile} profile" + (f": {options}" if options else "")


def _section(board: Board) -> str:
    lines = [f"## {heading(board)}", "", *provenance.what_was_run(board), ""]
    if board.rows:
        lines += [columns.markdown(main_table(board)), "", "  \n".join(notes(board)), ""]
        lines += [f"{sentence}\n" for sentence in findings.significance(board)]
        if confused := confusion_table(board):
            lines += [
                f"### {CONFUSIONS}",
                "",
                CONFUSIONS_LEGEND,
                "",
                columns.markdown(confused),
                "",
            ]
        lines += [f"{sentence}\n" for sentence in findings.choices(board)]
        if views := ablation.views_table(board):
            lines += ["### What the views add", "", columns.markdown(views), ""]
        if shifted := shift_table(board):
            lines += _folded("The shifted test, kind by kind", columns.markdown(shifted))
        lines += _folded("Recall of every class (%)", columns.markdown(class_table(board)))
        if board.ensembles:
            lines += _folded("The ensembles, and what each member brings", _ensembles(board))
        lines += _folded("Calibration", columns.markdown(calibration_table(board)))
        lines += _folded("All metrics and all costs", columns.markdown(full_table(board)))
    if board.failed:
        lines += ["**Failed**", "", columns.markdown(failed_table(board.failed)), ""]
    lines += _folded("How to reproduce this", provenance.how_to_reproduce(board))
    return "\n".join(lines)


# --- the tables ----------------------------------------------------------------------------------


def main_table(board: Board) -> Table:
    """The table that people look at: one row a row of the board, in its order."""
    heads = [
        "Rank", "Network", "Weights", "Macro F1 (%)", "95 % interval", "Accuracy (%)", "AUC (%)",
        "Shifted F1 (%)", "Gap, worst kind", "Worst recall (%)", "Calibration error (%)",
        "Parameters (M)", "Multiply-adds (G)", "Images/s", "Front", "Training (s)",
    ]  # fmt: skip
    fronts = findings.fronts(board)
    rows = zip(board.ranks, board.rows, board.suspects, fronts, strict=True)
    return columns.table(heads, [_main_row(*row) for row in rows])


def _main_row(
    rank: int | None, row: Row, suspect: str, front: tuple[bool, bool]
) -> list[str | Cell]:
    classes = row.evaluation[0].test.per_class
    worst = min(range(len(classes)), key=lambda k: _recall(row, k))
    cost, stress = row.cost, STRESS[row.kind]
    marks = [word for word, on in zip(("speed", "size"), front, strict=True) if on]
    marked = ("⚠", bool(suspect)), ("¶", cost_columns.most_parts(row) > 1)
    return [
        str(rank or "–"),
        Cell(row.title, stress, " ".join(mark for mark, on in marked if on)),
        row.weights + (" †" if row.kind == "network" and row.note else ""),
        _with_spread(row),
        _interval(row.interval),
        _percent(row.test(lambda m: m.accuracy)),
        _percent(row.auc),
        *_shifted_cells(row),
        f"{_percent(_recall(row, worst))} {classes[worst].name}",
        f"{100 * row.test(lambda m: m.calibration_error):.1f}",
        f"{cost.parameters / 1e6:,.2f}" if cost else "–",
        f"{cost.multiply_adds / 1e9:,.2f}" if cost else "–",
        _images_per_second(row),
        " + ".join(marks),
        f"{fmean(r.timings.training for r in row.runs):,.1f}" if row.runs else "–",
    ]


def _shifted_cells(row: Row) -> list[str]:
    shifted = row.shifted(lambda m: m.macro_f1)
    if shifted is None:
        return ["–", "–"]
    hard = findings.robustness_of(row)
    worst = f" {hard.worst.name}" if hard else ""
    return [_percent(shifted), f"{100 * (row.macro_f1 - shifted):.1f}{worst}"]


def _images_per_second(row: Row) -> str:
    if row.images_per_second is None or row.cost is None:
        return "–"
    throughput = row.cost.throughput
    mark = " §" if throughput is None else "" if throughput.exclusive else " ‡"
    return _rate(row.images_per_second) + mark


def notes(board: Board) -> list[str]:
    lines = [
        "Images/s: raw pixels to pooled features, warm, median of batches of "
        f"{board.protocol.inference_batch} with nothing else of the sweep on the device. "
        "Parameters and multiply-adds: backbone and head, one image. Front: no row has a better "
        "macro F1 and more images/s (speed), or a better macro F1 and fewer parameters (size)."
    ]
    suspects = [
        f"{escape(row.title)} is {reason}"
        for row, reason in zip(board.rows, board.suspects, strict=True)
        if reason
    ]
    if suspects:
        lines.append(
            f"⚠ Suspect recipe, not ranked: {'; '.join(suspects)}. Its weights, preprocessing or "
            "training deserve a look before its place is believed."
        )
    remarks = sorted({row.note for row in board.networks if row.note})
    lines += [f"† {note[0].upper()}{note[1:]}." for note in remarks]
    if any(not r.cost.throughput.exclusive for row in board.networks for r in row.runs):
        lines.append("‡ Other runs shared the device while this was measured.")
    lines += cost_columns.notes_on_parts(board)
    if any("§" in _images_per_second(row) for row in board.ensembles):
        lines.append("§ By formula, not measured: the members one after the other.")
    if any(result.shifted for row in board.rows for result in row.evaluation):
        lines.append(
            "Shifted: each test image harmed once, by one of eleven kinds at one of five "
            "severities, the same for every row. Gap: points of macro F1 that this costs, and the "
            "kind that fares worst."
        )
    others = (row for row in board.rows if row.kind in {"imported", "baseline"})
    lines += [f"*{escape(row.title)}*: {escape(row.note)}." for row in others]
    if board.seeds > 1:
        lines.append("±: sample standard deviation over the seeds.")
    return lines


def class_table(board: Board) -> Table:
    """Recall of every class."""
    classes = board.rows[0].evaluation[0].test.per_class
    heads = ["Network", *(f"{c.name} ({c.support})" for c in classes)]
    rows = [
        [row.title, *(_percent(_recall(row, k)) for k in range(len(classes)))] for row in board.rows
    ]
    return columns.table(heads, rows, "In brackets: the test images of the class.")


def shift_table(board: Board) -> Table | None:
    """Macro F1 of every kind of harm and every severity; None where no row was asked."""
    found = [(row, findings.robustness_of(row)) for row in board.rows]
    known = [(row, hard) for row, hard in found if hard]
    if not known:
        return None
    first = known[0][1]
    kinds = [group.name for group in first.kinds]
    heads = ["Network", "Worst kind", *kinds, *(f"Severity {s.name}" for s in first.severities)]
    rows = [
        [
            row.title,
            hard.worst.name,
            *(_percent(group.macro_f1) for group in (*hard.kinds, *hard.severities)),
        ]
        for row, hard in known
    ]
    best = findings.robustness_of(known[0][0], intervals=True)
    assert best is not None, "it was there a moment ago"
    width = max(group.high - group.low for group in best.kinds) * 50
    legend = (
        f"Macro F1 in percent over the classes that a kind has images of. A kind has about "
        f"{first.kinds[0].images} images: each is good to about ± {width:.0f} points (95 %)."
    )
    if seen := findings.seen_in_training(board):
        legend += (
            f" The training's augmentation resembles {', '.join(seen)}: those kinds surprise these "
            "networks less than they would surprise others."
        )
    return columns.table(heads, rows, legend)


def confusion_table(board: Board) -> Table | None:
    """Shares of the true class that became its neighbour; None for data without the classes."""
    names, shares = findings.confusions(board)
    if not names:
        return None
    rows = [
        [row.title, *(f"{100 * share:.1f}" for share in line)]
        for row, line in zip(board.rows, shares, strict=True)
    ]
    return columns.table(["Network", *names], rows)


def _ensembles(board: Board) -> str:
    found = findings.memberships(board)
    tables = [membership_table(one) for one in found]
    analyses = [
        f"**{escape(one.row.title)}**: {membership_words(one)}\n\n{columns.markdown(written)}"
        for one, written in zip(found, tables, strict=True)
    ]
    return "\n\n".join([columns.markdown(ensemble_table(board)), *analyses])


def ensemble_table(board: Board) -> Table:
    """What each rule made of its members, and what choosing cost: one row an ensemble."""
    heads = [
        "Ensemble", "Members and their shares", "Validation F1 (%)", "Test F1 (%)",
        "Weights, float32 (MB)", "Fit (s)",
    ]  # fmt: skip
    rows = []
    for row in board.ensembles:
        record = row.ensembles[0]
        shares = zip(record.recipes, record.shares, strict=True)
        kept = ", ".join(f"{title_of(n)} {100 * s:.0f} %" for n, s in shares if s > 0)
        rows.append(
            [
                row.title,
                kept,
                _percent(row.validation(lambda m: m.macro_f1)),
                _percent(row.macro_f1),
                _megabytes(row),
                f"{fmean(r.seconds for r in row.ensembles):.2f}",
            ]
        )
    legend = (
        "Rules are fitted on validation images (concatenation on training images); where a rule "
        "chose among many, the distance from validation to test is what the choice cost."
    )
    return columns.table(heads, rows, legend)


def membership_table(found: findings.Membership) -> Table:
    """What each member of a soft vote brings."""
    heads = [
        "Member", "Alone F1 (%)", "Without it (%)", "What it brings (points)", "95 % interval",
        "Disagreement (%)", "Q", "In words",
    ]  # fmt: skip
    rows = [
        [
            member.title,
            _percent(member.alone),
            _percent(member.without),
            f"{100 * member.gain.difference:+.2f}",
            f"{100 * member.gain.low:+.1f} to {100 * member.gain.high:+.1f}",
            f"{100 * member.disagreement:.1f}",
            f"{member.q_statistic:.2f}".replace("nan", "–"),
            member.verdict,
        ]
        for member in found.members
    ]
    return columns.table(heads, rows)


def membership_words(found: findings.Membership) -> str:
    return (
        f"{_percent(found.row.macro_f1)} %; an oracle that always "
        f"believes a member that is right would have {_percent(found.oracle)} %. Disagreement (one "
        "right, the other wrong) and Yule's Q (1: the same errors; 0: independent): mean over the "
        "other members."
    )


def calibration_table(board: Board) -> Table:
    heads = [
        "Network", "Calibration error (%)", "Log loss", "Brier", "Temperature",
        "Calibration error then (%)", "Log loss then", "Brier then",
        "Members softened first (%)", "Least sure 2 %: errors caught",
    ]  # fmt: skip
    legend = (
        "A temperature fitted on the validation images softens all probabilities; then: the "
        "test images after it. Members softened first: the calibration error of a vote whose "
        "members each got their own temperature before it. Errors caught: if a person looked at "
        "the least sure 2 % of the test images."
    )
    return columns.table(heads, list(map(_calibration_row, board.rows)), legend)


def _calibration_row(row: Row) -> list[str]:
    after = [result.calibrated for result in row.evaluation if result.calibrated]
    then = ["–"] * 5
    if after:
        caught, errors = sum(c.caught for c in after), sum(c.errors for c in after)
        share = f", {100 * caught / errors:.0f} %" if errors else ""
        then = [
            f"{fmean(c.temperature for c in after):.2f}",
            f"{100 * fmean(c.calibration_error for c in after):.1f}",
            f"{fmean(c.log_loss for c in after):.3f}",
            f"{fmean(c.brier for c in after):.3f}",
            f"{caught} of {errors}{share}",
        ]
    before = [r.calibrated_members for r in row.ensembles if r.calibrated_members]
    first = f"{100 * fmean(c.calibration_error for c in before):.1f}" if before else "–"
    return [
        row.title,
        f"{100 * row.test(lambda m: m.calibration_error):.1f}",
        f"{row.test(lambda m: m.log_loss):.3f}",
        f"{row.test(lambda m: m.brier):.3f}",
        *then[:4],
        first,
        then[4],
    ]


def full_table(board: Board) -> Table:
    heads = [
        "Network", "Accuracy, 95 % interval", "Balanced accuracy (%)", "Macro precision (%)",
        "Macro recall (%)", "Validation F1 (%)", "Seed noise (points)", "Test-set noise (points)",
        "Trained parameters (M)", "Weights, float32 (MB)", "Images/s, p5–p95", "Whole run (s)",
        "Peak memory (MiB)", *cost_columns.HEADS,
    ]  # fmt: skip
    legend = (
        "Noise: standard deviations of macro F1, over the seeds and over test sets like this one. "
        + cost_columns.LEGEND
    )
    return columns.table(heads, list(map(_full_row, board.rows)), legend)


def _full_row(row: Row) -> list[str]:
    interval = (
        row.test(lambda m: m.accuracy_interval[0]),
        row.test(lambda m: m.accuracy_interval[1]),
    )
    seeds, images = row.noise
    return [
        row.title,
        _interval(interval),
        _percent(row.test(lambda m: m.balanced_accuracy)),
        _percent(row.test(lambda m: m.macro_precision)),
        _percent(row.test(lambda m: m.macro_recall)),
        _percent(row.validation(lambda m: m.macro_f1)),
        "–" if seeds is None else f"{100 * seeds:.2f}",
        f"{100 * images:.2f}",
        f"{row.runs[0].cost.trainable_parameters / 1e6:,.2f}" if row.runs else "–",
        _megabytes(row),
        *_run_costs(row),
    ]


def _run_costs(row: Row) -> list[str]:
    if not row.runs:
        return ["–"] * (3 + len(cost_columns.HEADS))
    throughput = row.runs[0].cost.throughput
    return [
        f"{_rate(throughput.p5)}–{_rate(throughput.p95)}",
        f"{fmean(r.timings.total for r in row.runs):,.1f}",
        f"{max(r.cost.peak_memory_mb for r in row.runs):,.0f}",
        *cost_columns.told(row),
    ]


def failed_table(failed: Sequence[RunRecord]) -> Table:
    rows = []
    for record in failed:
        assert isinstance(record.result, Failed)
        title = find(record.run.recipe).title
        rows.append([title, str(record.run.seed), record.result.reason])
    return columns.table(["Network", "Seed", "Reason"], rows)


# --- how things are written ----------------------------------------------------------------------


def _folded(title: str, body: str) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", body, "", "</details>", ""]


def _recall(row: Row, k: int) -> float:
    return row.test(lambda m: m.per_class[k].recall)


def _with_spread(row: Row) -> str:
    text = _percent(row.test(lambda m: m.macro_f1))
    spread, _ = row.noise
    return text if spread is None else f"{text} ± {100 * spread:.2f}"


def _interval(ends: tuple[float, float]) -> str:
    return f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}"


def _megabytes(row: Row) -> str:
    """Of the weights as they lie on disk, four bytes each."""
    return f"{4 * row.cost.parameters / 1e6:,.1f}" if row.cost else "–"


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def _rate(images_per_second: float) -> str:
    digits = 1 if images_per_second < 100 else 0
    return f"{images_per_second:,.{digits}f}"
