"""The removal manifest: exactly which images are left out of a source, and why.

A CSV file, ``index,sha256,kind,reason``, one line an image. The hash is that of the image's pixels
as the source has them, so one manifest fits every training size, and only the data it was made
for. Whoever disagrees deletes a line, or adds one.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.data.image_cache import Batch, Content, Source, Unreadable, original_digest
from harness.errors import DataError

COLUMNS = ("index", "sha256", "kind", "reason")
LARGEST_FILE = 1 << 28
ADVICE = "; make one for this data: wbc-bench data audit SOURCE"


@dataclass(frozen=True)
class Removal:
    """One image to leave out: its index in the source, its hash in hexadecimal, and why."""

    index: int
    sha256: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """Removals by rising index; ``name`` is the file it came from, for messages."""

    removals: tuple[Removal, ...]
    name: str = "the manifest"

    @property
    def identity(self) -> str:
        """SHA-256 of which images go; the wording of the reasons is no part of it."""
        lines = "".join(f"{one.index} {one.sha256}\n" for one in self.removals)
        return hashlib.sha256(lines.encode()).hexdigest()

    def text(self) -> str:
        """The CSV file."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((one.index, one.sha256, one.kind, one.reason) for one in self.removals)
        return out.getvalue()


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file; DataError names the line that is none."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DataError(f"{path}: too large for a manifest")
        text = path.read_text("utf-8")
    except FileNotFoundError:
        hint = "'wbc-bench data audit' writes one"
        raise DataError(f"{path}: no such manifest; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return parse(text, str(path))


def parse(text: str, name: str) -> Manifest:
    """The manifest in a CSV text; DataError names the line that is none."""
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise DataError(f"{name}: not a manifest: {error}") from None
    if not rows or tuple(rows[0]) != COLUMNS:
        raise DataError(f"{name}: not a manifest: its first line must be {','.join(COLUMNS)}")
    found: dict[int, Removal] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        one = _removal(row, f"{name}: line {number}")
        if one.index in found:
            raise DataError(f"{name}: line {number}: image {one.index} is removed twice")
        found[one.index] = one
    return Manifest(tuple(found[i] for i in sorted(found)), name)


def cleaned(source: Source, manifest: Manifest) -> Source:
    """``source`` without the images that the manifest removes; everything else as it was.

    Reading it raises DataError where the manifest does not fit: an index beyond the data, or an
    image that is not the one that was audited.
    """
    if not manifest.removals:
        return source

    def read() -> Content:
        content = source.read()
        _require_in_range(manifest, len(content.labels), source)
        kept = np.ones(len(content.labels), bool)
        kept[[one.index for one in manifest.removals]] = False
        return replace(
            content,
            labels=content.labels[kept],
            batches=lambda: _kept(content, manifest, source),
            given=None if content.given is None else content.given[kept],
        )

    count = f"{len(manifest.removals):,} image{'s' if len(manifest.removals) > 1 else ''} removed"
    return Source(
        name=f"{source.name}, cleaned",
        description=f"{source.description}; {count}, manifest {manifest.identity[:16]}",
        identity=hashlib.sha256(f"{source.identity} {manifest.identity}".encode()).hexdigest(),
        read=read,
    )


def _kept(content: Content, manifest: Manifest, source: Source) -> Iterator[Batch]:
    goes = {one.index: one for one in manifest.removals}
    start = 0
    for batch in content.batches():
        here = [i for i in range(start, start + len(batch)) if i in goes]
        for i in here:
            _require_same(goes[i], batch[i - start], manifest, source)
        if isinstance(batch, np.ndarray):
            yield np.delete(batch, [i - start for i in here], axis=0) if here else batch
        else:
            yield [image for i, image in enumerate(batch, start) if i not in goes]
        start += len(batch)


def _require_in_range(manifest: Manifest, count: int, source: Source) -> None:
    last = manifest.removals[-1].index
    if last >= count:
        raise DataError(
            f"{manifest.name} does not fit {source.name}: it removes image {last}, "
            f"but there are {count:,}{ADVICE}"
        )


def _require_same(
    one: Removal, image: np.ndarray | Unreadable, manifest: Manifest, source: Source
) -> None:
    if original_digest(image).hex() != one.sha256:
        raise DataError(
            f"{manifest.name} does not fit {source.name}: image {one.index} is not the one that "
            f"was audited{ADVICE}"
        )


def _removal(row: list[str], where: str) -> Removal:
    if len(row) != len(COLUMNS):
        raise DataError(f"{where}: {len(row)} fields; {','.join(COLUMNS)} are {len(COLUMNS)}")
    index, sha256, kind, reason = row
    if not (index.isascii() and index.isdecimal() and len(index) < 12):
        raise DataError(f"{where}: {index[:40]!r} is not the index of an image")
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise DataError(f"{where}: {sha256[:70]!r} is not a SHA-256 (64 hexadecimal digits)")
    return Removal(int(index), sha256, kind, reason)
