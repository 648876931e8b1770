"""Figures of a run as PNG: its learning curve and its confusion matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.reporting.figures import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    draw_counts,
    png,
    single_axes,
    style,
)
from harness.reporting.plots import printable
from harness.schema.records import Finished, RunRecord
from harness.storage.files import no_link_between, write_atomically
from zoo.registry import find


def draw(record: RunRecord, folder: Path) -> tuple[Path, Path]:
    """Write both figures of a finished run into ``folder``, as PNG; returns their paths."""
    assert isinstance(record.result, Finished)
    stem = f"{record.run.recipe}-{record.run.id}"
    curves, confusion = folder / f"{stem}-curves.png", folder / f"{stem}-confusion.png"
    no_link_between(folder.parents[1], curves)
    with style():
        write_atomically(curves, png(learning_curve(record, record.result)))
        write_atomically(confusion, png(confusion_matrix(record, record.result)))
    return curves, confusion


def learning_curve(record: RunRecord, result: Finished) -> Figure:
    """Losses, macro F1 and accuracy over the epochs of all phases, with the boundaries marked."""
    figure, left = single_axes(7, 4)
    right = left.twinx()
    for axes, field, colour, line, name in (
        (left, "train_loss", BLUE, "-", "training loss"),
        (left, "validation_loss", ORANGE, "-", "validation loss"),
        (right, "train_f1", PURPLE, "-", "training macro F1"),
        (right, "validation_f1", GREEN, "-", "validation macro F1"),
        (right, "train_accuracy", PURPLE, "--", "training accuracy"),
        (right, "validation_accuracy", GREEN, "--", "validation accuracy"),
    ):
        values = [getattr(epoch, field) for epoch in result.history]
        if None not in values:  # Older records have no scores of the training batches.
            axes.plot(range(1, len(values) + 1), values, color=colour, ls=line, label=name)
    left.set(xlabel="epoch", ylabel="cross-entropy", ylim=(0, None))
    right.set(ylabel="macro F1, accuracy", ylim=(0, 1))
    phases = [line.phase for line in result.history]
    for i in (i for i in range(1, len(phases)) if phases[i] != phases[i - 1]):
        left.axvline(i + 0.5, color=INK, linestyle=":")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    lines = [*left.get_lines()[:2], *right.get_lines()]
    figure.legend(handles=lines, loc="outside lower center", ncols=3)
    left.set_title(_title(record))
    return figure


def confusion_matrix(record: RunRecord, result: Finished) -> Figure:
    """Counts, coloured by the share of the true class."""
    names = [printable(c.name) for c in result.test.per_class]
    figure, axes = single_axes(2.2 + 0.45 * len(names), 2.2 + 0.45 * len(names))
    draw_counts(axes, np.array(result.test.confusion), names)
    axes.set_title(f"{_title(record)}\n{100 * result.test.macro_f1:.2f} % macro F1")
    return figure


def _title(record: RunRecord) -> str:
    recipe, run = find(record.run.recipe), record.run
    data = printable(record.data.name)
    return f"{recipe.title} on {data} ({run.weights.source} weights, seed {run.seed})"
