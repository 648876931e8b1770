"""Records of older versions, moved to where this version keeps them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from harness.schema.records import ExternalRecord
from harness.storage.records import FORMER_EXTERNAL, read_record, record_files, write_record


def migrate(results: Path) -> None:
    """Move the records of external predictions to ``external``, with today's field names.

    Where that folder has a record of the same name, that is the newer one. Raises StoreError.
    """
    former = results / FORMER_EXTERNAL
    for path in record_files(former):
        moved = results / "external" / path.name
        if not moved.exists():
            write_record(moved, read_record(path, ExternalRecord))
        path.unlink()
    with suppress(OSError):  # Not there, or something else is in it.
        former.rmdir()
