"""Every column of a leaderboard, defined once; and the leaderboard as a DataFrame and as CSV.

Markdown, the page, the CSV and the DataFrame show these columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from harness.reporting import findings
from harness.reporting.leaderboard import Board
from harness.reporting.provenance import options_in_words, split_in_words
from harness.reporting.rows import Kind, Row, failed_row
from harness.reporting.table import (
    Column,
    Emphasis,
    Table,
    interval,
    number,
    percent,
    percent_1,
    rate,
)
from harness.schema.ledger import Ledger
from harness.schema.metrics import Calibrated
from harness.schema.records import Failed
from harness.schema.run import EXTERNAL
from harness.storage.csv_table import csv_cell

FIRST, SCORES, COSTS, CALIBRATION = "first", "scores", "costs", "calibration"
DETAILS = {SCORES: "All scores", COSTS: "All costs", CALIBRATION: "Calibration"}
"""Tables of every row below the first table, with their titles."""
BEST_MARK = "●"
EMPHASIS: dict[Kind, Emphasis] = {
    "network": "**", "ensemble": "*", "imported": "*", "baseline": "*",
}  # fmt: skip


# --- what a row says -----------------------------------------------------------------------------


def _mean(values: Iterable[Any]) -> Any:
    """The mean over the seeds; None where a value is unknown. Equal values keep their type."""
    known = list(values)
    if not known or None in known:
        return None
    return known[0] if known.count(known[0]) == len(known) else fmean(known)


def _test(measure: str) -> Callable[[Row], Any]:
    return lambda row: _mean(getattr(result.test, measure) for result in row.evaluations)


def _end(measure: str, end: int) -> Callable[[Row], Any]:
    """One end of an interval."""
    return lambda row: fmean([getattr(result.test, measure)[end] for result in row.evaluations])


def _run(measure: Callable[[Any], Any]) -> Callable[[Row], Any]:
    """Something about a network's finished runs; None for other kinds."""
    return lambda row: _mean(map(measure, row.runs))


def _cost(measure: Callable[[Any], Any]) -> Callable[[Row], Any]:
    return lambda row: measure(row.cost) if row.cost else None


def _rate_percentile(measure: str) -> Callable[[Row], Any]:
    return lambda row: getattr(rates, measure) if (rates := row.throughput) else None


def _ledger(field: str) -> Callable[[Row], Any]:
    """Averaged over the seeds whose ledger has the field."""

    def value(row: Row) -> Any:
        values = (getattr(run.ledger, field) for run in row.runs if run.ledger)
        return _mean(value for value in values if value is not None)

    return value


def _every(field: str) -> Callable[[Row], bool | None]:
    """Whether it is true of every seed; None where a ledger does not have the field."""

    def value(row: Row) -> bool | None:
        values = [getattr(run.ledger, field) for run in row.runs if run.ledger]
        return all(values) if values and None not in values else None

    return value


_exclusive = _every("energy_exclusive")


def _calibrated(measure: Callable[[Calibrated], Any]) -> Callable[[Row], Any]:
    def value(row: Row) -> Any:
        return _mean(measure(r.calibrated) for r in row.evaluations if r.calibrated)

    return value


def _calibrated_members(row: Row) -> float | None:
    members = (record.calibrated_members for record in row.ensembles)
    return _mean(calibrated.calibration_error for calibrated in members if calibrated)


def _errors_mark(row: Row) -> str:
    errors = sum(result.calibrated.errors for result in row.evaluations if result.calibrated)
    caught = sum(result.calibrated.caught for result in row.evaluations if result.calibrated)
    return f"of {errors}" + (f", {100 * caught / errors:.0f} %" if errors else "")


def _gap(row: Row) -> float | None:
    return None if row.shifted_f1 is None else row.macro_f1 - row.shifted_f1


def _worst_corruption(row: Row) -> str:
    robustness = findings.robustness_of(row)
    return robustness.worst.name if robustness and robustness.worst else ""


def recall(k: int) -> Callable[[Row], float]:
    """The test recall of the class with index ``k``."""
    return lambda row: row.test(lambda metrics: metrics.per_class[k].recall)


def _worst_recall(row: Row) -> tuple[float, str]:
    classes = row.evaluations[0].test.per_class
    return min((recall(k)(row), classes[k].name) for k in range(len(classes)))


def micro_batches(row: Row) -> int:
    """Into how many a batch was split because memory was too small; 1 for a whole batch."""
    return max((run.micro_batches for run in row.runs), default=1)


# --- marks ---------------------------------------------------------------------------------------


def _title_marks(row: Row) -> str:
    marks = {"†": row.kind == "network" and row.note, "⚠": row.suspect, "¶": micro_batches(row) > 1}
    return " ".join(mark for mark, applies in marks.items() if applies)


def _f1_marks(row: Row) -> str:
    deviation, _ = row.noise
    spread = "" if deviation is None else f"± {100 * deviation:.2f} "
    return f"{spread}({interval(*row.interval)})"


def _accuracy_mark(row: Row) -> str:
    low, high = (_end("accuracy_interval", end)(row) for end in (0, 1))
    return f"({interval(low, high)})"


def rate_mark(row: Row) -> str:
    throughput = row.throughput
    return "§" if throughput is None else "" if throughput.exclusive else "‡"


def _worst_recall_mark(row: Row) -> str:
    return f"{_worst_recall(row)[1]} ({interval(*findings.worst_recall_interval(row))})"


def _by_chance(value: Callable[[Row], float | None]) -> Callable[[Row], str]:
    return lambda row: "" if (error := value(row)) is None else f"({percent_1(error)})"


def _best_size(row: Row) -> str:
    sizes = {run.cost.best_batch_size for run in row.runs}
    return "at " + ", ".join(str(size) for size in sorted(filter(None, sizes)))


def _percentile_mark(row: Row) -> str:
    throughput = row.throughput
    return f"– {rate(throughput.p95)}" if throughput else ""


# --- the columns ---------------------------------------------------------------------------------


def _split(row: Row) -> str | None:
    record = row.records[0]
    return None if record.profile == EXTERNAL else split_in_words(record.run.split)


def _failure(row: Row) -> str | None:
    result = getattr(row.records[0], "result", None)
    return result.reason if isinstance(result, Failed) else None


IDENTITY: tuple[Column[Row], ...] = (
    Column("data", "Data", lambda row: row.records[0].data.name),
    Column("fingerprint", "Fingerprint", lambda row: row.records[0].run.data),
    Column("profile", "Profile", lambda row: row.records[0].profile),
    Column("split", "Split", _split),
    Column("options", "Options",
           lambda row: "; ".join(options_in_words(row.records[0].run.protocol))),
    Column("kind", "Kind", lambda row: row.kind),
    Column("rank", "Rank", lambda row: row.rank, align="center", shown=(FIRST, SCORES),
           mark=lambda row: BEST_MARK if row.may_be_best else "",
           explanation=f"by macro F1; {BEST_MARK}: may be the best (95 %)"),
    Column("may_be_best", "", lambda row: row.may_be_best if row.rank else None),
    Column("suspect", "Suspect", lambda row: row.suspect),
    Column("recipe", "Recipe", lambda row: row.name),
    Column("title", "Network", lambda row: row.title, align="left", mark=_title_marks,
           emphasis=lambda row: EMPHASIS[row.kind],
           shown=(FIRST, SCORES, COSTS, CALIBRATION)),
    Column("weights", "Weights", lambda row: row.weights, align="left", shown=(SCORES,)),
    Column("seed", "Seed", lambda row: _mean(row.seeds), align="center"),
    Column("run", "Run", lambda row: row.records[0].subject.id),
    Column("status", "Status", lambda row: "finished" if row.evaluations else "failed"),
    Column("reason", "Reason", _failure, align="left"),
)  # fmt: skip
"""Columns that a failed run has too."""


MEASURED: tuple[Column[Row], ...] = (
    Column("macro_f1", "Macro F1 (%)", _test("macro_f1"), percent, mark=_f1_marks,
           shown=(FIRST, SCORES), explanation="in brackets the 95 % interval"),
    Column("macro_f1_low", "", _end("macro_f1_interval", 0)),
    Column("macro_f1_high", "", _end("macro_f1_interval", 1)),
    Column("accuracy", "Accuracy (%)", _test("accuracy"), percent, mark=_accuracy_mark,
           shown=(SCORES,)),
    Column("accuracy_low", "", _end("accuracy_interval", 0)),
    Column("accuracy_high", "", _end("accuracy_interval", 1)),
    Column("balanced_accuracy", "Balanced accuracy (%)", _test("balanced_accuracy"), percent,
           shown=(SCORES,)),
    Column("macro_precision", "Macro precision (%)", _test("macro_precision"), percent,
           shown=(SCORES,)),
    Column("macro_recall", "Macro recall (%)", _test("macro_recall"), percent,
           shown=(SCORES,)),
    Column("worst_recall", "Worst recall (%)", lambda row: _worst_recall(row)[0], percent,
           mark=_worst_recall_mark, shown=(SCORES,),
           explanation="the lowest recall of a class, which chance makes too low where recalls are "
           "similar; in brackets the 95 % interval of the lowest true recall"),
    Column("worst_recall_low", "", lambda row: findings.worst_recall_interval(row)[0]),
    Column("worst_recall_high", "", lambda row: findings.worst_recall_interval(row)[1]),
    Column("auc", "AUC (%)", _test("auc"), percent, shown=(SCORES,)),
    Column("seed_noise", "Seed noise (points)", lambda row: row.noise[0], percent, shown=(SCORES,),
           explanation="standard deviation of macro F1 over the seeds"),
    Column("test_noise", "Test-set noise (points)", lambda row: row.noise[1], percent,
           shown=(SCORES,),
           explanation="standard deviation of macro F1 over test sets like this one"),
    Column("calibration_error", "Calibration error (%)", _test("calibration_error"), percent_1,
           mark=_by_chance(findings.calibration_error_by_chance), shown=(CALIBRATION,),
           explanation="expected calibration error, 15 bins; in brackets, here and after, what "
           "chance alone gives a perfectly calibrated network with these confidences"),
    Column("calibration_error_by_chance", "", findings.calibration_error_by_chance),
    Column("log_loss", "Log loss", _test("log_loss"), number(3), shown=(CALIBRATION,)),
    Column("brier", "Brier", _test("brier"), number(3), shown=(CALIBRATION,)),
    Column("temperature", "Temperature", _calibrated(lambda c: c.temperature), number(2),
           shown=(CALIBRATION,),
           explanation="fitted on the validation images, applied to the test images"),
    Column("calibrated_error", "Calibration error after (%)",
           _calibrated(lambda c: c.calibration_error), percent_1, shown=(CALIBRATION,),
           mark=_by_chance(findings.calibrated_error_by_chance),
           explanation="with the temperature applied"),
    Column("calibrated_error_by_chance", "", findings.calibrated_error_by_chance),
    Column("calibrated_log_loss", "Log loss after", _calibrated(lambda c: c.log_loss), number(3),
           shown=(CALIBRATION,)),
    Column("calibrated_brier", "Brier after", _calibrated(lambda c: c.brier), number(3),
           shown=(CALIBRATION,)),
    Column("calibrated_members_error", "Members calibrated first (%)", _calibrated_members,
           percent_1, shown=(CALIBRATION,),
           explanation="calibration error of a vote of members with a temperature each"),
    Column("errors_caught", "Errors among the least confident 2 %",
           _calibrated(lambda c: c.caught), mark=_errors_mark, shown=(CALIBRATION,)),
    Column("validation_macro_f1", "Validation F1 (%)",
           lambda row: row.validation(lambda m: m.macro_f1), percent, shown=(SCORES,)),
    Column("shifted_macro_f1", "Shifted F1 (%)", lambda row: row.shifted_f1, percent,
           shown=(FIRST, SCORES),
           explanation="macro F1 on a copy of the test images, each corrupted by one of eleven "
           "corruptions at one of five severities, the same for every row"),
    Column("shifted_gap", "Gap, worst corruption", _gap, percent_1, mark=_worst_corruption,
           shown=(SCORES,),
           explanation="points of macro F1 lost on the shifted test, and the corruption with the "
           "lowest macro F1, where it is significantly below the next lowest"),
    Column("shifted_worst_corruption", "Worst corruption", _worst_corruption),
    Column("parameters", "Parameters (M)", _cost(lambda c: c.parameters), number(2, 1e-6),
           shown=(FIRST, COSTS), explanation="of backbone and head"),
    Column("trainable_parameters", "Trained parameters (M)",
           _run(lambda run: run.cost.trainable_parameters), number(2, 1e-6), shown=(COSTS,)),
    Column("multiply_adds", "Multiply-adds (G)", _cost(lambda c: c.multiply_adds),
           number(2, 1e-9), shown=(COSTS,), explanation="of one image"),
    Column("weight_bytes", "Weights, float32 (MB)", _cost(lambda c: 4 * c.parameters),
           number(1, 1e-6), shown=(COSTS,)),
    Column("images_per_second", "Images/s", lambda row: row.images_per_second, rate,
           mark=rate_mark, shown=(FIRST, COSTS),
           explanation="raw pixels to pooled features, warm, the median batch"),
    Column("images_per_second_p5", "Images/s, p5 – p95", _rate_percentile("p5"), rate,
           mark=_percentile_mark, shown=(COSTS,)),
    Column("images_per_second_p95", "", _rate_percentile("p95")),
    Column("latency_ms", "Latency (ms)", _run(lambda run: run.cost.latency_ms), number(1),
           shown=(COSTS,), explanation="of one image alone, warm, the median"),
    Column("best_images_per_second", "Best images/s",
           _run(lambda run: run.cost.best_images_per_second), rate, mark=_best_size,
           shown=(COSTS,), explanation="over batch sizes, and the size"),
    Column("best_batch_size", "", _run(lambda run: run.cost.best_batch_size)),
    Column("images_per_second_measured", "",
           lambda row: bool(row.throughput) if row.cost else None),
    Column("device", "Device", lambda row: row.device),
    Column("fronts", "Front", lambda row: " + ".join(row.fronts), align="left",
           shown=(FIRST, COSTS),
           explanation="no ranked row with images/s is at least as good in macro F1 and in "
           "images/s on the same device (speed) or parameters (size), and better in one of both"),
    Column("training_seconds", "Training (s)", _run(lambda run: run.timings.training), number(1),
           shown=(COSTS,)),
    Column("total_seconds", "Whole run (s)", _run(lambda run: run.timings.total), number(1),
           shown=(COSTS,)),
    Column("compile_seconds", "Compile (s)", _run(lambda run: run.timings.compile), number(1),
           shown=(COSTS,),
           explanation="how much longer first calls of compiled steps took than later ones"),
    Column("peak_memory_mb", "Peak memory (MiB)", lambda row: max(
        (run.cost.peak_memory_mb for run in row.runs), default=None), number(0),
        shown=(COSTS,)),
    Column("training_memory_mb", "Training memory (MiB)", lambda row: max(
        (run.cost.training_memory_mb for run in row.runs if run.cost.training_memory_mb),
        default=None), number(0), shown=(COSTS,),
        explanation="the most until training ended: of the GPU, else of the process"),
    Column("micro_batches", "Micro-batches", lambda row: micro_batches(row) if row.runs else None),
    Column("epochs_on_features", "Epochs of the head", _ledger("epochs_on_features"),
           "{:.4g}".format, shown=(COSTS,),
           explanation="on stored features of the frozen backbone"),
    Column("feature_rows_learnt", "", _ledger("feature_rows_learnt")),
    Column("images_embedded", "Images embedded", _ledger("images_embedded"), number(0),
           shown=(COSTS,),
           explanation="passed through the frozen backbone; an image counts in every pass"),
    Column("epochs_on_images", "Epochs of the network", _ledger("epochs_on_images"),
           "{:.4g}".format, shown=(COSTS,), explanation="backbone included"),
    Column("images_learnt", "Images trained on", _ledger("images_learnt"), number(0),
           shown=(COSTS,), explanation="in gradient steps of the network, counted per step"),
    Column("device_seconds", "Device time (s)", _ledger("device_seconds"), number(1),
           shown=(COSTS,), explanation="while the run had the device, without waiting"),
    Column("energy_joules", "Energy (kJ)", _ledger("energy_joules"), number(2, 1e-3),
           mark=lambda row: "" if _exclusive(row) else "‡", shown=(COSTS,),
           explanation="of the whole device during the run, where it reports it"),
    Column("energy_exclusive", "", _exclusive),
    Column("preparing_seconds", "", _ledger("preparing_seconds")),
    Column("waiting_seconds", "", _ledger("waiting_seconds")),
    Column("programs_compiled", "", _ledger("programs_compiled")),
    Column("programs_cached", "", _ledger("programs_cached")),
    Column("xla", "", _every("xla")),
    Column("note", "Note", lambda row: row.note),
)  # fmt: skip

COLUMNS = (*IDENTITY, *MEASURED)
assert set(Ledger.model_fields) <= {column.key for column in COLUMNS}


def shown_in(table: str) -> tuple[Column[Row], ...]:
    return tuple(column for column in COLUMNS if table in column.shown)


def table_of(name: str, rows: Sequence[Row]) -> Table[Row]:
    return Table(shown_in(name), rows)


def explanations(table: str) -> str:
    """What the columns of a table mean, in a paragraph."""
    pairs = ((re.split(r" \(|, ", c.heading)[0], c.explanation) for c in shown_in(table))
    return " ".join(f"{heading}: {text}." for heading, text in pairs if text)


# --- the leaderboard as data ---------------------------------------------------------------------


def frame(*boards: Board) -> pd.DataFrame:
    """Boards as a DataFrame with a line per row: every column, unrounded, fractions 0 to 1.

    Means over the seeds. In a notebook: ``frame(*read_boards(Path("results")))``.
    """
    rows = [row for board in boards for row in board.rows]
    return Table(COLUMNS, rows).frame.convert_dtypes()


def csv_text(boards: Sequence[Board]) -> str:
    """Every run, ensemble and external prediction on its own line, failed runs too; unrounded."""
    rows = [single for board in boards for row in board.rows for single in row.per_seed]
    failed = [failed_row(record) for board in boards for record in board.failed]
    everything = pd.concat([Table(COLUMNS, rows).frame, Table(IDENTITY, failed).frame])
    cells = {key: [csv_cell(value) for value in everything[key]] for key in everything}
    return pd.DataFrame(cells, dtype=object).to_csv(index=False, lineterminator="\n")
