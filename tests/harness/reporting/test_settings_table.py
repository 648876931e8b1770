"""Networks of all boards on the same test images: which are joined, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.errors import UserError
from harness.evaluation import metrics
from harness.evaluation.significance import paired
from harness.reporting.compare import compare
from harness.reporting.leaderboard import Board, boards
from harness.reporting.markdown import markdown
from harness.reporting.overview import overviews
from harness.reporting.publish import read_boards
from harness.reporting.rows import compare_rows
from harness.reporting.settings_table import JoinedBoards, joined_boards, table
from harness.schema.dataset import ImageIdentities, Split, Subset
from harness.schema.predictions import Predictions
from harness.schema.protocol import Head, Optimizer, Phase, Protocol
from harness.schema.records import Finished, RunRecord
from harness.schema.run import Run, Weights
from harness.storage.records import Store
from tests.harness.conftest import CLASSES, SUMMARY, made_outcome, made_run
from tests.harness.reporting.test_ablation import MIXED, PLAIN, VIEWED, part

SLOW = Phase(optimizer=Optimizer(name="adam", learning_rate=1e-4))
FAST = Phase(optimizer=Optimizer(name="adam", learning_rate=5e-4))
SMALLER = Split(subset=Subset(train=64, validation=16, test=40))


def record_of(run: Run, right: float, shift: int, variant: str = "") -> RunRecord:
    parts = {"validation": part(right, shift), "test": part(right, shift)}
    result = Finished(**dict(made_outcome()), **dict(metrics.evaluate(parts, CLASSES)))
    return RunRecord(run=run, profile="quick", data=SUMMARY, variant=variant, result=result)


def boards_of(*runs: tuple[Protocol, str, float, str]) -> tuple[Board, ...]:
    """Of (protocol, recipe, accuracy, variant)."""
    records, predictions = [], {}
    for i, (protocol, recipe, right, variant) in enumerate(runs):
        run = made_run(recipe).model_copy(update={"protocol": protocol})
        records.append(record_of(run, right, i, variant))
        predictions[run.id] = {"validation": part(right, i), "test": part(right, i)}
    return boards(records, predictions)


def tuned(phase: Phase) -> Protocol:
    return PLAIN.model_copy(update={"fine_tuning": phase})


def three() -> tuple[Board, ...]:
    wide = PLAIN.model_copy(update={"head": Head(units=(256, 128))})
    return boards_of(
        (PLAIN, "vgg16", 0.7, ""),
        (PLAIN, "lite0", 0.6, ""),
        (tuned(SLOW), "vgg16", 0.8, "careful"),
        (tuned(FAST), "vgg16", 0.95, "bold"),
        (wide, "lite0", 0.65, ""),
    )


def test_rows_are_named_by_what_differs_and_by_their_variant() -> None:
    (joined,) = joined_boards(three())
    units = "head.units [128]"
    assert [(line.row.name, line.settings, line.variant) for line in joined.lines] == [
        ("vgg16", units, ""),
        ("vgg16", f"fine-tuned; {units}; fine_tuning.optimizer.learning_rate 0.0005", "bold"),
        ("vgg16", f"fine-tuned; {units}; fine_tuning.optimizer.learning_rate 0.0001", "careful"),
        ("lite0", units, ""),
        ("lite0", "head.units [256, 128]", ""),
    ]


def test_changes_are_paired_tests_against_the_board_of_the_most_networks() -> None:
    (joined,) = joined_boards(three())
    first, bold, *_ = joined.lines
    assert (first.reference, first.change) == (True, None)
    expected = compare_rows(bold.row, first.row)
    assert expected is not None
    assert bold.change is not None
    assert bold.change.difference == expected.difference
    assert bold.change.p >= expected.p, "corrected for three changes"
    cells = {column.key: cell for column, cell in
             zip(table(joined).columns, table(joined).cells[1], strict=True)}  # fmt: skip
    assert str(cells["change"]) == f"{100 * expected.difference:+.1f}"
    assert cells["change"].emphasis == "**"
    assert cells["variant"].text == "bold"
    assert cells["title"].text == "VGG16 (random weights)"


def test_boards_that_differ_in_options_alone_are_a_study_already() -> None:
    plain = (PLAIN, "vgg16", 0.9, "")
    assert joined_boards(boards_of(plain, (MIXED, "vgg16", 0.8, ""))) == ()
    assert joined_boards(boards_of(plain)) == ()
    both = boards_of(plain, (VIEWED, "vgg16", 0.8, ""), (tuned(SLOW), "vgg16", 0.9, ""))
    (joined,) = joined_boards(both)
    assert sorted(line.settings for line in joined.lines) == [
        "fine-tuned", "plain", "predictions averaged over 4 views",
    ]  # fmt: skip
    text = markdown(both)
    assert "<summary>made-up: what the settings change</summary>" in text
    (legend,) = [line for line in text.splitlines() if line.startswith("Every network of")]
    assert "With one seed, the tests cover the choice of the test images" in legend


def test_boards_without_a_common_network_have_an_overview_alone() -> None:
    apart = boards_of((PLAIN, "vgg16", 0.9, ""), (tuned(SLOW), "lite0", 0.8, ""))
    assert joined_boards(apart) == ()
    assert len(overviews(apart)) == 1


def test_the_best_of_several_boards_are_told_apart_and_ranked_with_what_that_leaves_out() -> None:
    runs = [made_run("vgg16"), made_run("vgg16").model_copy(update={"protocol": tuned(SLOW)})]
    runs[1] = runs[1].model_copy(update={"weights": Weights(source="imagenet", digest="md5:0")})
    predictions = {run.id: {name: part(0.8, i) for name in ("validation", "test")}
                   for i, run in enumerate(runs)}  # fmt: skip
    made = boards([record_of(run, 0.8, i) for i, run in enumerate(runs)], predictions)
    (overview,) = overviews(made)
    assert {row.title for row in overview.rows} == {"VGG16 (random)", "VGG16 (imagenet)"}
    best = markdown(made).split("\n## ")[1]
    for words in ("2 of 2 ranked rows may be the best", "not the variation between seeds",
                  "The score of rank 1 was picked"):  # fmt: skip
        assert words in best


def test_another_split_with_the_same_test_images_is_joined() -> None:
    (joined,) = split_boards(0)
    settings = sorted(line.settings for line in joined.lines)
    assert settings == ["split.subset.train 64", "split.subset.train 640"]
    assert split_boards(1) == ()


def split_boards(moved: int) -> tuple[JoinedBoards, ...]:
    """Two splits, whose test images are the same where ``moved`` is 0."""
    run = made_run("vgg16")
    other = run.model_copy(update={"split": SMALLER})
    large = run.model_copy(
        update={"split": Split(subset=Subset(train=640, validation=16, test=40))}
    )
    predictions = {}
    for one, offset in ((large, 0), (other, moved)):
        test = part(0.8, 0)
        test = type(test)(test.ids + offset, test.labels, test.probabilities)
        predictions[one.id] = {"validation": part(0.8, 0), "test": test}
    return joined_boards(boards([record_of(r, 0.8, 0) for r in (large, other)], predictions))


def test_the_same_images_at_another_size_and_in_another_order_are_joined(tmp_path: Path) -> None:
    store, one, other = Store(tmp_path), part(0.6, 0), part(0.95, 7)
    turned = one.ids[::-1]
    hashes = np.random.default_rng(0).integers(1, 255, (len(turned), 32), np.uint8)
    small, protocol = made_run("vgg16"), PLAIN.model_copy(update={"image_size": 128})
    large = small.model_copy(update={"protocol": protocol, "data": "f" * 24})
    moved = Predictions(other.ids, other.labels[turned], other.probabilities[turned])
    for run, found, known in ((small, one, hashes), (large, moved, hashes[turned])):
        parts = {"validation": found, "test": found}
        result = Finished(**dict(made_outcome()), **dict(metrics.evaluate(parts, CLASSES)))
        store.save_predictions(run, parts)
        store.save(RunRecord(run=run, profile="quick", data=SUMMARY, result=result))
        store.save_images(run.data, ImageIdentities(known))
    (joined,) = joined_boards(read_boards(tmp_path))
    sizes = [f"image_size {run.protocol.image_size}" for run in (small, large)]
    assert sorted(line.settings for line in joined.lines) == sorted(sizes)
    (change,) = (line.change for line in joined.lines if line.change)
    y_pred = (part.probabilities.argmax(axis=1) for part in (one, other))
    expected = paired(one.labels, *y_pred, len(CLASSES))
    assert abs(change.difference) == pytest.approx(abs(expected.difference))
    assert change.p == pytest.approx(expected.p)
    assert "(p < 1e-16; one seed" in compare(small.id, large.id, tmp_path)
    assert "corruptions of its own" in markdown(joined.boards).replace("\n", " ")


def test_rows_of_two_boards_are_compared_on_equal_test_images(tmp_path: Path) -> None:
    store = Store(tmp_path)
    runs = [made_run("vgg16"), made_run("vgg16").model_copy(update={"protocol": tuned(SLOW)})]
    runs.append(runs[0].model_copy(update={"data": "fedcba9876543210"}))
    for i, run in enumerate(runs):
        record = record_of(run, 0.7 + 0.1 * i, i)
        store.save_predictions(run, {"validation": part(0.7 + 0.1 * i, i),
                                     "test": part(0.7 + 0.1 * i, i)})  # fmt: skip
        store.save(record)
    plain, careful, elsewhere = (run.id for run in runs)
    text = compare(plain, careful, tmp_path)
    assert "made-up, " in text
    assert "VGG16 (random): fine-tuned: macro F1" in text
    assert "rank" not in text
    assert "VGG16 (random): fine-tuned is better (p = " in text
    with pytest.raises(UserError, match="both there, but not on the same test images"):
        compare(plain, elsewhere, tmp_path)


def test_the_variant_is_beside_the_run_and_not_in_its_id() -> None:
    run = made_run("vgg16")
    named, plain = record_of(run, 0.8, 0, "bold"), record_of(run, 0.8, 0)
    assert named.run.id == plain.run.id
    assert "variant" not in plain.model_dump(mode="json")
    assert RunRecord.model_validate(named.model_dump(mode="json")).variant == "bold"
