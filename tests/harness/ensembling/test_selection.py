"""Selected members, against brute force."""

from __future__ import annotations

import inspect
from itertools import product

import numpy as np
import pytest
from hypothesis import given

from harness.ensembling.selection import best_subsets, greedy_selection
from harness.evaluation.voting import soft_vote
from tests.harness.ensembling.members import f1, make_members, members_and_labels


@given(members_and_labels)
def test_greedy_is_never_worse_than_its_best_member(case: tuple[np.ndarray, np.ndarray]) -> None:
    votes, labels = case
    counts = greedy_selection(votes, labels)
    assert counts.min() >= 0
    assert counts.sum() >= 1
    selected = f1(soft_vote(votes, counts), labels)
    assert selected >= max(f1(vote, labels) for vote in votes) - 1e-9


def best_subset(votes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return best_subsets(votes, labels, np.arange(len(labels)) % 2)[0]


@given(members_and_labels)
def test_the_best_subset_is_brute_forces(case: tuple[np.ndarray, np.ndarray]) -> None:
    votes, labels = case
    subset = best_subset(votes, labels)
    masks = [np.array(m) for m in product([False, True], repeat=len(votes)) if any(m)]
    scores = [f1(votes[mask].astype(np.float32).sum(axis=0), labels) for mask in masks]
    assert f1(votes[subset].sum(axis=0), labels) == pytest.approx(max(scores))
    equals = [m for m, s in zip(masks, scores, strict=True) if s > max(scores) - 1e-12]
    assert subset.sum() == min(mask.sum() for mask in equals)


def test_among_equal_subsets_the_smallest_of_the_first_members_wins() -> None:
    votes, labels = make_members(1, 40, 3, seed=2)
    assert best_subset(np.concatenate([votes] * 4), labels).tolist() == [True, False, False, False]


def test_more_members_than_a_block_are_searched_as_well() -> None:
    votes, labels = make_members(9, 50, 3, seed=4)
    subset = best_subset(votes, labels)
    masks = [np.array(m) for m in product([False, True], repeat=9) if any(m)]
    best = max(f1(votes[mask].sum(axis=0), labels) for mask in masks)
    assert f1(votes[subset].sum(axis=0), labels) == pytest.approx(best)


def test_a_search_without_each_fold_is_the_search_of_the_other_images() -> None:
    votes, labels = make_members(9, 60, 3, seed=5)
    folds = np.random.default_rng(0).permutation(np.arange(60) % 5)
    subsets = best_subsets(votes, labels, folds)
    assert len(subsets) == 6
    for fold, subset in enumerate(subsets[1:]):
        kept = folds != fold
        np.testing.assert_array_equal(subset, best_subset(votes[:, kept], labels[kept]))


def test_selecting_takes_no_test_arrays() -> None:
    for select in (greedy_selection, best_subsets):
        parameters = list(inspect.signature(select).parameters)
        assert parameters in (
            ["probabilities", "labels"],
            ["probabilities", "labels", "folds"],
        )
