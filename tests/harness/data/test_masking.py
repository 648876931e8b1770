"""The cell without its surroundings."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from harness.data import sources
from harness.data.image_cache import Content, Source, Unreadable, get_or_decode, open_dataset
from harness.data.masking import cell_mask, mask_background, masked
from harness.data.synthetic.smear import draw

NUCLEUS, BODY, RED_CELL, PAPER = (60, 25, 110), (190, 160, 205), (200, 165, 160), (254, 229, 204)


def picture(side: int = 96, red_cell: tuple[float, float] = (0.12, 0.12)) -> np.ndarray:
    """A round cell in the middle, and a red cell, its centre as a share of the side."""
    image = np.full((side, side, 3), PAPER, np.uint8)

    def disc(x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        cv2.circle(image, (int(x * side), int(y * side)), int(radius * side), colour, -1)

    disc(*red_cell, 0.14, RED_CELL)
    disc(0.5, 0.5, 0.26, BODY)
    disc(0.5, 0.5, 0.18, NUCLEUS)
    return cv2.GaussianBlur(image, (0, 0), side / 96)


@pytest.mark.parametrize("side", [28, 64, 96, 200])
def test_nucleus_and_body_stay_and_the_rest_goes(side: int) -> None:
    found = cell_mask(picture(side))
    y, x = np.mgrid[:side, :side] / side
    distance = np.hypot(x - 0.5, y - 0.5)
    assert found[distance < 0.22].all()
    assert not found[distance > 0.34].any()


def test_surroundings_become_white_and_the_cell_keeps_its_pixels() -> None:
    image = picture()
    found, shown = cell_mask(image), mask_background(image)
    np.testing.assert_array_equal(shown[found], image[found])
    assert (shown[~found] == 255).all()
    assert shown.dtype == np.uint8


def test_what_surrounds_the_cell_does_not_matter() -> None:
    one, other = picture(red_cell=(0.12, 0.12)), picture(red_cell=(0.86, 0.14))
    agree = (mask_background(one) == mask_background(other)).all(axis=2)
    assert agree.mean() > 0.97


@pytest.mark.parametrize("value", [0, 130, 255])
def test_an_image_without_a_cell_stays_as_it_is(value: int) -> None:
    blank = np.full((48, 48, 3), value, np.uint8)
    np.testing.assert_array_equal(mask_background(blank), blank)


def test_drawn_cells_keep_their_middle_and_lose_most_of_the_rest() -> None:
    drawn = draw(160, seed=2, faults=False)
    found = np.stack([cell_mask(image) for image in drawn.images])
    assert found[:, 46:50, 46:50].mean() > 0.9
    assert 0.1 < found.mean() < 0.5
    border = np.concatenate([found[:, 0], found[:, -1], found[:, :, 0], found[:, :, -1]], axis=1)
    assert border.mean() < 0.05


def test_a_masked_source_is_other_data(tmp_path: Path) -> None:
    plain = sources.find("smear@80", 48)
    before = open_dataset(get_or_decode(plain, 48, tmp_path))
    after = open_dataset(get_or_decode(masked(plain), 48, tmp_path))
    assert after.fingerprint != before.fingerprint
    assert after.name == "smear@80, masked"
    np.testing.assert_array_equal(after.labels, before.labels)
    assert (after.images == 255).mean() > 0.4 > (before.images == 255).mean()


def test_unreadable_images_pass_through(tmp_path: Path) -> None:
    torn = Unreadable("torn", b"0" * 32)
    batch = [picture(), torn, picture(), picture()]
    content = Content(np.array([0, 0, 1, 1]), ("a", "b"), lambda: iter([batch]))
    passed = [
        image
        for images in masked(Source("s", "", "s", lambda: content)).read().batches()
        for image in images
    ]
    assert passed[1] is torn
    assert len(passed) == 4
