"""Records -> PNG: the learning curve and the confusion matrix of a run."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.nouns import Finished, RunRecord
from harness.store import write_atomically
from zoo.table import find

INK, TRAIN, VALIDATION, F1 = "#333333", "#1f77b4", "#d95f02", "#1b9e77"


def draw(record: RunRecord, folder: Path) -> tuple[Path, Path]:
    """Write both figures of a finished run into ``folder``; returns their paths."""
    assert isinstance(record.result, Finished)
    stem = f"{record.run.recipe}-{record.run.id}"
    curves, confusion = folder / f"{stem}-curves.png", folder / f"{stem}-confusion.png"
    write_atomically(curves, _png(learning_curve(record, record.result)))
    write_atomically(confusion, _png(confusion_matrix(record, record.result)))
    return curves, confusion


def learning_curve(record: RunRecord, result: Finished) -> Figure:
    """Losses and validation F1 over the epochs of all phases, with the boundaries marked."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    epochs = np.arange(1, len(result.history) + 1)
    left.plot(epochs, [e.train_loss for e in result.history], color=TRAIN, label="training loss")
    left.plot(
        epochs,
        [e.validation_loss for e in result.history],
        color=VALIDATION,
        label="validation loss",
    )
    right.plot(
        epochs, [e.validation_f1 for e in result.history], color=F1, label="validation macro F1"
    )
    left.set(xlabel="epoch", ylabel="cross-entropy", ylim=(0, None))
    right.set(ylabel="macro F1", ylim=(0, 1))
    _mark_phases(left, result)
    lines = left.get_lines()[:2] + right.get_lines()[:1]
    left.legend(handles=lines, loc="center right", frameon=False)
    left.set_title(_title(record), color=INK)
    return figure


def _mark_phases(axes: object, result: Finished) -> None:
    before = result.history[0].phase if result.history else None
    for i, line in enumerate(result.history):
        if line.phase != before:
            axes.axvline(i + 0.5, color="#999999", linestyle=":")  # type: ignore[attr-defined]
            before = line.phase


def confusion_matrix(record: RunRecord, result: Finished) -> Figure:
    """Counts, coloured by the share of the true class."""
    from sklearn.metrics import ConfusionMatrixDisplay

    counts = np.array(result.test.confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [c.name for c in result.test.per_class]
    side = 2.2 + 0.55 * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    display = ConfusionMatrixDisplay(share, display_labels=names)
    display.plot(ax=axes, cmap="Blues", colorbar=False, include_values=False)
    axes.images[0].set_clim(0, 1)
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            dark = share[row, column] > 0.5
            axes.text(
                column, row, str(counts[row, column]), ha="center", va="center",
                color="white" if dark else INK, fontsize=8,
            )  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{_title(record)}\n{100 * result.test.macro_f1:.2f} % macro F1", color=INK)
    return figure


def _title(record: RunRecord) -> str:
    recipe, run = find(record.run.recipe), record.run
    return f"{recipe.title} on {record.data.name} ({run.weights.source} weights, seed {run.seed})"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": "wbc-bench"})
    return buffer.getvalue()
