"""The eleven corruptions: worse with severity, the same in every batch, nothing else changed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data import corruptions
from harness.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from harness.data.synthetic import smear
from harness.errors import DataError, UnknownName

RANDOM = ("motion", "stain deposit", "bubble")
BLURS = ("defocus", "motion")


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    """Smear cells of all classes, 96 pixels."""
    return np.ascontiguousarray(smear.draw(400, seed=1).images[:24])


def seeds(count: int, first: int = 0) -> list[list[int]]:
    return [[7, first + i] for i in range(count)]


def test_they_are_those_of_medmnist_c_for_blood_cells() -> None:
    assert CORRUPTIONS == (
        "pixelate", "JPEG", "defocus", "motion", "brighter", "darker", "less contrast",
        "more contrast", "saturation", "stain deposit", "bubble",
    )  # fmt: skip
    assert SEVERITIES == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_each_severity_is_worse_than_the_one_before(corruption: str, cells: np.ndarray) -> None:
    """In the mean distance from the image as it was, over some cells."""
    distances = [
        np.abs(corrupt(cells, corruption, s, seeds(len(cells))).astype(int) - cells).mean()
        for s in SEVERITIES
    ]
    assert distances[0] > 0.1
    assert all(after > 1.02 * before for before, after in pairwise(distances)), distances


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_images_of_every_size_are_corrupted_equally(corruption: str, cells: np.ndarray) -> None:
    """Lengths scale with the side: the same cells at half the size change about as much."""
    import cv2

    half = np.stack([cv2.resize(c, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
                     for c in cells])  # fmt: skip
    distances = [
        np.abs(corrupt(images, corruption, 4, seeds(len(cells))).astype(int) - images).mean()
        for images in (cells, half)
    ]
    assert 0.4 < distances[0] / distances[1] < 2.5


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("severity", [1, 5])
def test_an_image_is_corrupted_the_same_way_in_every_batch(
    corruption: str, severity: int, cells: np.ndarray
) -> None:
    before = cells.copy()
    whole = corrupt(cells, corruption, severity, seeds(len(cells)))
    alone = corrupt(cells[5:6], corruption, severity, seeds(1, first=5))
    np.testing.assert_array_equal(whole[5], alone[0])
    np.testing.assert_array_equal(cells, before)
    other = corrupt(cells[5:6], corruption, severity, seeds(1, first=6))
    assert (other[0] != alone[0]).any() == (corruption in RANDOM)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(CORRUPTIONS), st.sampled_from(SEVERITIES),
    st.integers(8, 70), st.integers(8, 70), st.integers(0, 99),
)  # fmt: skip
def test_any_size_and_any_pixels(
    corruption: str, severity: int, height: int, width: int, seed: int
) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    corrupted = corrupt(images, corruption, severity, seeds(2))
    assert corrupted.shape == images.shape
    assert corrupted.dtype == np.uint8


@pytest.mark.parametrize("corruption", [*BLURS, "pixelate", "less contrast", "more contrast"])
def test_blur_and_contrast_keep_the_light(corruption: str, cells: np.ndarray) -> None:
    corrupted = corrupt(cells, corruption, 5, seeds(len(cells)))
    assert abs(corrupted.mean() - cells.mean()) < 4


@pytest.mark.parametrize("corruption", ["pixelate", *BLURS])
def test_what_is_even_stays_as_it_is(corruption: str) -> None:
    even = np.full((1, 40, 40, 3), (200, 120, 90), np.uint8)
    np.testing.assert_array_equal(corrupt(even, corruption, 5, seeds(1)), even)


def test_brighter_and_darker_are_the_published_factors(cells: np.ndarray) -> None:
    for corruption, factors in (("brighter", corruptions.BRIGHTER), ("darker", corruptions.DARKER)):
        for severity, factor in zip(SEVERITIES, factors, strict=True):
            expected = np.minimum(cells * factor, 255)
            corrupted = corrupt(cells, corruption, severity, seeds(len(cells)))
            assert np.abs(corrupted - expected).max() <= 0.5 + 1e-9


def test_contrast_turns_about_the_images_own_grey(cells: np.ndarray) -> None:
    grey = np.full((1, 16, 16, 3), 120, np.uint8)
    for corruption in ("less contrast", "more contrast"):
        np.testing.assert_array_equal(corrupt(grey, corruption, 5, seeds(1)), grey)
    flat, steep = (corrupt(cells, f"{word} contrast", 5, seeds(len(cells))).std()
                   for word in ("less", "more"))  # fmt: skip
    assert flat < 0.6 * cells.std()
    assert steep > 1.1 * cells.std()


def test_saturation_keeps_value_and_leaves_grey_alone(cells: np.ndarray) -> None:
    corrupted = corrupt(cells, "saturation", 5, seeds(len(cells)))
    np.testing.assert_array_equal(corrupted.max(axis=3), cells.max(axis=3))
    assert (corrupted <= cells.max(axis=3)[..., None]).all()
    grey = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(corrupt(grey, "saturation", 5, seeds(1)), grey)
    pixel = np.array([[[[200, 100, 150]]]], np.uint8)  # saturation 0.5, then 0.7
    np.testing.assert_array_equal(corrupt(pixel, "saturation", 5, seeds(1)).ravel(), [200, 60, 130])


def test_deposits_darken_and_most_of_the_image_stays(cells: np.ndarray) -> None:
    corrupted = corrupt(cells, "stain deposit", 3, seeds(len(cells)))
    assert (corrupted <= cells).all()
    untouched = (corrupted == cells).all(axis=3).mean(axis=(1, 2))
    assert untouched.min() > 0.8


def test_a_bubble_stays_within_its_rim(cells: np.ndarray) -> None:
    corrupted = corrupt(cells, "bubble", 3, seeds(len(cells)))
    untouched = (corrupted == cells).all(axis=3).mean(axis=(1, 2))
    assert 0.6 < untouched.min() <= untouched.max() < 1


@pytest.mark.parametrize("radius", [0.3, 0.86, 2.6, 7.1])
def test_a_disc_is_even_and_as_wide_as_given(radius: float) -> None:
    kernel = corruptions.disc_kernel(radius)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(kernel, kernel.T)
    np.testing.assert_array_equal(kernel, kernel[::-1])
    reach = np.arange(len(kernel)) - len(kernel) // 2
    spread = (kernel.sum(axis=0) * reach**2).sum()
    if radius > 1:  # the second moment of a disc is r²/4
        assert spread == pytest.approx(radius**2 / 4, rel=0.25)


@settings(deadline=None)
@given(st.floats(1, 60), st.floats(0.5, 30), st.floats(0, 6.3))
def test_a_trail_leaves_the_cell_where_it_was(length: float, sigma: float, angle: float) -> None:
    kernel = corruptions.trail_kernel(length, sigma, angle)
    reach = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-4)
    assert (kernel.sum(axis=0) * reach).sum() == pytest.approx(0, abs=0.02)
    assert (kernel.sum(axis=1) * reach).sum() == pytest.approx(0, abs=0.02)


def test_wrong_input() -> None:
    images = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(UnknownName, match="unknown corruption 'defocuss'; did you mean 'def"):
        corrupt(images, "defocuss", 1, seeds(1))
    with pytest.raises(DataError, match="severity 6 of motion: choose from 1 to 5"):
        corrupt(images, "motion", 6, seeds(1))
    for wrong in (images.astype(np.float32), images[0], images[..., :1]):
        with pytest.raises(DataError, match="takes uint8 images"):
            corrupt(wrong, "motion", 1, seeds(1))
