"""Audits from a source to the page, with the real network where it matters."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.audit import embeddings, pipeline
from harness.audit.embeddings import Embedder
from harness.audit.findings import REMOVED
from harness.audit.outliers import LEAST_COPIES
from harness.audit.pipeline import (
    AuditedSource,
    AuditOptions,
    Workspace,
    default_manifest,
    prepare_data,
    run_audit,
)
from harness.audit.report import summary, write_removed, write_report
from harness.config import DataSettings
from harness.data.image_cache import get_or_decode, open_dataset
from harness.data.sources import SMEAR_SEED, find
from harness.data.synthetic.smear import draw
from harness.errors import DataError
from harness.execution.devices import Device

CPU = Device("cpu", "Test CPU")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("cache"), CPU)


@pytest.fixture(scope="module")
def smear(workspace: Workspace) -> AuditedSource:
    return run_audit(find("smear@400", 96), workspace)


def removed_by_default() -> np.ndarray:
    """Of the contaminants those whose picture occurs so often that it cannot be a copied cell."""
    truth = draw(400, SMEAR_SEED)
    pixels = truth.images[truth.contaminants].reshape(len(truth.contaminants), -1)
    _, picture, copies = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    assert sorted(copies) == [2, 8]
    return np.asarray(truth.contaminants[copies[picture] >= LEAST_COPIES])


@pytest.mark.slow
def test_the_embedded_sets_faults_are_found_exactly(smear: AuditedSource) -> None:
    truth = draw(400, SMEAR_SEED)
    found = smear.audit
    assert list(found.removals()) == removed_by_default().tolist()

    def pairs(kind: str) -> list[list[int]]:
        return sorted(finding.ids.tolist() for finding in found.findings if finding.kind == kind)

    rare = np.setdiff1d(truth.contaminants, removed_by_default()).tolist()
    assert pairs("exact-copies") == sorted([rare, *map(sorted, truth.duplicates.tolist())])
    assert pairs("near-copies") == sorted(sorted(pair) for pair in truth.near_duplicates.tolist())
    assert pairs("several-labels") == pairs("leak") == pairs("constant") == []


@pytest.mark.slow
def test_embeddings_are_computed_once(
    smear: AuditedSource, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row an image, equal for equal pixels, and read from the cache afterwards."""
    assert smear.embeddings.shape == (400, 1280)
    np.testing.assert_array_equal(smear.embeddings, smear.embeddings[smear.dataset.groups])
    assert len(np.unique(smear.embeddings, axis=0)) == len(np.unique(smear.dataset.groups))
    monkeypatch.setattr(embeddings, "COMMAND_MODULE", "no.such.module")
    folder = get_or_decode(find("smear@400", 96), pipeline.IMAGE_SIZE, workspace.cache)
    again = embeddings.compute_embeddings(folder, workspace.cache, CPU, lambda _: None)
    np.testing.assert_array_equal(again, smear.embeddings)


@pytest.mark.slow
def test_clean_data_is_what_the_audit_keeps(smear: AuditedSource, workspace: Workspace) -> None:
    progress: list[str] = []
    reporting = Workspace(workspace.cache, workspace.device, progress.append)
    folder = prepare_data(DataSettings(source="smear@400", clean=True), 48, reporting)
    data = open_dataset(folder)
    kept = np.setdiff1d(np.arange(400), removed_by_default())
    assert len(data) == len(kept) == 392
    np.testing.assert_array_equal(data.labels, draw(400, SMEAR_SEED).labels[kept])
    assert prepare_data(DataSettings(source="smear@400"), 48, workspace) != folder
    # The second time, the manifest is read and nothing is audited.
    progress.clear()
    assert prepare_data(DataSettings(source="smear@400", clean=True), 48, reporting) == folder
    assert progress == ["reading the images"]


@pytest.mark.slow
def test_a_manifest_of_the_users_own_rules(
    smear: AuditedSource, workspace: Workspace, tmp_path: Path
) -> None:
    write_report(smear, tmp_path, (*REMOVED, "near-copies"))
    own = DataSettings(source="smear@400", clean=True, manifest=str(tmp_path / "manifest.csv"))
    data = open_dataset(prepare_data(own, 32, workspace))
    gone = smear.audit.removals((*REMOVED, "near-copies"))
    assert len(data) == 400 - len(gone) < 400 - len(smear.audit.removals())
    with pytest.raises(DataError, match=r"manifest.csv does not fit smear@500: image \d+ is not"):
        prepare_data(own.model_copy(update={"source": "smear@500"}), 32, workspace)


@pytest.mark.slow
def test_the_page(smear: AuditedSource, tmp_path: Path) -> None:
    page = write_report(smear, tmp_path / "audit", REMOVED)
    text = page.read_text()
    truth, removed = draw(400, SMEAR_SEED), removed_by_default()
    gone = len(removed)
    assert f"400 images: {gone} to remove, {400 - gone} kept" in text
    assert summary(smear, REMOVED)[-1] == f"400 images: {gone} to remove, {400 - gone} kept"
    named = {name.split(")")[0] for name in text.split("](")[1:]}
    written = {path.name for path in page.parent.iterdir()}
    assert named == written - {"AUDIT.md"}
    assert {"map-pca.png", "map-tsne.png", "not-a-cell-1.png", "near-copies.png"} <= written
    for name in written:
        if name.endswith(".png"):
            with Image.open(page.parent / name) as picture:
                assert picture.width >= 700
                assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20
    with (page.parent / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == removed.tolist()
    # Copies and their labels: before and after in the table of classes.
    assert f"| monocyte     |       {(truth.labels == 5).sum()} |" in text


@pytest.mark.slow
def test_the_manifest_is_the_same_bytes_on_every_machine_path(
    smear: AuditedSource, workspace: Workspace
) -> None:
    manifest = default_manifest(find("smear@400", 96), workspace)
    assert manifest.removals == smear.audit.manifest(smear.origin).removals


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", r"killed \(signal 9\)"),
        ('print(\'{"event": "failed", "reason": "no memory", "status": "failed"}\')', "no memory"),
        ('print(\'{"event": "done", "outcome": {}}\')', "the child process wrote none"),
    ],
)
def test_a_child_that_fails_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    (tmp_path / "broken_child.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(embeddings, "COMMAND_MODULE", "broken_child")
    folder = get_or_decode(find("smear@80", 96), 96, tmp_path / "cache")
    with pytest.raises(DataError, match=reason):
        embeddings.compute_embeddings(folder, tmp_path / "cache", CPU, lambda _: None)


def test_the_key_covers_all_that_embeddings_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {embeddings.key("one"), embeddings.key("another"), embeddings.key("one", "jax")}
    keys.add(embeddings.key("one", embedder=Embedder(image_size=80)))
    for name, value in (("VERSION", 2), ("BATCH", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(embeddings, name, value)
            keys.add(embeddings.key("one"))
    with monkeypatch.context() as patch:
        patch.setattr(embeddings, "resizer_version", lambda: "another")
        keys.add(embeddings.key("one"))
    assert len(keys) == 7
    assert embeddings.key("one") in keys


@pytest.mark.slow
def test_another_backend_finds_the_same(smear: AuditedSource, workspace: Workspace) -> None:
    usual = smear
    other = run_audit(find("smear@400", 96), replace(workspace, backend="jax"))
    np.testing.assert_allclose(usual.embeddings, other.embeddings, atol=1e-3)
    assert (usual.embeddings != other.embeddings).any()  # Computed, not found.
    assert usual.audit.manifest(usual.origin) == other.audit.manifest(other.origin)


@pytest.mark.slow
def test_the_challenges_file(real_data: Path, tmp_path: Path) -> None:
    """1,800 contaminants go, 11,959 cells stay; what remains is the set of cells alone."""
    workspace = Workspace(tmp_path, CPU)
    source = find(str(real_data / "training_set.npz"), 96)
    audited = run_audit(source, workspace)
    assert list(audited.audit.removals()) == list(range(11_959, 13_759))
    copies = [finding.ids.tolist() for finding in audited.audit.findings_of("exact-copies")]
    assert len(copies) == 7
    assert [f.ids.tolist() for f in audited.audit.findings_of("near-copies")] == [[9201, 9666]]
    assert [f.reason for f in audited.audit.findings_of("several-labels")] == [
        "exact copies labelled as eosinophil and neutrophil"
    ]
    settings = DataSettings(source=str(real_data / "training_set.npz"), clean=True)
    clean = open_dataset(prepare_data(settings, 96, workspace))
    with np.load(real_data / "training_set.npz", allow_pickle=False) as held:
        cells = tmp_path / "cells.npz"
        images, labels = held["images"][:11_959], held["labels"][:11_959]
        np.savez(cells, images=images, labels=labels, class_names=clean.class_names)
    assert (
        clean.fingerprint
        == open_dataset(get_or_decode(find(str(cells), 96), 96, tmp_path)).fingerprint
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bloodmnist_64.npz", "folder"])
def test_real_sets_without_contaminants_lose_nothing(
    real_data: Path, tmp_path: Path, name: str
) -> None:
    audited = run_audit(find(str(real_data / name), 96), Workspace(tmp_path, CPU))
    assert audited.audit.removals() == {}
    assert audited.audit.findings_of("near-copies") == ()


def test_an_image_that_is_not_there_cannot_be_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="smear@80 has no image 80: its 80 are counted from 0"):
        run_audit(find("smear@80", 96), Workspace(tmp_path, CPU), AuditOptions(not_cells=(3, 80)))


@pytest.mark.slow
def test_another_network_and_threshold_and_the_removed_as_a_set(
    workspace: Workspace, tmp_path: Path
) -> None:
    """The embeddings are another network's; all of its images are alike at the least similarity."""
    options = AuditOptions((3,), Embedder("lite0", 48, "blocks_0_project_conv"), similar=-1.0)
    audited = run_audit(find("smear@80", 96), workspace, options)
    assert audited.embeddings.shape == (80, 16)
    assert audited.audit.outliers[0].ids.tolist() == list(range(80))
    page = write_report(audited, tmp_path / "page", REMOVED).read_text()
    assert "-1.0 or more, in the embeddings of layer blocks_0_project_conv of" in page
    assert write_removed(audited, tmp_path / "removed.npz", REMOVED) == 80
    again = open_dataset(get_or_decode(find(str(tmp_path / "removed.npz"), 96), 96, tmp_path))
    np.testing.assert_array_equal(again.labels, audited.dataset.labels)
    np.testing.assert_array_equal(again.images, audited.dataset.images)
    assert again.class_names == audited.dataset.class_names
    with pytest.raises(DataError, match="nothing is removed"):
        write_removed(audited, tmp_path / "none.npz", ())
