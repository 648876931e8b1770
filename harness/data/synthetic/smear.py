"""The embedded data set: stained blood-smear cells of eight classes, drawn from a seed.

It has the faults of real sets on purpose: imbalance, similar classes, exact and near duplicates,
and images that are no cells. Class shares follow BloodMNIST (Acevedo et al. 2020,
doi:10.1016/j.dib.2020.105474; Yang et al. 2023, doi:10.1038/s41597-022-01721-8).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.data.splitting import apportion
from harness.data.synthetic.appearance import CLASS_COUNTS, CLASS_NAMES
from harness.data.synthetic.cells import perturb, sample_cells
from harness.data.synthetic.painting import SIZE, paint
from harness.errors import DataError

__all__ = ["CLASS_NAMES", "MINIMUM", "VERSION", "Smear", "draw"]

VERSION = 1
"""Raised whenever the same seed draws other pixels."""

MINIMUM = 80
"""With fewer images, small classes could not be split."""

_BATCH = 16
"""Images painted together; few enough to stay in the processor's cache."""


class Smear(NamedTuple):
    """A drawn set: images uint8 (N, 96, 96, 3) RGB, labels int64 (N,), and its faults.

    ``contaminants``: ids of the images that are no cells. ``duplicates``, ``near_duplicates``:
    ids (pairs, 2) of a cell and its copy, with the same label. All int64.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    contaminants: NDArray[np.int64]
    duplicates: NDArray[np.int64]
    near_duplicates: NDArray[np.int64]


def draw(count: int, seed: int = 0, *, faults: bool = True) -> Smear:
    """Draw ``count`` images, shuffled; the same bytes for the same arguments.

    With ``faults``, the count includes contaminants, duplicates and near duplicates.
    Raises DataError for a count below MINIMUM or a negative seed.
    """
    if count < MINIMUM:
        raise DataError(f"smear: {count} images are too few; draw at least {MINIMUM}")
    if seed < 0:
        raise DataError(f"smear: the seed is {seed}; it must be 0 or more")
    rng = np.random.default_rng([seed, VERSION])
    copies = max(2, round(0.004 * count)) if faults else 0
    foreign = max(4, round(0.025 * count)) if faults else 0
    originals = count - 2 * copies - foreign

    labels = np.repeat(range(len(CLASS_COUNTS)), apportion(originals, np.array(CLASS_COUNTS)))
    cells = sample_cells(labels, rng)
    sources = rng.choice(originals, 2 * copies, replace=False)
    copied = cells[sources]
    copied[copies:] = perturb(copied[copies:], rng)
    cells = np.concatenate([cells, copied])
    contaminants, contaminant_labels = _contaminants(foreign)
    labels = np.concatenate([labels, labels[sources], contaminant_labels]).astype(np.int64)

    ids = rng.permutation(count)
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    # glibc keeps freed blocks up to the largest one freed so far; without this, every batch would
    # fault its pages in again, at half the speed.
    np.empty(1 << 24, np.uint8)
    for start in range(0, len(cells), _BATCH):
        batch = slice(start, min(start + _BATCH, len(cells)))
        images[ids[batch]] = paint(cells[batch])
    images[ids[len(cells) :]] = contaminants
    pairs = np.stack([ids[sources], ids[originals : originals + 2 * copies]], axis=1)
    return Smear(
        images, labels[np.argsort(ids)], np.sort(ids[len(cells) :]), pairs[:copies], pairs[copies:]
    )


def _contaminants(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (count, 96, 96, 3) that are no cells, and their labels.

    Copies of a focusing target, all labelled as monocytes, and of a colour chart, labelled as
    every class in turn; at least two of each.
    """
    y, x = np.mgrid[:SIZE, :SIZE]
    rings = np.hypot(x - 47.5, y - 47.5).astype(int) // 6 % 2
    target = np.where(rings[..., None] == 0, [24, 28, 36], [232, 236, 228])
    patch = y // 24 * 4 + x // 24
    chart = np.stack([patch * 67 % 256, patch * 151 % 256, patch * 211 % 256], -1)
    targets = min(count, max(2, count // 5))
    charts = count - targets
    images = np.stack([target, chart]).astype(np.uint8)
    labels = [CLASS_NAMES.index("monocyte")] * targets
    labels += [k % len(CLASS_NAMES) for k in range(charts)]
    return np.repeat(images, [targets, charts], axis=0), np.array(labels, np.int64)
