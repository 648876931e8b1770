"""Outliers in a made-up space of embeddings, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit.outliers import (
    CHANCE,
    LEAST_COPIES,
    SIMILAR,
    Outlier,
    cosine_similarity,
    find_outliers,
)

WIDTH = 32


def cells(count: int, seed: int = 0, spread: float = 0.35) -> np.ndarray:
    """Directions in a cone around the first axis, as cells have them."""
    rng = np.random.default_rng(seed)
    embeddings = spread * rng.normal(size=(count, WIDTH)) / np.sqrt(WIDTH) * 2
    embeddings[:, 0] += 1
    return embeddings.astype(np.float32)


def with_groups(
    embeddings: np.ndarray, *groups: tuple[np.ndarray, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings with ``times`` equal rows for each near_groups behind them, and the groups."""
    near_groups = list(range(len(embeddings)))
    rows = [embeddings]
    for vector, times in groups:
        first = len(near_groups)
        near_groups += [first] * times
        rows.append(np.repeat(vector[None], times, axis=0))
    return np.concatenate(rows).astype(np.float32), np.array(near_groups)


def axis(k: int) -> np.ndarray:
    return np.eye(WIDTH, dtype=np.float32)[k]


def found(embeddings: np.ndarray, near_groups: np.ndarray) -> tuple[Outlier, ...]:
    return find_outliers(embeddings, near_groups, near_groups, np.arange(len(near_groups)))[0]


def test_two_repeated_pictures_far_from_all_others() -> None:
    embeddings, near_groups = with_groups(cells(300), (axis(5), 40), (axis(9), 200))
    first, second = found(embeddings, near_groups)
    assert first.ids.tolist() == list(range(340, 540))
    assert first.prototype == 340
    assert second.ids.tolist() == list(range(300, 340))
    for one in (first, second):
        assert one.nearest < SIMILAR


@pytest.mark.parametrize("copies", range(2, LEAST_COPIES))
def test_a_few_copies_are_no_evidence(copies: int) -> None:
    """A cell that was copied by hand can be as far from all others by chance."""
    assert found(*with_groups(cells(300), (axis(5), copies))) == ()
    assert len(found(*with_groups(cells(300), (axis(5), LEAST_COPIES)))) == 1


def test_outliers_that_resemble_each_other_are_found_all_the_same() -> None:
    other = axis(5) + 0.2 * axis(6)
    embeddings, near_groups = with_groups(cells(300), (axis(5), 30), (other, 90))
    assert [len(one.ids) for one in found(embeddings, near_groups)] == [90, 30]


def test_a_single_odd_picture_is_not_taken() -> None:
    embeddings, near_groups = with_groups(cells(300), (axis(5), 1))
    odd, isolation = find_outliers(embeddings, near_groups, near_groups, np.arange(301))
    assert odd == ()
    assert isolation.firsts[np.argmin(isolation.similarity)] == 300


def test_repeated_cells_stay() -> None:
    """However often a picture is repeated: as long as it looks like the others, it stays.

    To err is a matter of chance, and of less of it than is allowed.
    """
    taken = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        count, repeated, times = rng.integers(80, 400), rng.integers(1, 7), rng.integers(2, 90)
        every = cells(count + repeated, seed)
        groups = [(vector, int(times)) for vector in every[count:]]
        taken += bool(found(*with_groups(every[:count], *groups)))
    assert taken <= CHANCE * 150


def test_where_everything_is_repeated_alike_nothing_can_be_told() -> None:
    near_groups = np.repeat(np.arange(0, 60, 3), 3)
    embeddings = np.repeat(cells(20), 3, axis=0)
    embeddings[:3] = axis(7)
    assert found(embeddings, near_groups) == ()


def test_a_set_in_which_every_cell_is_there_twice() -> None:
    embeddings = np.concatenate([np.repeat(cells(100), 2, axis=0), np.repeat(axis(5)[None], 9, 0)])
    near_groups = np.concatenate([np.repeat(np.arange(0, 200, 2), 2), np.full(9, 200)])
    assert [one.ids.tolist() for one in found(embeddings, near_groups)] == [list(range(200, 209))]


def test_a_few_unrecognised_copies_do_not_hide_an_outlier() -> None:
    """Two stragglers near 200 copies are passed over, and they stay; twenty hide it."""
    near = axis(5) + 0.3 * axis(7)
    base = np.concatenate([cells(300), near[None], 1.1 * near[None]])
    one, *rest = found(*with_groups(base, (axis(5), 200)))
    assert not rest
    assert one.ids.tolist() == list(range(302, 502))
    base = np.concatenate([cells(300), np.repeat(near[None], 20, axis=0)])
    assert found(*with_groups(base, (axis(5), 200))) == ()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_order_and_scale_do_not_matter(seed: int, scale: float) -> None:
    embeddings, near_groups = with_groups(cells(120), (axis(5), 7), (cells(1, 5)[0], 3))
    order = np.random.default_rng(seed).permutation(len(near_groups))
    renamed = np.array([np.flatnonzero(near_groups[order] == near_groups[i])[0] for i in order])
    (one,) = found(scale * embeddings[order], renamed)
    assert sorted(order[one.ids].tolist()) == list(range(120, 127))
    assert one.prototype == one.ids[0]


def test_what_is_left_out_is_left_out() -> None:
    embeddings, near_groups = with_groups(cells(120), (axis(5), 7))
    ids = np.arange(120)
    odd, isolation = find_outliers(embeddings, near_groups, near_groups, ids)
    assert odd == ()
    assert isolation.firsts.tolist() == ids.tolist()
    nothing, none = find_outliers(embeddings, near_groups, near_groups, ids[:0])
    assert nothing == ()
    assert len(none.firsts) == 0


def test_cosine_similarity() -> None:
    embeddings = np.array([[1, 0], [3, 0], [0, 2], [1, 1], [0, 0]], np.float32)
    assert cosine_similarity(embeddings, 0) == pytest.approx([1, 1, 0, np.sqrt(0.5), 0])
