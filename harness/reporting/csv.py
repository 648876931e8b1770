"""Boards -> CSV, one line a run, ensemble or import: unrounded, for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from harness.reporting import findings
from harness.reporting.leaderboard import Board, Row
from harness.reporting.provenance import options_in_words
from harness.schema.ledger import Ledger
from harness.schema.metrics import Evaluation
from harness.schema.records import (
    Cost,
    EnsembleCost,
    EnsembleRecord,
    Failed,
    Finished,
    Record,
    RunRecord,
)


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
    ranked = zip(board.ranks, board.rows, board.suspects, strict=True)
    lines = [
        _csv_line(row, record) | {"rank": rank or "", "suspect": suspect}
        for rank, row, suspect in ranked
        for record in row.records
    ]
    return lines + [_csv_line(None, record) for record in board.failed]


def _csv_line_columns() -> tuple[str, ...]:
    return (
        "data", "fingerprint", "profile", "options", "kind", "rank", "suspect", "recipe", "weights",
        "seed", "run", "status", "reason", "macro_f1", "macro_f1_low", "macro_f1_high", "accuracy",
        "accuracy_low", "accuracy_high", "balanced_accuracy", "macro_precision", "macro_recall",
        "auc", "log_loss", "brier", "calibration_error", "temperature", "validation_macro_f1",
        "shifted_macro_f1", "shifted_gap", "shifted_worst_kind", "parameters",
        "trainable_parameters", "multiply_adds", "images_per_second",
        "images_per_second_p5", "images_per_second_p95", "images_per_second_measured", "device",
        "training_seconds", "total_seconds", "compile_seconds", "peak_memory_mb", "parts",
        *Ledger.model_fields, "note",
    )  # fmt: skip


def _csv_line(row: Row | None, record: Record) -> dict[str, Any]:
    run = record.run
    line: dict[str, Any] = {
        "data": record.data.name,
        "fingerprint": run.data,
        "profile": record.profile,
        "options": "; ".join(options_in_words(run.protocol)),
        "kind": row.kind if row else "network",
        "recipe": row.name if row else run.recipe,
        "weights": row.weights if row else run.weights.source,
        "seed": run.seed,
        "run": record.subject.id,
        "status": "finished" if record.evaluation else "failed",
        "note": row.note if row else "",
    }
    if isinstance(record, RunRecord) and isinstance(record.result, Failed):
        return line | {"reason": record.result.reason}
    if record.evaluation:
        line |= _csv_scores(record.evaluation)
        hard = findings.robustness_of(row) if row else None
        line["shifted_worst_kind"] = hard.worst.name if hard else ""
    if isinstance(record, EnsembleRecord) and record.cost:
        line |= _csv_ensemble_cost(record.cost)
    if isinstance(record, RunRecord) and isinstance(record.result, Finished):
        line |= _csv_cost(record.result)
    return line


def _csv_scores(result: Evaluation) -> dict[str, Any]:
    test = result.test
    low, high = zip(test.macro_f1_interval, test.accuracy_interval, strict=True)
    return {
        "macro_f1": test.macro_f1,
        "macro_f1_low": low[0],
        "macro_f1_high": high[0],
        "accuracy": test.accuracy,
        "accuracy_low": low[1],
        "accuracy_high": high[1],
        "balanced_accuracy": test.balanced_accuracy,
        "macro_precision": test.macro_precision,
        "macro_recall": test.macro_recall,
        "auc": "" if test.auc is None else test.auc,
        "log_loss": test.log_loss,
        "brier": test.brier,
        "calibration_error": test.calibration_error,
        "temperature": result.calibrated.temperature if result.calibrated else "",
        "shifted_macro_f1": result.shifted.macro_f1 if result.shifted else "",
        "shifted_gap": test.macro_f1 - result.shifted.macro_f1 if result.shifted else "",
        "validation_macro_f1": result.validation.macro_f1 if result.validation else "",
    }


def _csv_ensemble_cost(cost: EnsembleCost) -> dict[str, Any]:
    measured = cost.throughput
    return {
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "images_per_second": measured.median if measured else cost.images_per_second,
        "images_per_second_p5": measured.p5 if measured else "",
        "images_per_second_p95": measured.p95 if measured else "",
        "images_per_second_measured": bool(measured),
        "device": cost.device,
    }


def _csv_cost(result: Finished) -> dict[str, Any]:
    cost: Cost = result.cost
    return {
        "parameters": cost.parameters,
        "trainable_parameters": cost.trainable_parameters,
        "multiply_adds": cost.multiply_adds,
        "images_per_second": cost.throughput.median,
        "images_per_second_p5": cost.throughput.p5,
        "images_per_second_p95": cost.throughput.p95,
        "images_per_second_measured": True,
        "device": cost.throughput.device,
        "training_seconds": result.timings.training,
        "total_seconds": result.timings.total,
        "compile_seconds": result.timings.compile,
        "peak_memory_mb": cost.peak_memory_mb,
        "parts": result.micro_batches,
        **(result.ledger.model_dump() if result.ledger else {}),
    }
