"""Every kind of finding, from data whose faults are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from harness.audit.findings import ISOLATED_SHOWN, KINDS, REMOVED, Audit, audit_dataset
from harness.data.duplicates import near_duplicate_groups
from harness.data.image_cache import Provenance
from harness.data.synthetic.smear import CLASS_NAMES, draw
from harness.schema.dataset import Dataset


def dataset(images: np.ndarray, labels: np.ndarray, given: np.ndarray | None = None) -> Dataset:
    first: dict[bytes, int] = {}
    groups = [first.setdefault(image.tobytes(), i) for i, image in enumerate(images)]
    return Dataset(
        name="cells",
        images=images,
        labels=labels,
        class_names=tuple(CLASS_NAMES),
        fingerprint="0" * 24,
        groups=np.array(groups),
        given=given,
    )


def origin(data: Dataset, unreadable: dict[int, str] | None = None) -> Provenance:
    digests = np.random.default_rng(0).integers(0, 256, (len(data), 32), dtype=np.uint8)
    digests = digests[data.groups]
    sizes = np.full((len(data), 2), 96, np.int32)
    sizes[list(unreadable or {})] = 0
    return Provenance(digests, sizes, unreadable or {}, "made")


def audited(
    data: Dataset, origin: Provenance, embeddings: np.ndarray, not_cells: Sequence[int] = ()
) -> Audit:
    near_groups = near_duplicate_groups(data.images, data.groups)
    return audit_dataset(data, origin, embeddings, near_groups, not_cells)


def colours(images: np.ndarray) -> np.ndarray:
    """Stand-in embeddings: coarse colour, less the mean; drawn cells differ from drawn charts."""
    small = images.reshape(len(images), 4, 24, 4, 24, 3).mean(axis=(2, 4)).reshape(len(images), -1)
    return np.hstack([small - small.mean(axis=1, keepdims=True), np.full((len(images), 1), 80)])


@pytest.fixture(scope="module")
def faulty() -> tuple[Dataset, Audit]:
    """120 cells without faults, then some made by hand."""
    drawn = draw(120, seed=1, faults=False)
    images, labels = drawn.images.copy(), drawn.labels.copy()
    images[10] = images[3]
    labels[[3, 10]] = 2
    images[11] = images[4]
    labels[[4, 11]] = 1, 5
    images[12] = np.clip(images[5].astype(int) - 6, 0, 255).astype(np.uint8)
    labels[[5, 12]] = 6
    images[20] = images[21] = 0
    images[22] = 200
    images[22, 0, 0] = 210
    images[23] = 0
    given = np.zeros(120, int)
    given[[11, 12, 50, 60, 70]] = 2
    data = dataset(images, labels, given)
    unreadable = {23: "b/7.png: unreadable image: cut short"}
    return data, audited(data, origin(data, unreadable), colours(images))


def ids_of(found: Audit, kind: str) -> list[list[int]]:
    return [finding.ids.tolist() for finding in found.findings if finding.kind == kind]


def test_every_fault_is_found_once(faulty: tuple[Dataset, Audit]) -> None:
    _, found = faulty
    assert ids_of(found, "constant") == [[20], [21], [22]]
    assert ids_of(found, "unreadable") == [[23]]
    assert ids_of(found, "exact-copies") == [[3, 10], [4, 11]]
    assert ids_of(found, "near-copies") == [[5, 12]]
    assert ids_of(found, "several-labels") == [[4, 11]]
    assert ids_of(found, "leak") == [[4, 11], [5, 12]]
    assert len(ids_of(found, "isolated")) == ISOLATED_SHOWN
    kinds = [KINDS.index(finding.kind) for finding in found.findings]
    assert kinds == sorted(kinds)


def test_reasons_say_what_and_where(faulty: tuple[Dataset, Audit]) -> None:
    _, found = faulty
    reasons = {finding.kind: finding.reason for finding in reversed(found.findings)}
    assert reasons["constant"] == "nearly one colour: (0, 0, 0) on average"
    assert "b/7.png" in reasons["unreadable"]
    assert reasons["several-labels"] == "exact copies labelled as eosinophil and monocyte"
    assert reasons["near-copies"] == "nearly the same picture as image 5"
    assert reasons["leak"] == "exact copies in train and test"


def test_only_images_without_a_cell_are_removed_by_default(faulty: tuple[Dataset, Audit]) -> None:
    _, found = faulty
    assert list(found.removals()) == [20, 21, 22, 23]
    assert list(found.removals(("exact-copies",))) == [10, 11]
    assert list(found.removals(("near-copies",))) == [12]
    assert list(found.removals(("several-labels",))) == [4, 11]
    assert list(found.removals(("leak",))) == [4, 5]  # the test part keeps its copy
    assert list(found.removals(KINDS)) == [4, 5, 10, 11, 12, 20, 21, 22, 23]
    assert found.removals(("isolated",)) == {}


def test_the_manifest_holds_index_hash_and_reason(faulty: tuple[Dataset, Audit]) -> None:
    data, found = faulty
    of = origin(data)
    manifest = found.manifest(of)
    assert [one.index for one in manifest.removals] == [20, 21, 22, 23]
    for one in manifest.removals:
        assert one.sha256 == of.digests[one.index].tobytes().hex()
        assert one.kind in REMOVED
        assert one.reason


def test_the_pixels_are_those_of_readable_images(faulty: tuple[Dataset, Audit]) -> None:
    data, found = faulty
    readable = np.delete(np.asarray(data.images), 23, axis=0)
    assert found.pixels.darkest == readable.min()
    assert found.pixels.brightest == readable.max()
    assert found.pixels.mean == pytest.approx(readable.mean(axis=(0, 1, 2)))
    assert found.pixels.deviation == pytest.approx(readable.std(axis=(0, 1, 2)))
    assert found.pixels.sizes == {(96, 96): 119}


def test_the_embedded_sets_outliers_by_plain_colour() -> None:
    """Any embeddings will do that tell the pictures apart."""
    drawn = draw(1200, seed=0)
    data = dataset(drawn.images, drawn.labels)
    found = audited(data, origin(data), colours(drawn.images))
    assert list(found.removals()) == drawn.contaminants.tolist()
    assert len(found.outliers) == 2
    for finding in found.findings_of("not-a-cell"):
        assert "no cell in the picture" in finding.reason
        assert not set(finding.ids.tolist()) & {
            int(i) for other in found.findings_of("exact-copies") for i in other.ids
        }


def test_a_clean_set_has_nothing_to_remove() -> None:
    drawn = draw(200, seed=4, faults=False)
    data = dataset(drawn.images, drawn.labels)
    found = audited(data, origin(data), colours(drawn.images))
    assert {finding.kind for finding in found.findings} == {"isolated"}
    assert found.removals(KINDS) == {}


def test_images_that_become_equal_when_resized_are_no_exact_copies() -> None:
    """Cut square and resized they are the same; in the source they are not."""
    drawn = draw(80, seed=4, faults=False)
    images = drawn.images.copy()
    images[9] = images[2]
    data = dataset(images, np.where(np.arange(80) == 9, drawn.labels[2], drawn.labels))
    source = origin(data)
    source.digests[9] += 1
    found = audited(data, source, colours(images))
    assert not found.findings_of("exact-copies")
    (finding,) = found.findings_of("near-copies")
    assert finding.ids.tolist() == [2, 9]


def test_images_similar_to_a_given_one_are_removed_too() -> None:
    """Report 003's way: a single outlier, which only a person can recognise."""
    drawn = draw(200, seed=4, faults=False)
    images = drawn.images.copy()
    images[30] = 0
    images[30, :48] = 255, 0, 0
    data = dataset(images, drawn.labels)
    embeddings = colours(images)
    assert not audited(data, origin(data), embeddings).removals()
    given = audited(data, origin(data), embeddings, (30,))
    assert list(given.removals()) == [30]
    (finding,) = given.findings_of("not-a-cell")
    assert "images similar to image 30, as given" in finding.reason
    assert given.outliers[0].given


def test_a_set_without_anything_readable() -> None:
    images = np.zeros((4, 96, 96, 3), np.uint8)
    data = dataset(images, np.array([0, 1, 0, 1]))
    found = audit_dataset(data, origin(data, {0: "torn", 2: "torn"}), np.ones((4, 8)), data.groups)
    assert list(found.removals()) == [0, 1, 2, 3]
