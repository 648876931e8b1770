"""The removal manifest: exactly which images are left out of a source, and why.

A CSV file, ``index,sha256,kind,reason`` and perhaps ``file``, one line an image. The hash is that
of the image's pixels as the source has them, so one manifest fits every training size, and only the
data it was made for.
Lines may be deleted or added by hand.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

from harness.data.image_cache import Batch, Content, Source, original_digest
from harness.errors import DataError
from harness.storage.csv_table import csv_cell, parse_table

COLUMNS = ("index", "sha256", "kind", "reason")
FILE = "file"
"""A further column where the images are files; for readers, it identifies nothing."""
LARGEST_FILE_BYTES = 1 << 28


@dataclass(frozen=True)
class Removal:
    """One image to leave out: its index in the source, its hash in hexadecimal, and why."""

    index: int
    sha256: str
    kind: str
    reason: str
    file: str = ""


@dataclass(frozen=True)
class Manifest:
    """Removals by rising index; ``name`` is the file it came from, for messages."""

    removals: tuple[Removal, ...]
    name: str = "the manifest"

    @property
    def identity(self) -> str:
        """SHA-256 of which images are removed; the reasons are no part of it."""
        lines = "".join(f"{removal.index} {removal.sha256}\n" for removal in self.removals)
        return hashlib.sha256(lines.encode()).hexdigest()

    def to_csv(self) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        width = len(COLUMNS) + any(removal.file for removal in self.removals)
        writer.writerow((*COLUMNS, FILE)[:width])
        for removal in self.removals:
            writer.writerow([csv_cell(cell) for cell in astuple(removal)[:width]])
        return out.getvalue()


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file. Raises DataError naming the line that is invalid."""
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise DataError(f"{path}: too large for a manifest")
        if not path.is_file():  # A pipe would be waited for.
            raise DataError(f"{path}: not a regular file")
        return parse(path.read_text("utf-8-sig"), str(path))
    except FileNotFoundError:
        hint = "'wbc-bench data audit' writes one"
        raise DataError(f"{path}: no such manifest; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def parse(text: str, name: str) -> Manifest:
    """The manifest in a CSV text. Raises DataError naming the line that is invalid."""
    header, rows, lines = parse_table(text, name)
    if tuple(header) not in (COLUMNS, (*COLUMNS, FILE)):
        raise DataError(f"{name}: not a manifest: its first line must be {','.join(COLUMNS)}")
    removals: dict[int, Removal] = {}
    for row, line in zip(rows, lines, strict=True):
        removal = _parse_removal(row, f"{name}: line {line}")
        if removal.index in removals:
            raise DataError(f"{name}: line {line}: image {removal.index} is removed twice")
        removals[removal.index] = removal
    return Manifest(tuple(removals[i] for i in sorted(removals)), name)


def _parse_removal(row: list[str], where: str) -> Removal:
    index, sha256, *about = row
    if not re.fullmatch(r"[0-9]{1,11}", index):
        raise DataError(f"{where}: {index[:40]!r} is not the index of an image")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise DataError(f"{where}: {sha256[:70]!r} is not a SHA-256 (64 hexadecimal digits)")
    return Removal(int(index), sha256, *about)


def cleaned(source: Source, manifest: Manifest) -> Source:
    """``source`` without the images that the manifest removes; everything else as it was.

    Reading it raises DataError where the manifest does not fit: an index beyond the data, or an
    image that is not the one that was audited.
    """
    if not manifest.removals:
        return source

    def read(content: Content) -> Content:
        last = manifest.removals[-1].index
        if last >= len(content.labels):
            reason = f"it removes image {last}, but there are {len(content.labels):,}"
            raise _misfit(manifest, source, reason)
        kept = np.ones(len(content.labels), bool)
        kept[[removal.index for removal in manifest.removals]] = False
        checked = replace(content, batches=lambda: _checked_batches(content, manifest, source))
        return checked.take(kept)

    count = f"{len(manifest.removals):,} image{'s' if len(manifest.removals) > 1 else ''} removed"
    description = f"{count}, manifest {manifest.identity[:16]}"
    return source.changed("cleaned", description, manifest.identity, read)


def _checked_batches(content: Content, manifest: Manifest, source: Source) -> Iterator[Batch]:
    digests = {removal.index: removal.sha256 for removal in manifest.removals}
    start = 0
    for batch in content.batches():
        for i in range(start, start + len(batch)):
            if i in digests and original_digest(batch[i - start]).hex() != digests[i]:
                reason = f"image {i} is not the one that was audited"
                raise _misfit(manifest, source, reason)
        yield batch
        start += len(batch)


def _misfit(manifest: Manifest, source: Source, reason: str) -> DataError:
    return DataError(
        f"{manifest.name} does not fit {source.name}: {reason}; make one for this data: "
        "wbc-bench data audit SOURCE"
    )
