"""MedMNIST: its file layout with its own split, and the download of BloodMNIST.

BloodMNIST is CC BY 4.0, from Acevedo et al. 2020 (Data in Brief 30, 105474); the layout and the
addresses are those of MedMNIST v2+ (Yang et al. 2023, Scientific Data 10, 41).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.data.image_cache import Content
from harness.data.readers import npz
from harness.errors import DataError
from harness.storage.download import Download, fetch, remote_size

PARTS = ("train", "val", "test")
"""In the order of ``Dataset.given``: 0, 1, 2."""
OTHER_NAMES = {"val": "validation"}

ADDRESS = "https://zenodo.org/records/10519652/files/{filename}?download=1"

BLOODMNIST = {
    28: ("bloodmnist.npz", "7053d0359d879ad8a5505303e11de1dc"),
    64: ("bloodmnist_64.npz", "2b94928a2ae4916078ca51e05b6b800b"),
    128: ("bloodmnist_128.npz", "adace1e0ed228fccda1f39692059dd4c"),
    224: ("bloodmnist_224.npz", "b718ff6835fcbdb22ba9eacccd7b2601"),
}
"""Side in pixels -> file name and MD5, as MedMNIST publishes them."""


# --- the layout ----------------------------------------------------------------------------------


def has_layout(keys: list[str]) -> bool:
    return any(f"{part}_{array}" in keys for part in PARTS for array in ("images", "labels"))


def _prefixes(keys: list[str]) -> list[str]:
    """What the names of the arrays of each part begin with; the middle one may be written out."""
    return [
        next((p for p in (part, OTHER_NAMES.get(part, part)) if f"{p}_images" in keys
              or f"{p}_labels" in keys), "")
        for part in PARTS
    ]  # fmt: skip


def read_medmnist(path: Path) -> Content:
    """The parts in sequence, with their split as ``given``. Raises DataError.

    A file without ``val`` or ``test`` is read too; splitting it raises what is missing.
    """
    keys = npz.keys(path)
    prefixes = _prefixes(keys)
    parts = list(filter(None, prefixes))
    stacks = [npz.member(path, f"{part}_images") for part in parts]
    label_arrays = [npz.member(path, f"{part}_labels") for part in parts]
    for stack in stacks:
        npz.check_images(stack)
        if stack.shape[1:] != stacks[0].shape[1:]:
            shapes = f"{stack.shape[1:]}, but {stacks[0].key} {stacks[0].shape[1:]}"
            raise DataError(f"{stack} has images of {shapes}")
    labels = [npz.read_labels(a, s.shape[0]) for a, s in zip(label_arrays, stacks, strict=True)]
    values = np.concatenate(labels)

    def batches() -> Iterator[np.ndarray]:
        for stack in stacks:
            yield from npz.read_images(stack)

    known = npz.BLOOD_CELLS if is_bloodmnist(path.name) else ()
    names = npz.read_class_names(path, int(values.max()) + 1, known)
    given = np.repeat([prefixes.index(part) for part in parts], [len(part) for part in labels])
    return Content(values, names, batches, given)


def is_bloodmnist(name: str) -> bool:
    """Whether a name of a file or data set begins with MedMNIST's flag of BloodMNIST."""
    return re.match(r"bloodmnist(?![a-z])", name) is not None


# --- the download --------------------------------------------------------------------------------


def published_file(source: str, image_size: int = 96) -> Path:
    """The file of ``bloodmnist[@SIZE]`` in ``~/.medmnist``, MedMNIST's own root.

    Downloaded unless it is there with the right MD5. Raises DataError for another source or
    size, Offline without a network, ChecksumError for a file with another MD5.
    """
    filename, md5 = BLOODMNIST[published_size(source, image_size)]
    url, path = ADDRESS.format(filename=filename), Path.home() / ".medmnist" / filename
    download = Download(filename, url, path, f"md5:{md5}")
    if not download.matches(path):
        remote_size(download)  # Offline is known at once.
    return fetch(download)


def published_size(source: str, image_size: int) -> int:
    """The SIZE of ``bloodmnist[@SIZE]``; without one, the smallest that needs no enlarging."""
    word, at, number = source.partition("@")
    sizes = sorted(BLOODMNIST)
    listed = ", ".join(str(size) for size in sizes)
    if word != "bloodmnist":
        raise DataError(f"{source!r} cannot be downloaded; bloodmnist@SIZE can, SIZE {listed}")
    if not at:
        return next((size for size in sizes if size >= image_size), sizes[-1])
    if number not in listed.split(", "):
        raise DataError(f"{source!r}: it comes in {listed} pixels; write for example {word}@64")
    return int(number)
