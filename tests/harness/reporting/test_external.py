"""Predictions from elsewhere: imported unchanged, or rejected in one line."""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.commands.verify import verify
from harness.ensembling.builder import fit_ensembles
from harness.ensembling.members import group_members
from harness.errors import DataError, UserError
from harness.evaluation import metrics
from harness.reporting.columns import csv_text
from harness.reporting.export import Format, export_predictions
from harness.reporting.external import import_predictions
from harness.reporting.html import html
from harness.reporting.markdown import markdown
from harness.reporting.prediction_files import read_prediction_file
from harness.reporting.publish import read_boards, write_tables
from harness.schema.dataset import ImageIdentities
from harness.schema.predictions import Predictions
from harness.schema.records import Finished, RunRecord
from harness.storage.records import Store
from tests.harness.conftest import (
    CLASSES,
    SUMMARY,
    made_outcome,
    made_predictions,
    made_record,
    made_run,
    save_finished,
)


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
    "label,basophil,eosinophil,platelet\n0,0.5,0.3\n": "line 2 has 3 columns, line 1 has 4",
    "label,basophil,eosinophil,platelet\n\n0,0.5,0.3,x\n": "line 3, column 'platelet': 'x' is no",
    "label,basophil,eosinophil,platelet\nmonocyte,0.5,0.3,0.2\n": "line 2: label 'monocyte'",
    "part,label,basophil,eosinophil,platelet\ntest,²,0.5,0.3,0.2\n": "line 2: label '²'",
    "label,basophil,eosinophil,platelet,secure\n0,0.5,0.3,0.1,0.1\n": "column 'secure'",
    "label,basophil,eosinophil,platelet,file\n0,0.5,0.3,0.2,a\n": "1 rows",
    "label,sha256,a,b,c\n0,12,0.5,0.3,0.2\n": "line 2, column 'sha256': '12' is no SHA-256",
    "label,eosinophil,basophil,platelet\n0,0.5,0.3,0.2\n": "1 rows",
    "part,label,basophil,eosinophil,platelet\ntrain,0,0.5,0.3,0.2\n": "line 2: part 'train'",
    "label,a,a\n0,0.5,0.5\n": "two columns are named 'a'",
    "label,basophil,eosinophil,platelet\n0,0.5,0.3,0.1,0.1\n": "line 2 has 5 columns",
    "label,basophil,eosinophil,platelet\n\n0,50,30,20\n": "line 3 does not sum to 1 but to 100 "
    "over basophil, eosinophil, platelet; are they percentages?",
    "label,basophil,eosinophil,platelet,score\n0,0.5,0.3,0.2,0.5\n": "platelet, score",
    "label,basophil,eosinophil,platelet\n0,-2.5,0.3,3.2\n": "are they logits?",
    "label;basophil;eosinophil;platelet\n0;0,5;0,3;x\n": "line 2, column 'platelet': 'x' is no",
    "label,basophil,eosinophil,platelet\n0,1,5,0.3\n": "line 2 does not sum to 1 but to 6.3",
    "label\0,basophil\n0,1\n": "labels absent",
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


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_what_a_spreadsheet_saves_is_read(results: Path, tmp_path: Path, delimiter: str) -> None:
    """With a semicolon or tab, decimal commas, a byte-order mark, and CRLF."""
    (path,) = export_predictions("vgg16", results, tmp_path / "x.csv", "csv")
    table = pd.read_csv(path, dtype={"label": str})
    classes = list(made_record().data.class_names)
    table["label"] = table["label"].str.upper()
    table = table.rename(columns={name: name.title() for name in classes})
    text = table.to_csv(index=False, sep=delimiter, decimal=",", lineterminator="\r\n")
    path.write_text(text, "utf-8-sig", newline="")
    (record,) = import_predictions(path, "theirs", results)
    own = made_record().evaluation
    assert own is not None
    assert record.test == own.test


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_columns_are_matched_by_name(results: Path, tmp_path: Path, kind: Format) -> None:
    (path,) = export_predictions("vgg16", results, tmp_path, kind)
    if kind == "csv":
        table = pd.read_csv(path)
        columns = [c for c in table if c not in CLASSES] + list(reversed(CLASSES))
        table[columns].to_csv(path, index=False)
    else:
        arrays = dict(np.load(path))
        for name in arrays:
            if name.endswith("probabilities"):
                arrays[name] = arrays[name][:, ::-1]
            if name.endswith("labels"):
                arrays[name] = 2 - arrays[name]
        np.savez(path, **arrays | {"class_names": np.array(CLASSES[::-1])})
    (record,) = import_predictions(path, "theirs", results)
    assert record.test == made_record().evaluation.test  # type: ignore[union-attr]


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


# --- whose images they are -----------------------------------------------------------------------

FORMATS: tuple[Format, ...] = ("csv", "npz", "medmnist")


def save_board(
    folder: Path, ids: np.ndarray, names: Sequence[str] = CLASSES, *, identified: bool = True
) -> RunRecord:
    """A board whose test images are ``ids`` of 60, which are sorted by class, as a folder's are."""
    run, labels = made_run(), np.repeat(np.arange(len(names)), 60 // len(names))
    rng = np.random.default_rng(3)
    test = rng.dirichlet(np.ones(len(names)), len(ids)).astype(np.float32)
    parts = {
        "test": Predictions(ids, labels[ids], test),
        "validation": Predictions(ids + 60, labels[ids], test[::-1].copy()),
    }
    data = SUMMARY.model_copy(update={"class_names": tuple(names), "test": len(ids)})
    finished = Finished(**dict(made_outcome()), **dict(metrics.evaluate(parts, names)))
    record = RunRecord(run=run, profile="quick", data=data, result=finished)
    Store(folder).save_predictions(run, parts)
    Store(folder).save(record)
    if identified:
        hashes = rng.integers(0, 256, (120, 32), dtype=np.uint8)
        files = tuple(f"{i % 3}/cell {i}.png" for i in range(120))
        Store(folder).save_images(run.data, ImageIdentities(hashes, files))
    return record


def shuffled(path: Path) -> None:
    """The rows of an export in another order, what identifies their images with them."""
    rng = np.random.default_rng(5)
    if path.suffix == ".npz":
        arrays = dict(np.load(path))
        for prefix in ("", "validation_"):
            order = rng.permutation(len(arrays[f"{prefix}labels"]))
            for name in ("probabilities", "labels", "images", "sha256", "files"):
                arrays[prefix + name] = arrays[prefix + name][order]
        np.savez(path, **arrays)
        return
    head, lines = 0 if "[AUC]" in path.name else 1, path.read_text().splitlines(keepends=True)
    rows = lines[head:]
    rng.shuffle(rows)
    path.write_text("".join(lines[:head] + rows))


TEST_IDS = np.arange(0, 60, 3)


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_in_another_order_find_their_images(tmp_path: Path, kind: Format) -> None:
    record = save_board(tmp_path / "results", TEST_IDS)
    (path,) = export_predictions("vgg16", tmp_path / "results", tmp_path, kind)
    shuffled(path)
    (imported,) = import_predictions(path, "theirs", tmp_path / "results")
    assert imported.test == record.evaluation.test  # type: ignore[union-attr]
    assert imported.note == f"imported from {path.name}"
    store = Store(tmp_path / "results")
    own, theirs = store.predictions(record.run), store.predictions(imported.external)
    for part in theirs:
        np.testing.assert_array_equal(theirs[part].probabilities, own[part].probabilities)


@pytest.mark.parametrize("kind", FORMATS)
def test_other_images_with_the_same_labels_are_rejected(tmp_path: Path, kind: Format) -> None:
    """Two splits of one class folder have the same list of labels."""
    save_board(tmp_path / "other", np.sort(np.r_[TEST_IDS[:5], TEST_IDS[5:] + 1]))
    save_board(tmp_path / "results", TEST_IDS)
    (path,) = export_predictions("vgg16", tmp_path / "other", tmp_path, kind)
    with pytest.raises(UserError, match="5 of its 20 are among them"):
        import_predictions(path, "theirs", tmp_path / "results")


def as_csv(path: Path, record: RunRecord, results: Path, **columns: object) -> Path:
    part = Store(results).predictions(record.run)["test"]
    table = pd.DataFrame(part.probabilities, columns=list(record.data.class_names))
    table.insert(0, "label", part.labels)
    for name, cells in columns.items():
        table.insert(0, name, cells)
    table.to_csv(path, index=False)
    return path


def test_images_are_known_by_their_files_too(tmp_path: Path) -> None:
    results = tmp_path / "results"
    record = save_board(results, TEST_IDS)
    names = [f"C:\\test\\cell {i}.png" for i in TEST_IDS]
    path = as_csv(tmp_path / "a.csv", record, results, filename=names)
    shuffled(path)
    (imported,) = import_predictions(path, "theirs", results)
    assert imported.test == record.evaluation.test  # type: ignore[union-attr]


def test_sorted_labels_prove_no_order(tmp_path: Path) -> None:
    results = tmp_path / "results"
    record = save_board(results, TEST_IDS)
    path = as_csv(tmp_path / "a.csv", record, results)
    with pytest.raises(UserError, match="sorted by class prove no order"):
        import_predictions(path, "theirs", results)
    np.save(tmp_path / "b.npy", Store(results).predictions(record.run)["test"].probabilities)
    np.save(tmp_path / "l.npy", record_labels := np.repeat(np.arange(3), [7, 7, 6]))
    assert len(record_labels) == 20
    (tmp_path / "b.images.csv").write_text(
        "file\n" + "".join(f"cell {i}.png\n" for i in TEST_IDS), encoding="utf-8-sig"
    )
    (imported,) = import_predictions(tmp_path / "b.npy", "theirs", results, tmp_path / "l.npy")
    assert imported.test == record.evaluation.test  # type: ignore[union-attr]


def test_an_order_that_is_trusted_is_said_in_the_row(results: Path, tmp_path: Path) -> None:
    import_predictions(as_npz(tmp_path / "a.npz"), "theirs", results)
    boards = read_boards(results)
    for table in (markdown(boards), csv_text(boards), html(boards, {})):
        assert "order assumed" in table


def test_an_index_restores_the_order_or_names_the_images(results: Path, tmp_path: Path) -> None:
    part = made_predictions(made_run())["test"]
    table = pd.DataFrame(part.probabilities, columns=list(CLASSES))
    table.insert(0, "label", part.labels)
    for name, first, note in (("rows", 0, "order assumed"), ("images", 80, "by their index alone")):
        table["image"] = np.arange(first, first + 20)
        path = tmp_path / f"{name}.csv"
        table.sort_values("basophil").to_csv(path)  # And pandas's own index before it.
        (imported,) = import_predictions(path, name, results)
        assert imported.test == made_record().evaluation.test  # type: ignore[union-attr]
        assert note in imported.note
    table["image"] = np.arange(70, 90)
    table.to_csv(path)
    with pytest.raises(UserError, match="10 of its 20 are among them"):
        import_predictions(path, "others", results)


def test_the_board_decides_which_parts_there_are(results: Path, tmp_path: Path) -> None:
    """A perfect import without validation images is the first row, and others have them."""
    labels = made_predictions(made_run())["test"].labels
    perfect = np.eye(3, dtype=np.float32)[labels]
    import_predictions(as_npz(tmp_path / "p.npz", probabilities=perfect), "perfect", results)
    assert read_boards(results)[0].rows[0].name == "perfect"
    (path,) = export_predictions("vgg16", results, tmp_path, "npz")
    (record,) = import_predictions(path, "theirs", results)
    assert record.validation is not None


def test_the_baselines_name_is_reserved(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reserved"):
        import_predictions(as_npz(tmp_path / "a.npz"), "raw-pixels", results, replace=True)


@pytest.mark.parametrize("dtype", ["float16", "two digits"])
def test_probabilities_may_be_rounded(results: Path, tmp_path: Path, dtype: str) -> None:
    rounded = P.astype(np.float16) if dtype == "float16" else np.round(P, 2)
    import_predictions(as_npz(tmp_path / "a.npz", probabilities=rounded), "theirs", results)


NAMES = st.lists(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
    .filter(lambda name: name.strip() and name.isprintable()),
    min_size=2, max_size=4, unique_by=lambda name: " ".join(name.split()),
)  # fmt: skip


@given(NAMES, st.sampled_from(FORMATS), st.booleans())
@example(["image", "label", "part"], "csv", True)
@example(["file", "path", "sha256"], "csv", False)
@example(["2", "1", "0"], "csv", False)
@example(["", "index", "Unnamed: 0"][1:], "csv", False)
@example(['a,"b', "=c", "-1"], "csv", True)
@settings(max_examples=8, deadline=None)
def test_export_then_import_is_the_identity(
    names: list[str], kind: Format, identified: bool
) -> None:
    with tempfile.TemporaryDirectory() as place:
        results = Path(place, "results")
        ids = np.random.default_rng(1).permutation(60)[:20]
        record = save_board(results, ids, names, identified=identified)
        (path,) = export_predictions("vgg16", results, Path(place), kind)
        (imported,) = import_predictions(path, "theirs", results)
        own = Store(results).predictions(record.run)
        for part, held in Store(results).predictions(imported.external).items():
            for field in ("ids", "labels", "probabilities"):
                np.testing.assert_array_equal(getattr(held, field), getattr(own[part], field))


# --- boards without a run ------------------------------------------------------------------------


def test_predictions_alone_make_a_board(tmp_path: Path) -> None:
    results, labels = tmp_path / "results", np.random.default_rng(0).integers(0, 8, 60)
    np.save(tmp_path / "y.npy", labels)
    for seed, name in enumerate(("ours", "theirs", "others")):
        raw = np.random.default_rng(seed).dirichlet(np.ones(8), 60) + np.eye(8)[labels]
        np.save(tmp_path / f"{name}.npy", raw / 2)
        (record,) = import_predictions(
            tmp_path / f"{name}.npy", name, results, tmp_path / "y.npy", data="bloodmnist"
        )
        assert record.data.class_names[0] == "basophil"
    (together,) = group_members(Store(results), ["ours", "theirs", "others"])
    fitted = fit_ensembles(together, ("soft vote", "greedy"))
    assert [rule for rule, _ in fitted.left_out] == ["greedy"]
    write_tables(results)
    page = (results / "LEADERBOARD.md").read_text()
    assert "## bloodmnist, predictions of other programs" in page
    assert "Soft vote: ours + theirs + others" in page
    assert "hosen on validation" not in page
    assert "on the frozen backbone" not in page
    assert "ranked rows may be the best" in page
    assert verify(results) == []
    np.save(tmp_path / "y.npy", labels[::-1])
    with pytest.raises(UserError, match="other images, or another order"):
        import_predictions(
            tmp_path / "ours.npy", "more", results, tmp_path / "y.npy", data="bloodmnist"
        )


def test_validation_images_may_come_later_and_bring_every_rule(tmp_path: Path) -> None:
    results = tmp_path / "results"
    save_board(tmp_path / "elsewhere", TEST_IDS)
    (path,) = export_predictions("vgg16", tmp_path / "elsewhere", tmp_path, "npz")
    (plain,) = export_predictions("vgg16", tmp_path / "elsewhere", tmp_path, "medmnist")
    np.save(tmp_path / "y.npy", np.load(path)["labels"])
    import_predictions(plain, "first", results, tmp_path / "y.npy", data="cells")
    with pytest.raises(UserError, match="class"):
        import_predictions(path, "second", results, data="cells")
    for name in ("second", "third"):
        shuffled(path)
        import_predictions(path, name, results, data="others")
    (together,) = group_members(Store(results), ["second", "third"])
    assert len(fit_ensembles(together, ("weighted vote", "greedy")).records) == 2
    (board, *_) = [b for b in read_boards(results) if b.data.name == "others"]
    assert board.data.validation == 20
    write_tables(results)
    assert verify(results) == []


def test_no_cell_of_a_csv_begins_a_formula(tmp_path: Path) -> None:
    """In a spreadsheet it would be computed; and the import still knows the classes."""
    names = ("=HYPERLINK(1)", "+eosinophil", "@platelet")
    run, results = made_record().run, tmp_path / "results"
    parts = {k: p for k, p in made_predictions(run).items() if k != "train"}
    finished = Finished(**dict(made_outcome()), **dict(metrics.evaluate(parts, names)))
    data = SUMMARY.model_copy(update={"class_names": names})
    record = RunRecord(run=run, profile="quick", data=data, note="=1+1", result=finished)
    save_finished(Store(results), record)
    write_tables(results)
    (exported,) = export_predictions("vgg16", results, tmp_path, "csv")
    for path in (exported, results / "leaderboard.csv"):
        rows = list(csv.reader(path.read_text().splitlines()))
        cells = {cell for row in rows for cell in row}
        assert not [cell for cell in cells if re.match(r"[=@+\t\r]|-[^\d]", cell)]
    assert "'=1+1" in (results / "leaderboard.csv").read_text()
    (imported,) = import_predictions(exported, "again", results)
    assert imported.test == finished.test
