"""A chart of the images of each class, before and after what is done to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.reporting.figures import BLUE, GREEN, INK, ORANGE, png, style

COLOURS = (INK, BLUE, ORANGE, GREEN)


def draw(title: str, class_names: Sequence[str], counts: Mapping[str, np.ndarray]) -> bytes:
    """Bars of ``counts`` (K,) of each class, in their order, as PNG; at most four groups."""
    with style():
        height = 1.4 + 0.16 * (len(counts) + 1) * len(class_names)
        figure = Figure(figsize=(7.5, height), layout="constrained")
        axes = figure.subplots()
        rows, thickness = np.arange(len(class_names)), 0.8 / len(counts)
        for place, (name, values) in enumerate(counts.items()):
            offset = (place - (len(counts) - 1) / 2) * thickness
            bars = axes.barh(
                rows + offset, values, 0.9 * thickness, color=COLOURS[place], label=name
            )
            axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=7)
        axes.set_yticks(rows, class_names)
        axes.invert_yaxis()
        axes.set(xlabel="images", title=title)
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, axis="x")
        figure.legend(loc="outside lower center", ncols=len(counts))
        return png(figure)
