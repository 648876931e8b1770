"""Which images go, written down exactly, and refused where it does not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness.audit.manifest import Manifest, Removal, cleaned, parse, read_manifest
from harness.data import sources
from harness.data.image_cache import Content, Source, get_or_decode, open_dataset, provenance
from harness.errors import DataError

texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=30)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
manifests = st.dictionaries(st.integers(0, 10**9), st.tuples(digests, texts, texts)).map(
    lambda found: Manifest(tuple(Removal(i, *found[i]) for i in sorted(found)))
)


@given(manifests)
def test_what_is_written_is_read(manifest: Manifest) -> None:
    again = parse(manifest.to_csv(), "again")
    assert again.removals == manifest.removals
    assert again.identity == manifest.identity


@given(manifests, manifests)
def test_the_identity_is_that_of_the_removed_images(one: Manifest, other: Manifest) -> None:
    same = [(r.index, r.sha256) for r in one.removals] == [
        (r.index, r.sha256) for r in other.removals
    ]
    assert (one.identity == other.identity) == same


@given(st.text(max_size=200))
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(DataError, match="some file") as error:
        parse(text, "some file")
    assert "\n" not in str(error.value)


GOOD = f"3,{'a' * 64},not-a-cell,why"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"x,{'a' * 64},k,r", "line 3: 'x' is not the index of an image"),
        (f"-1,{'a' * 64},k,r", "line 3: '-1' is not the index"),
        (f"4,{'A' * 64},k,r", "is not a SHA-256"),
        ("4,abc,k,r", "line 3: 'abc' is not a SHA-256"),
        (f"4,{'a' * 64},k", "line 3 has 3 columns, line 1 has 4"),
        (GOOD, "line 3: image 3 is removed twice"),
    ],
)
def test_a_bad_line_is_named(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(f"index,sha256,kind,reason\n{GOOD}\n{line}\n", "m.csv")


def test_empty_lines_are_passed_over() -> None:
    assert len(parse(f"index,sha256,kind,reason\n\n{GOOD}\n\n", "m").removals) == 1


def test_an_editor_may_add_a_byte_order_mark_and_other_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"index,sha256,kind,reason\r\n{GOOD}\r\n", "utf-8-sig", newline="")
    assert len(read_manifest(path).removals) == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'wbc-bench data audit' writes one"):
        read_manifest(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path / "m.csv")


# --- applied -------------------------------------------------------------------------------------


def source(images: list[np.ndarray], labels: list[int], name: str = "cells") -> Source:
    given_split = np.arange(len(labels)) % 3

    def read() -> Content:
        half = len(images) // 2
        parts = [images[:half], images[half:]]
        return Content(np.array(labels), ("a", "b"), lambda: iter(parts), given_split)

    content = b"".join(image.tobytes() for image in images)
    return Source(name, "made", hashlib.sha256(content).hexdigest(), read)


def removing(ids: list[int], images: list[np.ndarray]) -> Manifest:
    return Manifest(
        tuple(Removal(i, hashlib.sha256(images[i].data).hexdigest(), "k", "r") for i in ids),
        "m.csv",
    )


def some_images(count: int = 12, size: int = 9) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [9, 6])
def test_what_remains_is_the_data_without_them(tmp_path: Path, size: int) -> None:
    """Same fingerprint as a set that never held them, so runs on either are the same runs."""
    images, labels = some_images(), [0, 1] * 6
    gone = [1, 2, 7, 11]
    folder = get_or_decode(cleaned(source(images, labels), removing(gone, images)), size, tmp_path)
    data = open_dataset(folder)
    kept = [i for i in range(12) if i not in gone]

    def read() -> Content:
        content = source(images, labels).read()
        assert content.given is not None
        return Content(
            content.labels[kept], ("a", "b"), lambda: iter([[images[i] for i in kept]]),
            content.given[kept],
        )  # fmt: skip

    pure = open_dataset(get_or_decode(Source("pure", "", "pure", read), size, tmp_path))
    assert data.fingerprint == pure.fingerprint
    np.testing.assert_array_equal(data.images, pure.images)
    np.testing.assert_array_equal(data.given, pure.given)
    assert data.labels.tolist() == [labels[i] for i in kept]
    assert data.name == "cells, cleaned"
    assert "4 images removed" in provenance(folder).source


def test_one_manifest_fits_every_size_but_another_manifest_is_other_data(tmp_path: Path) -> None:
    images, labels = some_images(), [0, 1] * 6
    of = source(images, labels)
    folders = {
        get_or_decode(cleaned(of, removing(gone, images)), size, tmp_path)
        for gone in ([3], [4], [])
        for size in (6, 9)
    }
    assert len({open_dataset(folder).fingerprint for folder in folders}) == 6


def test_nothing_to_remove_is_the_source_itself() -> None:
    of = source(some_images(), [0, 1] * 6)
    assert cleaned(of, Manifest(())) is of


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([12], r"m.csv does not fit cells: it removes image 12, but there are 12"),
        ([3], r"m.csv does not fit cells: image 3 is not the one that was audited"),
    ],
)
def test_a_manifest_of_other_data_is_refused(tmp_path: Path, ids: list[int], message: str) -> None:
    other = some_images(13)[::-1]
    of = cleaned(source(some_images(), [0, 1] * 6), removing(ids, other))
    with pytest.raises(DataError, match=message + ".*wbc-bench data audit"):
        get_or_decode(of, 9, tmp_path)
    assert list(tmp_path.glob("*/meta.json")) == []


def test_a_class_that_would_vanish_is_named(tmp_path: Path) -> None:
    images = some_images(6)
    of = cleaned(source(images, [0, 0, 0, 0, 1, 1]), removing([4, 5], images))
    with pytest.raises(DataError, match="fewer than two classes"):
        get_or_decode(of, 9, tmp_path)


# --- unreadable files ----------------------------------------------------------------------------


@pytest.fixture
def torn(tmp_path: Path, stack: Callable[..., np.ndarray]) -> Path:
    """A folder with ten images; the fourth is cut short."""
    for k, image in enumerate(stack(10, 24)):
        path = tmp_path / "cells" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    path = tmp_path / "cells" / "b" / "7.png"
    path.write_bytes(path.read_bytes()[:200])
    return tmp_path / "cells"


def test_an_unreadable_image_is_an_error_until_it_is_removed(torn: Path, tmp_path: Path) -> None:
    of, cache = sources.find(str(torn), 24), tmp_path / "cache"
    with pytest.raises(DataError, match=r"7.png: unreadable image.*clean = true leaves"):
        get_or_decode(of, 24, cache)
    folder = get_or_decode(of, 24, cache, tolerant=True)
    with pytest.raises(DataError, match=r"7.png: unreadable image.*clean = true leaves"):
        get_or_decode(of, 24, cache)
    origin = provenance(folder)
    assert list(origin.unreadable) == [8]
    digest = hashlib.sha256((torn / "b" / "7.png").read_bytes()).hexdigest()
    assert origin.digests[8].tobytes().hex() == digest
    assert origin.sizes[7:9].tolist() == [[24, 24], [0, 0]]
    manifest = Manifest((Removal(8, digest, "unreadable", "torn"),))
    data = open_dataset(get_or_decode(cleaned(of, manifest), 24, cache))
    assert len(data) == 9


def test_provenance_is_that_of_the_source(tmp_path: Path) -> None:
    images = some_images(4, 9)
    images[1] = np.ascontiguousarray(images[1][:5])
    origin = provenance(get_or_decode(source(images, [0, 1, 0, 1]), 9, tmp_path))
    assert origin.sizes.tolist() == [[9, 9], [5, 9], [9, 9], [9, 9]]
    expected = [hashlib.sha256(image.tobytes()).digest() for image in images]
    assert [row.tobytes() for row in origin.digests] == expected
    assert origin.unreadable == {}
