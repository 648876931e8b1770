"""``keep``: a range of a source's images, as if the others were not in it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from harness.data.image_cache import Content, Source
from harness.data.sources import kept
from harness.errors import DataError

IMAGES = np.arange(10, dtype=np.uint8).repeat(12).reshape(10, 2, 2, 3)


def source() -> Source:
    """Ten images in batches of four."""

    def batches() -> Iterator[np.ndarray]:
        return (IMAGES[i : i + 4] for i in range(0, 10, 4))

    labels, files = np.arange(10) % 2, tuple(f"{i}.png" for i in range(10))
    content = Content(labels, ("a", "b"), batches, given=np.arange(10) % 3, files=files)
    return Source("made-up", "ten images", "0123", lambda: content)


@pytest.mark.parametrize(("begin", "end"), [(0, 3), (3, 9), (5, 7), (0, 10)])
def test_a_range_of_the_images_with_all_that_belongs_to_them(begin: int, end: int) -> None:
    content = kept(source(), begin, end).read()
    np.testing.assert_array_equal(
        np.concatenate([np.asarray(batch) for batch in content.batches()]), IMAGES[begin:end]
    )
    assert content.labels.tolist() == [i % 2 for i in range(begin, end)]
    assert content.files == tuple(f"{i}.png" for i in range(begin, end))
    assert content.given is not None
    assert content.given.tolist() == [i % 3 for i in range(begin, end)]


def test_each_range_is_data_of_its_own() -> None:
    whole, part, other = source(), kept(source(), 0, 5), kept(source(), 0, 6)
    assert len({whole.identity, part.identity, other.identity}) == 3
    assert part.name == "made-up, 0 to 4"


def test_more_than_there_is() -> None:
    with pytest.raises(DataError, match=r"made-up has 10 images; keep = \[2, 11\] is more"):
        kept(source(), 2, 11).read()
