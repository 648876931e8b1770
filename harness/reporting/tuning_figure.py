"""The figure of a search for hyperparameters: its history, and what matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.reporting.figures import BLUE, GREEN, png, style


def draw(
    title: str, scores: Sequence[tuple[int, float]], importances: Mapping[str, float]
) -> bytes:
    """Number and validation macro F1 of each trial, and the importance of parameters, as PNG.

    ``importances``: shares of the variance that sum to 1; without any there is no second panel.
    """
    with style():
        panels = 2 if importances else 1
        figure = Figure(figsize=(5.2 * panels, 3.6), layout="constrained")
        history, *rest = figure.subplots(1, panels, squeeze=False).flat
        numbers, values = np.array(scores).T
        history.plot(numbers + 1, 100 * values, "o", color=BLUE, ms=4, alpha=0.7, label="trial")
        best = 100 * np.maximum.accumulate(values)
        history.plot(numbers + 1, best, color=GREEN, drawstyle="steps-post", label="best so far")
        history.set(xlabel="trial", ylabel="macro F1 on the validation images (%)")
        history.xaxis.set_major_locator(MaxNLocator(integer=True))
        history.legend(loc="lower right")
        history.grid(visible=True)
        for axes in rest:
            names = list(importances)[::-1]
            shares = [100 * importances[name] for name in names]
            axes.barh([name.replace("_", " ") for name in names], shares, color=BLUE, height=0.6)
            axes.set(xlabel="share of the variance of macro F1 (%, fANOVA)")
            axes.grid(visible=True, axis="x")
        figure.suptitle(title, fontsize=10)
        return png(figure)
