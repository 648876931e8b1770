"""Records of ensembles: what is fitted again, and what verification recomputes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.ensembling.builder import ALL_RULES, MOST_SEARCHED, fit_ensembles, fit_mismatch
from harness.ensembling.members import EnsembleMembers, group_members
from harness.errors import StoreError
from harness.evaluation import metrics
from harness.evaluation.voting import soft_vote
from harness.schema.records import Rule
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


@pytest.mark.parametrize("rule", [rule for rule in ALL_RULES if rule != "concatenation"])
def test_every_rule_is_fitted_again_by_verification(tmp_path: Path, rule: Rule) -> None:
    group = make_group(tmp_path)
    (record,) = fit_ensembles(group, (rule,)).records
    assert record.folds >= 2 or rule == "soft vote"
    assert fit_mismatch(group, record) == ""
    shares = record.model_copy(update={"shares": (0.5, 0.25, 0.25)})
    assert fit_mismatch(group, shares).startswith("its shares are ")
    if record.fold_shares:
        folds = ((0.5, 0.25, 0.25), *record.fold_shares[1:])
        assert fit_mismatch(group, record.model_copy(update={"fold_shares": folds}))
    if record.calibrated_members:
        wrong = record.calibrated_members.model_copy(update={"log_loss": 0.0})
        mismatch = fit_mismatch(group, record.model_copy(update={"calibrated_members": wrong}))
        assert mismatch.startswith("calibrated_members is ")


@pytest.mark.parametrize("part", ["validation", "test"])
def test_predictions_that_stacking_does_not_give_are_found(tmp_path: Path, part: str) -> None:
    """Validation scores of images that the fit has seen, or other test predictions."""
    group = make_group(tmp_path)
    (record,) = fit_ensembles(group, ("stacking",)).records
    stored = group.store.predictions(record.ensemble)
    votes = soft_vote(group.probabilities(part)).astype(np.float32)
    forged = stored | {part: replace(stored[part], probabilities=votes)}
    group.store.save_predictions(record.ensemble, forged)
    evaluation = dict(metrics.evaluate(forged, record.data.class_names))
    mismatch = fit_mismatch(group, record.model_copy(update=evaluation))
    assert mismatch == f"the stored {part} predictions are not those of its rule fitted again"


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
