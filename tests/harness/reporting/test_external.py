"""Predictions from elsewhere: imported unchanged, or rejected in one line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.commands.verify import verify
from harness.ensembling.builder import fit_ensembles
from harness.ensembling.members import group_members
from harness.errors import DataError, UserError
from harness.reporting.external import (
    Format,
    export_predictions,
    import_predictions,
    read_prediction_file,
)
from harness.reporting.publish import read_boards, write_tables
from harness.storage.records import Store
from tests.harness.conftest import CLASSES, made_predictions, made_record, save_finished


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with two finished networks."""
    folder = tmp_path / "results"
    for name in ("vgg16", "lite0"):
        save_finished(Store(folder), made_record(name))
    return folder


def truth() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of the test images, of another network."""
    part = made_predictions(made_record("resnet50").run)["test"]
    return part.probabilities, part.labels


def as_npz(path: Path, **changes: np.ndarray | None) -> Path:
    probabilities, labels = truth()
    held = {"probabilities": probabilities, "labels": labels, **changes}
    np.savez(path, **{k: v for k, v in held.items() if v is not None})
    return path


@pytest.mark.parametrize("kind", ["csv", "npz", "medmnist"])
def test_what_is_exported_comes_back_bit_for_bit(
    results: Path, tmp_path: Path, kind: Format
) -> None:
    (path,) = export_predictions("vgg16", results, tmp_path, kind)
    (record,) = import_predictions(path, "theirs", results)
    store = Store(results)
    imported, own = store.predictions(record.external), store.predictions(made_record().run)
    assert set(imported) == ({"test"} if kind == "medmnist" else {"test", "validation", "shifted"})
    for part, held in imported.items():
        np.testing.assert_array_equal(held.probabilities, own[part].probabilities)
        np.testing.assert_array_equal(held.ids, own[part].ids)
    assert record.test == made_record().evaluation.test  # type: ignore[union-attr]
    write_tables(results)
    assert verify(results) == []
    page = (results / "LEADERBOARD.md").read_text()
    assert "*theirs*" in page
    assert f"imported from {path.name}".replace("_", "_") in page


def test_medmnists_file_is_the_one_its_evaluator_writes(results: Path, tmp_path: Path) -> None:
    (path,) = export_predictions("vgg16", results, tmp_path, "medmnist")
    rows = list(csv.reader(path.open()))
    assert [row[0] for row in rows] == [str(i) for i in range(20)]
    assert len(rows[0]) == 1 + len(CLASSES)
    test = made_record().evaluation.test  # type: ignore[union-attr]
    assert f"_test_[AUC]{test.auc:.3f}_[ACC]{test.accuracy:.3f}@" in path.name


def test_an_import_votes_where_a_vote_needs_no_validation(results: Path, tmp_path: Path) -> None:
    import_predictions(as_npz(tmp_path / "a.npz"), "theirs", results)
    store = Store(results)
    (together,) = group_members(store, ["vgg16", "theirs"])
    fitted = fit_ensembles(together, ("soft vote", "weighted vote", "stacking", "concatenation"))
    (record,) = fitted.records
    assert record.ensemble.rule == "soft vote"
    assert record.cost is None
    assert record.validation is None
    assert record.calibrated is None
    mean = (store.predictions(made_record().run)["test"].probabilities + truth()[0]) / 2
    found = store.predictions(record.ensemble)["test"].probabilities
    np.testing.assert_allclose(found, mean, rtol=1e-6)
    assert [rule for rule, _ in fitted.left_out] == ["weighted vote", "stacking", "concatenation"]
    write_tables(results)
    assert "Soft vote: VGG16 + theirs" in (results / "LEADERBOARD.md").read_text()
    assert verify(results) == []


def test_with_validation_images_every_vote_is_possible(results: Path, tmp_path: Path) -> None:
    (path,) = export_predictions("lite0", results, tmp_path, "npz")
    import_predictions(path, "theirs", results)
    (together,) = group_members(Store(results), ["vgg16", "@theirs"])
    fitted = fit_ensembles(together, ("soft vote", "weighted vote", "greedy", "stacking"))
    assert len(fitted.records) == 4
    assert read_boards(results)[0].rows


def test_labels_of_an_npy_come_from_their_own(results: Path, tmp_path: Path) -> None:
    probabilities, labels = truth()
    np.save(tmp_path / "p.npy", probabilities)
    np.save(tmp_path / "l.npy", labels[:, None])
    (record,) = import_predictions(tmp_path / "p.npy", "theirs", results, tmp_path / "l.npy")
    assert record.test.accuracy == pytest.approx((probabilities.argmax(1) == labels).mean())
    with pytest.raises(DataError, match="labels absent"):
        import_predictions(tmp_path / "p.npy", "others", results)


def test_a_name_is_taken_once(results: Path, tmp_path: Path) -> None:
    path = as_npz(tmp_path / "a.npz")
    import_predictions(path, "theirs", results)
    with pytest.raises(UserError, match="--force"):
        import_predictions(path, "theirs", results)
    import_predictions(path, "theirs", results, replace=True)
    assert len(Store(results).external_records()) == 1
    with pytest.raises(UserError, match="is the recipe vgg16"):
        import_predictions(path, "v16", results)
    with pytest.raises(UserError, match="is no name"):
        import_predictions(path, "Their best!", results)


P, L = truth()
BAD = {
    "negative": ({"probabilities": P - P.max() * np.eye(len(CLASSES))[L]}, "negative"),
    "nan": (
        {"probabilities": np.where(np.arange(20)[:, None] == 3, np.nan, P)},
        "row 3 is not fin",
    ),
    "infinite": (
        {"probabilities": np.where(np.arange(20)[:, None] == 4, np.inf, P)},
        "row 4 is no",
    ),
    "not one": ({"probabilities": P * 1.01}, "row 0 does not sum to 1"),
    "logits": ({"probabilities": np.log(P)}, "row 0"),
    "whole numbers": ({"probabilities": np.eye(len(CLASSES), dtype=int)[L]}, "not floats"),
    "one class": ({"probabilities": np.ones((20, 1), np.float32)}, "shape (20, 1)"),
    "flat": ({"probabilities": P[:, 0]}, "shape (20,)"),
    "no labels": ({"labels": None}, "labels absent"),
    "soft labels": ({"labels": P}, "whole numbers"),
    "fewer labels": ({"labels": L[:-1]}, "20 rows of probabilities, 19 labels"),
    "other order": ({"labels": L[::-1]}, "another order"),
    "fewer images": ({"probabilities": P[:-1], "labels": L[:-1]}, "19 rows"),
    "more classes": ({"probabilities": np.full((20, 4), 0.25)}, "4 classes, made-up has 3"),
    "nothing": ({"probabilities": None, "labels": None}, "no probabilities"),
    "objects": ({"labels": np.array([{}] * 20, dtype=object)}, "labels"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_npz_is_rejected_in_one_line(results: Path, tmp_path: Path, what: str) -> None:
    changes, says = BAD[what]
    with pytest.raises(UserError) as error:
        import_predictions(as_npz(tmp_path / "bad.npz", **changes), "theirs", results)
    assert says in str(error.value)
    assert "bad.npz" in str(error.value)
    assert "\n" not in str(error.value)
    assert Store(results).external_records() == ()


CSV = {
    "": "is empty",
    "a,b,c\n1,2,3\n": "labels absent",
    "0,0.5,0.3,0.2\n1,0.5,0.3,0.2\n": "labels absent",
    "label,basophil,eosinophil,platelet\n0,0.5,0.3\n": "line 1 has 3 columns, not 4",
    "label,basophil,eosinophil,platelet\n0,0.5,0.3,x\n": "could not convert",
    "label,basophil,eosinophil,platelet\nmonocyte,0.5,0.3,0.2\n": "label 'monocyte'",
    "label,eosinophil,basophil,platelet\n0,0.5,0.3,0.2\n": "1 rows",
    "part,label,basophil,eosinophil,platelet\ntrain,0,0.5,0.3,0.2\n": "part 'train'",
    "label,a,a\n0,0.5,0.5\n": "two columns have the same name",
    "label,basophil,eosinophil,platelet\n0,0.5,0.3,0.1,0.1\n": "cannot be read",
    "\x00\x01": "",
}


@pytest.mark.parametrize("text", CSV)
def test_a_bad_csv_is_rejected_in_one_line(results: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        import_predictions(path, "theirs", results)
    assert CSV[text] in str(error.value)
    assert "\n" not in str(error.value)


def test_columns_in_another_order_are_rejected(results: Path, tmp_path: Path) -> None:
    (path,) = export_predictions("vgg16", results, tmp_path, "csv")
    text = path.read_text()
    path.write_text(text.replace("basophil,eosinophil,platelet", "eosinophil,basophil,platelet", 1))
    with pytest.raises(UserError, match="columns are not made-up's classes"):
        import_predictions(path, "theirs", results)


def test_medmnists_scores_confirm_the_order(results: Path, tmp_path: Path) -> None:
    (path,) = export_predictions("vgg16", results, tmp_path, "medmnist")
    lines = [line.split(",", 1) for line in path.read_text().splitlines()]
    rolled = [f"{i},{lines[(i + 1) % len(lines)][1]}" for i in range(len(lines))]
    path.write_text("\n".join(rolled))
    with pytest.raises(UserError, match="other images, or another order"):
        import_predictions(path, "theirs", results)


@given(
    st.one_of(
        st.tuples(st.binary(max_size=400), st.sampled_from([".npz", ".npy", ".csv"])),
        st.tuples(st.text('label,part"ab0.5 -n\n\r', max_size=80).map(str.encode), st.just(".csv")),
        st.tuples(
            st.text(",;0.5 -e9nai\n", max_size=80).map(
                lambda s: b"label,a,b\n" + s.encode() + b"x"
            ),
            st.just(".csv"),
        ),
    )
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_get_past_the_reader(tmp_path: Path, case: tuple[bytes, str]) -> None:
    content, suffix = case
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(content)
    labels = path if suffix == ".npy" else None
    with pytest.raises(DataError) as error:
        read_prediction_file(path, labels)
    assert "\n" not in str(error.value)


def test_a_header_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "big.npy"
    np.save(path, P)
    path.write_bytes(path.read_bytes().replace(b"(20, 3)", b"(20000000000, 3)"))
    with pytest.raises(DataError, match="cannot be read"):
        read_prediction_file(path, path)
