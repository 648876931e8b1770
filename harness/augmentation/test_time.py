"""Test-time augmentation: an image's eight views by flips and quarter turns, the identity first.

A smear has no up and no left, so a cell is the same cell in every view; predictions are averaged
over the first few. Report 004; Kimura 2024, Understanding test-time augmentation.
"""

from __future__ import annotations

import numpy as np


def apply_view(images: np.ndarray, view: int) -> np.ndarray:
    """Images (n, S, S, 3) in one view, 0-7, as a contiguous copy; those of view 0 as they are.

    The order: identity, left for right, upside down, both (a half turn), then the same four of the
    image with rows and columns exchanged, two of which are the quarter turns. So every first few
    are as different as possible, and 2, 4 and 8 are groups.
    """
    if view == 0:
        return images
    if view & 4:
        images = images.swapaxes(1, 2)
    if view & 2:
        images = images[:, ::-1]
    if view & 1:
        images = images[:, :, ::-1]
    return np.ascontiguousarray(images)
