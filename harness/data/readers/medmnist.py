"""MedMNIST: its file layout with its own split, and BloodMNIST by name, downloaded once.

BloodMNIST is CC BY 4.0, from Acevedo et al. 2020 (Data in Brief 30, 105474); the layout and the
addresses are those of MedMNIST v2+ (Yang et al. 2023, Scientific Data 10, 41).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from harness.data.image_cache import Content
from harness.data.readers import npz
from harness.errors import DataError, Offline
from harness.execution.locks import FileLock

PARTS = ("train", "val", "test")
"""In the order of ``Dataset.given``: 0, 1, 2."""

ADDRESS = "https://zenodo.org/records/10519652/files/{filename}?download=1"

BLOODMNIST = {
    28: ("bloodmnist.npz", "7053d0359d879ad8a5505303e11de1dc"),
    64: ("bloodmnist_64.npz", "2b94928a2ae4916078ca51e05b6b800b"),
    128: ("bloodmnist_128.npz", "adace1e0ed228fccda1f39692059dd4c"),
    224: ("bloodmnist_224.npz", "b718ff6835fcbdb22ba9eacccd7b2601"),
}
"""Side in pixels -> file name and MD5, as MedMNIST publishes them."""

USER_AGENT = "wbc-bench/0.1"
"""Zenodo throttles clients without a name."""

BUSY = (429, 500, 502, 503, 504)
"""HTTP statuses after which it is polite, and useful, to ask again later."""

BLOCK = 1 << 16
"""Bytes written at once; what a broken line may lose."""

TRIES = 5
LONGEST_WAIT = 60.0
"""Seconds before the next try, whatever the server asks for."""


# --- the layout ----------------------------------------------------------------------------------


def has_layout(keys: list[str]) -> bool:
    return any(f"{part}_{what}" in keys for part in PARTS for what in ("images", "labels"))


def read_medmnist(path: Path) -> Content:
    """The parts after one another; their split is kept as ``given``. Raises DataError.

    A file without ``val`` or ``test`` is read too; splitting it says what it lacks.
    """
    held = npz.keys(path)
    found = [p for p in PARTS if f"{p}_images" in held or f"{p}_labels" in held]
    stacks = [npz.member(path, f"{part}_images") for part in found]
    label_arrays = [npz.member(path, f"{part}_labels") for part in found]
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

    names = npz.read_class_names(path, int(values.max()) + 1, colour=npz.is_colour(stacks[0]))
    given = np.repeat([PARTS.index(part) for part in found], [len(part) for part in labels])
    return Content(values, names, batches, given)


# --- the download --------------------------------------------------------------------------------


def fetch(source: str, image_size: int = 96) -> Path:
    """The file of ``bloodmnist[@SIZE]`` in ``~/.medmnist``, MedMNIST's own root.

    Downloaded unless it is there with the right MD5. Raises DataError for another source or
    size, Offline without a network.
    """
    filename, md5 = BLOODMNIST[published_size(source, image_size)]
    return download(ADDRESS.format(filename=filename), md5, Path.home() / ".medmnist" / filename)


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


def download(url: str, md5: str, target: Path, sleep: Callable[[float], None] = time.sleep) -> Path:
    """Download ``url`` to ``target`` unless it lies there with this MD5; a partial file goes on.

    Raises Offline where the network or the server does not answer, DataError where what it gave
    has another MD5.
    """
    import pooch
    import requests

    def resume(url: str, output: str, _pooch: object) -> None:
        part = target.with_name(f"{target.name}.part")
        lock = FileLock(part)
        if not lock.acquire(blocking=False):
            raise DataError(f"{part}: another process is downloading it")
        try:
            with part.open("ab") as file:
                _fill(url, file, sleep)
            part.replace(output)
        finally:
            lock.release()

    try:
        pooch.get_logger().setLevel("WARNING")
        pooch.retrieve(url, f"md5:{md5}", target.name, target.parent, downloader=resume)
    except requests.RequestException as error:
        why = " ".join(str(error).split())[:160]
        hint = f"download {url} by hand and put it at {target}"
        raise Offline(f"cannot download {target.name} ({why}); {hint}") from error
    except ValueError as error:
        raise DataError(f"{url} gave a file with another MD5 than {md5}; try again") from error
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error}") from error
    return target


def _fill(url: str, file: BinaryIO, sleep: Callable[[float], None]) -> None:
    """Fill ``file``, going on where it ends; wait while the server is busy or the line breaks."""
    import requests

    broken = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
    for attempt in range(TRIES):
        before = file.tell()
        try:
            wait = _receive(url, file)
        except broken:
            if file.tell() == before:
                raise  # not a byte came: there is no network to wait for
            wait = 1.0
        if wait is None:
            return
        sleep(min(max(wait, 2.0**attempt), LONGEST_WAIT))
    raise requests.ConnectionError(f"no whole answer in {TRIES} tries")


def _receive(url: str, file: BinaryIO) -> float | None:
    """Append what is missing of ``url``: None when whole, else the seconds to wait."""
    import requests

    have = file.tell()
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
        if answer.status_code in BUSY:
            asked = answer.headers.get("Retry-After", "")
            return float(asked) if asked.isdecimal() else 1.0
        if answer.status_code == 416:  # the partial file is no beginning of this one
            file.truncate(file.seek(0))
            return 0.0
        answer.raise_for_status()
        if answer.status_code != 206:
            file.truncate(file.seek(0))
        for block in answer.iter_content(BLOCK):
            file.write(block)
        file.flush()
    return None
