"""The cache of decoded images: one folder of plain arrays, made once, mapped by every worker.

A folder has ``images.npy`` (uint8, N x S x S x 3), ``labels.npy``, ``groups.npy``,
``near_groups.npy`` where there are near copies, ``given.npy`` where the source came with its own
split, ``digests.npy`` and ``sizes.npy`` of the images as the source had them, ``files.json`` where
these are files, and ``meta.json``. Its key is the hash of the source's bytes, the size, the resizer
and the schema.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.schema.dataset import Dataset
from harness.storage.artifact_cache import ArtifactCache, damage
from harness.storage.files import write_images

SCHEMA = 5
"""Raised when the same source would be decoded into something else."""

FILES = "files.json"


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be decoded: the reason, and the SHA-256 of its bytes."""

    reason: str
    digest: bytes


Batch = np.ndarray | Sequence[np.ndarray | Unreadable]
"""Images uint8 RGB: (n, H, W, 3), or n of (h, w, 3) where sizes differ."""


@dataclass(frozen=True)
class Content:
    """What a reader found. ``batches`` gives the images in the order of the labels."""

    labels: np.ndarray
    class_names: tuple[str, ...]
    batches: Callable[[], Iterator[Batch]]
    given: np.ndarray | None = None
    files: tuple[str, ...] = ()
    """Names of the images' files, relative to the source; empty for arrays."""
    notes: tuple[str, ...] = ()
    """What the reader did that a user of the images must know."""

    def take(self, kept: np.ndarray) -> Content:
        """The images where ``kept`` (N,) bool is true."""

        def batches() -> Iterator[Batch]:
            start = 0
            for batch in self.batches():
                part = kept[start : start + len(batch)]
                yield batch[part] if isinstance(batch, np.ndarray) else list(compress(batch, part))
                start += len(batch)

        return replace(
            self,
            labels=self.labels[kept],
            batches=batches,
            given=None if self.given is None else self.given[kept],
            files=tuple(compress(self.files, kept)),
        )


@dataclass(frozen=True)
class Source:
    """Where images come from. ``identity`` is the hash of its bytes; ``read`` opens it."""

    name: str
    description: str
    identity: str
    read: Callable[[], Content]
    passed_over: tuple[str, ...] = ()
    """Files of the source that were not read: a text for each kind of file."""

    def changed(
        self, name: str, description: str, change: str, read: Callable[[Content], Content]
    ) -> Source:
        """A source of other content: ``read`` changes this one's, ``change`` identifies how."""
        return Source(
            name=f"{self.name}, {name}",
            description=f"{self.description}; {description}",
            identity=hashlib.sha256(f"{self.identity} {change}".encode()).hexdigest(),
            read=lambda: read(self.read()),
            passed_over=self.passed_over,
        )


@dataclass(frozen=True)
class Provenance:
    """The images as the source had them, before they were cut square and resized."""

    digests: np.ndarray
    """uint8 (N, 32): SHA-256 of each image's own pixels; of its bytes where it is unreadable."""
    sizes: np.ndarray
    """int32 (N, 2): height and width; 0 where it is unreadable."""
    unreadable: dict[int, str]
    """Id -> reason. Such an image is black in a tolerant folder."""
    source: str
    files: tuple[str, ...] = ()
    """As in Content."""
    notes: tuple[str, ...] = ()

    def name_of(self, i: int) -> str:
        """``image 7``, with its file where it has one."""
        return f"image {i} ({self.files[i]})" if self.files else f"image {i}"


def get_or_decode(source: Source, image_size: int, cache: Path, *, tolerant: bool = False) -> Path:
    """The folder of ``source`` decoded at ``image_size`` pixels, made now unless it exists.

    Raises DataError for content that must not be trained on (single unreadable images too, unless
    ``tolerant``), NoRoom, and StoreError where ``cache`` cannot be written.
    """
    resizer, artifacts = resizer_version(), ArtifactCache(cache)
    parts = json.dumps([source.identity, source.name, image_size, resizer, SCHEMA])
    key = hashlib.sha256(parts.encode()).hexdigest()[:24]
    folder = artifacts.find(key, verify=True)
    if folder is None:
        meta = {"name": source.name, "source": source.description, "resizer": resizer}
        content = source.read()
        _check_classes(content, source.name)
        folder = artifacts.get_or_create(
            key,
            lambda folder: _decode(folder, content, image_size, meta, tolerant),
            size=3 * image_size**2 * len(content.labels),
            verify=True,
        )
    if not tolerant:
        for reason in provenance(folder).unreadable.values():
            raise _unusable(reason)
    return folder


def find_decoded(fingerprint: str, cache: Path) -> Path | None:
    """The folder of the decoded images that have this fingerprint; None where it is not there."""
    artifacts = ArtifactCache(cache)
    for path in sorted(cache.glob("[!.]*/meta.json")):
        # Only the one that is sought is checksummed, and noted as used.
        with suppress(DataError):
            if _meta(path.parent).get("fingerprint") == fingerprint:
                folder = artifacts.find(path.parent.name, verify=True)
                if folder is not None:
                    return folder
    return None


def open_dataset(folder: Path) -> Dataset:
    """The Dataset in ``folder``, its images mapped and not loaded; DataError if it is damaged."""
    meta = _meta(folder)
    try:
        return Dataset(
            name=meta["name"],
            images=np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
            labels=_load(folder, "labels"),
            class_names=tuple(meta["class_names"]),
            fingerprint=meta["fingerprint"],
            groups=_load(folder, "groups"),
            given=_load_optional(folder, "given"),
            notes=tuple(meta["notes"]),
            near_groups=_load_optional(folder, "near_groups"),
        )
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{folder}: damaged decoded images; delete it: {error}") from error


def provenance(folder: Path) -> Provenance:
    """What the images in ``folder`` were in their source; DataError if it is damaged."""
    meta = _meta(folder)
    unreadable = {int(i): reason for i, reason in meta["unreadable"].items()}
    files = folder / FILES
    names = json.loads(files.read_text("utf-8")) if files.exists() else ()
    return Provenance(
        _load(folder, "digests"), _load(folder, "sizes"), unreadable, meta["source"],
        tuple(names), tuple(meta["notes"]),
    )  # fmt: skip


def _meta(folder: Path) -> dict[str, Any]:
    problem = damage(folder)
    if problem is None:
        return json.loads((folder / "meta.json").read_text("utf-8"))
    raise DataError(f"{folder}: not whole decoded images ({problem}); prepare the data again")


def _load(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"{name}.npy", allow_pickle=False)


def _load_optional(folder: Path, name: str) -> np.ndarray | None:
    return _load(folder, name) if (folder / f"{name}.npy").exists() else None


def resizer_version() -> str:
    """What turns an image into S x S pixels. Two resizers flip some predictions."""
    import cv2

    return f"central square, opencv {cv2.__version__} area or cubic"


def square(image: np.ndarray, size: int) -> np.ndarray:
    """The central square of one uint8 (h, w, 3) image, resized to (size, size, 3).

    That is the shorter side resized to ``size``, then the centre cut out. Cells lie in the
    centre; padding would add edges that no microscope made, squeezing would change their shape.
    """
    import cv2

    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    image = image[top : top + side, left : left + side]
    if side == size:
        return image
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (size, size), interpolation=interpolation))


def original_digest(image: np.ndarray | Unreadable) -> bytes:
    """SHA-256 of an image's pixels as the source has them; of its bytes if it is unreadable."""
    if isinstance(image, Unreadable):
        return image.digest
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()


def turned_digest(image: np.ndarray | Unreadable) -> bytes:
    """A digest that flips and quarter turns of one image share.

    It is of the image turned so that its quarters are in the order of their sums; where several
    orders are equal, the smallest digest.
    """
    if isinstance(image, Unreadable):
        return image.digest
    half = [size // 2 for size in image.shape[:2]]
    sides = [
        (slice(0, n), slice(size - n, size)) for n, size in zip(half, image.shape, strict=False)
    ]
    sums = np.array([[int(image[a, b].sum(dtype=np.int64)) for b in sides[1]] for a in sides[0]])
    orders = {turn: turned(sums, *turn).ravel().tolist() for turn in TURNS}
    largest = max(orders.values())
    whole = (turned(image, *turn) for turn, order in orders.items() if order == largest)
    return min(
        hashlib.sha256(str(one.shape).encode() + np.ascontiguousarray(one).tobytes()).digest()
        for one in whole
    )


TURNS = tuple((mirrored, quarters) for mirrored in (False, True) for quarters in range(4))


def turned(image: np.ndarray, mirrored: bool, quarters: int) -> np.ndarray:
    return np.rot90(image[:, ::-1] if mirrored else image, quarters)


def _groups(digests: Sequence[bytes], turned_digests: Sequence[bytes]) -> NDArray[np.int64]:
    """(N,): the first image that shares one of both digests, directly or by others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ids = np.arange(len(digests))
    firsts = np.concatenate([_first_equal(digests), _first_equal(turned_digests)])
    edges = coo_array((np.ones(len(firsts), bool), (np.tile(ids, 2), firsts)), (len(ids),) * 2)
    _, component = connected_components(edges, directed=False)
    _, first = np.unique(component, return_index=True)
    return np.asarray(first[component], np.int64)


def _first_equal(digests: Sequence[bytes]) -> NDArray[np.int64]:
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, i) for i, digest in enumerate(digests)], np.int64)


def _unusable(reason: str) -> DataError:
    return DataError(f"{reason}; clean = true leaves such images out")


def _check_classes(content: Content, name: str) -> None:
    names, present = content.class_names, np.unique(content.labels)
    if len(content.labels) == 0:
        raise DataError(f"{name}: it has no images")
    if len(present) < 2:
        raise DataError(f"{name}: fewer than two classes: every image has label {present[0]}")
    spellings: dict[str, str] = {}
    for one in names:
        if (key := spelled(one)) in spellings:
            both = f"{spellings[key]!r} and {one!r}"
            raise DataError(f"{name}: {both} are two classes of one name; give them one spelling")
        spellings[key] = one
    if absent := sorted(set(range(len(names))) - set(present.tolist())):
        raise DataError(f"{name}: class {names[absent[0]]!r} (label {absent[0]}) has no images")


def spelled(class_name: str) -> str:
    """What is left of a name without case, blanks and the form of its characters."""
    return "".join(unicodedata.normalize("NFKC", class_name).casefold().split())


@dataclass
class _Decoding:
    """The images of a source as they are resized, and what is noted of each meanwhile."""

    digests: list[bytes] = field(default_factory=list)
    """SHA-256 of each image's final pixels."""
    originals: list[bytes] = field(default_factory=list)
    turned_originals: list[bytes] = field(default_factory=list)
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    brightest: int = 0

    def resized(self, content: Content, size: int, tolerant: bool) -> Iterator[np.ndarray]:
        for image in chain.from_iterable(content.batches()):
            if isinstance(image, Unreadable):
                if not tolerant:
                    raise _unusable(image.reason)
                self.unreadable[len(self.digests)] = image.reason
                pixels, shape = np.zeros((size, size, 3), np.uint8), (0, 0)
            else:
                pixels, shape = np.ascontiguousarray(square(image, size)), image.shape[:2]
            digest = hashlib.sha256(pixels.data).digest()
            self.digests.append(digest)
            self.originals.append(digest if shape == (size, size) else original_digest(image))
            self.turned_originals.append(turned_digest(image))
            self.sizes.append(shape)
            self.brightest = max(self.brightest, int(pixels.max()))
            yield pixels


def _decode(
    folder: Path, content: Content, size: int, meta: dict[str, Any], tolerant: bool
) -> None:
    """Write the arrays and ``meta.json``."""
    from harness.data.duplicates import near_duplicate_groups

    name, count, noted = meta["name"], len(content.labels), _Decoding()
    images = noted.resized(content, size, tolerant)
    write_images(folder / "images.npy", (count, size, size, 3), images)
    if noted.brightest < 2:
        raise DataError(
            f"{name}: no pixel is above 1: pixels already scaled to 0-1? give raw 0-255 pixels"
        )
    if len(noted.digests) != count:
        raise DataError(f"{name}: {len(noted.digests)} images but {count} labels")
    arrays = {
        "labels": content.labels.astype("<i8"),
        "groups": _groups(noted.digests, noted.turned_originals).astype("<i8"),
        "digests": np.frombuffer(b"".join(noted.originals), np.uint8).reshape(-1, 32),
        "sizes": np.array(noted.sizes, "<i4"),
    }
    written = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    near_groups = near_duplicate_groups(written, arrays["groups"])
    if not np.array_equal(near_groups, arrays["groups"]):
        arrays["near_groups"] = near_groups.astype("<i8")
    if content.given is not None:
        arrays["given"] = content.given.astype("<i8")
    for array_name, array in arrays.items():
        np.save(folder / f"{array_name}.npy", array, allow_pickle=False)
    meta = meta | {
        "schema": SCHEMA,
        "image_size": size,
        "class_names": content.class_names,
        "fingerprint": _fingerprint(noted.digests, arrays, size, content.class_names),
        "unreadable": noted.unreadable,
        "notes": content.notes,
    }
    if content.files:
        (folder / FILES).write_text(json.dumps(content.files), "utf-8")
    (folder / "meta.json").write_text(json.dumps(meta, indent=1), "utf-8")


def _fingerprint(
    digests: list[bytes], arrays: dict[str, np.ndarray], size: int, class_names: tuple[str, ...]
) -> str:
    """SHA-256 of shape, names, pixels (as their own SHA-256 each), labels and given split.

    Also of the groups, where turned copies are in them: they change a split.
    """
    given = arrays.get("given")
    shape = [len(digests), size, size, 3]
    total = hashlib.sha256(json.dumps([shape, class_names, given is not None]).encode())
    total.update(b"".join(digests))
    total.update(arrays["labels"].tobytes())
    if given is not None:
        total.update(given.tobytes())
    if not np.array_equal(arrays["groups"], _first_equal(digests)):
        total.update(arrays["groups"].tobytes())
    return total.hexdigest()[:24]
