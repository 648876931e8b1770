"""Records of ensembles: what is fitted again, and what verification recomputes."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.ensembling.builder import MOST_SEARCHED, fit_ensembles, vote_mismatch
from harness.ensembling.members import EnsembleMembers, group_members
from harness.errors import StoreError
from harness.storage.records import Store
from tests.harness.conftest import made_record, save_finished
from zoo.registry import RECIPES

NAMES = ["lite0", "mobilenetv2", "vgg16"]


def make_group(root: Path) -> EnsembleMembers:
    store = Store(root)
    for name in NAMES:
        save_finished(store, made_record(name))
    (group,) = group_members(store, NAMES)
    return group


def test_validation_predictions_are_recomputed_from_the_shares_of_the_folds(tmp_path: Path) -> None:
    group = make_group(tmp_path)
    (record,) = fit_ensembles(group, ("weighted vote",)).records
    assert record.folds == len(record.fold_shares) >= 2
    assert vote_mismatch(group, record) == ""
    others = ((0.5, 0.5, 0.0),) * record.folds
    mismatch = vote_mismatch(group, record.model_copy(update={"fold_shares": others}))
    assert mismatch == "the stored validation predictions are not the vote of its members"


def test_a_record_of_a_rule_that_was_scored_on_the_images_of_its_fit_is_rejected(
    tmp_path: Path,
) -> None:
    group, rules = make_group(tmp_path), ("soft vote", "greedy", "stacking")
    fitted = fit_ensembles(group, rules).records
    assert fit_ensembles(group, rules, pending=True).records == ()
    group.store.save(fitted[1].model_copy(update={"folds": 0, "fold_shares": ()}))
    with pytest.raises(StoreError, match=r"folds belong to the rules .* delete it and run again"):
        group.store.ensembles()


def test_the_whole_zoo_is_searched() -> None:
    assert len(RECIPES) <= MOST_SEARCHED
