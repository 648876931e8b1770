"""Deletion curves: which pixels go when, and what is compared."""

from __future__ import annotations

import numpy as np

from harness.evaluation.deletion import RANDOM_MAPS, STEPS, DeletionCurves, curves, deletions


def test_the_hottest_pixels_go_first_and_all_in_the_end() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 1
    copies = np.stack([*deletions(image, heat, [1])])
    assert len(copies) == STEPS * (1 + RANDOM_MAPS)
    changed = (copies != image).any(axis=-1)
    first = np.argwhere(changed[0])
    assert (abs(first.mean(axis=0) - [7, 12]) < 1).all(), "a tenth of the pixels, around the place"
    by_map = changed.reshape(1 + RANDOM_MAPS, STEPS, -1).sum(axis=2)
    assert (np.diff(by_map, axis=1) > 0).all()
    assert len(np.unique(copies[STEPS - 1].reshape(-1, 3), axis=0)) == 1
    again = np.stack([*deletions(image, heat, [1])])
    np.testing.assert_array_equal(copies, again)


def test_curves_begin_at_the_whole_image_and_average_the_random_maps() -> None:
    of_copies = np.zeros((2, STEPS * (1 + RANDOM_MAPS)))
    of_copies[:, STEPS:] = 0.4
    found = curves(np.array([0.8, 0.6]), of_copies)
    np.testing.assert_allclose(found.hottest[:, 0], [0.8, 0.6])
    np.testing.assert_allclose(found.random[:, 1:], 0.4)
    np.testing.assert_allclose(found.areas, (0.035, 0.415))
    assert found.lower == 2


def test_a_map_is_informative_where_chance_does_not_explain_it() -> None:
    low, high = np.zeros((1, STEPS + 1)), np.ones((1, STEPS + 1))

    def of(lower: int, images: int) -> DeletionCurves:
        hottest = np.concatenate([low] * lower + [high] * (images - lower))
        return DeletionCurves(hottest, np.full_like(hottest, 0.5))

    assert not of(32, 60).informative
    assert of(40, 60).informative
