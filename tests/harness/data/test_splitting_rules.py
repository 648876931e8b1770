"""Splits by count, balanced, by percent and by fold: exact to the image."""

from __future__ import annotations

import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.data.splitting import split_csv, split_indices
from harness.errors import DataError
from harness.schema.dataset import Dataset, ImageIdentities, Split, Subset
from tests.harness.data.test_splitting import (
    RATIOS,
    assert_sound,
    copied_sets,
    counts,
    dataset,
    sides,
)

CELLS = np.repeat(np.arange(8), [852, 2181, 1085, 2026, 849, 993, 2330, 1643])
"""Labels as often as in the challenge's cells."""


@st.composite
def roomy_sets(draw: st.DrawFn) -> np.ndarray:
    """Labels of 2 to 8 classes with 20 to 90 images each, shuffled."""
    sizes = draw(st.lists(st.integers(20, 90), min_size=2, max_size=8))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)


# --- by percent ----------------------------------------------------------------------------------


def test_a_preset_is_a_word_for_ratios() -> None:
    """Of reports 002 and 001; the same split, and so the same run, as in numbers."""
    assert Split.model_validate({"ratios": "72/8/20"}) == Split(ratios=(0.72, 0.08, 0.2))
    words = Split.model_validate({"ratios": "60/36/4"})
    assert words.canonical() == Split(ratios=(0.6, 0.36, 0.04)).canonical()
    sizes = [len(ids) for ids in sides(split_indices(words, dataset(CELLS)))]
    assert sizes == pytest.approx([7175, 4305, 478], abs=8)


@pytest.mark.parametrize("word", ["72/8", "a/b/c", "72/8/30", "100/0/0", ""])
def test_percents_that_are_none(word: str) -> None:
    with pytest.raises(ValidationError, match="three"):
        Split.model_validate({"ratios": word})


# --- by count ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(roomy_sets(), st.data(), st.integers(0, 99))
def test_counts_are_kept_to_the_image(labels: np.ndarray, draw: st.DataObject, seed: int) -> None:
    data = dataset(labels)
    classes, most = len(data.class_names), len(labels) // 3
    requested = tuple(draw.draw(st.integers(classes, most)) for _ in range(3))
    parts = split_indices(Split(counts=requested, seed=seed), data)
    assert_sound(parts, data)
    assert tuple(map(len, sides(parts))) == requested
    shares = counts(np.arange(len(labels)), data) / len(labels)
    for ids, count in zip(sides(parts), requested, strict=True):
        assert (np.abs(counts(ids, data) - np.maximum(count * shares, 1)) < 2.5).all()


def test_counts_may_take_every_image_and_no_more() -> None:
    data = dataset(CELLS)
    parts = split_indices(Split(counts=(8000, 1000, len(CELLS) - 9000)), data)
    assert_sound(parts, data)
    assert len(parts.test) == len(CELLS) - 9000
    with pytest.raises(DataError, match="asks for 12,000 images, but there are 11,959"):
        split_indices(Split(counts=(8000, 2000, 2000)), data)


@settings(deadline=None)
@given(copied_sets(mixed=False), st.integers(0, 99))
def test_counts_keep_copies_together_and_never_give_more(data: Dataset, seed: int) -> None:
    requested = (len(data.class_names),) * 3
    try:
        parts = split_indices(Split(counts=requested, seed=seed), data)
    except DataError:
        return  # what is left without the largest pictures is too little
    assert_sound(parts, data)


# --- a balanced test -----------------------------------------------------------------------------


@settings(deadline=None)
@given(roomy_sets(), st.integers(0, 99))
def test_a_balanced_test_has_equally_many_of_each_class(labels: np.ndarray, seed: int) -> None:
    data = dataset(labels)
    parts = split_indices(Split(balanced_test=True, seed=seed), data)
    assert_sound(parts, data)
    assert len(set(counts(parts.test, data).tolist())) == 1
    assert sum(map(len, sides(parts))) == len(labels)
    rest = counts(parts.train, data) + counts(parts.validation, data)
    assert (np.abs(counts(parts.train, data) - rest * 7 / 8) < 2).all()


def test_the_balanced_test_of_report_000() -> None:
    """A fifth of the cells: 298 of each class, or as many as requested."""
    data = dataset(CELLS)
    fifth = split_indices(Split(balanced_test=True), data)
    assert counts(fifth.test, data).tolist() == [11959 // 5 // 8] * 8
    requested = split_indices(Split(balanced_test=True, counts=(9000, 800, 800)), data)
    assert counts(requested.test, data).tolist() == [100] * 8
    assert len(requested.train) == 9000
    with pytest.raises(DataError, match=r"801 test images cannot be 8 classes .* say 800"):
        split_indices(Split(balanced_test=True, counts=(9000, 800, 801)), data)
    with pytest.raises(DataError, match="too many for class 'class_4'"):
        split_indices(Split(balanced_test=True, counts=(800, 80, 8000)), data)


def test_a_balanced_test_stays_balanced_in_a_subset() -> None:
    data = dataset(CELLS)
    split = Split(balanced_test=True, subset=Subset(train=320, validation=80, test=240))
    assert counts(split_indices(split, data).test, data).tolist() == [30] * 8


def test_a_scarce_class_keeps_half_of_its_images_for_training() -> None:
    data = dataset(np.repeat([0, 1, 2], [500, 500, 20]))
    parts = split_indices(Split(balanced_test=True), data)
    assert counts(parts.test, data).tolist() == [10] * 3
    assert counts(parts.train, data)[2] + counts(parts.validation, data)[2] == 10


# --- folds ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(roomy_sets(), st.integers(2, 8), st.integers(0, 99))
def test_each_image_is_tested_once_over_the_folds(
    labels: np.ndarray, folds: int, seed: int
) -> None:
    data = dataset(labels)
    every = [split_indices(Split(folds=folds, fold=f, seed=seed), data) for f in range(folds)]
    total = counts(np.arange(len(labels)), data)
    for parts in every:
        assert_sound(parts, data)
        assert sum(map(len, sides(parts))) == len(labels)
        assert (np.abs(counts(parts.test, data) - total / folds) < 1).all()
    together = np.concatenate([parts.test for parts in every])
    assert sorted(together.tolist()) == list(range(len(labels)))


@settings(deadline=None)
@given(copied_sets(mixed=True), st.integers(0, 99))
def test_folds_share_no_image(data: Dataset, seed: int) -> None:
    every = []
    for fold in range(3):
        try:
            every.append(split_indices(Split(folds=3, fold=fold, seed=seed), data))
        except DataError:
            return  # a class has too few different pictures for this
    for parts in every:
        assert_sound(parts, data)
    for one, other in combinations(every, 2):
        assert not set(data.groups[one.test].tolist()) & set(data.groups[other.test].tolist())


def test_folds_that_cannot_be() -> None:
    data = dataset(np.repeat([0, 1], [50, 4]))
    with pytest.raises(DataError, match="'class_1' has 4 different pictures, too few for 5 folds"):
        split_indices(Split(folds=5), data)
    for wrong in ({"folds": 1}, {"folds": 5, "fold": 5}, {"fold": 1}):
        with pytest.raises(ValidationError, match="folds must be 2 or more"):
            Split.model_validate(wrong)
    with pytest.raises(ValidationError, match="ratios alone"):
        Split.model_validate({"folds": 5, "balanced_test": True})


# --- old and new ---------------------------------------------------------------------------------


def test_a_given_split_is_used_unless_the_rule_would_change_it() -> None:
    labels = np.tile([0, 1], 30)
    given_part = np.repeat([0, 1, 2], 20)
    data = dataset(labels, given=given_part)
    assert split_indices(Split(), data).test.tolist() == list(range(40, 60))
    for rule in ({"counts": (8, 8, 8)}, {"folds": 5}, {"balanced_test": True}):
        with pytest.raises(DataError, match=rf"own split, which split\.{next(iter(rule))} cannot"):
            split_indices(Split.model_validate(rule), data)
        drawn = split_indices(Split.model_validate({**rule, "use_given": False}), data)
        assert drawn.test.tolist() != list(range(40, 60))


def test_new_rules_leave_the_ids_of_old_splits_alone() -> None:
    assert Split(ratios=RATIOS).canonical() == (
        '{"ratios":[0.7,0.1,0.2],"seed":0,"subset":null,"use_given":true}'
    )
    assert '"folds":5' in Split(folds=5, fold=0).canonical()
    assert Split.model_validate_json(Split(counts=(9, 9, 9)).canonical()).counts == (9, 9, 9)


def test_a_split_is_written_out_image_by_image(tmp_path: Path) -> None:
    data = dataset(np.tile([0, 1], 30))
    parts = split_indices(Split(counts=(20, 10, 10)), data)
    path = tmp_path / "split.csv"
    digests = np.arange(60 * 32, dtype=np.uint8).reshape(60, 32)
    path.write_text(split_csv(parts, ImageIdentities(digests)))
    rows = list(csv.DictReader(path.open()))
    assert [int(row["index"]) for row in rows] == list(range(60))
    for name in ("train", "validation", "test"):
        indices = [int(row["index"]) for row in rows if row["part"] == name]
        assert indices == getattr(parts, name).tolist()
    assert sum(row["part"] == "unused" for row in rows) == 20
    assert [bytes.fromhex(row["sha256"]) for row in rows] == [one.tobytes() for one in digests]
    named = split_csv(parts, ImageIdentities(digests, ("=cmd()/1.png",) * 60))
    assert {row["file"] for row in csv.DictReader(named.splitlines())} == {"'=cmd()/1.png"}
