"""The same picture, however it comes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data import duplicates
from harness.data.synthetic.smear import Smear, draw


@pytest.fixture(scope="module")
def smear() -> Smear:
    return draw(400, seed=3)


def grouped(images: np.ndarray) -> np.ndarray:
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(image.tobytes(), i) for i, image in enumerate(images)])


def moved(image: np.ndarray, x: float, y: float) -> np.ndarray:
    shift = np.array([[1, 0, x], [0, 1, y]], np.float32)
    return cv2.warpAffine(image, shift, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)


def recompressed(image: np.ndarray, quality: int) -> np.ndarray:
    _, code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(code, cv2.IMREAD_COLOR)


@settings(max_examples=25, deadline=None)
@given(
    which=st.integers(0, 50),
    x=st.floats(-3, 3),
    y=st.floats(-3, 3),
    gain=st.floats(0.9, 1.0),
    quality=st.integers(80, 95),
)
def test_a_copy_correlates(
    smear: Smear, which: int, x: float, y: float, gain: float, quality: int
) -> None:
    """Moved, darkened and compressed: a copy still, and more so than any other cell."""
    image = smear.images[np.setdiff1d(np.arange(400), smear.contaminants)[which]]
    copy = recompressed((moved(image, x, y) * gain).astype(np.uint8), quality)
    assert duplicates.detail_correlation(image, copy) >= duplicates.DUPLICATE_CORRELATION
    assert duplicates.detail_correlation(image, copy) > duplicates.detail_correlation(
        image, smear.images[(which + 200) % 400]
    )


def test_the_correlation_is_that_of_detail(smear: Smear) -> None:
    image, other = smear.images[:2]
    assert duplicates.detail_correlation(image, image) == pytest.approx(1, abs=1e-5)
    assert duplicates.detail_correlation(image, other) == pytest.approx(
        duplicates.detail_correlation(other, image), abs=0.1
    )
    assert duplicates.detail_correlation(np.zeros_like(image), image) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_proposed_pairs_are_those_of_near_hashes(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    width = duplicates.HASH_SIDE**2
    bits = rng.random((count, width)) < 0.5
    # Around a common centre, some near and some far, but none with too many neighbours.
    for k in range(1, count, 4):
        bits[k] = bits[k - 1] ^ (rng.random(width) < rng.choice([0.0, 0.1, 0.25, 0.35]))
    distance = (bits[:, None] != bits[None]).sum(axis=2)
    expected = {
        (i, j)
        for i in range(count)
        for j in range(i)
        if distance[i, j] <= duplicates.LARGEST_HASH_DISTANCE
    }
    pairs = duplicates.proposed_pairs(bits)
    assert {(j, i) for i, j in pairs.tolist()} == expected
    assert sorted(distance[i, j] for i, j in pairs) == [distance[i, j] for i, j in pairs]


def test_no_image_is_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = np.zeros((300, duplicates.HASH_SIDE**2), bool)
    assert len(duplicates.proposed_pairs(bits)) <= 300 * duplicates.MOST_PAIRS


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_planted_copies_are_the_groups(seed: int) -> None:
    """Exactly the generator's duplicates, near duplicates and contaminants are repeated."""
    drawn = draw(600, seed)
    near_groups = duplicates.near_duplicate_groups(drawn.images, grouped(drawn.images))
    found = {tuple(ids.tolist()) for ids in duplicates.repeated(near_groups)}
    pairs = {
        tuple(sorted(pair))
        for pair in (*drawn.duplicates.tolist(), *drawn.near_duplicates.tolist())
    }
    kinds = np.unique(near_groups[drawn.contaminants])
    odd = {tuple(np.flatnonzero(near_groups == k).tolist()) for k in kinds}
    assert len(odd) == 2
    assert found == pairs | odd
    assert sorted(i for ids in odd for i in ids) == drawn.contaminants.tolist()


def test_a_picture_compressed_a_hundred_times_is_one_group(smear: Smear) -> None:
    many = [recompressed(smear.images[0], quality) for quality in range(40, 96)]
    images = np.stack([*smear.images[1:60], *many])
    near_groups = duplicates.near_duplicate_groups(images, grouped(images))
    assert set(near_groups[59:].tolist()) == {59}
    assert 59 not in near_groups[:59]


def test_groups_are_named_after_their_first_image(smear: Smear) -> None:
    groups = grouped(smear.images)
    near_groups = duplicates.near_duplicate_groups(smear.images, groups)
    assert (near_groups <= np.arange(len(near_groups))).all()
    assert (near_groups[near_groups] == near_groups).all()
    assert (near_groups == near_groups[groups]).all()
    assert near_groups.dtype == np.int64


def test_repeated_groups() -> None:
    near_groups = np.array([0, 1, 0, 3, 1, 0])
    assert [ids.tolist() for ids in duplicates.repeated(near_groups)] == [[0, 2, 5], [1, 4]]
    assert list(duplicates.repeated(np.arange(4))) == []
    assert list(duplicates.repeated(np.empty(0, int))) == []


def test_blank_images_have_nothing_that_could_agree() -> None:
    black, grey, white = (np.full((96, 96, 3), value, np.uint8) for value in (0, 90, 255))
    assert (
        duplicates.detail_correlation(black, grey)
        == duplicates.detail_correlation(grey, white)
        == duplicates.detail_correlation(grey, grey)
        == 0
    )
