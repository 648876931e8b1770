"""Studies: nothing is lost, nothing is tried twice, the best is chosen by validation."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from harness.errors import StoreError, UserError
from harness.schema.protocol import Protocol
from harness.schema.tuning import Method, SearchSpace, TrialOutcome
from harness.tuning.objective import TrialFailed
from harness.tuning.space import Parameters
from harness.tuning.study import Study, trial_limit
from tests.harness.tuning.test_space import space

UNITS = space(units=(8, 16, 32, 64), batch_size=(16, 32))


def study(folder: Path, method: Method = "random", values: SearchSpace = UNITS) -> Study:
    return Study(folder / "made-up.journal", method, values, Protocol())


def score(parameters: Parameters) -> TrialOutcome:
    """Best with 32 units; equal with either batch size, but for the loss."""
    distance = abs(float(parameters["units_1"]) - 32) / 64
    return TrialOutcome(macro_f1=0.9 - distance, log_loss=float(parameters["batch_size"]) / 10)


def test_the_best_has_the_highest_f1_and_of_equals_the_lowest_loss(tmp_path: Path) -> None:
    one = study(tmp_path, "grid")
    one.run(score, trial_limit(None, one, Protocol()), None)
    assert len(one.trials) == 8
    assert one.best is not None
    assert one.best.parameters == {"units_1": 32, "batch_size": 16}
    assert one.best.outcome == TrialOutcome(macro_f1=0.9, log_loss=1.6)
    importances = one.importances()
    assert list(importances) == ["units_1", "batch_size"]
    assert importances["units_1"] > 0.99


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_study_goes_on_and_is_the_same_in_one_go(tmp_path: Path, method: Method) -> None:
    """Also in two processes: what is drawn depends on the number of the trial."""
    whole = study(tmp_path / "whole", method)
    whole.run(score, 14, None)
    first, second = (study(tmp_path / "parts", method) for _ in range(2))
    first.run(score, 5, None)
    second.run(score, 14, None)
    second.run(score, 14, None)
    assert second.trials == whole.trials
    assert len(second.trials) == 14
    assert len({tuple(trial.parameters.items()) for trial in whole.trials}) > 3


def test_what_was_interrupted_is_tried_again_and_no_trial_is_lost(tmp_path: Path) -> None:
    def interrupted(parameters: Parameters) -> TrialOutcome:
        if parameters["units_1"] == 64:
            raise KeyboardInterrupt
        return score(parameters)

    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, "grid").run(interrupted, 8, None)
    before = study(tmp_path, "grid").trials
    again = study(tmp_path, "grid")
    again.run(score, 8, None)
    assert again.trials[: len(before)] == before
    assert len({tuple(trial.parameters.items()) for trial in again.trials}) == 8


def test_no_trial_begins_after_the_budget(tmp_path: Path) -> None:
    one = study(tmp_path)
    one.run(score, 5, 0.0)
    assert one.trials == ()
    assert one.best is None


def test_a_trial_that_fails_counts_and_is_never_the_best(tmp_path: Path) -> None:
    def fails(parameters: Parameters) -> TrialOutcome:
        if parameters["units_1"] == 32:
            raise TrialFailed("training diverged")
        return score(parameters)

    one = study(tmp_path, "grid")
    one.run(fails, 8, None)
    assert len(one.trials) == 6
    assert one.best is not None
    assert one.best.parameters["units_1"] == 16
    one.run(score, 8, None)
    assert len(one.trials) == 6


def test_a_search_whose_trials_all_fail_ends(tmp_path: Path) -> None:
    def fails(parameters: Parameters) -> Any:
        raise TrialFailed("the weights do not fit")

    with pytest.raises(UserError, match="all of 3 trials failed, the last one: the weights"):
        study(tmp_path).run(fails, 50, None)


def test_a_grid_that_is_larger_than_the_number_of_trials(tmp_path: Path) -> None:
    assert trial_limit(8, study(tmp_path, "grid"), Protocol()) == 8
    with pytest.raises(UserError, match=r"more than 7 combinations: shorten .*\[tune\]"):
        trial_limit(7, study(tmp_path, "grid"), Protocol())
    assert trial_limit(None, study(tmp_path, "bayes"), Protocol()) == 50


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "made-up.journal").write_text('{"op_code": "x"}\n')
    with pytest.raises(StoreError, match=r"made-up\.journal: no journal of Optuna"):
        study(tmp_path)
    (tmp_path / "made-up.journal").unlink()
    os.mkfifo(tmp_path / "made-up.journal")
    with pytest.raises(StoreError, match="not a regular file"):
        study(tmp_path)


def test_warnings_of_experimental_parts_are_not_shown(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as shown:
        one = study(tmp_path, "bayes")
        one.run(score, 12, None)
    assert [str(warning.message) for warning in shown] == []
