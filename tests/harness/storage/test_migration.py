"""Records of older versions: readable where they are, and moved by the next leaderboard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.evaluation.metrics import evaluate
from harness.reporting.publish import write_tables
from harness.schema.records import External, ExternalRecord
from harness.storage.migration import migrate
from harness.storage.records import Store
from tests.harness.conftest import made_predictions, made_record, made_run, save_finished


@pytest.fixture
def record() -> ExternalRecord:
    run = made_record()
    parts = {k: p for k, p in made_predictions(run.run).items() if k != "train"}
    return ExternalRecord(
        external=External(name="theirs", reference=run.run),
        note="from elsewhere",
        profile=run.profile,
        data=run.data,
        **dict(evaluate(parts, run.data.class_names)),
    )


@pytest.fixture
def results(tmp_path: Path, record: ExternalRecord) -> Path:
    """A results folder as older versions wrote it."""
    content = record.model_dump(mode="json")
    external = content.pop("external")
    external["beside"] = external.pop("reference")
    path = tmp_path / "outside" / f"theirs-{record.external.id}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content | {"outside": external}))
    return tmp_path


def test_a_former_record_is_read_where_it_is(results: Path, record: ExternalRecord) -> None:
    store = Store(results)
    assert store.external_records() == (record,)
    assert store.find(record.external) == record
    assert store.record_path(record.external).parent == results / "outside"


def test_it_moves_with_the_field_names_of_today(results: Path, record: ExternalRecord) -> None:
    migrate(results)
    path = results / "external" / f"theirs-{record.external.id}.json"
    assert not (results / "outside").exists()
    assert Store(results).record_path(record.external) == path
    assert json.loads(path.read_text()) == record.model_dump(mode="json")
    assert json.loads(path.read_text())["external"]["reference"]["recipe"] == made_run().recipe
    migrate(results)
    assert Store(results).external_records() == (record,)


def test_the_leaderboard_moves_it(results: Path, record: ExternalRecord) -> None:
    store = Store(results)
    save_finished(store, made_record())
    store.save_predictions(record.external, {
        k: p for k, p in made_predictions(made_run()).items() if k != "train"
    })  # fmt: skip
    write_tables(results)
    assert not (results / "outside").exists()
    assert "theirs" in (results / "LEADERBOARD.md").read_text()


def test_a_newer_record_of_the_same_name_stays(results: Path, record: ExternalRecord) -> None:
    newer = record.model_copy(update={"note": "imported again"})
    former = Store(results).record_path(record.external)
    path = results / "external" / former.name
    path.parent.mkdir()
    path.write_text(newer.model_dump_json())
    assert Store(results).external_records() == (newer,)
    migrate(results)
    assert Store(results).external_records() == (newer,)
    assert not former.exists()


def test_a_damaged_one_stays_and_is_named(results: Path) -> None:
    (path,) = (results / "outside").iterdir()
    path.write_text("{")
    with pytest.raises(StoreError, match="theirs-"):
        migrate(results)
    assert path.exists()
