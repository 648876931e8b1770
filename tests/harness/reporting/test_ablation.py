"""What the options of a protocol change: which boards are compared, and how it is reported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from harness.config import augmentation_named
from harness.evaluation import metrics
from harness.reporting import ablation
from harness.reporting.ablation import (
    Study,
    label,
    lines,
    preferences,
    significant_changes,
    studies,
)
from harness.reporting.leaderboard import boards
from harness.reporting.markdown import markdown
from harness.reporting.provenance import options_in_words
from harness.schema.predictions import Predictions
from harness.schema.protocol import Loss, Phase, Protocol
from harness.schema.records import Finished, RunRecord
from tests.harness.conftest import CLASSES, SUMMARY, made_outcome, made_run

PLAIN = Protocol()
MIXED = PLAIN.model_copy(update={"augmentation": augmentation_named("mixup")})
WEIGHTED = MIXED.model_copy(update={"loss": Loss(class_weight="balanced")})
VIEWED = PLAIN.model_copy(update={"test_views": 4})
TUNED = PLAIN.model_copy(update={"fine_tuning": Phase()})
COUNT = 300


def part(right: float, shift: int) -> Predictions:
    """So many correct predictions; which ones follows from ``shift``."""
    labels = np.arange(COUNT) % len(CLASSES)
    wrong = (np.arange(COUNT) + shift) % COUNT >= round(right * COUNT)
    y_pred = np.where(wrong, (labels + 1) % len(CLASSES), labels)
    probabilities = 0.1 + 0.7 * np.eye(len(CLASSES), dtype=np.float32)[y_pred]
    return Predictions(np.arange(COUNT), labels, probabilities.astype(np.float32))


def study_of(
    *runs: tuple[Protocol, str, float, float], seeds: Sequence[int] = ()
) -> tuple[Study, ...]:
    """Runs of (protocol, recipe, accuracy on the test, on the shifted test)."""
    records, predictions = [], {}
    seeds = seeds or [0] * len(runs)
    for i, ((protocol, recipe, clean, shifted), seed) in enumerate(zip(runs, seeds, strict=True)):
        run = made_run(recipe, seed).model_copy(update={"protocol": protocol})
        parts = {"validation": part(clean, i), "test": part(clean, i), "shifted": part(shifted, i)}
        evaluation = metrics.evaluate(parts, CLASSES)
        result = Finished(**dict(made_outcome()), **dict(evaluation))
        records.append(RunRecord(run=run, profile="quick", data=SUMMARY, result=result))
        predictions[run.id] = parts
    return studies(boards(records, predictions))


def test_each_board_is_compared_with_the_one_that_lacks_an_option() -> None:
    (study,) = study_of(
        (WEIGHTED, "vgg16", 0.9, 0.9),
        (VIEWED, "vgg16", 0.9, 0.9),
        (MIXED, "vgg16", 0.9, 0.9),
        (PLAIN, "vgg16", 0.9, 0.9),
    )
    references = {
        label(board): other for board, other in zip(study.boards, study.references, strict=True)
    }
    place = {label(board): i for i, board in enumerate(study.boards)}
    assert references == {
        "plain": None,
        "augmented by mixup": place["plain"],
        "augmented by mixup; loss weighted by class, balanced": place["augmented by mixup"],
        "predictions averaged over 4 views": place["plain"],
    }
    assert place["plain"] == 0


def test_settings_of_an_option_that_is_off_are_no_difference() -> None:
    unused = PLAIN.augmentation.model_copy(update={"frozen_epochs": 1})
    mixed = MIXED.augmentation.model_copy(update={"frozen_epochs": 1})
    plain, varied = (PLAIN.model_copy(update={"augmentation": a}) for a in (unused, mixed))
    (study,) = study_of((plain, "vgg16", 0.9, 0.9), (varied, "vgg16", 0.9, 0.9))
    assert study.references == (None, 0)


def test_what_is_trained_otherwise_is_another_study_and_one_board_is_none() -> None:
    plain = (PLAIN, "vgg16", 0.9, 0.9)
    assert study_of(plain) == ()
    assert study_of(plain, (TUNED, "vgg16", 0.9, 0.9)) == ()
    assert study_of(plain, (MIXED, "lite0", 0.9, 0.9))[0].networks == ()
    tuned = TUNED.model_copy(update={"test_views": 4})
    found = study_of(
        plain, (MIXED, "vgg16", 0.9, 0.9), (TUNED, "vgg16", 0.9, 0.9), (tuned, "vgg16", 0.9, 0.9)
    )
    assert sorted(len(study.boards) for study in found) == [2, 2]


def test_a_clear_change_is_significant_and_a_small_one_is_not() -> None:
    (study,) = study_of(
        (PLAIN, "vgg16", 0.80, 0.50),
        (PLAIN, "lite0", 0.80, 0.50),
        (MIXED, "vgg16", 0.95, 0.51),
        (MIXED, "lite0", 0.81, 0.80),
    )
    (lite0, vgg16), order = (0, 1), [network.recipe for network in study.networks]
    assert order == ["lite0", "vgg16"]
    tests = [
        [change.test for change in line.changes if change]
        for line in (lines(study, "test")[1], lines(study, "shifted")[1])
    ]
    assert tests[0][vgg16] is not None
    assert tests[0][vgg16].difference == pytest.approx(0.15, abs=0.01)
    significant = [[bool(test and test.significant) for test in line] for line in tests]
    assert significant == [[False, True], [True, False]]
    table = ablation.table(study, "test")
    assert table is not None
    emphasis = [cell.emphasis for cell in table.cells[1]]
    assert emphasis[2 + vgg16] == "**"
    assert emphasis[2 + lite0] == ""
    compared, ((options, [(title, difference)]),) = significant_changes(study, "test")
    assert (compared, options, title) == (2, "augmented by mixup", "VGG16")
    assert difference == pytest.approx(0.15, abs=0.01)
    assert "Significant, of 2 changes: *augmented by mixup*: VGG16 +1" in markdown(study.boards)


def test_scores_are_those_of_the_seeds_that_all_boards_have() -> None:
    """Seed 0 is on one board alone; with it the change would be +20 points in place of 0."""
    runs = [(PLAIN, "vgg16", 0.5, 0.5), (PLAIN, "vgg16", 0.9, 0.9), (MIXED, "vgg16", 0.9, 0.9)]
    (study,) = study_of(*runs, seeds=[0, 1, 1])
    ((plain,), (mixed,)) = (line.changes for line in lines(study, "test"))
    assert plain is not None
    assert mixed is not None
    assert mixed.test is not None
    assert mixed.macro_f1 - plain.macro_f1 == pytest.approx(mixed.test.difference)
    assert mixed.test.difference == pytest.approx(0, abs=0.01)


def test_the_p_of_many_changes_is_adjusted() -> None:
    runs = [(PLAIN, "vgg16", 0.80, 0.8), (MIXED, "vgg16", 0.85, 0.8)]
    others = ["lite0", "resnet50", "mobilenet", "densenet121", "inceptionv3"]
    more = [(protocol, name, 0.8, 0.8) for name in others for protocol in (PLAIN, MIXED)]
    (alone,), (among,) = study_of(*runs), study_of(*runs, *more)
    column = [network.recipe for network in among.networks].index("vgg16")
    (one,), same = lines(alone, "test")[1].tests, lines(among, "test")[1].tests[column]
    assert one.difference == same.difference
    assert same.p == pytest.approx(min(1, 6 * one.p))


def test_what_each_score_prefers_and_how_alike_they_order_the_options() -> None:
    runs = [(PLAIN, "vgg16", 0.9, 0.5), (MIXED, "vgg16", 0.8, 0.6), (VIEWED, "vgg16", 0.7, 0.7)]
    (study,) = study_of(*runs)
    (found,) = preferences(study)
    best = dict(found.preferred)
    assert best == {"validation": "plain", "test": "plain", "shifted test": label_of(VIEWED)}
    assert {(a.first, a.second): a.spearman for a in found.agreements} == {
        ("validation", "test"): 1.0,
        ("validation", "shifted test"): -1.0,
        ("test", "shifted test"): -1.0,
    }
    says = "VGG16 has its highest macro F1, in validation, with *plain*; on the test, with *plain*"
    assert says in markdown(study.boards)
    assert preferences(*study_of(*runs[:2])) == (), "two lines have no order to speak of"


def label_of(protocol: Protocol) -> str:
    return "; ".join(options_in_words(protocol))


def test_the_study_stands_before_the_boards() -> None:
    runs = [(PLAIN, "vgg16", 0.8, 0.5), (MIXED, "vgg16", 0.95, 0.5)]
    (study,) = study_of(*runs)
    page = markdown(study.boards)
    assert page.index("what the options change") < page.index("## made-up, quick profile\n")
    assert "## made-up, quick profile: augmented by mixup\n" in page
