"""The eight views of an image."""

from __future__ import annotations

import numpy as np
import pytest

from harness.augmentation.test_time import apply_view

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)


def test_the_first_view_is_the_image_itself() -> None:
    np.testing.assert_array_equal(apply_view(IMAGES, 0), IMAGES)


def test_the_views_are_the_eight_flips_and_quarter_turns() -> None:
    turned = {np.rot90(flipped, k, axes=(1, 2)).tobytes()
              for flipped in (IMAGES, IMAGES[:, :, ::-1]) for k in range(4)}  # fmt: skip
    assert len(turned) == 8
    assert {apply_view(IMAGES, view).tobytes() for view in range(8)} == turned


@pytest.mark.parametrize("view", range(8))
def test_a_view_moves_pixels_and_changes_none(view: int) -> None:
    found = apply_view(IMAGES, view)
    assert found.flags["C_CONTIGUOUS"]
    for image, moved in zip(IMAGES, found, strict=True):
        pixels = image.reshape(-1, 3).tolist()
        assert sorted(moved.reshape(-1, 3).tolist()) == sorted(pixels)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_first_two_four_and_eight_are_groups(count: int) -> None:
    """A view of a view is among them: no orientation is favoured."""
    views = {apply_view(IMAGES, view).tobytes() for view in range(count)}
    again = {
        apply_view(apply_view(IMAGES, a), b).tobytes() for a in range(count) for b in range(count)
    }
    assert again == views
