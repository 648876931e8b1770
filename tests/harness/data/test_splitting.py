"""Splits: stratified, deterministic, and never the same picture on two sides."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.splitting import apportion, effective_split, split_indices
from harness.errors import DataError
from harness.schema.dataset import Dataset, Parts, Split, Subset

RATIOS = (0.7, 0.1, 0.2)


def dataset(
    labels: np.ndarray, groups: np.ndarray | None = None, given: np.ndarray | None = None
) -> Dataset:
    """Its images are empty, for a split does not read pixels."""
    count = len(labels)
    return Dataset(
        name="made",
        images=np.zeros((count, 1, 1, 3), np.uint8),
        labels=labels.astype(np.int64),
        class_names=tuple(f"class_{k}" for k in range(int(labels.max()) + 1)),
        fingerprint="0" * 24,
        groups=np.arange(count) if groups is None else groups,
        given=given,
    )


def sides(parts: Parts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return parts.train, parts.validation, parts.test


def assert_sound(parts: Parts, data: Dataset) -> None:
    """What holds for every split: sorted ids, disjoint pictures, every class everywhere."""
    for ids in sides(parts):
        assert ids.dtype == np.int64
        assert (np.diff(ids) > 0).all()
        assert set(data.labels[ids].tolist()) == set(range(len(data.class_names)))
    for one, other in combinations(sides(parts), 2):
        assert not set(data.groups[one].tolist()) & set(data.groups[other].tolist())


def counts(ids: np.ndarray, data: Dataset) -> np.ndarray:
    return np.bincount(data.labels[ids], minlength=len(data.class_names))


@st.composite
def unique_sets(draw: st.DrawFn) -> np.ndarray:
    """Labels of 2 to 12 classes with 3 to 90 images each, shuffled."""
    sizes = draw(st.lists(st.integers(3, 90), min_size=2, max_size=12))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)


ratio_triples = st.tuples(*[st.integers(1, 20)] * 3).map(
    lambda whole: tuple(part / sum(whole) for part in whole)
)


@given(unique_sets(), ratio_triples, st.integers(0, 2**40))
def test_different_images_are_split_to_the_image(
    labels: np.ndarray, ratios: tuple[float, float, float], seed: int
) -> None:
    data = dataset(labels)
    parts = split_indices(Split(ratios=ratios, seed=seed), data)
    assert_sound(parts, data)
    assert sum(map(len, sides(parts))) == len(labels)
    total = counts(np.arange(len(labels)), data)
    for ids, ratio in zip(sides(parts), ratios, strict=True):
        # A class that is owed less than one image gets one all the same, from the others.
        assert (np.abs(counts(ids, data) - np.maximum(ratio * total, 1)) < 2).all()


@st.composite
def copied_sets(draw: st.DrawFn, mixed: bool) -> Dataset:
    """Pictures with 1 to 30 copies; where ``mixed``, copies of one may carry several labels."""
    classes = draw(st.integers(2, 6))
    copies = st.one_of(st.just(1), st.integers(1, 3), st.integers(1, 30))
    pictures = [(k, draw(copies)) for k in range(classes) for _ in range(draw(st.integers(3, 12)))]
    labels, groups = [], []
    for k, copied in pictures:
        first = len(labels)
        groups += [first] * copied
        if mixed and draw(st.booleans()):
            labels += draw(st.lists(st.integers(0, classes - 1), min_size=copied, max_size=copied))
        else:
            labels += [k] * copied
    for k in range(classes):  # Each class exists.
        groups.append(len(labels))
        labels.append(k)
    return dataset(np.array(labels), np.array(groups))


@given(copied_sets(mixed=False), ratio_triples, st.integers(0, 99))
def test_three_different_images_of_each_class_are_enough(
    data: Dataset, ratios: tuple[float, float, float], seed: int
) -> None:
    parts = split_indices(Split(ratios=ratios, seed=seed), data)
    assert_sound(parts, data)
    assert sum(map(len, sides(parts))) == len(data)


@given(copied_sets(mixed=True), st.integers(0, 99))
def test_copies_with_several_labels_stay_together(data: Dataset, seed: int) -> None:
    """Such sets may be impossible to split; then the class is named, and nothing else happens."""
    try:
        parts = split_indices(Split(seed=seed), data)
    except DataError as error:
        message = str(error)
    else:
        message = "none is left for nobody"
        assert_sound(parts, data)
        assert sum(map(len, sides(parts))) == len(data)
    assert "none is left for" in message


@settings(deadline=None, max_examples=30)
@given(unique_sets(), st.integers(0, 99))
def test_the_same_rule_gives_the_same_split(labels: np.ndarray, seed: int) -> None:
    first = split_indices(Split(seed=seed), dataset(labels))
    again = split_indices(
        Split(seed=seed), replace(dataset(labels), name="x", fingerprint="f" * 24)
    )
    for one, other in zip(sides(first), sides(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_split_stays_what_it_was() -> None:
    """Records name a split by its rule alone: the same rule must mean the same images for ever."""
    parts = split_indices(Split(seed=3), dataset(np.arange(20) % 2))
    assert parts.validation.tolist() == [3, 16]
    assert parts.test.tolist() == [4, 12, 13, 19]


def test_another_seed_gives_another_split() -> None:
    data = dataset(np.arange(200) % 2)
    assert (
        split_indices(Split(seed=0), data).test.tolist()
        != split_indices(Split(seed=1), data).test.tolist()
    )


# --- copies --------------------------------------------------------------------------------------


def test_a_big_group_goes_to_train_and_the_rest_keeps_its_shares() -> None:
    """Like the challenge's file: a picture with 150 copies in each of 8 classes."""
    labels = np.concatenate([np.arange(8000) % 8, np.arange(1200) % 8])
    groups = np.concatenate([np.arange(8000), np.full(1200, 8000)])
    data = dataset(labels, groups)
    parts = split_indices(Split(), data)
    assert_sound(parts, data)
    assert set(range(8000, 9200)) <= set(parts.train.tolist())
    for ids, ratio in zip(sides(parts), RATIOS, strict=True):
        assert (np.abs(counts(ids, data) - 1150 * ratio) < 2).all()


def test_a_group_that_would_fill_train_counts_for_no_share() -> None:
    """Class 0: one picture 900 times, and 100 others; those are split as if they were alone."""
    labels = np.repeat([0, 1], [1000, 1000])
    groups = np.concatenate([np.zeros(900, int), np.arange(900, 2000)])
    parts = split_indices(Split(), dataset(labels, groups))
    assert set(range(900)) <= set(parts.train.tolist())
    assert [len(ids) for ids in sides(parts)] == [900 + 70 + 700, 10 + 100, 20 + 200]


def test_pairs_are_shared_out_like_single_images() -> None:
    labels = np.repeat(np.arange(400) % 2, 2)
    data = dataset(labels, np.repeat(np.arange(0, 800, 2), 2))
    parts = split_indices(Split(), data)
    assert_sound(parts, data)
    for ids, ratio in zip(sides(parts), RATIOS, strict=True):
        assert (np.abs(counts(ids, data) - 400 * ratio) <= 2).all()


def test_contradictory_copies_prefer_train() -> None:
    """Pictures that carry both labels cannot be scored fairly."""
    labels = np.arange(1000) % 2
    groups = np.arange(1000)
    groups[1:40:2] = groups[0:40:2]
    parts = split_indices(Split(), dataset(labels, groups))
    assert set(range(40)) <= set(parts.train.tolist())


@pytest.mark.parametrize("copies", [1, 4])
def test_too_few_images_of_a_class(copies: int) -> None:
    labels = np.concatenate([np.zeros(30, int), np.ones(2 * copies, int)])
    groups = np.concatenate([np.arange(30), 30 + np.repeat(np.arange(2) * copies, copies)])
    with pytest.raises(DataError) as error:
        split_indices(Split(), dataset(labels, groups))
    different = "" if copies == 1 else " of 2 different pictures"
    assert f"class 'class_1' has {2 * copies} images{different}; none is left" in str(error.value)


# --- a given split -------------------------------------------------------------------------------


def test_a_given_split_is_kept() -> None:
    own = np.repeat([2, 0, 1], 20)
    parts = split_indices(Split(seed=5), dataset(np.arange(60) % 3, given=own))
    for ids, part in zip(sides(parts), range(3), strict=True):
        np.testing.assert_array_equal(ids, np.flatnonzero(own == part))


def test_a_given_split_can_be_left_aside() -> None:
    labels, own = np.arange(60) % 3, np.repeat([0, 1, 2], 20)
    drawn = split_indices(Split(), dataset(labels))
    ignored = split_indices(Split(use_given=False), dataset(labels, given=own))
    np.testing.assert_array_equal(drawn.test, ignored.test)


def test_the_earlier_part_loses_what_a_later_one_holds() -> None:
    own = np.repeat([0, 1, 2], 20)
    groups = np.arange(60)
    groups[[25, 45]] = 5  # in all three
    groups[26] = 6  # train and validation
    groups[46] = 27  # validation and test
    groups[48] = 47  # twice in test
    data = dataset(np.arange(60) % 2, groups, own)
    parts = split_indices(Split(), data)
    assert_sound(parts, data)
    assert set(range(20)) - set(parts.train.tolist()) == {5, 6}
    assert set(range(20, 40)) - set(parts.validation.tolist()) == {25, 27}
    assert parts.test.tolist() == list(range(40, 60))


def test_what_a_given_split_lacks_is_said() -> None:
    labels = np.arange(60) % 2
    with pytest.raises(DataError, match="its own split has no validation; set use_given = false"):
        split_indices(Split(), dataset(labels, given=np.repeat([0, 2], 30)))
    with pytest.raises(DataError, match="has no validation and no test"):
        split_indices(Split(), dataset(labels, given=np.zeros(60, int)))
    own = np.repeat([0, 1, 2], 20)
    own[(labels == 1) & (own == 2)] = 0
    with pytest.raises(DataError, match="class 'class_1' has 30 images; none is left for test"):
        split_indices(Split(), dataset(labels, given=own))


# --- subsets -------------------------------------------------------------------------------------


@given(unique_sets(), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_a_subset_is_a_stratified_part_of_each_part(
    labels: np.ndarray, train: int, validation: int, test: int
) -> None:
    data = dataset(labels)
    subset = Subset(train=train, validation=validation, test=test)
    whole = split_indices(Split(), data)
    classes = len(data.class_names)
    limits = (train, validation, test)
    if any(limit < min(classes, len(ids)) for limit, ids in zip(limits, sides(whole), strict=True)):
        with pytest.raises(
            DataError, match=rf"^subset\.\w+ is \d+, but made has {classes} classes"
        ):
            split_indices(Split(subset=subset), data)
        return
    thinned = split_indices(Split(subset=subset), data)
    assert_sound(thinned, data)
    for ids, before, limit in zip(sides(thinned), sides(whole), limits, strict=True):
        assert len(ids) == min(limit, len(before))
        assert set(ids.tolist()) <= set(before.tolist())
        ideal = np.maximum(counts(before, data) * len(ids) / len(before), 1)
        assert (counts(ids, data) - ideal < 1).all()


def test_a_larger_subset_keeps_the_smaller() -> None:
    data = dataset(np.arange(900) % 3)
    small = split_indices(Split(subset=Subset(train=60, validation=9, test=30)), data)
    large = split_indices(Split(subset=Subset(train=300, validation=9, test=30)), data)
    assert set(small.train.tolist()) <= set(large.train.tolist())
    assert small.test.tolist() == large.test.tolist()


@given(
    st.integers(0, 500), st.lists(st.integers(0, 1000), min_size=1, max_size=20), st.integers(0, 2)
)
def test_apportion(total: int, weights: list[int], least: int) -> None:
    weighed = np.array(weights)
    shares = apportion(total, weighed, least)
    if weighed.sum() == 0:
        assert not shares.any()
        return
    assert shares.sum() == total
    assert (shares >= 0).all()
    assert (shares[weighed == 0] == 0).all()
    if least == 0:
        assert (np.abs(shares - total * weighed / weighed.sum()) < 1).all()
    elif total >= least * (weighed > 0).sum():
        assert (shares[weighed > 0] >= least).all()


# --- near copies ---------------------------------------------------------------------------------


def paired(count: int, rule: Split) -> tuple[Dataset, Dataset]:
    """Near copies of which some lie in different parts, and only those that lie in one."""
    data = dataset(np.arange(count) % 3)
    parts = split_indices(rule, data)
    apart, together = np.arange(count), np.arange(count)
    of_class = [ids[data.labels[ids] == 0] for ids in sides(parts)]
    apart[max(of_class[0][0], of_class[2][0])] = min(of_class[0][0], of_class[2][0])
    together[of_class[0][1]] = of_class[0][0]
    return replace(data, near_groups=apart), replace(data, near_groups=together)


@pytest.mark.parametrize("rule", [{}, {"seed": 3}, {"counts": (60, 20, 30)}])
def test_near_copies_are_in_one_part_and_the_rule_says_so_where_it_matters(
    rule: dict[str, object],
) -> None:
    plain = Split.model_validate(rule)
    requested = Split.model_validate({**rule, "group_near_copies": True})
    apart, together = paired(120, plain)
    assert effective_split(requested, apart) == requested
    parts = split_indices(requested, apart)
    assert apart.near_groups is not None
    assert_sound(parts, replace(apart, groups=apart.near_groups))
    for data in (together, replace(apart, near_groups=None)):
        assert effective_split(requested, data) == plain
    assert effective_split(plain, apart) == plain
    assert plain.canonical() == Split.model_validate(rule).canonical()
    assert "near" not in plain.canonical()


def test_folds_are_grouped_alike() -> None:
    apart, _ = paired(120, Split(folds=3, fold=2))
    rules = [Split(folds=3, fold=fold, group_near_copies=True) for fold in range(3)]
    assert [effective_split(rule, apart) for rule in rules] == rules
    tests = np.concatenate([split_indices(rule, apart).test for rule in rules])
    assert sorted(tests.tolist()) == list(range(120))


def test_a_given_split_loses_near_copies_of_a_later_part() -> None:
    given_parts = np.repeat([0, 1, 2], 20)
    near = np.arange(60)
    near[58] = 1
    data = replace(dataset(np.arange(60) % 3, given=given_parts), near_groups=near)
    rule = Split(group_near_copies=True)
    assert effective_split(rule, data) == rule
    parts = split_indices(rule, data)
    assert 1 not in parts.train
    assert 58 in parts.test


def test_a_class_of_near_copies_alone_is_refused_with_the_option() -> None:
    labels = np.repeat([0, 1], [10, 50])
    near = np.where(labels == 0, 0, np.arange(60))
    data = replace(dataset(labels), near_groups=near)
    with pytest.raises(DataError, match=r"'class_0' has 10 images of 1 .*group_near_copies"):
        split_indices(Split(group_near_copies=True), data)
    assert len(split_indices(Split(), data).train)
