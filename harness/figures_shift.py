"""Robustness -> PNG: a heat map of networks against kinds of harm."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from matplotlib.figure import Figure

from harness.figures import INK
from harness.robustness import Robustness

DARK = 0.45
"""Share of the scale below which the cells of this colour map want white numbers."""


def heat_map(rows: Mapping[str, Robustness], title: str = "", seen: Collection[str] = ()) -> Figure:
    """Macro F1 in percent, a row a network and a column a kind; clean and shifted come first.

    Rows in the order of the mapping, kinds from the one that harms least on average to the one
    that harms most. Kinds in ``seen``, which resemble something that the training did, are marked.
    """
    kinds = _ordered(rows)
    table = np.array(
        [[row.clean, row.shifted, *(_score(row, kind) for kind in kinds)] for row in rows.values()]
    )
    figure = Figure(
        figsize=(3.2 + 0.62 * table.shape[1], 2.0 + 0.34 * len(table)), layout="constrained"
    )
    axes = figure.subplots()
    low, high = np.nanmin(table), np.nanmax(table)
    image = axes.imshow(table, cmap="viridis", aspect="auto", vmin=low, vmax=high)
    for (row, column), value in np.ndenumerate(table):
        if np.isnan(value):
            continue
        dark = value < low + DARK * (high - low)
        axes.text(
            column, row, f"{100 * value:.0f}", ha="center", va="center",
            color="white" if dark else "black", fontsize=8,
        )  # fmt: skip
    axes.axvline(1.5, color="white", linewidth=3)
    labels = ["clean", "shifted", *(f"{kind} *" if kind in seen else kind for kind in kinds)]
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(table)), list(rows))
    note = "\n* resembles an operation of the training's augmentation" if seen else ""
    axes.set_title(f"{title}{note}", color=INK, fontsize=10)
    figure.colorbar(image, label="macro F1", format=lambda value, _: f"{100 * value:.0f} %")
    return figure


def _ordered(rows: Mapping[str, Robustness]) -> list[str]:
    first = next(iter(rows.values()))
    kinds = [group.name for group in first.kinds]
    scores = np.array([[group.macro_f1 for group in row.kinds] for row in rows.values()])
    return [kinds[i] for i in np.argsort(-scores.mean(axis=0), kind="stable")]


def _score(row: Robustness, kind: str) -> float:
    return next(group.macro_f1 for group in row.kinds if group.name == kind)
