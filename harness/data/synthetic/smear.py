"""The embedded data set: stained blood-smear cells of eight classes, drawn from a seed.

It has the faults of real sets on purpose: imbalance, confusable classes, exact and near
duplicates, and pictures that are no cells at all. Class shares follow BloodMNIST (Acevedo et al.
2020, doi:10.1016/j.dib.2020.105474; Yang et al. 2023, doi:10.1038/s41597-022-01721-8).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.data.synthetic.appearance import CLASS_COUNTS, CLASS_NAMES
from harness.data.synthetic.cells import disturb, imagine
from harness.data.synthetic.painting import SIZE, paint
from harness.errors import DataError

__all__ = ["CLASS_NAMES", "DRAWING", "MINIMUM", "Smear", "draw"]

DRAWING = 1
"""Version of the looks: raised whenever the same seed draws other pixels."""

MINIMUM = 80
"""Below this, small classes would have too few images to be split."""

_BATCH = 16
"""Pictures painted together; few enough that their planes stay in the processor's cache."""


class Smear(NamedTuple):
    """A drawn set: images uint8 (N, 96, 96, 3) RGB, labels int64 (N,), and its planted faults.

    ``contaminants``: ids of the images that are no cells. ``duplicates``, ``near_duplicates``:
    ids (pairs, 2) of a cell and its copy, under the same label. All int64.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    contaminants: NDArray[np.int64]
    duplicates: NDArray[np.int64]
    near_duplicates: NDArray[np.int64]


def draw(count: int, seed: int = 0, *, faults: bool = True) -> Smear:
    """Draw exactly ``count`` images, in shuffled order; the same bytes for the same arguments.

    With ``faults``, the count includes the contaminants, duplicates and near duplicates.
    Raises DataError where the count is below MINIMUM or the seed is negative.
    """
    if count < MINIMUM:
        raise DataError(f"smear: {count} images are too few; draw at least {MINIMUM}")
    if seed < 0:
        raise DataError(f"smear: the seed is {seed}; it must be 0 or more")
    rng = np.random.default_rng([seed, DRAWING])
    copies = max(2, round(0.004 * count)) if faults else 0
    foreign = max(4, round(0.025 * count)) if faults else 0
    originals = count - 2 * copies - foreign

    labels = _labels(originals)
    cells = imagine(labels, rng)
    sources = rng.choice(originals, 2 * copies, replace=False)
    again = cells[sources]
    again[copies:] = disturb(again[copies:], rng)
    cells = np.concatenate([cells, again])
    strange = _foreign_labels(foreign)
    labels = np.concatenate([labels, labels[sources], strange])

    place = rng.permutation(count)
    _keep_freed_memory()
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    _paint_into(images, place[: len(cells)], cells)
    pictures = _foreign_pictures()
    contaminants = place[len(cells) :]
    images[contaminants] = pictures[np.where(np.arange(foreign) < _lone(foreign), 0, 1)]
    shuffled = np.empty(count, np.int64)
    shuffled[place] = labels
    pairs = np.stack([place[sources], place[originals : originals + 2 * copies]], axis=1)
    return Smear(images, shuffled, np.sort(contaminants), pairs[:copies], pairs[copies:])


def _paint_into(images: NDArray[np.uint8], place: np.ndarray, cells: np.ndarray) -> None:
    for start in range(0, len(cells), _BATCH):
        part = slice(start, start + _BATCH)
        images[place[part]] = paint(cells[part])


def _keep_freed_memory() -> None:
    """Give one large block back unused.

    From then on glibc keeps blocks up to that size for the next batch; without it, every batch
    faults its pages in again, which halves the speed.
    """
    np.empty(1 << 24, np.uint8)


def _labels(count: int) -> NDArray[np.int64]:
    """Labels in order, shared out by largest remainder after CLASS_COUNTS."""
    exact = count * np.array(CLASS_COUNTS) / sum(CLASS_COUNTS)
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: count - shares.sum()]] += 1
    return np.repeat(np.arange(len(shares)), shares)


# --- what is no cell ------------------------------------------------------------------------------


def _lone(foreign: int) -> int:
    """How many of the contaminants are copies of the first picture; at least two of each."""
    return min(foreign, max(2, foreign // 5))


def _foreign_labels(foreign: int) -> NDArray[np.int64]:
    """The first picture's copies all claim to be monocytes; the second's, every class in turn."""
    lone = _lone(foreign)
    return np.concatenate(
        [
            np.full(lone, CLASS_NAMES.index("monocyte"), np.int64),
            np.arange(foreign - lone, dtype=np.int64) % len(CLASS_NAMES),
        ]
    )


def _foreign_pictures() -> NDArray[np.uint8]:
    """Two pictures that are no cells: a focusing target and a colour chart. (2, 96, 96, 3)."""
    y, x = np.mgrid[:SIZE, :SIZE]
    rings = np.hypot(x - 47.5, y - 47.5).astype(int) // 6 % 2
    target = np.where(rings[..., None] == 0, [24, 28, 36], [232, 236, 228])
    patch = y // 24 * 4 + x // 24
    chart = np.stack([patch * 67 % 256, patch * 151 % 256, patch * 211 % 256], -1)
    return np.stack([target, chart]).astype(np.uint8)
