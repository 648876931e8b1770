"""A results folder from elsewhere is data: each thing that cannot be believed is one line."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import StoreError
from harness.execution.locks import RunLock
from harness.reporting.run_figures import draw
from harness.schema.base import printable
from harness.schema.dataset import ImageIdentities
from harness.schema.predictions import Predictions
from harness.schema.records import EnsembleRecord
from harness.storage import files
from harness.storage.files import (
    open_new,
    read_arrays,
    read_plain,
    write_arrays,
    write_atomically,
)
from harness.storage.predictions import read_predictions, write_predictions
from harness.storage.records import Store, read_record
from tests.harness.conftest import failed_record, made_predictions, made_record, save_finished

RESULTS = Path(__file__).parents[3] / "results"
Change = Callable[[dict[str, Any]], object]


def changed(*path: Any, to: Any) -> Change:
    """Sets one value of a record."""

    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return change


CHANGES: dict[str, Change] = {
    "profile": changed("profile", to="x/../../../victim/"),
    "recipe": changed("run", "recipe", to="../vgg16"),
    "run.data": changed("run", "data", to="../" * 8),
    "seed": changed("run", "seed", to=10**30),
    "class_names": changed("data", "class_names", to=[]),
    "same name": changed("data", "class_names", to=["a", "a", "b"]),
    "per_class": changed("data", "class_names", to=["a", "b", "c", "d"]),
    "images": changed("result", "test", "images", to=0),
    "accuracy": changed("result", "test", "accuracy", to=1e300),
    "confusion": changed("result", "test", "confusion", to=[[1]]),
    "throughput": changed("result", "cost", "throughput", "median", to=0),
    "parameters": changed("result", "cost", "parameters", to=10**400),
    "validation": changed("result", "validation", to=None),
    "predictions_sha256": changed("result", "predictions_sha256", to="<script>"),
    "batch_size": changed("run", "protocol", "frozen", "batch_size", to=10**400),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_later_code_relies_on_is_checked_when_a_record_is_read(
    tmp_path: Path, name: str
) -> None:
    store, record = Store(tmp_path), made_record()
    store.save(record)
    path = store.record_path(record.run)
    content = json.loads(path.read_text())
    CHANGES[name](content)
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError) as error:
        store.records()
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert name in message
    assert len(message.splitlines()) == 1
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("shares", [0.5] * 3, "sum to 1"),
        ("shares", [1.0], "an entry for each"),
        ("recipes", ["lite0", "../x", "vgg16"], "recipes"),
    ],
)
def test_an_ensembles_members_and_shares_fit(
    tmp_path: Path, field: str, value: object, expected: str
) -> None:
    records = {path: json.loads(path.read_text()) for path in RESULTS.glob("ensembles/*.json")}
    source = min(path for path, content in records.items() if len(content["recipes"]) == 3)
    content = records[source]
    path = tmp_path / source.name
    path.write_text(json.dumps({**content, field: value}))
    with pytest.raises(StoreError, match=expected):
        read_record(path, EnsembleRecord)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema_number": ' + "9" * 5000 + "}", "9" * 99])
def test_depth_and_huge_numbers_are_a_line(tmp_path: Path, text: str) -> None:
    store, record = Store(tmp_path), made_record()
    store.save(record)
    path = store.record_path(record.run)
    path.write_text(text)
    with pytest.raises(StoreError, match=r"not a record|delete the record"):
        store.records()
    store.set_aside_torn(lambda _: None)


def test_texts_of_a_record_cannot_move_a_terminals_cursor(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(failed_record(reason="\x1b[2Jgone\x07\u202e\nnext"))
    (record,) = store.records()
    assert record.result.reason == "�[2Jgone�� next"  # type: ignore[union-attr]
    assert printable("äöü – ζ 細胞") == "äöü – ζ 細胞"


# --- predictions ---------------------------------------------------------------------------------


def nan(part: Predictions) -> None:
    part.probabilities[3] = np.nan


def negative(part: Predictions) -> None:
    part.probabilities[0, :2] += (-2, 2)


def too_much(part: Predictions) -> None:
    part.probabilities[0, 0] += 1


def label(part: Predictions) -> None:
    part.labels[0] = 3


def negative_label(part: Predictions) -> None:
    part.labels[0] = -1


@pytest.mark.parametrize("spoil", [nan, negative, too_much, label, negative_label])
def test_predictions_are_probabilities_of_known_classes(
    tmp_path: Path, spoil: Callable[[Predictions], None]
) -> None:
    parts = {
        name: Predictions(part.ids, part.labels.copy(), part.probabilities.copy())
        for name, part in made_predictions(made_record().run).items()
    }
    spoil(parts["validation"])
    write_predictions(tmp_path / "x.npy", parts)
    with pytest.raises(StoreError, match=r"x\.npy: cannot be read \((labels|a row)"):
        read_predictions(tmp_path / "x.npy")


def test_the_parts_are_those_of_the_program(tmp_path: Path) -> None:
    parts, path = made_predictions(made_record().run), tmp_path / "x.npy"
    write_predictions(path, {k: p for k, p in parts.items() if k != "test"})
    with pytest.raises(StoreError, match="the test part is missing"):
        read_predictions(path)
    write_predictions(path, {**parts, "\x1b[2J": parts["test"]})
    with pytest.raises(StoreError, match="is no part"):
        read_predictions(path)
    write_predictions(path, {**parts, "shifted": parts["validation"]})
    with pytest.raises(StoreError, match="shifted has other images than test"):
        read_predictions(path)


def test_predictions_of_other_images_do_not_fit_their_record(tmp_path: Path) -> None:
    store, record = Store(tmp_path), made_record()
    save_finished(store, record)
    fewer = record.data.model_copy(update={"class_names": ("a", "b")})
    with pytest.raises(StoreError, match="of 3 classes, the record has 2"):
        store.load_verified(record.model_copy(update={"data": fewer}))


# --- links, FIFOs, sizes -------------------------------------------------------------------------


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    store, record = Store(tmp_path), made_record()
    save_finished(store, record)
    for path in (store.record_path(record.run), store.predictions_path(record.run)):
        content = path.read_bytes()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_bytes(content)
        path.unlink()
        path.symlink_to(elsewhere)
        with pytest.raises(StoreError, match="a symbolic link, which is not followed"):
            store.load_verified(store.records()[0])
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(StoreError, match="not a regular file"):
            store.load_verified(store.records()[0])
        path.unlink()
        path.write_bytes(content)
    with pytest.raises(StoreError, match="bytes are more than the 10"):
        read_plain(store.record_path(record.run), 10)


def test_an_npz_is_a_plain_file_of_arrays_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hashes of images and the features of a run are."""
    path = tmp_path / "x.npz"
    os.mkfifo(path)
    with pytest.raises(StoreError, match="not a regular file"):
        read_arrays(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(StoreError, match="a symbolic link, which is not followed"):
        read_arrays(path)
    path.unlink()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sha256", "text")
    with pytest.raises(StoreError, match="not all of it are arrays"):
        read_arrays(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(StoreError, match="not a zip file"):
        read_arrays(path)
    write_arrays(path, {"sha256": np.zeros((1000, 32), np.uint8)}, compress=True)
    monkeypatch.setattr(files, "MOST_ARRAY_BYTES", 10_000)
    with pytest.raises(StoreError, match="more than 10,000 bytes of arrays"):
        read_arrays(path)


@pytest.mark.parametrize("folder", ["records", "predictions", "images", "figures/runs"])
def test_nothing_is_written_through_a_link(tmp_path: Path, folder: str) -> None:
    victim, store = tmp_path / "victim", Store(tmp_path / "results")
    victim.mkdir()
    (store.root / folder).parent.mkdir(parents=True)
    (store.root / folder).symlink_to(victim)

    def write_all() -> None:
        save_finished(store, made_record())
        store.save_images("0" * 24, ImageIdentities(np.zeros((1, 32), np.uint8), ()))
        draw(made_record(), store.root / "figures" / "runs")

    with pytest.raises(StoreError, match=f"{folder}: a symbolic link; nothing is written"):
        write_all()
    assert not list(victim.iterdir())


def test_links_among_artefacts_are_replaced_or_refused(tmp_path: Path) -> None:
    mine, run = tmp_path / "mine", made_record().run
    mine.write_text("mine")
    folder = Store(tmp_path).artefacts(run)
    folder.mkdir(parents=True)
    (folder / "run.lock").symlink_to(mine)
    with pytest.raises(StoreError, match="a symbolic link, which is not followed"):
        RunLock(folder).acquire_for("vgg16", 0)
    assert RunLock(folder).owner() is None
    (folder / "log.txt").symlink_to(mine)
    with open_new(folder / "log.txt") as file:
        file.write(b"a log")
    (folder / "predictions.npy").symlink_to(mine)
    write_atomically(folder / "predictions.npy", b"predictions")
    assert mine.read_text() == "mine"
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    with pytest.raises(StoreError, match="linked: a symbolic link; nothing is written"):
        RunLock(linked).acquire_for("vgg16", 0)
