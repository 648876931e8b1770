"""Labels beside points, where nothing else stands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

DOT = 5.0
"""Half the side of what a point covers, in points of type."""
PLACES = (
    (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0),
    (0.9, 0.7), (-0.9, 0.7), (0.9, -0.7), (-0.9, -0.7),
    (0.5, 1.1), (-0.5, 1.1), (0.5, -1.1), (-0.5, -1.1),
    (1.0, 0.4), (-1.0, 0.4), (1.0, -0.4), (-1.0, -0.4),
    (0.9, 2.0), (-0.9, 2.0), (0.9, -2.0), (-0.9, -2.0),
)  # fmt: skip
"""Where a text may stand: right and above are positive, 1 beside the dot, 0 centred on it. The
first of those that cost least is taken."""
Box = tuple[float, float, float, float]
Segment = tuple[Sequence[float], Sequence[float]]


def place_labels(
    axes: Axes, points: np.ndarray, texts: Sequence[str], keep: int, lines: Sequence[Segment]
) -> None:
    """Write each text beside its point (n, 2), the first ones choosing first.

    No text covers another or a point; it crosses as few of the upright and level ``lines`` as it
    can. A text without a free place is left out, but the first ``keep`` are written where they
    cover least. The figure must have been laid out for good.
    """
    figure = axes.get_figure()
    assert figure is not None
    scale, move = figure.dpi / 72, axes.transData.transform
    dots = [(*(dot - DOT * scale), *(dot + DOT * scale)) for dot in move(points)]
    crossed = np.array([np.sort(move(line), axis=0).ravel() for line in lines])
    taken: list[Box] = []
    for i, text in enumerate(texts):
        label = axes.annotate(
            text, points[i], (0, 0), textcoords="offset points", fontsize=7.5, va="bottom"
        )
        extent = label.get_window_extent()
        boxes = [_box(dots[i], extent.width, extent.height, place) for place in PLACES]
        covered = [_covered(box, [*dots[:i], *dots[i + 1 :], *taken]) for box in boxes]
        costs = [
            np.inf if not _inside(box, axes) else area + 0.1 * _covered(box, crossed, 1.0)
            for box, area in zip(boxes, covered, strict=True)
        ]
        best = int(np.argmin(costs))
        if not np.isfinite(costs[best]) or (covered[best] > 0 and i >= keep):
            label.remove()
            continue
        box = boxes[best]
        label.set_position((np.array(box[:2]) - move(points[i])) / scale)
        taken.append(box)


def _box(dot: Box, width: float, height: float, place: tuple[float, float]) -> Box:
    """Where a text of that size lies, as far from the dot as the place says."""
    x, y = place
    side = (dot[2] - dot[0]) / 2
    middle = dot[0] + side + x * (1.4 * side + width / 2), dot[1] + side + y * (side + height / 2)
    return (
        middle[0] - width / 2,
        middle[1] - height / 2,
        middle[0] + width / 2,
        middle[1] + height / 2,
    )


def _inside(box: Box, axes: Axes) -> bool:
    window = axes.get_window_extent()
    return bool(
        window.x0 <= box[0] and box[2] <= window.x1 and window.y0 <= box[1] and box[3] <= window.y1
    )


def _covered(box: Box, others: Sequence[Box] | np.ndarray, thickness: float = 0.0) -> float:
    """Square pixels that the box shares with the others, each made as much thicker."""
    if not len(others):
        return 0.0
    found = np.asarray(others)
    width = np.minimum(box[2], found[:, 2]) - np.maximum(box[0], found[:, 0]) + thickness
    height = np.minimum(box[3], found[:, 3]) - np.maximum(box[1], found[:, 1]) + thickness
    return float((np.maximum(width, 0) * np.maximum(height, 0)).sum())
