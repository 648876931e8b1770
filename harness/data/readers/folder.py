"""A reader of image folders: one sub-folder per class, sorted by name, or parts with such folders.

Sub-folders of a class belong to it, links are followed. Folders train, validation and test that
hold the classes are the source's own split. What is passed over is counted, by kind.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from harness.data.image_cache import Content, Unreadable
from harness.data.readers.image_file import (
    SUFFIXES,
    content_of,
    decode_or_report,
    read_header,
    set_depth,
)
from harness.errors import DataError, path_error

PARTS = (
    {"train", "training"},
    {"val", "valid", "validation", "dev"},
    {"test", "testing"},
)
"""Words in the names of folders that are parts of a split, and not classes."""
METADATA = {
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found",
}  # fmt: skip
"""Folders that systems leave: as hidden ones, they hold no images of the user's."""

BATCH, BATCH_PIXELS = 16, 1 << 26
"""Images decoded at once, and pixels of such images, of which one may have more alone."""


PassedOver = defaultdict[str, list[str]]
"""What a scan did not take for an image: kind -> names."""


@dataclass(frozen=True)
class FolderImages:
    """The image files of a folder, in the order of its data set."""

    root: Path
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: np.ndarray
    given: np.ndarray | None
    """The part of each image, where the folders are those of a split."""
    passed_over: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(text_of(path.relative_to(self.root).as_posix()) for path in self.paths)


def text_of(name: str) -> str:
    """A file name, which is bytes, as printable text: UTF-8, other bytes as escapes; composed."""
    text = unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def scan(folder: Path) -> FolderImages:
    """The images of each class, both sorted by name.

    Raises DataError without sub-folders, for a class without images, and for parts of a split
    that are no split.
    """
    passed = PassedOver(list)
    try:
        tops = _folders(folder, passed)
        found = _images_of_classes(folder, tops, passed)
    except OSError as error:
        raise DataError(
            f"{path_error(error, error.filename or folder)}: cannot be listed"
        ) from error
    if not tops:
        raise DataError(f"{folder}: no sub-folders; put the images of each class into one of them")
    part_of = _parts(folder, found)
    if part_of is None:
        classes = {name: {name: files} for name, files in found.items()}
    else:
        classes = {name: _by_folder(folder / name, files) for name, files in found.items()}
    return _images(folder, classes, part_of, passed)


def _images(
    folder: Path,
    found: dict[str, dict[str, list[Path]]],
    part_of: dict[str, int] | None,
    passed: PassedOver,
) -> FolderImages:
    """``found``: folder of a part (or, without parts, of a class) -> class -> files."""
    names = sorted({name for classes in found.values() for name in classes})
    for name in names:
        if not any(classes.get(name) for classes in found.values()):
            kinds = ", ".join(SUFFIXES)
            raise DataError(f"{folder / name}: no images in this class folder ({kinds})")
    tops = sorted(found, key=lambda top: (part_of[top] if part_of else 0, top))
    listed = [
        (path, names.index(name), part_of[top] if part_of else 0)
        for top in tops
        for name, files in sorted(found[top].items())
        for path in files
    ]
    parts = np.array([part for _, _, part in listed], np.int64)
    return FolderImages(
        folder,
        tuple(map(text_of, names)),
        tuple(path for path, _, _ in listed),
        np.array([label for _, label, _ in listed], np.int64),
        parts if part_of else None,
        tuple(
            f"{len(passed[kind]):,} {kind} ({text_of(passed[kind][0])})" for kind in sorted(passed)
        ),
    )


def identity(images: FolderImages) -> str:
    """SHA-256 over the relative names and the bytes of all images."""
    total = hashlib.sha256()
    for path in images.paths:
        content = hashlib.sha256(content_of(path)).hexdigest()
        name = os.fsencode(path.relative_to(images.root).as_posix())
        total.update(name + f"\0{content}\n".encode())
    return total.hexdigest()


def read_folder(images: FolderImages) -> Content:
    """Images by part and class; labels in the order of the sorted class names."""
    files = images.files
    # Pillow releases the interpreter lock while it decodes, so threads are enough.
    with ThreadPoolExecutor(min(BATCH, os.cpu_count() or 1)) as pool:
        headers = list(pool.map(read_header, images.paths))
    bits, notes = set_depth(headers, files)

    def batches() -> Iterator[list[np.ndarray | Unreadable]]:
        with ThreadPoolExecutor(min(BATCH, os.cpu_count() or 1)) as pool:
            for some in _batches(images.paths, [header.pixels for header in headers]):
                yield list(pool.map(partial(decode_or_report, bits=bits), some))

    return Content(
        images.labels, images.class_names, batches, images.given, files=files, notes=notes
    )


def _batches(paths: Sequence[Path], pixels: Sequence[int]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    total = 0
    for path, size in zip(paths, pixels, strict=True):
        if batch and (len(batch) == BATCH or total + size > BATCH_PIXELS):
            yield batch
            batch, total = [], 0
        batch.append(path)
        total += size
    yield batch


# --- parts of a split ----------------------------------------------------------------------------


def _parts(folder: Path, found: dict[str, list[Path]]) -> dict[str, int] | None:
    """Folder -> part, where the folders are parts of a split; None where they are classes.

    The sign is that several hold the same sub-folders, or that all are called as parts are. Raises
    DataError where they are not one of each part.
    """
    inner = {name: frozenset(_by_folder(folder / name, files)) for name, files in found.items()}
    same_folders = [
        name
        for name, own in inner.items()
        if len(own) > 1 and "" not in own and list(inner.values()).count(own) > 1
    ]
    named = {name: _part_named(name) for name in found}
    flat = any("" in own for own in inner.values())
    exact = all(any(name.casefold() in words for words in PARTS) for name in found)
    if not same_folders and (None in named.values() or (flat and not exact)):
        return None
    parts = [part for part in named.values() if part is not None]
    one_each = len(parts) == len(found) > 1 == max(Counter(parts).values())
    if one_each and not flat and all(inner.values()):
        return {name: part for name, part in named.items() if part is not None}
    listed = ", ".join(map(text_of, sorted(same_folders or found)))
    inside = ", ".join(map(text_of, sorted(inner[same_folders[0]])[:3])) if same_folders else ""
    same = f" hold the same sub-folders ({inside}, ...): they" if same_folders else ""
    raise DataError(
        f"{folder}: {listed}{same} are parts of a split, not classes; give one of them"
        ", or a folder with train, validation and test alone to take their split"
    )


def _part_named(name: str) -> int | None:
    words = set(re.split(r"[^a-z]+", name.casefold()))
    found = [part for part, known in enumerate(PARTS) if words & known]
    return found[0] if len(found) == 1 else None


def _by_folder(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the sub-folder that they are in; those in none under the empty name."""
    groups: dict[str, list[Path]] = {}
    for path in files:
        first, *rest = path.relative_to(folder).parts
        groups.setdefault(first if rest else "", []).append(path)
    return groups


# --- files ---------------------------------------------------------------------------------------


def _folders(folder: Path, passed: PassedOver) -> list[Path]:
    """The folders of the classes, or parts."""
    folders = []
    for entry in sorted(folder.iterdir()):
        if _is_foreign(entry.name):
            passed["hidden or left by other programs"].append(entry.name)
        elif entry.is_dir():
            folders.append(entry)
        else:
            passed["next to the class folders"].append(entry.name)
    return folders


def _is_foreign(name: str) -> bool:
    return name.startswith(".") or name.casefold() in METADATA


def _images_of_classes(
    folder: Path, tops: Sequence[Path], passed: PassedOver
) -> dict[str, list[Path]]:
    """The image files below each folder; a link from one to another, or to all, is not followed."""
    owner: dict[tuple[int, int], Path] = {}
    for top in tops:
        other = owner.setdefault(_inode(top), top)
        if other is not top:
            names = f"{text_of(other.name)} and {text_of(top.name)}"
            raise DataError(f"{folder}: {names} are one folder, by a link; remove one of them")
    closed = {*owner, _inode(folder)}
    return {top.name: _images_in(top, passed, closed - {_inode(top)}) for top in tops}


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _images_in(folder: Path, passed: PassedOver, closed: set[tuple[int, int]]) -> list[Path]:
    """All image files below a folder, sorted. Raises OSError for one that cannot be listed.

    ``closed``: folders that are not entered.
    """

    def fail(error: OSError) -> None:
        raise error

    paths: list[Path] = []
    visited = set(closed)
    for root, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        inode = _inode(Path(root))
        if inode in visited:
            passed["folders that were reached otherwise, by a link"].append(root)
            folders.clear()
            continue
        visited.add(inode)
        for name in (name for name in folders if _is_foreign(name)):
            passed["hidden or left by other programs"].append(name)
        folders[:] = sorted(name for name in folders if not _is_foreign(name))
        for name in files:
            path = Path(root, name)
            if _is_foreign(name):
                passed["hidden or left by other programs"].append(name)
            elif not name.lower().endswith(SUFFIXES):
                passed["of no known kind of image"].append(name)
            elif path.exists() and not path.is_file():
                passed["no regular files"].append(name)
            else:  # A broken link is an image that cannot be read.
                paths.append(path)
    return sorted(paths)
