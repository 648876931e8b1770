"""Background masking (report 001): everything around the cell becomes white.

Other red cells, stain and dirt do not determine a cell's class, but a network may learn them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.data.image_cache import Batch, Content, Source, Unreadable

VERSION = 1
"""Raised when the same image would be masked differently."""

BODY_MARGIN = 0.14
"""How far the cell's body extends beyond the hull of its nucleus, as a fraction of the side."""

SMALLEST_NUCLEUS = 0.004
"""Fraction of the area; smaller spots of nuclear stain are platelets or dirt."""

CENTRAL = 0.3
"""Largest distance of a nucleus' centre from the image's, in x and y, as a fraction of the side."""

SMALLEST_CELL = 0.004
"""Fraction of the area below which no cell was found; such an image is not masked."""

_BATCH = 64


def cell_mask(image: np.ndarray) -> NDArray[np.bool_]:
    """The mask (h, w) of the cell in a uint8 RGB image (h, w, 3); all True if none is found.

    The nucleus is where haematoxylin (HED colour deconvolution, Ruifrok, Johnston 2001) is above
    Otsu's threshold (1979). The body is what is stained near the nucleus and connected to it, with
    the nearest part of a red cell that touches it.
    """
    import cv2
    from scipy.ndimage import binary_fill_holes
    from skimage.color import rgb2hed
    from skimage.filters import threshold_otsu

    side = min(image.shape[:2])
    stain = cv2.GaussianBlur(rgb2hed(image)[..., 0].astype(np.float32), (0, 0), side / 96)
    nucleus = _central_spots(stain > threshold_otsu(stain))
    if not nucleus.any():
        return np.ones(image.shape[:2], bool)
    green = cv2.GaussianBlur(np.ascontiguousarray(image[..., 1]), (0, 0), side / 96)
    # Without the nucleus, or else pale bodies would count as background.
    rest = green[~nucleus]
    threshold = threshold_otsu(rest) if rest.size and rest.min() < rest.max() else 0
    body = _opened(green < threshold, side) & _near(nucleus, BODY_MARGIN * side) | nucleus
    count, components = cv2.connectedComponents(body.astype(np.uint8))
    connected = np.unique(components[nucleus & body])
    mask = binary_fill_holes(np.isin(components, connected[connected > 0]))
    if mask.mean() < SMALLEST_CELL or count < 2:
        return np.ones(image.shape[:2], bool)
    return mask


def mask_background(image: np.ndarray) -> np.ndarray:
    """The image, white outside the cell."""
    return np.where(cell_mask(image)[..., None], image, np.uint8(255))


def masked(source: Source) -> Source:
    """``source`` with every readable image masked."""
    return source.changed(
        "masked",
        f"background masked, version {VERSION}",
        f"mask {VERSION}",
        lambda content: replace(content, batches=lambda: _masked(content)),
    )


def _masked(content: Content) -> Iterator[Batch]:
    def mask(image: np.ndarray | Unreadable) -> np.ndarray | Unreadable:
        return image if isinstance(image, Unreadable) else mask_background(image)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for batch in content.batches():
            for start in range(0, len(batch), _BATCH):
                yield list(pool.map(mask, batch[start : start + _BATCH]))


def _central_spots(spots: np.ndarray) -> NDArray[np.bool_]:
    """The larger connected spots near the image's centre."""
    import cv2

    _, components, stats, centres = cv2.connectedComponentsWithStats(spots.astype(np.uint8))
    height, width = spots.shape
    distances = np.abs(centres - [width / 2, height / 2]).max(axis=1) / min(spots.shape)
    areas = np.where(distances < CENTRAL, stats[:, cv2.CC_STAT_AREA], 0)
    areas[0] = 0  # The background.
    large = areas >= max(SMALLEST_NUCLEUS * spots.size, 0.1 * areas.max(), 1)
    return np.isin(components, np.flatnonzero(large))


def _opened(spots: np.ndarray, side: int) -> NDArray[np.bool_]:
    """Without thin bridges, as those to red cells that touch."""
    import cv2

    width = 2 * round(side / 48) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    return cv2.morphologyEx(spots.astype(np.uint8), cv2.MORPH_OPEN, disc).astype(bool)


def _near(nucleus: np.ndarray, reach: float) -> NDArray[np.bool_]:
    """Within ``reach`` pixels of the convex hull of the nucleus."""
    import cv2

    points = np.argwhere(nucleus)[:, ::-1].astype(np.int32)
    hull = np.zeros(nucleus.shape, np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points), 1)
    distances = cv2.distanceTransform(1 - hull, cv2.DIST_L2, 5)
    return np.asarray(distances <= reach)
