"""Near-duplicates: images of one picture, moved, compressed or photographed again.

Every blood cell is a dark disc in the middle, so a perceptual hash alone takes different cells for
copies. Here it only proposes pairs; a pair counts when its fine detail, one image moved onto the
other, agrees as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

SIDE = 96
"""Pixels at which images are compared, so that one source has one answer at every size."""
HASH_SIDE = 16
"""pHash of 16 x 16 = 256 bits; the usual 64 cannot distinguish cells."""
LARGEST_HASH_DISTANCE = 72
"""Bits of 256 by which the hashes of a proposed pair may differ. Recompressed pictures differ by
0-8, copies moved by a pixel by 20-46, one cell photographed twice by 54; of the 72 million pairs of
the 11,959 cells of Acevedo et al. 2020, 2,481 are nearer than this."""
MOST_PAIRS = 10
"""Proposed for one image, the nearest first."""
DUPLICATE_CORRELATION = 0.75
"""Of fine detail, from which on two images show one picture. Copies have 0.90 and more (of the
embedded set and of the cells above), the most similar of different cells 0.62, also where the cells
were enlarged from 28 or 64 px."""
LEAST_DETAIL = 0.1
"""Of 255: mean strength of detail below which it is no detail but rounding."""
FINE_BLUR, COARSE_BLUR = 1.0, 4.0
"""Detail is what lies between two Gaussian blurs, deviations in pixels."""
LARGEST_SHIFT = 0.25
"""Of the image's side."""

_DISTANCES, _PAIRS = 1 << 22, 256
"""Distances of hashes that are held at once, and pairs that are compared at once."""


def near_duplicate_groups(images: np.ndarray, groups: np.ndarray) -> NDArray[np.int64]:
    """(N,): the first image that shows the same picture; its own index where there is none.

    ``images`` uint8 (N, S, S, 3); ``groups`` (N,) of the Dataset: images with equal pixels.
    """
    from scipy.cluster.hierarchy import DisjointSet

    ids, group_of_image = np.unique(groups, return_inverse=True)
    pairs = proposed_pairs(perceptual_hashes(images, ids)).tolist()
    joined = DisjointSet(range(len(ids)))

    def is_duplicate(pair: tuple[int, int]) -> bool:
        first, second = (_resized(images[ids[i]]) for i in pair)
        return detail_correlation(first, second) >= DUPLICATE_CORRELATION

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(pairs), _PAIRS):
            # A group of a thousand is joined by some thousand comparisons, not by a million.
            open_pairs = [p for p in pairs[start : start + _PAIRS] if not joined.connected(*p)]
            for pair, duplicate in zip(open_pairs, pool.map(is_duplicate, open_pairs), strict=True):
                if duplicate:
                    joined.merge(*pair)
    first = np.arange(len(ids))
    for subset in joined.subsets():
        first[list(subset)] = min(subset)
    return ids[first[group_of_image]].astype(np.int64)


def _resized(image: np.ndarray) -> np.ndarray:
    if len(image) == SIDE:
        return np.asarray(image)
    interpolation = cv2.INTER_AREA if len(image) > SIDE else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (SIDE, SIDE), interpolation=interpolation))


def repeated(groups: np.ndarray) -> Iterator[NDArray[np.int64]]:
    """The ids of each group of two and more, in the order of their first images."""
    order = np.argsort(groups, kind="stable")
    _, starts = np.unique(groups[order], return_index=True)
    yield from (ids for ids in np.split(order, starts[1:]) if len(ids) > 1)


def perceptual_hashes(images: np.ndarray, ids: np.ndarray) -> NDArray[np.bool_]:
    """The pHash bits of ``images[ids]``, (n, HASH_SIDE²), by the imagehash library."""
    import imagehash

    def bits(i: int) -> np.ndarray:
        image = Image.fromarray(_resized(images[i]))
        return np.asarray(imagehash.phash(image, hash_size=HASH_SIDE).hash).ravel()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.array(list(pool.map(bits, ids.tolist())), bool).reshape(-1, HASH_SIDE**2)


def proposed_pairs(bits: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rows (i, j), i < j, whose hashes are near, the nearest pairs first: (pairs, 2)."""
    # As a product of signs: what differs subtracts, so the distance is a matrix product away.
    signs = np.where(bits, np.float32(1), np.float32(-1))
    width = bits.shape[1]
    rows = max(1, _DISTANCES // max(len(signs), 1))
    near = [np.empty((0, 3), np.int64)]
    for start in range(0, len(signs), rows):
        agreement = signs[start : start + rows] @ signs.T
        i, j = np.divmod(np.flatnonzero(agreement >= width - 2 * LARGEST_HASH_DISTANCE), len(signs))
        distance = (width - agreement[i, j].astype(np.int64)) // 2
        i += start
        order = np.lexsort((j, distance, i))
        order = order[i[order] != j[order]]
        first = np.searchsorted(i[order], i[order])  # Of the pairs of the same image.
        nearest = order[np.arange(len(order)) - first < MOST_PAIRS]
        near.append(np.stack([distance, i, j], axis=1)[nearest])
    pairs = pd.DataFrame(np.concatenate(near), columns=["distance", "i", "j"])
    pairs[["i", "j"]] = np.sort(pairs[["i", "j"]], axis=1)
    return pairs.drop_duplicates().sort_values(["distance", "i", "j"])[["i", "j"]].to_numpy()


def detail_correlation(image: np.ndarray, other: np.ndarray) -> float:
    """Correlation of the fine detail of two images uint8 (S, S, 3), moved onto each other.

    The shift is found by phase correlation (Kuglin, Hines 1975), which may be misled; so no shift
    is tried as well.
    """
    grey, other_grey = (
        cv2.cvtColor(np.asarray(x), cv2.COLOR_RGB2GRAY).astype(np.float32) for x in (image, other)
    )
    side = len(grey)
    window = cv2.createHanningWindow((side, side), cv2.CV_32F)
    # Of copies: OpenCV multiplies the window into its arguments.
    (x, y), _ = cv2.phaseCorrelate(grey.copy(), other_grey.copy(), window)
    shifts = [(0.0, 0.0)]
    if max(abs(x), abs(y)) <= LARGEST_SHIFT * side:
        shifts.append((x, y))
    detail, other_detail = _detail(grey), _detail(other_grey)
    return max(_shifted_correlation(detail, other_detail, *shift) for shift in shifts)


def _detail(grey: np.ndarray) -> np.ndarray:
    scale = len(grey) / 96
    fine, coarse = (cv2.GaussianBlur(grey, (0, 0), s * scale) for s in (FINE_BLUR, COARSE_BLUR))
    detail = fine - coarse
    # Saturated: else the dark rim of the nucleus, which many cells share, would be all that counts.
    return np.asarray(np.tanh(detail / max(float(np.abs(detail).mean()), LEAST_DETAIL)))


def _shifted_correlation(detail: np.ndarray, other: np.ndarray, x: float, y: float) -> float:
    height, width = detail.shape
    if (x, y) != (0, 0):
        shift = np.array([[1, 0, x], [0, 1, y]], np.float32)
        detail = cv2.warpAffine(detail, shift, (width, height))
    top, bottom = max(0, int(np.ceil(y))), height + min(0, int(np.floor(y)))
    left, right = max(0, int(np.ceil(x))), width + min(0, int(np.floor(x)))
    a, b = (image[top:bottom, left:right].ravel() for image in (detail, other))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 1e-3 * a.size else 0.0
