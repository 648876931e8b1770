"""What the verbs of ``data`` do: open a source, audit it, write its split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from harness.audit.inspection import inspect, prepare_data
from harness.commands.resolve import Devices, benchmark_of, overridden, workplace
from harness.config import Benchmark, Profile
from harness.data.image_cache import open_dataset, provenance
from harness.data.splitting import split_indices, table
from harness.errors import UserError
from harness.execution import devices
from harness.schema.dataset import Dataset
from harness.storage.files import write_atomically


def open_source(
    source: str | None,
    config: Path | None,
    profile: Profile | None = None,
    *,
    clean: bool = False,
    mask: bool = False,
) -> tuple[Dataset, Path]:
    """The data set of a source, or of the settings file, decoded at the profile's size."""
    at_hand = devices.visible()
    folder = _prepared(benchmark_of(config, profile, at_hand), at_hand, source, clean, mask)
    return open_dataset(folder), folder


def _prepared(
    benchmark: Benchmark, at_hand: Devices, source: str | None, clean: bool, mask: bool
) -> Path:
    data = overridden(benchmark.data, source, clean=clean, mask=mask)
    return prepare_data(data, benchmark.protocol.image_size, workplace(at_hand, benchmark))


def write_split(
    source: str | None,
    out: Path,
    profile: Profile | None,
    config: Path | None,
    *,
    clean: bool = False,
    mask: bool = False,
) -> str:
    """Write the split of a source as CSV, and say in a line what is in it."""
    at_hand = devices.visible()
    benchmark = benchmark_of(config, profile, at_hand)
    folder = _prepared(benchmark, at_hand, source, clean, mask)
    dataset = open_dataset(folder)
    parts = split_indices(benchmark.split, dataset)
    try:
        write_atomically(out, table(parts, provenance(folder).digests).encode())
    except OSError as error:
        raise UserError(f"{out}: the split cannot be written: {error}") from error
    sizes = len(parts.train), len(parts.validation), len(parts.test)
    train, validation, test = (f"{size:,}" for size in sizes)
    return (
        f"{out}: {train} training, {validation} validation, {test} test images of {len(dataset):,}"
    )


def run_audit(
    source: str | None,
    config: Path | None,
    out: Path | None,
    also: Sequence[str],
    named: Sequence[int],
) -> tuple[list[str], Path]:
    """Audit a source, write its page and manifest; the summary's lines, and the page.

    ``also``: kinds of findings to remove beside those that are removed by default. ``named``:
    images that are known to be no cells.
    """
    from harness.audit.audit import REMOVED
    from harness.audit.report import summary, write_page
    from harness.data.sources import find

    at_hand = devices.visible()
    benchmark = benchmark_of(config, None, at_hand)
    at = workplace(at_hand, benchmark)
    found = find(source or benchmark.data.source, benchmark.protocol.image_size)
    kinds = tuple(dict.fromkeys((*REMOVED, *also)))
    with Console(stderr=True).status("") as status:
        inspected = inspect(found, replace(at, tell=status.update), named)
        status.update("drawing the page")
        page = write_page(inspected, out or Path("audit") / inspected.dataset.name, kinds)
    return summary(inspected, kinds), page
