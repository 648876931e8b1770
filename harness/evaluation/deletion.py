"""Deletion curves (Petsiuk et al. 2018): what the probability loses as an image is removed.

A map points to what a network uses if removing the hottest pixels first hurts more than removing
others. The others are the hottest pixels of random maps of the same size, so that regions of the
same form are compared: removed one by one, pixels also add edges all over the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

STEPS = 10
"""In which a whole image is removed."""
RANDOM_MAPS = 2
"""With which the map of an image is compared."""


@dataclass(frozen=True)
class DeletionCurves:
    """Mean probabilities (n, STEPS + 1) of the explained class; nothing is removed at first."""

    hottest: np.ndarray
    random: np.ndarray

    @property
    def areas(self) -> tuple[float, float]:
        """The mean areas under both curves; the lower, the more the removed pixels mattered."""
        return float(_area(self.hottest).mean()), float(_area(self.random).mean())

    @property
    def lower(self) -> int:
        """Images with a smaller area where the hottest pixels went first."""
        return int((_area(self.hottest) < _area(self.random)).sum())

    @property
    def informative(self) -> bool:
        """Whether that is so in more images than chance would give (two standard errors)."""
        images = len(self.hottest)
        return self.lower > images / 2 + images**0.5


def _area(curves: np.ndarray) -> np.ndarray:
    return np.asarray(np.trapezoid(curves, dx=1 / STEPS, axis=-1))


def deletions(image: np.ndarray, heat: np.ndarray, seed: list[int]) -> Iterator[np.ndarray]:
    """Copies of an image uint8 (S, S, 3) from which more and more is removed, STEPS of each order.

    First by ``heat`` (h, w), then by RANDOM_MAPS random ones. Removed pixels get the mean colour
    of the image.
    """
    rng = np.random.default_rng(seed)
    maps = [heat, *(rng.random(heat.shape, np.float32) for _ in range(RANDOM_MAPS))]
    side, colour = len(image), image.mean(axis=(0, 1)).round().astype(np.uint8)
    for one in maps:
        # Equal places go in random order, not from top to bottom.
        order = np.lexsort((rng.random(side * side), -enlarged(one, side).ravel()))
        for step in range(1, STEPS + 1):
            copy = image.reshape(-1, 3).copy()
            copy[order[: round(step * len(order) / STEPS)]] = colour
            yield copy.reshape(image.shape)


def curves(probabilities: np.ndarray, of_copies: np.ndarray) -> DeletionCurves:
    """``probabilities`` (n,) of the images; ``of_copies``: of what ``deletions`` makes of each."""
    by_map = of_copies.reshape(len(probabilities), 1 + RANDOM_MAPS, STEPS)
    start = np.broadcast_to(probabilities[:, None, None], (*by_map.shape[:2], 1))
    whole = np.concatenate([start, by_map], axis=2)
    return DeletionCurves(whole[:, 0], whole[:, 1:].mean(axis=1))


def enlarged(heat: np.ndarray, side: int) -> np.ndarray:
    """A map (h, w) at the size of its image, (side, side)."""
    import cv2

    return np.asarray(cv2.resize(heat, (side, side), interpolation=cv2.INTER_LINEAR))
