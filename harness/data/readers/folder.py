"""A reader of image folders: one sub-folder per class, sorted by name; PNG, JPEG, TIFF or BMP.

Sub-folders of a class belong to it. Hidden files are ignored. Every image becomes 8-bit RGB:
transparency on white (the background of a smear), 16 bits by their upper 8 (the same for every
image, so that brightness stays comparable), rotated as its EXIF orientation says.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.data.image_cache import Content, Unreadable
from harness.data.readers.npz import DAMAGE, LARGEST_SIDE
from harness.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

PART_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}
"""Names of sub-folders that are parts of a split, and not classes."""

BATCH = 16
"""Images decoded in parallel."""


def scan(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, both sorted by name.

    Raises DataError without sub-folders, for a class without images, and for parts of a split
    instead of classes.
    """
    try:
        entries = [e for e in folder.iterdir() if e.is_dir() and not e.name.startswith(".")]
        classes = {entry.name: _images_in(entry) for entry in sorted(entries)}
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error}") from error
    if not classes:
        raise DataError(f"{folder}: no sub-folders; put the images of each class into one of them")
    if {name.lower() for name in classes} <= PART_NAMES:
        parts = ", ".join(classes)
        raise DataError(f"{folder}: {parts} are parts of a split, not classes; give one of them")
    for name, files in classes.items():
        if not files:
            kinds = ", ".join(SUFFIXES)
            raise DataError(f"{folder / name}: no images in this class folder ({kinds})")
    return classes


def identity(folder: Path, classes: dict[str, list[Path]]) -> str:
    """SHA-256 over the relative names and the bytes of all images."""
    total = hashlib.sha256()
    for path in (path for files in classes.values() for path in files):
        try:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        total.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def read_folder(classes: dict[str, list[Path]]) -> Content:
    """Images by class; labels in the order of the sorted class names."""
    paths = [path for files in classes.values() for path in files]
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])

    def batches() -> Iterator[list[np.ndarray | Unreadable]]:
        # Pillow releases the interpreter lock while it decodes, so threads are enough.
        with ThreadPoolExecutor(min(BATCH, os.cpu_count() or 1)) as pool:
            for start in range(0, len(paths), BATCH):
                yield list(pool.map(_decode_or_report, paths[start : start + BATCH]))

    return Content(labels, tuple(classes), batches)


def decode(path: Path) -> np.ndarray:
    """One image file as uint8 RGB (h, w, 3), upright; DataError naming it if unreadable."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=("PNG", "JPEG", "TIFF", "BMP")) as image:
            if max(image.size) > LARGEST_SIDE:
                size = f"{image.width} x {image.height}"
                raise DataError(f"{path}: {size} pixels; sides may be 1 to {LARGEST_SIDE}")
            return _rgb(ImageOps.exif_transpose(image), path)
    except (*DAMAGE, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path}: unreadable image: {reason}") from error


def _decode_or_report(path: Path) -> np.ndarray | Unreadable:
    try:
        return decode(path)
    except DataError as error:
        return Unreadable(str(error), hashlib.sha256(path.read_bytes()).digest())


def _rgb(image: Image, path: Path) -> np.ndarray:
    from PIL import Image as images

    if image.mode == "F":
        raise DataError(f"{path}: float pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise DataError(f"{path}: pixels beyond 16 bits; save it with 8 or 16 bits")
        return np.repeat((pixels >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = images.alpha_composite(images.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _images_in(folder: Path) -> list[Path]:
    """All image files below a folder, sorted. Raises OSError for one that cannot be listed."""

    def fail(error: OSError) -> None:
        raise error

    paths = []
    for root, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [name for name in files if not name.startswith(".")]
        paths += [Path(root, name) for name in names if name.lower().endswith(SUFFIXES)]
    return sorted(paths)
