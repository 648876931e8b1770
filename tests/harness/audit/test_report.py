"""The page of an audit: a section and figures for every kind of finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.audit.findings import KINDS, REMOVED, audit_dataset
from harness.audit.pipeline import AuditedSource
from harness.audit.report import TITLES, summary, write_report
from harness.data.image_cache import Provenance
from harness.data.synthetic.smear import CLASS_NAMES, draw
from harness.errors import DataError
from harness.schema.dataset import Dataset


@pytest.fixture(scope="module")
def audited() -> AuditedSource:
    """Forty images with every fault; copies and outliers are given, not searched."""
    drawn = draw(80, seed=1, faults=False)
    images, labels = drawn.images[:40].copy(), drawn.labels[:40].copy()
    images[1] = images[0]
    labels[:2] = 3, 4
    images[5], images[6], images[7] = 90, 0, (0, 0, 255)
    images[6:8, :10, :10] = 255
    near_groups = np.arange(40)
    near_groups[[1, 3]] = 0, 2
    exact = np.where(np.arange(40) == 1, 0, np.arange(40))
    given = (np.arange(40) % 2) * 2
    dataset = Dataset("cells", images, labels, tuple(CLASS_NAMES), "0" * 24, exact, given)
    digests = np.random.default_rng(0).integers(0, 256, (40, 32), dtype=np.uint8)[exact]
    unreadable = {8: "b/8.png: cut short"}
    origin = Provenance(digests, np.full((40, 2), 96), unreadable, "drawn for the test")
    embeddings = np.random.default_rng(1).normal(size=(40, 16)) * 0.1 + np.eye(16)[0]
    embeddings[[6, 7]] = np.eye(16)[1:3]
    audit = audit_dataset(dataset, origin, embeddings, near_groups, not_cells=(6, 7))
    return AuditedSource(dataset, origin, embeddings, audit)


def test_every_kind_has_a_section_and_its_figures(audited: AuditedSource, tmp_path: Path) -> None:
    text = write_report(audited, tmp_path, REMOVED).read_text()
    for kind in KINDS:
        assert audited.audit.findings_of(kind), kind
        assert f"\n## {TITLES[kind]}\n" in text
    assert "- image 8: cannot be read: b/8.png: cut short\n" in text
    assert "2. No cell in the picture: one of 1 images similar to image 7" in text
    linked = {name.split(")")[0] for name in text.split("](")[1:]}
    assert linked == {path.name for path in tmp_path.iterdir()} - {"AUDIT.md"}
    assert "\n\n\n" not in text


def test_the_summary_counts_images_and_removals(audited: AuditedSource) -> None:
    *table, total = summary(audited, (*REMOVED, "exact-copies"))
    assert total == "40 images: 5 to remove, 35 kept"
    cells = {line[:44].strip(): line[44:].split() for line in table[2:]}
    assert cells["outliers: no cell in the picture"] == ["2", "2", "2"]
    assert cells["exact copies"] == ["1", "2", "1"]
    assert cells["near copies"] == ["1", "2", "-"]


def test_a_folder_that_cannot_be_written(audited: AuditedSource, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the audit cannot be written"):
        write_report(audited, tmp_path / "file", REMOVED)
