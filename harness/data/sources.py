"""Data sources: from the name or path that a user types to decoded images.

====================  ==========================================================================
``smear[@COUNT]``     the embedded synthetic set; COUNT images, by default 3,000
``bloodmnist[@SIZE]`` BloodMNIST at 28, 64, 128 or 224 pixels, downloaded once; by default the
                      smallest that needs no enlarging
a file                npz: the challenge's layout, or MedMNIST's
a folder              one sub-folder of images per class, or parts with such folders
====================  ==========================================================================

These names win over files of the same name; write ``./smear`` for the file.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.data.image_cache import Batch, Content, Source, get_or_decode
from harness.data.readers import folder as image_folder
from harness.data.readers import medmnist, npz
from harness.errors import DataError, IgnoredFile, did_you_mean, home_expanded

NAMES = ("smear", "bloodmnist")
SMEAR_COUNT = 3000
SMEAR_SEED = 0


def prepare(source: str, image_size: int, cache: Path) -> Path:
    """The folder in ``cache`` with ``source`` decoded at ``image_size`` pixels, made once.

    Raises DataError for a source that does not exist, cannot be read or must not be trained on,
    Offline where it must be downloaded.
    """
    return get_or_decode(find(source, image_size), image_size, cache)


def kept(source: Source, begin: int, end: int) -> Source:
    """``source`` with the images from ``begin`` up to ``end`` alone, counted from 0 again.

    Reading it raises DataError where the source has fewer images.
    """

    def read(content: Content) -> Content:
        if end > (count := len(content.labels)):
            raise DataError(f"{source.name} has {count:,} images; keep = [{begin}, {end}] is more")
        first = replace(content, batches=lambda: _batches_until(content.batches(), end))
        return first.take((begin <= np.arange(count)) & (np.arange(count) < end))

    images = f"{begin:,} to {end - 1:,}"
    return source.changed(images, f"its images {images}", f"{begin} {end}", read)


def _batches_until(batches: Iterator[Batch], end: int) -> Iterator[Batch]:
    """Those with the images before ``end``; the others are not decoded."""
    for batch in batches:
        yield batch
        end -= len(batch)
        if end <= 0:
            return


def find(source: str, image_size: int) -> Source:
    """The source for a name or path, without decoding anything yet."""
    name, at, number = source.partition("@")
    if name == "smear":
        return _smear(_count(source, number) if at else SMEAR_COUNT)
    if name == "bloodmnist":
        size = medmnist.published_size(source, image_size)
        return _npz(medmnist.published_file(source, image_size), f"bloodmnist@{size}")
    try:
        path = home_expanded(source)
        if source and path.is_dir():
            return _folder(path)
        if path.is_file():
            return _npz(path, path.stem)
        if source and path.exists():
            raise DataError(f"{source!r} is neither a file nor a folder")
        raise DataError(f"no such data: {source!r}{_nearest(path)}")
    except OSError as error:  # a name too long, no permission
        raise DataError(f"{source!r} cannot be opened: {error}") from error


def _smear(count: int) -> Source:
    from harness.data.synthetic import smear

    def read() -> Content:
        drawn = smear.draw(count, seed=SMEAR_SEED)
        return Content(drawn.labels, tuple(smear.CLASS_NAMES), lambda: iter([drawn.images]))

    identity = hashlib.sha256(f"smear {count} {SMEAR_SEED} {smear.VERSION}".encode()).hexdigest()
    description = f"{count:,} drawn cells, seed {SMEAR_SEED}, drawing {smear.VERSION}"
    name = "smear" if count == SMEAR_COUNT else f"smear@{count}"
    return Source(name, description, identity, read)


def _npz(path: Path, name: str) -> Source:
    def read() -> Content:
        if medmnist.has_layout(npz.keys(path)):
            return medmnist.read_medmnist(path)
        return npz.read_challenge(path)

    identity = npz.identity(path)
    return Source(name, f"{path.name}, SHA-256 {identity[:16]}", identity, read)


def _folder(path: Path) -> Source:
    images = image_folder.scan(path)
    name = image_folder.text_of(path.resolve().name) or "images"
    if images.passed_over:
        listed = ", ".join(images.passed_over)
        warnings.warn(IgnoredFile(f"{path}: passed over {listed}"), stacklevel=2)
    return Source(
        name,
        f"{len(images.paths):,} image files in {len(images.class_names)} class folders",
        image_folder.identity(images),
        lambda: image_folder.read_folder(images),
        images.passed_over,
    )


def _count(source: str, digits: str) -> int:
    if not (digits.isascii() and digits.isdecimal() and 0 < int(digits) <= 10**7):
        example = f"smear@{SMEAR_COUNT}"
        raise DataError(f"{source!r}: not a number of images; write for example {example}")
    return int(digits)


def _nearest(path: Path) -> str:
    """A hint: an entry of the path's folder with a similar name, or a known name."""
    if path.parent.is_dir():
        near = did_you_mean(path.name, (p.name for p in path.parent.iterdir() if p.name[0] != "."))
        if near.startswith("; did you mean"):
            return near.replace(" '", f" '{path.parent}/", 1) if path.parent != Path() else near
    else:
        return f"; there is no folder {str(path.parent)!r}"
    return did_you_mean(path.name, NAMES)
