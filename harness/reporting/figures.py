"""Figures as PNG and SVG: the curves and confusion matrix of a run, the plots of a board.

The background is transparent, ink and colours have a medium lightness: legible on white and on
dark pages. Without dates, and with a fixed salt of ids, the same plot gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import singledispatch
from itertools import cycle
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from harness.data.fonts import legible
from harness.reporting.plots import (
    Against,
    Confusions,
    Curves,
    Disagreement,
    Forest,
    Mark,
    Plot,
    Reliability,
    Reported,
    Shifted,
)

INK = "#797979"
"""A contrast of 4.3 to white and to GitHub's dark page."""
BLUE, ORANGE, GREEN, PURPLE = "#3b7fc4", "#cc6a1f", "#2c9460", "#9a68cf"
KINDS = {
    "network": ("o", BLUE),
    "ensemble": ("D", ORANGE),
    "imported": ("s", PURPLE),
    "baseline": ("X", INK),
}
FRONT_STYLES = ("--", ":", "-.")
"""Of the fronts of several devices."""
SHADES = LinearSegmentedColormap.from_list("shades", ["#d4e3f4", "#1b5e9e"])
"""Backgrounds of cells, on which black or white is legible."""
STYLE: Any = {
    "svg.hashsalt": "wbc-bench",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.hinting": "no_hinting",  # Widths that do not depend on the resolution.
    "figure.dpi": 130,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.titlesize": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
LABEL_STEPS = 300
"""Of the label placement; a limit of time would not give the same figure everywhere."""
MARK = "wbc-bench-data"
"""Precedes a plot's digest: in a text of the PNG; in a comment of the SVG, with its sha256."""


def render(plot: Plot) -> dict[str, bytes]:
    """The figure of a board's plot as ``svg`` and ``png``, marked with the plot's digest."""
    with style():
        figure = picture(plot)
        figure.suptitle(fill(plot.board, 90, max_lines=3, placeholder=" …"), color=INK, fontsize=10)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # Laid out once, for the labels and for both formats.
        if isinstance(plot, Against):
            _label(figure.axes[0], plot)
        return {"svg": _svg(figure, plot.digest), "png": png(figure, plot.digest)}


# --- of a board ----------------------------------------------------------------------------------


@singledispatch
def picture(plot: Plot) -> Figure:
    """The figure of a plot. Each class of plots registers its own."""
    raise TypeError(f"no picture of {plot.name}")


@picture.register
def _(plot: Against) -> Figure:
    figure, axes = single_axes(9, 6)
    for mark, cost in zip(plot.marks, plot.costs, strict=True):
        symbol, colour = KINDS[mark.kind]
        axes.plot([cost, cost], [100 * mark.low, 100 * mark.high], color=colour, lw=1, alpha=0.35)
        axes.plot(cost, 100 * mark.f1, symbol, **_dot(colour, hollow=not mark.rank))
    fronts: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for mark, cost, front in zip(plot.marks, plot.costs, plot.fronts, strict=True):
        if front:
            fronts[front].append((100 * mark.f1, cost))
    lines = [
        axes.plot(
            [cost for _, cost in sorted(points)], [f1 for f1, _ in sorted(points)], label=name,
            drawstyle="steps-post", color=GREEN, lw=1.2, ls=style, zorder=1,
        )[0]
        for (name, points), style in zip(fronts.items(), cycle(FRONT_STYLES))
    ]  # fmt: skip
    axes.set_xscale("log")
    if far := _far_below(plot.marks):
        axes.set_ylim(_range(mark for mark in plot.marks if mark not in far))
        names = ", ".join(f"{_shortened(mark.short, 30)} {100 * mark.f1:.1f}" for mark in far)
        words = fill(f"below, not ranked: {names}", 100, max_lines=2, placeholder=" …")
        axes.text(0.01, 0.02, words, transform=axes.transAxes, fontsize=7.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12)
    axes.set(xlabel=plot.axis, ylabel="macro F1 (%)")
    axes.grid(visible=True)
    _legend_of_kinds(figure, plot.marks, lines=lines if len(lines) > 1 else ())
    return figure


@picture.register
def _(plot: Reported) -> Figure:
    figure, axes = single_axes(8, 1.5 + 0.26 * len(plot.rows))
    for y, row in enumerate(plot.rows):
        axes.plot([100 * row.low, 100 * row.high], [y, y], color=BLUE, lw=1.6, alpha=0.6)
        axes.plot(100 * row.measured, y, "o", **_dot(BLUE, hollow=not row.reproduced))
        axes.plot(100 * row.reported, y, "D", **_dot(ORANGE, hollow=False))
    axes.set_yticks(range(len(plot.rows)), [_shortened(row.title, 40) for row in plot.rows])
    axes.set_ylim(len(plot.rows) - 0.5, -0.5)
    axes.set(xlabel=f"{plot.measure} (%)")
    axes.grid(visible=True, axis="x")
    trials = [not row.reproduced for row in plot.rows]
    _legend(figure, [
        ("reported", "D", ORANGE, False),
        *([("measured, 95 % interval", "o", BLUE, False)] if not all(trials) else []),
        *([("measured in a trial", "o", BLUE, True)] if any(trials) else []),
    ])  # fmt: skip
    return figure


@picture.register
def _(plot: Forest) -> Figure:
    rows = len(plot.marks)
    figure, axes = single_axes(8, 1.3 + 0.22 * rows)
    for y, mark in enumerate(plot.marks):
        colour = GREEN if mark.may_be_best else BLUE if mark.rank else INK
        axes.plot([100 * mark.low, 100 * mark.high], [y, y], color=colour, lw=1.6, alpha=0.6)
        symbol = KINDS[mark.kind][0]
        axes.plot(100 * mark.f1, y, symbol, **_dot(colour, hollow=not mark.rank))
        axes.text(
            1.01, y, f"{mark.rank or '–'}",
            transform=axes.get_yaxis_transform(), va="center", color=colour,
        )  # fmt: skip
    axes.set_yticks(range(rows), [_shortened(mark.title, 52) for mark in plot.marks])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(rows - 0.4, -0.6)
    if far := _far_below(plot.marks):
        axes.set_xlim(_range(mark for mark in plot.marks if mark not in far))
        for mark in far:
            axes.text(
                0.01, plot.marks.index(mark), f"← {100 * mark.f1:.1f}",
                transform=axes.get_yaxis_transform(), va="center",
            )  # fmt: skip
    more = f"; {plot.omitted} more rows below these" if plot.omitted else ""
    axes.set(xlabel=f"macro F1 (%), 95 % interval; right: rank{more}")
    axes.grid(visible=True, axis="x")
    _legend_of_kinds(figure, plot.marks, INK)
    return figure


@picture.register
def _(plot: Confusions) -> Figure:
    side = 1.9 + 0.32 * len(plot.class_names)
    figure, grid = _panels(len(plot.panels), side, side)
    for axes, panel in zip(grid, plot.panels, strict=True):
        draw_counts(axes, np.array(panel.counts), plot.class_names)
        axes.set_title(f"{_shortened(panel.title, 32)}\n{100 * panel.f1:.1f} % macro F1")
    return figure


@picture.register
def _(plot: Reliability) -> Figure:
    figure, grid = _panels(len(plot.panels), 3.9, 3.8, shared=True)
    for axes, panel in zip(grid, plot.panels, strict=True):
        counts, confidence, accuracy = np.array(panel.bins).T
        axes.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":")
        axes.plot(confidence, accuracy, color=BLUE, lw=1.2, alpha=0.7)
        areas = 12 + 240 * counts / counts.sum()
        axes.scatter(confidence, accuracy, s=areas, color=BLUE, alpha=0.85, lw=0)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axes.set_title(
            f"{_shortened(panel.title, 34)}\ncalibration error {100 * panel.error:.1f} %"
        )
        axes.grid(visible=True)
    figure.supxlabel("confidence", fontsize=9)
    figure.supylabel("accuracy", fontsize=9)
    return figure


@picture.register
def _(plot: Shifted) -> Figure:
    scores = np.ma.masked_invalid(np.array(plot.scores))
    figure, axes = single_axes(3.6 + 0.46 * scores.shape[1], 1.8 + 0.3 * len(scores))
    texts = [[f"{100 * score:.0f}" for score in row] for row in plot.scores]
    _cells(axes, scores, texts)
    axes.set_xticks(range(len(plot.columns)), plot.columns, rotation=45, ha="right")
    axes.set_yticks(range(len(scores)), [_shortened(title, 34) for title in plot.titles])
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.axvline(1.5, color=INK, lw=1)
    return figure


@picture.register
def _(plot: Disagreement) -> Figure:
    shares = 100 * np.array(plot.shares)
    figure, axes = single_axes(2.8 + 0.36 * len(shares), 2.4 + 0.36 * len(shares))
    hidden = np.eye(len(shares), dtype=bool) | np.isnan(shares)
    texts = [[f"{share:.0f}" for share in row] for row in shares]
    _cells(axes, np.ma.masked_array(shares / max(1.0, np.nanmax(shares)), hidden), texts)
    _square(axes, [_shortened(title, 22) for title in plot.titles])
    return figure


@picture.register
def _(plot: Curves) -> Figure:
    figure, panels = _panels(2, 4.5, 3.6)
    for number, curve in enumerate(plot.curves):
        for axes, values in zip(panels, (curve.losses, curve.f1), strict=True):
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, ".-", color=f"C{number}", ms=3, lw=1.2)
    for axes, name in zip(panels, ("validation loss", "validation macro F1"), strict=True):
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True)
    panels[0].set_yscale("log")
    lines = panels[0].get_lines()
    titles = [_shortened(curve.title, 30) for curve in plot.curves]
    figure.legend(lines, titles, loc="outside lower center", ncols=min(4, len(titles)))
    return figure


# --- parts ---------------------------------------------------------------------------------------


def single_axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _panels(
    count: int, width: float, height: float, *, shared: bool = False
) -> tuple[Figure, list[Axes]]:
    """At most two panels side by side; width and height of each in inches."""
    columns = min(2, count)
    rows = math.ceil(count / columns)
    size = (width * columns, 0.3 + height * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared).flat)
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def _dot(colour: str, *, hollow: bool) -> dict[str, Any]:
    return {
        "color": colour, "ms": 6.5, "mew": 1.2, "ls": "none",
        "mfc": "none" if hollow else colour,
    }  # fmt: skip


def _far_below(marks: Sequence[Mark]) -> list[Mark]:
    """Rows without a rank, so far below the ranked ones that one axis would show neither."""
    ranked = [mark for mark in marks if mark.rank]
    if not ranked:
        return []
    low, high = min(mark.low for mark in ranked), max(mark.high for mark in ranked)
    return [mark for mark in marks if not mark.rank and mark.high < low - (high - low) / 2]


def _range(marks: Iterable[Mark]) -> tuple[float, float]:
    """Limits of an axis that shows the intervals of these rows, in percent."""
    ends = [100 * end for mark in marks for end in (mark.low, mark.high)]
    margin = 0.12 * (max(ends) - min(ends))
    return min(ends) - margin, max(ends) + margin


def _label(axes: Axes, plot: Against) -> None:
    """Name the marks that are to be named, none over another. The figure must be laid out."""
    heights = [100 * mark.f1 for mark in plot.marks]
    texts = [
        axes.text(cost, height, _shortened(mark.short, 30), fontsize=7.5, va="center")
        for cost, height, mark in zip(plot.costs, heights, plot.marks, strict=True)
        if mark.named and mark not in _far_below(plot.marks)
    ]
    adjust_text(
        texts, plot.costs, heights, ax=axes, iter_lim=LABEL_STEPS, max_move=(8, 8),
        expand=(1.15, 1.4), force_text=(0.1, 0.3), force_static=(0.3, 0.3),
        force_explode=(0.02, 0.02), force_pull=(0.03, 0.03), pull_threshold=4,
        arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.5},
    )  # fmt: skip


def _legend_of_kinds(
    figure: Figure, marks: Sequence[Mark], one_colour: str = "", lines: Sequence[Line2D] = ()
) -> None:
    present = {mark.kind for mark in marks}
    entries: list[tuple[str, str, str, bool]] = [
        (kind, symbol, one_colour or colour, kind == "baseline")
        for kind, (symbol, colour) in KINDS.items()
        if kind in present
    ]
    if not all(mark.rank or mark.kind == "baseline" for mark in marks):
        entries.append(("not ranked", "o", INK, True))
    _legend(figure, entries, lines)


def _legend(
    figure: Figure, entries: Sequence[tuple[str, str, str, bool]], lines: Sequence[Line2D] = ()
) -> None:
    """Below the figure; entries of label, symbol, colour, and whether it is hollow; then lines."""
    handles = [
        figure.axes[0].plot([], [], symbol, **_dot(colour, hollow=hollow), label=label)[0]
        for label, symbol, colour, hollow in entries
    ]
    handles += lines
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def draw_counts(axes: Axes, counts: np.ndarray, names: Sequence[str]) -> None:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    _cells(axes, np.ma.masked_array(share, counts == 0), [[str(n) for n in row] for row in counts])
    _square(axes, [_shortened(name, 20) for name in names])
    axes.set(xlabel="predicted class", ylabel="true class")


def _cells(axes: Axes, shares: np.ma.MaskedArray, texts: Sequence[Sequence[str]]) -> None:
    """Colour each cell by its share, 0 to 1; masked cells stay empty."""
    down, across = (np.arange(count + 1) - 0.5 for count in shares.shape)
    axes.pcolormesh(across, down, shares, cmap=SHADES, vmin=0, vmax=1)
    for row, column in np.argwhere(~np.ma.getmaskarray(shares)):
        text = texts[row][column]
        axes.text(
            column, row, text, ha="center", va="center",
            color=_on(SHADES(shares[row, column])), fontsize=8 if len(text) < 4 else 6,
        )  # fmt: skip


def _on(colour: Any) -> str:
    """Black or white, whichever has more contrast to the colour (WCAG 2.1)."""
    linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                       for c in to_rgb(colour)])  # fmt: skip
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "white"


def _square(axes: Axes, names: Sequence[str]) -> None:
    side = len(names)
    axes.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(side), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(side), names)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    edges = np.arange(side + 1) - 0.5
    axes.hlines(edges, -0.5, side - 0.5, color=INK, lw=0.5, alpha=0.25)
    axes.vlines(edges, -0.5, side - 0.5, color=INK, lw=0.5, alpha=0.25)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


# --- bytes ---------------------------------------------------------------------------------------


@contextmanager
def style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A class may be named in a script that no font here has: then the figure says so.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _svg(figure: Figure, digest: str) -> bytes:
    buffer = io.BytesIO()
    unset = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=unset)
    head, start, rest = buffer.getvalue().partition(b"<svg")
    drawing = start + rest
    checksum = hashlib.sha256(drawing).hexdigest()
    return head + f"<!-- {MARK}: {digest} {checksum} -->\n".encode() + drawing


def png(figure: Figure, digest: str = "") -> bytes:
    buffer = io.BytesIO()
    mark = {MARK: digest} if digest else {}
    with legible(figure):
        figure.savefig(buffer, format="png", metadata={"Software": None, **mark})
    return buffer.getvalue()
