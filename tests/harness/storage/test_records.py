"""Records and arrays: all or nothing, and never code."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import StoreError
from harness.schema.records import PIXEL_BASELINE, SCHEMA, Ensemble, External, Subject
from harness.schema.run import Run
from harness.storage.files import read_arrays, write_arrays, write_atomically
from harness.storage.records import Store
from tests.harness.conftest import failed_record, made_predictions, made_record, made_run


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for record in (made_record("vgg16"), failed_record("vgg19")):
        store.save(record)
        assert store.find(record.run) == record
    assert len(store.records()) == 2
    assert store.find(made_run("lite0")) is None


def test_the_id_of_a_run_is_pinned() -> None:
    """Ids name files that people keep: one that moves orphans their results.

    If the meaning of a run has really changed, print made_run().id and put it here.
    """
    assert made_run().id == "3cd9f6cf4f4db8d3"
    again = Run.model_validate_json(made_run().model_dump_json())
    assert again.id == made_run().id


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": "vgg19"},
        {"seed": 1},
        {"data": "fedcba9876543210"},
        {"protocol": made_run().protocol.model_copy(update={"version": 2})},
        {"split": made_run().split.model_copy(update={"seed": 1})},
        {"weights": made_run().weights.model_copy(update={"source": "file", "digest": "sha256:0"})},
    ],
)
def test_whatever_can_change_the_predictions_changes_the_id(change: dict[str, object]) -> None:
    assert made_run().model_copy(update=change).canonical() != made_run().canonical()
    assert Run(**{**dict(made_run()), **change}).id != made_run().id


def test_predictions_come_back_bit_for_bit(tmp_path: Path) -> None:
    store, run = Store(tmp_path), made_run()
    parts = made_predictions(run)
    store.save_predictions(run, parts)
    back = store.predictions(run)
    assert set(back) == set(parts)
    for name, part in parts.items():
        np.testing.assert_array_equal(back[name].ids, part.ids)
        np.testing.assert_array_equal(back[name].labels, part.labels)
        np.testing.assert_array_equal(back[name].probabilities, part.probabilities)


def test_the_same_predictions_are_the_same_bytes(tmp_path: Path) -> None:
    run = made_run()
    for name in ("one", "two"):
        Store(tmp_path / name).save_predictions(run, made_predictions(run))
    one, two = (Store(tmp_path / name).predictions_path(run) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_old_and_new_schemas_get_different_advice(tmp_path: Path) -> None:
    store, record = Store(tmp_path), made_record()
    store.save(record)
    path = store.record_path(record.run)
    content = json.loads(path.read_text())
    for number, advice in ((SCHEMA + 1, "update it"), (SCHEMA - 1, "run again")):
        path.write_text(json.dumps({**content, "schema_number": number}))
        with pytest.raises(StoreError, match=advice):
            store.records()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema_number": 1}', "\x00\xff"])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    store, record = Store(tmp_path), made_record()
    store.save(record)
    path = store.record_path(record.run)
    path.write_text(text)
    with pytest.raises(StoreError) as error:
        store.records()
    assert str(path) in str(error.value)


def test_damaged_arrays_are_named_and_pickles_are_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    write_arrays(path, {"x": np.arange(1000)})
    whole = path.read_bytes()
    for torn in (b"", whole[:1], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(torn)
        with pytest.raises(StoreError, match=r"arrays\.npz"):
            read_arrays(path)
    path.write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(StoreError):
        read_arrays(path)
    with pytest.raises(ValueError, match="Object arrays"):
        write_arrays(path, {"x": np.array([object()])})


def test_a_copy_has_an_id_of_its_own() -> None:
    run = made_run()
    assert run.id == made_run().id
    assert run.model_copy(update={"seed": 1}).id == made_run(seed=1).id


@pytest.mark.parametrize(
    ("subject", "command"),
    [
        (made_run(), "wbc-bench run vgg16"),
        (Ensemble(rule="soft vote", members=("0" * 16, "1" * 16)), "wbc-bench ensemble"),
        (External(name=PIXEL_BASELINE, reference=made_run()), "wbc-bench run vgg16"),
        (External(name="theirs", reference=made_run()), "wbc-bench import FILE --as theirs"),
    ],
)
def test_lost_predictions_name_the_command_that_mends_them(
    tmp_path: Path, subject: Subject, command: str
) -> None:
    store = Store(tmp_path)
    lost, record = store.predictions_path(subject), store.record_path(subject)
    with pytest.raises(StoreError) as caught:
        store.predictions(subject)
    mends = f"delete {record}, and {command!r} makes both again"
    assert str(caught.value) == f"{lost}: is missing; {mends}"
    lost.parent.mkdir()
    lost.write_bytes(b"damaged")
    with pytest.raises(StoreError, match=rf"cannot be read .*; delete .*{command}' makes both"):
        store.predictions(subject)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
        .map(lambda name: name[:40])
        .map(lambda name: f"{name}.json"),
        st.sampled_from(["its own", "empty", "folder", "link"]),
        max_size=4,
    )
)
@settings(max_examples=30, deadline=None)
def test_only_own_records_are_believed(strange: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        store = Store(Path(folder))
        store.save(made_record())
        own = store.record_path(made_run())
        for name, kind in strange.items():
            path = own.parent / name
            match kind:
                case "its own":
                    path.write_bytes(own.read_bytes())
                case "empty":
                    path.touch()
                case "folder":
                    path.mkdir()
                case "link":
                    path.symlink_to(own)
        assert store.records() == (made_record(),)
        assert len(warned) == bool(strange)
        assert all(repr(name) in str(warned[0].message) for name in sorted(strange)[:3])
