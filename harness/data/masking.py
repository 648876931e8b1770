"""The cell without its surroundings (report 001): everything around it becomes white.

Red cells beside it, stain and dirt say nothing of its class; a network may learn them all the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.data.image_cache import Batch, Content, Source, Unreadable

VERSION = 1
"""Raised when the same image would be masked otherwise."""

REACH = 0.14
"""Of the image's side: how far the cell's body reaches beyond the hull of its nucleus."""

SPECK = 0.004
"""Of the image's area: smaller spots of nuclear stain are platelets or dirt beside the cell."""

CENTRAL = 0.3
"""Of the image's side: how far the middle of a spot may be from the image's, across or down."""

SMALLEST = 0.004
"""Of the image's area: a cell smaller than this was not found; such an image stays as it is."""

_BATCH = 64


def cell(image: np.ndarray) -> NDArray[np.bool_]:
    """Where the cell is in a uint8 RGB image (h, w, 3): bool (h, w).

    The nucleus takes haematoxylin (Ruifrok, Johnston 2001: HED colour deconvolution), above Otsu's
    threshold (1979). The body is what is stained near the nucleus and hangs together with it; of a
    red cell that touches it, the nearest part stays.
    All True where no cell is found.
    """
    import cv2
    from skimage.color import rgb2hed
    from skimage.filters import threshold_otsu

    side = min(image.shape[:2])
    stain = cv2.GaussianBlur(rgb2hed(image)[..., 0].astype(np.float32), (0, 0), side / 96)
    nucleus = _central(stain > threshold_otsu(stain))
    if not nucleus.any():
        return np.ones(image.shape[:2], bool)
    green = cv2.GaussianBlur(np.ascontiguousarray(image[..., 1]), (0, 0), side / 96)
    # Without the nucleus, or else pale bodies would count as background beside it.
    rest = green[~nucleus]
    pale = threshold_otsu(rest) if rest.size and rest.min() < rest.max() else 0
    body = _smooth(green < pale, side) & _near(nucleus, REACH * side) | nucleus
    count, parts = cv2.connectedComponents(body.astype(np.uint8))
    touching = np.unique(parts[nucleus & body])
    whole = _filled(np.isin(parts, touching[touching > 0]))
    if whole.mean() < SMALLEST or count < 2:
        return np.ones(image.shape[:2], bool)
    return whole


def without_surroundings(image: np.ndarray) -> np.ndarray:
    """The image, white wherever the cell is not."""
    return np.where(cell(image)[..., None], image, np.uint8(255))


def masked(source: Source) -> Source:
    """``source`` with every image masked; unreadable ones stay what they are."""

    def read() -> Content:
        content = source.read()
        return replace(content, batches=lambda: _masked(content))

    return Source(
        name=f"{source.name}, masked",
        description=f"{source.description}; background masked, version {VERSION}",
        identity=hashlib.sha256(f"{source.identity} mask {VERSION}".encode()).hexdigest(),
        read=read,
    )


def _masked(content: Content) -> Iterator[Batch]:
    def one(image: np.ndarray | Unreadable) -> np.ndarray | Unreadable:
        return image if isinstance(image, Unreadable) else without_surroundings(image)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for batch in content.batches():
            for start in range(0, len(batch), _BATCH):
                yield list(pool.map(one, batch[start : start + _BATCH]))


def _central(spots: np.ndarray) -> NDArray[np.bool_]:
    """The larger spots whose middle is not far from the image's: there the cell is."""
    import cv2

    _, parts, stats, middles = cv2.connectedComponentsWithStats(spots.astype(np.uint8))
    height, width = spots.shape
    off = np.abs(middles - [width / 2, height / 2]).max(axis=1) / min(spots.shape)
    areas = np.where(off < CENTRAL, stats[:, cv2.CC_STAT_AREA], 0)
    areas[0] = 0
    large = np.flatnonzero(areas >= max(SPECK * spots.size, 0.1 * areas.max(), 1))
    return np.isin(parts, large)


def _smooth(spots: np.ndarray, side: int) -> NDArray[np.bool_]:
    """Without thin bridges, as to red cells that touch."""
    import cv2

    width = 2 * round(side / 48) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    return cv2.morphologyEx(spots.astype(np.uint8), cv2.MORPH_OPEN, disc).astype(bool)


def _near(nucleus: np.ndarray, reach: float) -> NDArray[np.bool_]:
    """Within ``reach`` pixels of the nucleus' convex hull."""
    import cv2

    points = np.argwhere(nucleus)[:, ::-1].astype(np.int32)
    hull = np.zeros(nucleus.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
    away = cv2.distanceTransform(1 - hull, cv2.DIST_L2, 5)
    return np.asarray(away <= reach)


def _filled(spots: np.ndarray) -> NDArray[np.bool_]:
    """The spots with their outer borders alone: what they enclose belongs to them."""
    import cv2

    borders, _ = cv2.findContours(spots.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(spots.shape, np.uint8)
    cv2.drawContours(filled, borders, -1, 1, cv2.FILLED)
    return filled.astype(bool)
