"""What a board says beyond its rows, on made-up predictions whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from harness.data.image_cache import open_dataset
from harness.data.sources import prepare
from harness.data.splitting import split_indices
from harness.ensembling.builder import RULES, fit_ensembles
from harness.ensembling.members import group_members
from harness.evaluation import metrics
from harness.evaluation.significance import Paired
from harness.reporting import findings
from harness.reporting.leaderboard import Board, boards
from harness.reporting.markdown import markdown
from harness.reporting.publish import read_boards
from harness.reporting.rows import compare_rows
from harness.reporting.tables import first_table
from harness.schema.dataset import DataSummary, Split
from harness.schema.predictions import Predictions
from harness.schema.records import ExternalRecord, Finished, RunRecord
from harness.schema.run import Run, Weights
from harness.storage.records import Store
from tests.harness.conftest import made_record, made_run

NAMES = ("basophil", "ig", "monocyte", "neutrophil")
LABELS = np.repeat(np.arange(4), 60)
IMAGENET = Weights(source="imagenet", digest="md5:0")
SUMMARY = DataSummary(
    name="made-up", images=400, image_size=96, class_names=NAMES, train=100, validation=60, test=240
)


def y_prob(accuracy: float, seed: int = 0, becomes: int = 1) -> np.ndarray:
    """Probabilities (240, 4) with this accuracy; wrong predictions are ``becomes`` classes on."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(LABELS)) > accuracy
    y_pred = np.where(wrong, (LABELS + becomes) % 4, LABELS)
    return (0.1 + 0.6 * np.eye(4)[y_pred]).astype(np.float32)


def record_of(  # type: ignore[type-arg]
    recipe: str,
    probabilities: np.ndarray,
    *,
    validation: np.ndarray | None = None,
    seed: int = 0,
    weights: Weights | None = None,
    **cost: Any,
) -> tuple[RunRecord, dict]:
    """A run with these probabilities on the test and, all or a quarter, on the validation."""
    part = Predictions(np.arange(240), LABELS, probabilities)
    choice = probabilities if validation is None else validation
    parts = {"validation": Predictions(np.arange(240, 300), LABELS[::4], choice[::4])}
    parts["test"] = part
    record = made_record(recipe, seed)
    if weights:
        run = Run.model_validate(record.run.model_dump() | {"weights": weights.model_dump()})
        record = record.model_copy(update={"run": run})
    assert isinstance(record.result, Finished)
    evaluation = dict(metrics.evaluate(parts, NAMES))
    result = record.result.model_copy(
        update=evaluation | {"cost": record.result.cost.model_copy(update=cost)}
    )
    return record.model_copy(update={"result": result, "data": SUMMARY}), parts


def board_of(**rows: np.ndarray) -> Board:
    made = [record_of(name, probabilities) for name, probabilities in rows.items()]
    (board,) = boards([r for r, _ in made], {r.run.id: parts for r, parts in made})
    return board


def board_from(*made: tuple[RunRecord, dict[str, Predictions]]) -> Board:
    (board,) = boards([r for r, _ in made], {r.run.id: parts for r, parts in made})
    return board


def baseline(probabilities: np.ndarray) -> tuple[ExternalRecord, dict[str, Predictions]]:
    from harness.schema.records import External

    parts = {"test": Predictions(np.arange(240), LABELS, probabilities)}
    record = ExternalRecord(
        external=External(name="raw-pixels", reference=made_run()),
        baseline=True,
        note="a linear classifier",
        profile="quick",
        data=SUMMARY,
        **dict(metrics.evaluate(parts, NAMES)),
    )
    return record, parts


def test_far_below_the_median_is_suspect_and_not_ranked() -> None:
    board = board_of(
        vgg16=y_prob(0.95, 1),
        vgg19=y_prob(0.94, 2),
        lite0=y_prob(0.93, 3),
        resnet50=y_prob(0.92, 4),
        mobilenet=y_prob(0.3, 5),
    )
    assert board.rows[-1].name == "mobilenet"
    assert "below the median network" in board.rows[-1].suspect
    assert board.rows[-1].rank is None
    assert not any(row.suspect for row in board.rows[:-1])
    page = markdown([board])
    assert "**MobileNet**\N{NO-BREAK SPACE}⚠" in page
    assert "Suspect recipe, not ranked: MobileNet is" in page


def test_below_the_raw_pixels_is_suspect_when_it_is_significant() -> None:
    made = [
        record_of("vgg16", y_prob(0.95, 1)),
        record_of("lite0", y_prob(0.6, 2)),
    ]
    made.append(record_of("resnet50", y_prob(0.79, 3)))
    pixels, parts = baseline(y_prob(0.8, 4))
    predictions = {r.run.id: p for r, p in made} | {pixels.subject.id: parts}
    (board,) = boards([*(r for r, _ in made), pixels], predictions)
    suspects = {row.name: row.suspect for row in board.rows}
    assert "below the pixel baseline" in suspects["lite0"]
    assert suspects["vgg16"] == suspects["resnet50"] == suspects["raw-pixels"] == ""
    ranks = {row.name: row.rank for row in board.rows}
    assert ranks["raw-pixels"] is None
    assert ranks["vgg16"] == 1


def test_the_fronts_hold_what_nothing_beats() -> None:
    made = [
        record_of("vgg16", y_prob(0.9, 1), parameters=100),
        record_of("lite0", y_prob(0.8, 1), parameters=10),
        record_of("resnet50", y_prob(0.7, 1), parameters=50),
    ]
    (board,) = boards([r for r, _ in made], {r.run.id: p for r, p in made})
    assert [row.name for row in board.rows] == ["vgg16", "lite0", "resnet50"]
    assert [row.fronts for row in board.rows] == [("speed", "size"), ("size",), ()]


def test_rates_of_different_devices_are_not_compared() -> None:
    rates = made_record("vgg16").result
    assert isinstance(rates, Finished)
    on_gpu = rates.cost.throughput.model_copy(update={"device": "Test GPU", "median": 9000.0})
    made = [
        record_of("vgg16", y_prob(0.9, 1), parameters=100, throughput=on_gpu),
        record_of("lite0", y_prob(0.8, 1), parameters=10),
        record_of("resnet50", y_prob(0.7, 1), parameters=50),
    ]
    board = board_from(*made)
    assert [row.fronts for row in board.rows] == [("speed", "size"), ("speed", "size"), ()]
    sentence = "Images/s of different devices do not compare: "
    devices = "Test CPU, 2 cores (EfficientNet-Lite0, ResNet50); Test GPU (VGG16)."
    assert sentence + devices in markdown([board])
    assert sentence not in markdown([board_of(vgg16=y_prob(0.9, 1), lite0=y_prob(0.8, 1))])


def test_known_confusions_are_shares_of_the_true_class() -> None:
    board = board_of(vgg16=y_prob(0.5, 7, becomes=2))
    classes = {name: pair for name, *pair in findings.confusions(board)}
    row = board.rows[0]
    y_pred = y_prob(0.5, 7, becomes=2).argmax(axis=1)
    expected = (y_pred[LABELS == 1] == 3).mean()
    assert findings.confused_share(row, *classes["ig → neutrophil"]) == pytest.approx(expected)
    assert findings.confused_share(row, *classes["ig → monocyte"]) == 0
    assert "Confusions of neighbouring classes" in markdown([board])


def test_among_many_networks_the_pixel_baseline_is_exceeded_by_chance_too() -> None:
    """A network below it at p = .02 is suspect alone, and not as one of twelve."""
    pixels, parts = baseline(y_prob(0.8, 4))
    below = record_of("lite0", y_prob(0.68, 6))
    others = ("vgg16", "vgg19", "resnet50", "mobilenet", "mobilenetv2", "mobilenetv3large",
              "densenet121", "inceptionv3", "efficientnetb0", "convnextsmall")  # fmt: skip
    more = [record_of(name, y_prob(0.85, i)) for i, name in enumerate(others)]
    suspects = []
    for made in ([below], [below, *more]):
        predictions = {r.run.id: p for r, p in made} | {pixels.subject.id: parts}
        (board,) = boards([*(r for r, _ in made), pixels], predictions)
        suspects.append({row.name: row.suspect for row in board.rows}["lite0"])
    assert "below the pixel baseline" in suspects[0]
    assert suspects[1] == ""


def test_the_median_is_that_of_networks_with_like_weights() -> None:
    names = ("vgg16", "vgg19", "resnet50", "mobilenet", "mobilenetv2")
    made = [record_of(name, y_prob(0.9, i)) for i, name in enumerate(names)]
    made += [record_of(name, y_prob(0.5, i), weights=IMAGENET) for i, name in enumerate(names)]
    assert not any(row.suspect for row in board_from(*made).rows)


def test_rows_of_one_recipe_are_told_apart_by_their_weights() -> None:
    """Validation picks the network with ImageNet weights; the other one is the best on the test."""
    good, poor = y_prob(0.95, 1), y_prob(0.6, 2)
    board = board_from(
        record_of("vgg16", poor, validation=good, weights=IMAGENET),
        record_of("vgg16", good, validation=poor),
    )
    assert [row.title for row in board.rows] == ["VGG16 (random)", "VGG16 (imagenet)"]
    (choice,) = findings.choices(board).choices
    assert (choice.chosen.weights, choice.best.weights) == ("imagenet", "random")
    assert choice.wrong
    assert "Warning: validation picks VGG16 (imagenet) (macro F1" in markdown([board])


def test_a_suspect_can_be_chosen_by_validation_and_is_found_to_be_wrong() -> None:
    names = ("vgg16", "vgg19", "resnet50", "mobilenet")
    made = [record_of(name, y_prob(0.9, i)) for i, name in enumerate(names)]
    made.append(record_of("lite0", y_prob(0.4, 5), validation=y_prob(1.0)))
    board = board_from(*made)
    assert board.rows[-1].suspect
    (choice,) = findings.choices(board).choices
    assert choice.chosen.name == "lite0"
    assert choice.wrong
    assert "Warning: validation picks EfficientNet-Lite0" in markdown([board])


def test_rows_are_compared_on_the_seeds_that_both_have() -> None:
    """Seed 1 alone has the good predictions; the first seeds would differ by 30 points."""
    good, poor = y_prob(0.95, 1), y_prob(0.65, 2)
    board = board_from(
        record_of("vgg16", good, seed=1),
        record_of("lite0", poor, seed=0),
        record_of("lite0", good, seed=1),
    )
    rows = {row.name: row for row in board.rows}
    test = compare_rows(rows["vgg16"], rows["lite0"])
    assert test is not None
    assert (test.difference, test.p, test.seeds) == (0, 1, 1)
    _, shares = findings.disagreement(board)
    assert shares[0, 1] == 0


def test_what_one_seed_leaves_out_is_said_beside_the_ranks() -> None:
    words = "not the variation between seeds"
    one = [record_of(name, y_prob(0.9, i)) for i, name in enumerate(("vgg16", "lite0"))]
    assert words in markdown([board_from(*one)])
    other = [record_of(name, y_prob(0.9, 5), seed=1) for name in ("vgg16", "lite0")]
    page = markdown([board_from(*one, *other)])
    assert words not in page
    assert "The variation between seeds is in it" in page


def make_vote(tmp_path: Path, seeds: int = 1) -> Board:
    store = Store(tmp_path)
    for seed in range(seeds):
        for name, probabilities in (
            ("vgg16", y_prob(0.9, 1 + 20 * seed)),
            ("lite0", y_prob(0.9, 1 + 20 * seed)),
            ("resnet50", y_prob(0.85, 9 + 20 * seed, becomes=2)),
        ):
            record, parts = record_of(name, probabilities, seed=seed)
            store.save_predictions(record.run, parts)
            store.save(record)
    for together in group_members(store, ["vgg16", "lite0", "resnet50"]):
        fit_ensembles(together, RULES)
    (board,) = read_boards(tmp_path)
    return board


def test_what_a_member_adds_is_the_mean_over_the_seeds(tmp_path: Path) -> None:
    (found,) = findings.memberships(make_vote(tmp_path, seeds=2))
    assert found.macro_f1 == pytest.approx(found.row.macro_f1)
    last = found.members[-1]
    alone = [
        metrics.macro_f1(LABELS, y_prob(0.85, seed, becomes=2).argmax(axis=1), 4)
        for seed in (9, 29)
    ]
    assert alone[0] != alone[1]
    assert last.alone == pytest.approx(np.mean(alone))
    assert last.gain.difference == pytest.approx(found.macro_f1 - last.without)
    assert last.gain.seeds == 2


def test_a_twin_brings_nothing_and_the_words_say_so(tmp_path: Path) -> None:
    board = make_vote(tmp_path)
    (found,) = findings.memberships(board)
    by_title = {member.title: member for member in found.members}
    twin = by_title["EfficientNet-Lite0"]
    assert twin.gain.high > findings.NEGLIGIBLE, "of 240 images a loss cannot be excluded"
    assert twin.verdict == "inconclusive"
    rest = y_prob(0.9, 1) + y_prob(0.85, 9, becomes=2)
    assert twin.without == pytest.approx(metrics.macro_f1(LABELS, rest.argmax(axis=1), 4))
    assert twin.gain.difference == pytest.approx(found.row.macro_f1 - twin.without)
    assert twin.gain.low <= twin.gain.difference <= twin.gain.high
    right = [
        y_prob(0.9, 1).argmax(1) == LABELS,
        y_prob(0.85, 9, becomes=2).argmax(1) == LABELS,
    ]
    assert twin.disagreement == pytest.approx((right[0] != right[1]).mean() / 2)
    assert found.oracle > found.row.macro_f1
    assert "inconclusive" in markdown([board])
    for low, high, p, verdict in (
        (-0.004, 0.004, 1.0, "can be dropped"),
        (-0.004, 0.022, 0.3, "inconclusive"),
        (0.002, 0.008, 0.01, "helps"),
        (-0.03, -0.01, 0.01, "hurts"),
    ):
        gain = Paired((low + high) / 2, low, high, p)
        assert replace(twin, gain=gain).verdict == verdict


def test_a_rule_is_compared_with_the_vote_that_chooses_nothing(tmp_path: Path) -> None:
    board = make_vote(tmp_path)
    rows = {row.ensembles[0].ensemble.rule: row for row in board.ensembles}
    assert findings.gain_over_soft_vote(board, rows["soft vote"]) is None
    soft = rows["soft vote"].validation_f1
    for rule in ("weighted vote", "greedy", "stacking"):
        gain = findings.gain_over_soft_vote(board, rows[rule])
        assert gain is not None
        assert gain.difference == pytest.approx(rows[rule].validation_f1 - soft)
        assert gain.low <= gain.difference <= gain.high
    assert "Gain over soft vote (points, 95 % interval)" in markdown([board])


def test_the_words_name_what_validation_would_have_chosen(tmp_path: Path) -> None:
    board = make_vote(tmp_path)
    gain = findings.gain_of_ensembles(board)
    assert gain is not None
    for chosen, rows in ((gain.ensemble, board.ensembles), (gain.network, board.networks)):
        assert chosen.validation_f1 == max(row.validation_f1 for row in rows)
    page = markdown([board])
    for words in (
        "ranked rows may be the best",
        "Chosen on validation, the best ensemble is",
        "significant difference",
    ):
        assert words in page
    alone = board_of(vgg16=y_prob(0.9))
    assert findings.gain_of_ensembles(alone) is None
    assert findings.choices(alone).choices == ()
    assert "Chosen on validation" not in markdown([alone])


def test_of_each_set_of_members_the_ensemble_that_validation_prefers_stands_first(
    tmp_path: Path,
) -> None:
    board = make_vote(tmp_path)
    shown = [row for row in first_table(board).items if row.ensembles]
    (best,) = shown
    assert best.validation_f1 == max(row.validation_f1 for row in board.ensembles)
    assert {row.name for row in board.networks} <= {r.name for r in first_table(board).items}


def test_softened_members_are_in_the_calibration_table(tmp_path: Path) -> None:
    board = make_vote(tmp_path)
    soft = next(r for r in board.ensembles if r.ensembles[0].ensemble.rule == "soft vote")
    before = soft.ensembles[0].calibrated_members
    assert before is not None
    assert before.macro_f1 > 0.8
    assert before.calibration_error < soft.evaluations[0].test.calibration_error
    stacked = next(r for r in board.ensembles if r.ensembles[0].ensemble.rule == "stacking")
    assert stacked.ensembles[0].calibrated_members is None


def test_the_pixel_baseline_is_better_than_chance_and_the_same_twice(tmp_path: Path) -> None:
    from harness.training import pixel_baseline

    data = open_dataset(prepare("smear@500", 48, tmp_path))
    run = made_run().model_copy(update={"data": data.fingerprint})
    parts = split_indices(Split(), data)
    first, second = (pixel_baseline.predict(run, data, parts) for _ in range(2))
    for part in ("validation", "test"):
        np.testing.assert_array_equal(first[part].probabilities, second[part].probabilities)
    score = metrics.score(first["test"], data.class_names)
    assert 0.3 < score.macro_f1 < 0.85
    store = Store(tmp_path / "results")
    summary = SUMMARY.model_copy(update={"class_names": data.class_names})
    for _ in range(2):
        pixel_baseline.add(store, run, data, parts, ("quick", summary))
    (record,) = store.external_records()
    assert record.baseline
    assert record.test.macro_f1 == score.macro_f1
    assert record.shifted is None


def test_the_pixel_baseline_predicts_the_shifted_test_too(tmp_path: Path) -> None:
    from harness.data.shifted_test import get_or_corrupt, open_shifted
    from harness.training import pixel_baseline

    folder = prepare("smear@500", 48, tmp_path)
    data = open_dataset(folder)
    run = made_run().model_copy(update={"data": data.fingerprint})
    parts = split_indices(Split(), data)
    shifted, store = [], Store(tmp_path / "results")
    like = "quick", SUMMARY.model_copy(update={"class_names": data.class_names})
    pixel_baseline.add(store, run, data, parts, like)
    assert pixel_baseline.exists(store, run)
    assert not pixel_baseline.exists(store, run, with_shifted=True), "it is to be added again"
    modes: tuple[Literal["mixed", "full"], ...] = ("mixed", "full")
    for mode in modes:
        path = get_or_corrupt(folder, data, parts.test, Split(), mode)
        copy = open_shifted(path, data, parts.test, Split())
        shifted.append(pixel_baseline.predict(run, data, parts, copy)["shifted"])
        pixel_baseline.add(store, run, data, parts, like, copy)
        assert pixel_baseline.exists(store, run, with_shifted=True)
    np.testing.assert_array_equal(shifted[0].probabilities, shifted[1].probabilities)
    np.testing.assert_array_equal(shifted[0].ids, parts.test)
    plain = pixel_baseline.predict(run, data, parts)
    assert "shifted" not in plain
    scores = [
        metrics.score(part, data.class_names).macro_f1 for part in (plain["test"], shifted[0])
    ]
    assert scores[1] < scores[0]
