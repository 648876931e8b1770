"""MedMNIST: its file layout with its own split, and the download of BloodMNIST.

BloodMNIST is CC BY 4.0, from Acevedo et al. 2020 (Data in Brief 30, 105474); the layout and the
addresses are those of MedMNIST v2+ (Yang et al. 2023, Scientific Data 10, 41).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from harness.data.image_cache import Content
from harness.data.readers import npz
from harness.errors import DataError, Offline
from harness.storage.file_lock import FileLock

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

USER_AGENT = "wbc-bench/0.1"
"""Zenodo throttles clients without a name."""

BUSY = (429, 500, 502, 503, 504)
"""HTTP statuses after which a request is repeated."""

BLOCK = 1 << 16
"""Bytes written at once, which a broken connection may lose."""

TRIES = 5
LONGEST_WAIT = 60
"""Seconds before the next try, whatever the server asks for."""


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


def download(url: str, md5: str, target: Path) -> Path:
    """Download ``url`` to ``target`` unless it exists with this MD5; a partial file is resumed.

    Raises Offline where the network or the server does not answer, DataError for a file with
    another MD5.
    """
    import pooch
    import requests

    part = target.with_name(f"{target.name}.part")

    def resume(url: str, output: str, _pooch: object) -> None:
        lock = FileLock(part)
        if not lock.acquire(blocking=False):
            raise DataError(f"{part}: another process is downloading it")
        try:
            _resume(url, part)
            part.replace(output)
        finally:
            lock.release()

    try:
        pooch.get_logger().setLevel("WARNING")
        pooch.retrieve(url, f"md5:{md5}", target.name, target.parent, downloader=resume)
    except requests.RequestException as error:
        reason = " ".join(str(error).split())[:160]
        hint = f"download {url} by hand and put it at {target}"
        raise Offline(f"cannot download {target.name} ({reason}); {hint}") from error
    except ValueError as error:
        raise DataError(f"{url} gave a file with another MD5 than {md5}; try again") from error
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error}") from error
    return target


def _resume(url: str, part: Path) -> None:
    """Complete a partial file. Broken connections and busy servers are tried again."""
    import requests
    from requests.adapters import HTTPAdapter
    from requests.exceptions import ChunkedEncodingError
    from urllib3 import Retry

    retry = Retry(
        total=TRIES - 1,
        connect=0,
        read=0,
        status_forcelist=BUSY,
        backoff_factor=1,
        retry_after_max=LONGEST_WAIT,
    )
    with requests.Session() as session:
        session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        for attempt in range(TRIES):
            size = part.stat().st_size
            headers = {"Range": f"bytes={size}-"} if size else {}
            try:
                with session.get(url, headers=headers, stream=True, timeout=30) as answer:
                    if answer.status_code == 416:  # The partial file is not of this file.
                        part.write_bytes(b"")
                        continue
                    answer.raise_for_status()
                    with part.open("ab" if answer.status_code == 206 else "wb") as file:
                        for block in answer.iter_content(BLOCK):
                            file.write(block)
                    return
            except (requests.ConnectionError, ChunkedEncodingError):
                if part.stat().st_size == size:
                    raise  # Not a byte arrived.
                time.sleep(2**attempt)
        raise requests.ConnectionError(f"no whole answer in {TRIES} tries")
