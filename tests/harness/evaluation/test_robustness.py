"""The shifted test in numbers, on made-up predictions whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score

from harness.data.corruptions import CORRUPTIONS
from harness.data.shifted_test import PAIRS, assign_corruptions
from harness.evaluation.robustness import (
    effect_of_views,
    half_width,
    mean,
    overlap,
    rank_agreement,
    robustness,
)
from harness.evaluation.significance import bootstrap, interval
from harness.schema.predictions import PLAIN, SHIFTED, Predictions
from harness.schema.run import Run
from tests.harness.conftest import made_run

CLASSES = 4
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), [200, 150, 100, 60]))


def predictions_of(labels: np.ndarray, y_pred: np.ndarray) -> Predictions:
    """Confident predictions; in a part of every shift the images repeat."""
    probabilities = (0.1 + 0.6 * np.eye(CLASSES)[y_pred]).astype(np.float32)
    return Predictions(np.arange(len(labels)) % len(LABELS), labels, probabilities)


def predictions(right: np.ndarray, labels: np.ndarray = LABELS) -> Predictions:
    """The true class where ``right``, else the next one."""
    return predictions_of(labels, np.where(right, labels, (labels + 1) % CLASSES))


def corrupted_by(run: Run, corruption: str, from_severity: int = 1) -> np.ndarray:
    """Whether each row of the mixed copy has this corruption at this severity or above."""
    return np.array(
        [PAIRS[pair][0] == corruption and PAIRS[pair][1] >= from_severity for pair in pairs(run)]
    )


def pairs(run: Run) -> np.ndarray:
    return assign_corruptions(LABELS, run.data, run.split)


def everywhere(count: int = len(LABELS)) -> np.ndarray:
    return np.ones(count, bool)


# --- a row ---------------------------------------------------------------------------------------


def test_the_corruption_that_a_network_fails_on_is_its_worst() -> None:
    run = made_run()
    result = robustness(
        predictions(everywhere()), predictions(~corrupted_by(run, "motion", 3)), run
    )
    assert result.clean == 1
    assert result.worst is not None
    assert result.worst.name == "motion"
    assert 0.8 < result.shifted < 1
    for group in result.corruptions:
        assert (group.macro_f1 < 1) == (group.name == "motion")
    scores = [group.macro_f1 for group in result.severities]
    assert scores[:2] == [1, 1]
    assert max(scores[2:]) < 1


def test_every_image_has_one_corruption_and_one_severity() -> None:
    result = robustness(predictions(everywhere()), predictions(everywhere()), made_run())
    assert [group.name for group in result.corruptions] == list(CORRUPTIONS)
    assert sum(group.images for group in result.corruptions) == len(LABELS)
    assert sum(group.images for group in result.severities) == len(LABELS)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 50))
def test_scores_are_scikit_learns(seed: int) -> None:
    """Of all images, and of each corruption over the classes that are among its images."""
    run, rng = made_run(), np.random.default_rng(seed)
    test, shifted = (predictions(rng.random(len(LABELS)) < share) for share in (0.9, 0.6))
    result = robustness(test, shifted, run)
    y_pred = shifted.probabilities.argmax(axis=1)
    assert result.clean == pytest.approx(
        f1_score(LABELS, test.probabilities.argmax(axis=1), average="macro")
    )
    assert result.shifted == pytest.approx(f1_score(LABELS, y_pred, average="macro"))
    corruption = pairs(run) // 5
    for i, group in enumerate(result.corruptions):
        here = corruption == i
        present = np.unique(LABELS[here])
        assert group.macro_f1 == pytest.approx(
            f1_score(LABELS[here], y_pred[here], labels=present, average="macro")
        )


def test_a_class_without_images_of_a_corruption_does_not_count() -> None:
    labels = np.repeat([0, 1], 55)
    result = robustness(
        predictions(everywhere(110), labels), predictions(everywhere(110), labels), made_run()
    )
    assert {group.macro_f1 for group in result.corruptions} == {1.0}
    assert result.shifted == 1


def test_fewer_images_than_corruptions() -> None:
    few = predictions(everywhere(4), np.arange(4))
    result = robustness(few, few, made_run())
    assert sum(math.isnan(group.macro_f1) for group in result.corruptions) == 7
    assert result.worst is None, "none is worse than another"
    assert result.shifted == 1


def test_the_widest_interval_is_that_of_a_bootstrap() -> None:
    run = made_run()
    shifted = predictions(np.random.default_rng(2).random(len(LABELS)) < 0.7)
    y_pred, corruption = shifted.probabilities.argmax(axis=1), pairs(run) // 5
    widths = []
    for i in range(len(CORRUPTIONS)):
        counts = confusion_matrix(LABELS[corruption == i], y_pred[corruption == i])
        low, high = interval(bootstrap(counts, 2000).macro_f1)
        widths.append(high - low)
    assert half_width(shifted, run) == pytest.approx(max(widths) / 2)


def test_the_mean_over_seeds() -> None:
    run = made_run()
    one = robustness(predictions(everywhere()), predictions(everywhere()), run)
    two = robustness(predictions(everywhere()), predictions(~corrupted_by(run, "JPEG")), run)
    both = mean([one, two])
    assert both.shifted == pytest.approx((one.shifted + two.shifted) / 2)
    assert two.worst is not None
    worst = min(both.corruptions, key=lambda group: group.macro_f1)
    assert worst.name == two.worst.name == "JPEG"
    assert worst.macro_f1 == pytest.approx(two.worst.macro_f1 / 2 + 0.5)
    assert both.worst is None, "the seeds do not agree"
    assert mean([one]) == one


def test_a_worst_corruption_is_named_only_where_it_is_told_from_the_next() -> None:
    """All corruptions alike: the lowest of eleven scores is far below the mean, yet no finding."""
    run, rng = made_run(), np.random.default_rng(0)
    clean, results = predictions(everywhere()), []
    for _ in range(60):
        shifted = predictions(rng.random(len(LABELS)) < 0.8)
        results.append(robustness(clean, shifted, run))
    lowest = [min(group.macro_f1 for group in result.corruptions) for result in results]
    assert np.mean(lowest) < np.mean([result.shifted for result in results]) - 0.02
    assert sum(result.worst is not None for result in results) <= 3


@pytest.mark.parametrize("accuracy", [0.6, 0.9])
def test_the_sd_of_a_group_is_that_over_other_images(accuracy: float) -> None:
    run, rng = made_run(), np.random.default_rng(1)
    scores, sds = [], []
    for _ in range(60):
        shifted = predictions(rng.random(len(LABELS)) < accuracy)
        groups = robustness(shifted, shifted, run).severities
        scores.append([group.macro_f1 for group in groups])
        sds.append([group.sd for group in groups])
    assert np.mean(sds) == pytest.approx(np.std(scores, axis=0, ddof=1).mean(), rel=0.12)


# --- the views -----------------------------------------------------------------------------------


def test_the_effect_of_views_is_paired_on_both_tests() -> None:
    rng = np.random.default_rng(1)
    right = rng.random(len(LABELS)) < 0.8
    better = right | (rng.random(len(LABELS)) < 0.5)
    parts = {
        "test": predictions(better), PLAIN + "test": predictions(right),
        SHIFTED: predictions(right), PLAIN + SHIFTED: predictions(right),
    }  # fmt: skip
    result = effect_of_views([parts])
    assert set(result) == {"test", SHIFTED}
    assert result["test"].difference > 0.05
    assert result["test"].p < 0.01
    assert result[SHIFTED].difference == 0
    again = effect_of_views([parts, parts])["test"]
    assert again.difference == result["test"].difference
    assert again.p == pytest.approx(result["test"].p), "these networks, not what others would be"
    assert effect_of_views([{"test": parts["test"], SHIFTED: parts[SHIFTED]}]) == {}


# --- a table of rows -----------------------------------------------------------------------------


def test_ranks_that_agree_and_ranks_that_are_turned_about() -> None:
    scores = {"validation": [0.9, 0.8, 0.7, 0.6], "test": [0.95, 0.9, 0.85, 0.8],
              "shifted": [0.1, 0.2, 0.3, 0.4]}  # fmt: skip
    same, opposed, also = rank_agreement(scores)
    assert (same.first, same.second) == ("validation", "test")
    assert same.spearman == pytest.approx(1)
    assert opposed.spearman == pytest.approx(-1)
    assert also.spearman == pytest.approx(-1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_agreement_of_ranks_is_scipys(pairs: list[tuple[int, int]]) -> None:
    from scipy import stats

    a, b = ([float(pair[i]) for pair in pairs] for i in (0, 1))
    (result,) = rank_agreement({"a": a, "b": b})
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert result.spearman == pytest.approx(float(stats.spearmanr(a, b).statistic), abs=1e-12)
    else:
        assert math.isnan(result.spearman)


def test_too_few_rows_or_none_that_differ() -> None:
    assert rank_agreement({"a": [1, 2], "b": [2, 1]}) == ()
    (flat,) = rank_agreement({"a": [1, 1, 1], "b": [1, 2, 3]})
    assert math.isnan(flat.spearman)
    with pytest.raises(ValueError, match="same length"):
        rank_agreement({"a": [1, 2, 3], "b": [1, 2]})


# --- overlap with augmentation ------------------------------------------------------------------


def test_corruptions_that_resemble_an_augmentation() -> None:
    assert overlap(()) == ()
    assert overlap({"flip", "rotation", "zoom", "shift", "brightness", "contrast"}) == (
        "brighter", "darker", "less contrast", "more contrast",
    )  # fmt: skip
    assert overlap(["color degeneration"]) == ("saturation",)
    assert overlap(["mixing", "cutting", "masking", "noise"]) == ()
