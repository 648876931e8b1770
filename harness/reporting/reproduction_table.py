"""Reproductions as Markdown, CSV and a table for the page. Pure: the same bytes each time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from harness.reporting.plots import Comparison, Plot, Reported, printable
from harness.reporting.reproduction import ClassLine, Line, Reproduction, order, robustness
from harness.reporting.table import Column, Table, escape, interval, number, percent, points, rate
from harness.reporting.templates import environment
from harness.schema.records import Finished

WORDS = {
    "accuracy": "accuracy", "macro_precision": "macro precision", "macro_recall": "macro recall",
    "macro_f1": "macro F1", "weighted_precision": "precision, weighted by support",
    "weighted_recall": "recall, weighted by support", "weighted_f1": "F1, weighted by support",
    "precision_above_half": "precision above .5", "recall_above_half": "recall above .5",
}  # fmt: skip


def _first(value: Callable[[Line], Any]) -> Callable[[Line], Any]:
    """What stands on the first line of a row alone."""
    return lambda line: value(line) if line.first else None


def _run(value: Callable[[Finished], Any]) -> Callable[[Line], Any]:
    return _first(lambda line: value(line.measured.runs[0]) if line.measured.runs else None)


def _reported_mark(line: Line) -> str:
    deviation = line.measured.preset.row.deviation.get(line.measure)  # type: ignore[call-overload]
    return "" if deviation is None else f"± {deviation:g}"


def _measured_mark(line: Line) -> str:
    average, reported = line.average, _reported_mark(line)
    if average is None:
        return ""
    spread = f"± {100 * (average.deviation or 0):.1f} " if reported else ""
    return f"{spread}({interval(average.low, average.high)})"


def _online(line: Line) -> float | None:
    online = line.measured.preset.row.online
    return None if online is None else online / 100


COLUMNS: tuple[Column[Line], ...] = (
    Column("row", "Row", lambda line: line.measured.preset.row.label if line.first else "",
           align="left"),
    Column("measure", "Score", lambda line: WORDS[line.measure], align="left"),
    Column("reported", "Reported (%)", lambda line: line.reported, percent, mark=_reported_mark),
    Column("measured", "Measured (%)", lambda line: line.average and line.average.value, percent,
           mark=_measured_mark),
    Column("difference", "Difference", lambda line: line.difference, points),
    Column("inside", "Inside", lambda line: line.inside, lambda inside: "yes" if inside else "no",
           align="center"),
    Column("online", "Online (%)", _first(_online), number(0, 100),
           mark=_first(lambda line: "or less" if line.measured.preset.row.online_below else "")),
    Column("shifted_macro_f1", "Shifted F1 (%)", _first(lambda line: line.measured.shifted_f1),
           percent),
    Column("parameters_reported", "Parameters reported",
           _first(lambda line: line.measured.preset.row.parameters or None)),
    Column("parameters", "Parameters", _run(lambda run: run.cost.parameters), number(0)),
    Column("images_per_second", "Images/s", _run(lambda run: run.cost.throughput.median), rate),
    Column("seeds", "Seeds", _first(lambda line: len(line.measured.records) or None)),
    Column("run", "Run", _first(lambda line: line.measured.records[0].run.id
                                if line.measured.records else None), align="left"),
    Column("not_reproduced", "Not a reproduction because of",
           _first(lambda line: ", ".join(line.measured.reasons) or None), align="left"),
)  # fmt: skip
LEGEND = (
    "In brackets the 95 % interval of the measured score: what other test images would give; "
    "other splits and seeds are not in it. Inside: whether the reported score is in it. A reported "
    "score has such an error of its own, from test images that are not these, so that one just "
    "outside may still agree. Difference: measured minus reported, in points. Online: accuracy on "
    "the challenge's hidden, corrupted images; compare the macro F1 of this program's shifted "
    "test, which has corruptions of its own. Macro: mean over the classes; ±: standard deviation "
    "over the classes."
)


CLASS_COLUMNS: tuple[Column[ClassLine], ...] = (
    Column("class", "Class", lambda line: line.reported.name, align="left"),
    Column("images_reported", "Images reported", lambda line: line.reported.images, number(0)),
    Column("images", "Images", lambda line: line.images, number(0)),
    Column("weight_reported", "Weight reported", lambda line: line.reported.weight, number(4)),
    Column("weight", "Weight", lambda line: line.weight, number(4)),
)


def class_table(found: Reproduction) -> Table[ClassLine] | None:
    """The classes of the report's data and their weights; None without such data."""
    lines = found.class_lines
    return Table(CLASS_COLUMNS, lines) if lines else None


def table(found: Reproduction, name: str) -> Table[Line]:
    """One table of a report."""
    return Table(COLUMNS, found.lines(name), LEGEND)


def plots(everything: Sequence[Reproduction]) -> dict[str, tuple[Plot, ...]]:
    """The figure of each report that has measured rows, by the report's slug."""
    found: dict[str, tuple[Plot, ...]] = {}
    for reproduction in everything:
        lines = [line for line in reproduction.lines() if line.first and line.average]
        if lines:
            title = printable(f"Report {reproduction.number}: {reproduction.report.title}")
            measures = " or ".join(dict.fromkeys(WORDS[line.measure] for line in lines))
            rows = tuple(map(_comparison, lines))
            found[reproduction.slug] = (Reported(title, rows, measures),)
    return found


def _comparison(line: Line) -> Comparison:
    assert line.average is not None, "only measured rows are drawn"
    row = line.measured.preset.row
    ends = line.average.low, line.average.high
    label = printable(row.label)
    return Comparison(label, line.reported, line.average.value, *ends, line.measured.reproduced)


def csv_text(found: Reproduction) -> str:
    """Every reported score of a report on its own line, unrounded, fractions from 0 to 1."""
    lines = found.lines()
    keys = [
        {"report": found.number, "table": line.measured.preset.table_name,
         "row": line.measured.preset.row.label, "measure": line.measure,
         "online_below": line.measured.preset.row.online_below,
         "low": line.average and line.average.low, "high": line.average and line.average.high}
        for line in lines
    ]  # fmt: skip
    values = Table(COLUMNS[2:], lines).frame
    frame = pd.concat([pd.DataFrame(keys, dtype=object), values], axis=1)
    return frame.to_csv(index=False, lineterminator="\n")


def markdown(found: Reproduction, everything: Sequence[Reproduction]) -> str:
    """The page of one report; ``everything``: all reports, for the correlation over them."""
    text = environment().get_template("reproduction.md.j2").render(
        found=found,
        sentences=sentences,
        table=table,
        class_table=class_table(found),
        summary=summary(found),
        robustness=robustness(everything),
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def summary(found: Reproduction) -> str:
    """What was measured, and what of it is a reproduction."""
    measured = [row for row in found.rows if row.averages]
    reproduced = [row for row in measured if row.reproduced]
    text = f"{len(measured)} of {len(found.rows)} rows measured"
    if not measured:
        return f"{text}."
    if not reproduced:
        reasons = dict.fromkeys(reason for row in measured for reason in row.reasons)
        return f"{text}; none is a reproduction, because of {', '.join(reasons)}."
    inside = [line.inside for line in found.lines() if line.measured.reproduced]
    return (
        f"{text}, {len(reproduced)} of them a reproduction as far as the preset's "
        f"assumptions hold; {sum(map(bool, inside))} of {len(inside)} reported scores lie inside "
        "the 95 % interval of the measured one."
    )


def sentences(found: Reproduction, name: str) -> str:
    """What agrees in a table and what does not, of the rows that are reproductions."""
    lines = [line for line in found.lines(name) if line.first and line.measured.reproduced]
    if not lines:
        return ""
    words = []
    for sign, comparison in ((1, "higher"), (-1, "lower")):
        off = [line for line in lines if not line.inside and sign * (line.difference or 0) > 0]
        named = ", ".join(
            f"{escape(line.measured.preset.row.label)} ({points(line.difference or 0)} points)"
            for line in off
        )
        if off:
            words.append(f"Measured {comparison} than reported, outside the interval: {named}.")
    agreeing = [escape(line.measured.preset.row.label) for line in lines if line.inside]
    if agreeing:
        words.insert(0, f"The reported score is inside the interval: {', '.join(agreeing)}.")
    correlation = order(lines)
    if correlation:
        words.append(
            f"Rank correlation of the reported and the measured order of {correlation.rows} rows: "
            f"{correlation.value:.2f}."
        )
    return " ".join(words)
