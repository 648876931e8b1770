"""The decoded form of a data set: one folder of plain arrays, made once, mapped by every worker.

A folder holds ``images.npy`` (uint8, N x S x S x 3), ``labels.npy``, ``groups.npy``, ``given.npy``
where the source came with its own split, ``digests.npy`` and ``sizes.npy`` of the images as the
source had them, and ``meta.json``. Its name is the hash of what went in:
the source's bytes, the size, the resizer and the schema. It is made under another name and
renamed when it is whole, so a reader never sees half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from harness.errors import DataError
from harness.schema.dataset import Dataset

SCHEMA = 2
"""Of the folder. Raised when the same source would be decoded into something else."""

ABANDONED = 24 * 3600
"""Seconds after which the unfinished folder of a process that died is swept away."""


@dataclass(frozen=True)
class Unreadable:
    """In place of an image: why there is none, and the SHA-256 of the bytes that should be one."""

    why: str
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


@dataclass(frozen=True)
class Source:
    """Where images come from. ``identity`` is the hash of its bytes; ``read`` opens it."""

    name: str
    description: str
    identity: str
    read: Callable[[], Content]


@dataclass(frozen=True)
class Provenance:
    """The images as the source had them, before they were cut square and resized."""

    digests: np.ndarray
    """uint8 (N, 32): SHA-256 of each image's own pixels; of its bytes where it is unreadable."""
    sizes: np.ndarray
    """int32 (N, 2): height and width; 0 where it is unreadable."""
    unreadable: dict[int, str]
    """Id -> why. Such an image is black in a tolerant folder."""
    source: str


def get_or_decode(source: Source, image_size: int, cache: Path, *, tolerant: bool = False) -> Path:
    """The folder of ``source`` decoded at ``image_size`` pixels, made now unless it lies there.

    A damaged folder is made again. When two processes make the same one, the first to finish
    wins and the other takes it. Raises DataError for content that must not be trained on (single
    unreadable images too, unless ``tolerant``), and when ``cache`` cannot be written.
    """
    resizer = resizer_version()
    key = json.dumps([source.identity, source.name, image_size, resizer, SCHEMA])
    folder = cache / hashlib.sha256(key.encode()).hexdigest()[:24]
    if is_whole(folder):
        return folder if tolerant else _refusing_unreadable(folder)
    making = cache / f".making-{folder.name}-{uuid4().hex}"
    try:
        making.mkdir(parents=True)
        _sweep(cache)
        meta = {"name": source.name, "source": source.description, "resizer": resizer}
        content = source.read()
        _write(making, content if tolerant else _strict(content), image_size, meta)
        _publish(making, folder)
    except OSError as error:
        raise DataError(f"{cache}: cannot keep the decoded images there: {error}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def open_dataset(folder: Path) -> Dataset:
    """The Dataset in ``folder``, its images mapped and not loaded; DataError if it is damaged."""
    meta = _meta(folder)
    if meta is None:
        raise DataError(f"{folder}: not a whole folder of decoded images; prepare the data again")
    try:
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        small = {
            name: np.load(folder / f"{name}.npy", allow_pickle=False)
            for name in ("labels", "groups", "given")
            if f"{name}.npy" in meta["files"]
        }
        return Dataset(
            name=meta["name"],
            images=images,
            labels=small["labels"],
            class_names=tuple(meta["class_names"]),
            fingerprint=meta["fingerprint"],
            groups=small["groups"],
            given=small.get("given"),
        )
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"{folder}: damaged decoded images; delete it: {error}") from error


def provenance(folder: Path) -> Provenance:
    """What the images in ``folder`` were in their source; DataError if it is damaged."""
    meta = _meta(folder)
    if meta is None:
        raise DataError(f"{folder}: not a whole folder of decoded images; prepare the data again")
    digests, sizes = (
        np.load(folder / f"{n}.npy", allow_pickle=False) for n in ("digests", "sizes")
    )
    unreadable = {int(i): why for i, why in meta["unreadable"].items()}
    return Provenance(digests, sizes, unreadable, meta["source"])


def is_whole(folder: Path) -> bool:
    """Whether every file that ``meta.json`` lists lies in ``folder`` with its full size."""
    return _meta(folder) is not None


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
    how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (size, size), interpolation=how))


def _meta(folder: Path) -> dict[str, Any] | None:
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in meta["files"]}
        whole = meta["schema"] == SCHEMA and sizes == meta["files"]
        needed = {f"{name}.npy" for name in ("images", "labels", "groups", "digests", "sizes")}
        return meta if whole and needed <= sizes.keys() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refusing_unreadable(folder: Path) -> Path:
    for why in provenance(folder).unreadable.values():
        raise _unusable(why)
    return folder


def _strict(content: Content) -> Content:
    """The same content, which raises at the first image that cannot be read."""

    def batches() -> Iterator[Batch]:
        for batch in content.batches():
            for image in () if isinstance(batch, np.ndarray) else batch:
                if isinstance(image, Unreadable):
                    raise _unusable(image.why)
            yield batch

    return replace(content, batches=batches)


def _unusable(why: str) -> DataError:
    return DataError(f"{why}; clean = true leaves such images out")


def _write(folder: Path, content: Content, size: int, meta: dict[str, str]) -> None:
    where = meta["name"]
    _check_classes(content, where)
    labels = content.labels.astype("<i8")
    _check_room(folder, len(labels), size)
    written = _write_images(folder / "images.npy", content, size, where)
    first: dict[bytes, int] = {}
    groups = np.array([first.setdefault(d, i) for i, d in enumerate(written.digests)], "<i8")
    arrays = {
        "labels": labels,
        "groups": groups,
        "digests": np.frombuffer(b"".join(written.originals), np.uint8).reshape(-1, 32),
        "sizes": np.array(written.sizes, "<i4"),
    }
    if content.given is not None:
        arrays["given"] = content.given.astype("<i8")
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    whole = meta | {
        "schema": SCHEMA,
        "image_size": size,
        "class_names": content.class_names,
        "fingerprint": _fingerprint(written.digests, arrays, size, content.class_names),
        "unreadable": written.unreadable,
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    (folder / "meta.json").write_text(json.dumps(whole, indent=1), "utf-8")


@dataclass
class _Written:
    """What was learnt of the images while they were written."""

    digests: list[bytes] = field(default_factory=list)
    """SHA-256 of each image's final pixels."""
    originals: list[bytes] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    brightest: int = 0

    def add(self, image: np.ndarray | Unreadable, size: int) -> np.ndarray:
        """Take notes of one image and give its final pixels."""
        if isinstance(image, Unreadable):
            self.unreadable[len(self.digests)] = image.why
            pixels, shape = np.zeros((size, size, 3), np.uint8), (0, 0)
        else:
            pixels, shape = np.ascontiguousarray(square(image, size)), image.shape[:2]
        final = hashlib.sha256(pixels.data).digest()
        self.digests.append(final)
        self.originals.append(final if shape == (size, size) else original_digest(image))
        self.sizes.append((shape[0], shape[1]))
        self.brightest = self.brightest if self.brightest > 1 else int(pixels.max())
        return pixels


def original_digest(image: np.ndarray | Unreadable) -> bytes:
    """SHA-256 of an image's pixels as the source has them; of its bytes if it is unreadable."""
    if isinstance(image, Unreadable):
        return image.digest
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()


def _write_images(path: Path, content: Content, size: int, where: str) -> _Written:
    """Write image after image, and say what they were."""
    count, written = len(content.labels), _Written()
    # Written, not mapped: dirty pages of a mapping would count as memory of this process.
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for images in content.batches():
            for image in images:
                file.write(written.add(image, size).data)
        file.flush()
        os.fsync(file.fileno())
    if written.brightest < 2:
        scaled = "no pixel is above 1: pixels already scaled to 0-1?"
        raise DataError(f"{where}: {scaled} give raw 0-255 pixels")
    if len(written.digests) != count:
        raise DataError(f"{where}: {len(written.digests)} images but {count} labels")
    return written


def _fingerprint(
    digests: list[bytes], arrays: dict[str, np.ndarray], size: int, class_names: tuple[str, ...]
) -> str:
    """SHA-256 of shape, names, pixels (as their own SHA-256 each), labels and given split."""
    given = arrays.get("given")
    shape = [len(digests), size, size, 3]
    total = hashlib.sha256(json.dumps([shape, class_names, given is not None]).encode())
    total.update(b"".join(digests))
    total.update(arrays["labels"].tobytes())
    if given is not None:
        total.update(given.tobytes())
    return total.hexdigest()[:24]


def _check_classes(content: Content, where: str) -> None:
    names, present = content.class_names, np.unique(content.labels)
    if len(content.labels) == 0:
        raise DataError(f"{where}: it holds no images")
    if len(present) < 2:
        raise DataError(f"{where}: fewer than two classes: every image has label {present[0]}")
    if len(set(names)) < len(names):
        raise DataError(f"{where}: two classes have the same name: {', '.join(names)}")
    absent = sorted(set(range(len(names))) - set(present.tolist()))
    if absent:
        absentee = f"class {names[absent[0]]!r} (label {absent[0]})"
        raise DataError(f"{where}: {absentee} has no images")


def _check_room(folder: Path, count: int, size: int) -> None:
    need, free = count * size * size * 3, shutil.disk_usage(folder).free
    if need > free:
        what = f"{count:,} images of {size} px take {need / 1e9:.1f} GB"
        raise DataError(f"{folder.parent}: {what}, but {free / 1e9:.1f} GB are free there")


def _publish(making: Path, folder: Path) -> None:
    for attempt in range(10):
        try:
            making.rename(folder)
            return
        except OSError:
            if is_whole(folder):
                return  # another process was faster
            if attempt == 9:
                raise
        damaged = making.with_name(f"{making.name}-replaced")
        with suppress(OSError):  # another process may be moving it away as well
            folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)


def _sweep(cache: Path) -> None:
    """Remove what processes left behind that died while they decoded."""
    for path in cache.glob(".making-*"):
        try:
            old = time.time() - path.stat().st_mtime > ABANDONED
        except OSError:
            continue  # its owner has just renamed it
        if old:
            shutil.rmtree(path, ignore_errors=True)
