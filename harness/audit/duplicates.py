"""Which images show the same picture: to the byte, or photographed, moved or compressed again.

Every blood cell is a dark disc in the middle, so a perceptual hash alone takes strangers for
twins. Here it only proposes pairs; a pair counts when its fine detail, laid one over the other,
agrees as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

HASH_SIDE = 16
"""pHash of 16 x 16 = 256 bits; the usual 64 cannot tell cells apart."""

FAR = 72
"""Bits of 256 by which two hashes may differ for the pair to be looked at. Recompressed pictures
differ by 0-8, copies moved by a pixel by 20-46, one cell photographed twice by 54; of the 72
million pairs of the 11,959 cells of Acevedo et al. 2020, 2,481 are nearer than this."""

MOST = 10
"""Pairs that one image is looked at in, the nearest first."""

ALIKE = 0.75
"""Correlation of fine detail from which two images are one picture. Copies have 0.90 and more (of
the embedded set and of the cells above), the most alike of different cells 0.62, also where the
cells were enlarged from 28 or 64 px."""

FLAT = 0.1
"""Of 255: mean strength of detail below which it is no detail but rounding."""

FINE, COARSE = 1.0, 4.0
"""Detail is what lies between two Gaussian blurs, deviations in pixels of a 96 px image."""

LARGEST_SHIFT = 0.25
"""Of the image's side."""

_ROWS, _PAIRS = 1000, 256


def perceptual_hashes(images: np.ndarray, ids: np.ndarray) -> NDArray[np.bool_]:
    """The pHash bits of ``images[ids]``, (n, HASH_SIDE²), by the imagehash library."""
    import imagehash
    from PIL import Image

    def of(i: int) -> np.ndarray:
        picture = Image.fromarray(np.asarray(images[i]))
        return np.asarray(imagehash.phash(picture, hash_size=HASH_SIDE).hash).ravel()

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        bits = list(pool.map(of, ids.tolist()))
    return np.stack(bits) if bits else np.empty((0, HASH_SIDE**2), bool)


def proposed_pairs(bits: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rows (i, j), i < j, whose hashes are near, the nearest pairs first: (pairs, 2)."""
    # As a product of signs: what differs subtracts, so the distance is a matrix product away.
    signs = np.where(bits, np.float32(1), np.float32(-1))
    width = bits.shape[1]
    found: list[np.ndarray] = [np.empty((0, 3), np.int64)]
    for start in range(0, len(signs), _ROWS):
        agreement = signs[start : start + _ROWS] @ signs.T
        own = np.arange(len(agreement))
        agreement[own, start + own] = -width
        rows, columns = np.divmod(np.flatnonzero(agreement >= width - 2 * FAR), len(signs))
        distance = (width - agreement[rows, columns].astype(np.int64)) // 2
        near = np.stack([distance, rows + start, columns], axis=1)
        found.append(_nearest_of_each_row(near))
    pairs = np.concatenate(found)
    pairs[:, 1:].sort(axis=1)
    return np.unique(pairs, axis=0)[:, 1:]


def families(images: np.ndarray, groups: np.ndarray) -> NDArray[np.int64]:
    """(N,): the first image that shows the same picture; its own index where there is none.

    ``images`` uint8 (N, S, S, 3); ``groups`` are those of the Dataset: images with equal pixels
    are a family from the start.
    """
    ids, of_group = np.unique(groups, return_inverse=True)
    pairs = proposed_pairs(perceptual_hashes(images, ids))
    first = list(range(len(ids)))

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = first[i]
        return i

    def same(pair: tuple[int, int]) -> bool:
        return alike(images[ids[pair[0]]], images[ids[pair[1]]]) >= ALIKE

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(pairs), _PAIRS):
            # A family of a thousand is joined by some thousand comparisons, not by a million.
            open_ = [
                (i, j) for i, j in pairs[start : start + _PAIRS].tolist() if root(i) != root(j)
            ]
            for (i, j), joined in zip(open_, pool.map(same, open_), strict=True):
                one, other = sorted((root(i), root(j)))
                if joined:
                    first[other] = one
    whole = np.array([root(i) for i in range(len(ids))], np.int64)
    return ids[whole[of_group]].astype(np.int64)


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """How well the detail of two images agrees, moved onto each other: a correlation.

    Images uint8 (S, S, 3). The shift is found by phase correlation (Kuglin, Hines 1975), which
    may be misled; so no shift is tried as well.
    """
    import cv2

    first, second = _grey(one), _grey(other)
    side = len(first)
    window = cv2.createHanningWindow((side, side), cv2.CV_32F)
    # Of copies: OpenCV multiplies the window into its arguments.
    (x, y), _ = cv2.phaseCorrelate(first.copy(), second.copy(), window)
    shifts = [(0.0, 0.0)]
    if max(abs(x), abs(y)) <= LARGEST_SHIFT * side:
        shifts.append((x, y))
    fine, second_fine = _detail(first), _detail(second)
    return max(_correlation(fine, second_fine, *shift) for shift in shifts)


def _grey(image: np.ndarray) -> np.ndarray:
    import cv2

    return np.asarray(cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2GRAY), np.float32)


def _detail(grey: np.ndarray) -> np.ndarray:
    import cv2

    scale = len(grey) / 96
    fine, coarse = (cv2.GaussianBlur(grey, (0, 0), s * scale) for s in (FINE, COARSE))
    detail = fine - coarse
    # Saturated: else the dark rim of the nucleus, which many cells share, would be all that counts.
    return np.asarray(np.tanh(detail / max(float(np.abs(detail).mean()), FLAT)))


def members(family: np.ndarray) -> Iterator[NDArray[np.int64]]:
    """The ids of each family of two and more, in the order of their first images."""
    order = np.argsort(family, kind="stable")
    firsts, starts = np.unique(family[order], return_index=True)
    for ids in np.split(order, starts[1:]) if len(firsts) else ():
        if len(ids) > 1:
            yield ids


def _nearest_of_each_row(near: np.ndarray) -> np.ndarray:
    """Of (distance, row, column), the MOST nearest columns of each row."""
    near = near[np.lexsort((near[:, 0], near[:, 1]))]
    _, start, count = np.unique(near[:, 1], return_index=True, return_counts=True)
    rank = np.arange(len(near)) - np.repeat(start, count)
    return np.asarray(near[rank < MOST])


def _correlation(one: np.ndarray, other: np.ndarray, x: float, y: float) -> float:
    import cv2

    height, width = one.shape
    moved = one
    if (x, y) != (0, 0):
        moved = cv2.warpAffine(one, np.array([[1, 0, x], [0, 1, y]], np.float32), (width, height))
    top, bottom = max(0, int(np.ceil(y))), height + min(0, int(np.floor(y)))
    left, right = max(0, int(np.ceil(x))), width + min(0, int(np.floor(x)))
    a, b = moved[top:bottom, left:right].ravel(), other[top:bottom, left:right].ravel()
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 1e-3 * a.size else 0.0
