"""The report of an audit: its findings, what is removed, and figures, in one folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from tabulate import tabulate

from harness.audit import figures, outliers
from harness.audit.findings import CONSTANT_DEVIATION, KINDS, Kind, PixelStatistics
from harness.audit.pipeline import IMAGE_SIZE, MANIFEST, AuditedSource
from harness.data import duplicates
from harness.errors import DataError
from harness.schema.dataset import Dataset
from harness.storage.files import write_arrays, write_atomically

PAGE = "AUDIT.md"
FINDINGS_SHOWN = 24
"""Of one kind on a sheet."""
IMAGES_SHOWN = 6
"""Of one finding on a sheet."""
COPIES_SHOWN = 20
"""Of an outlier."""
MAPS = ("map-pca.png", "map-tsne.png")

TITLES: dict[Kind, str] = {
    "not-a-cell": "Outliers: no cell in the picture",
    "constant": "Nearly one colour",
    "unreadable": "Cannot be read",
    "several-labels": "Copies with different labels",
    "exact-copies": "Exact copies",
    "near-copies": "Near copies",
    "leak": "Copies in several parts of the given split",
    "isolated": "Isolated images",
}
DESCRIPTIONS: dict[Kind, str] = {
    "not-a-cell": "Pictures that occur again and again, and resemble nothing but their own copies.",
    "constant": "Nothing can be seen in them.",
    "unreadable": "Files that are damaged, or of a format that is not supported.",
    "several-labels": "At most one of the labels is right; which one, the pixels do not say.",
    "exact-copies": "Images with the same pixels. A split keeps them in one part.",
    "near-copies": "Copies of one another, turned, moved, compressed or taken again.",
    "leak": "A split that is used as given loses the copies outside its last part.",
    "isolated": "Single images that are least similar to any other.",
}


def write_report(audited: AuditedSource, folder: Path, kinds: Collection[str]) -> Path:
    """Write page, figures and manifest into ``folder``; the page's path.

    ``kinds`` of findings are removed. Raises DataError where it cannot be written.
    """
    files = dict(_figures(audited))
    files[MANIFEST] = audited.audit.manifest(audited.origin, kinds).to_csv().encode()
    files[PAGE] = _render(audited, folder, kinds).encode()
    try:
        for name, content in files.items():
            write_atomically(folder / name, content)
    except OSError as error:
        raise DataError(f"{folder}: the audit cannot be written: {error}") from error
    return folder / PAGE


def write_removed(audited: AuditedSource, path: Path, kinds: Collection[str]) -> int:
    """Write the removed images as a data set of their own (npz), and count them.

    Their pixels are those of the audit, their labels those of the source. Raises DataError where
    none is removed, or where it cannot be written.
    """
    dataset, ids = audited.dataset, list(audited.audit.removals(kinds))
    if not ids:
        raise DataError(f"{dataset.name}: nothing is removed, so {path} would have no images")
    arrays = {
        "images": np.asarray(dataset.images[ids]),
        "labels": dataset.labels[ids],
        "class_names": np.array(dataset.class_names),
        "index": np.array(ids),
    }
    try:
        write_arrays(path, arrays, compress=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error}") from error
    return len(ids)


def summary(audited: AuditedSource, kinds: Collection[str]) -> list[str]:
    """The findings in lines for a terminal."""
    table = _findings_table(audited, kinds, "simple").splitlines()
    return [*table, *audited.origin.notes, _verdict(audited, kinds)]


def _verdict(audited: AuditedSource, kinds: Collection[str]) -> str:
    total, removed = len(audited.dataset), len(audited.audit.removals(kinds))
    return f"{total:,} images: {removed:,} to remove, {total - removed:,} kept"


def _findings_table(audited: AuditedSource, kinds: Collection[str], style: str) -> str:
    removed = [finding.kind for finding in audited.audit.removals(kinds).values()]
    rows = []
    for kind in KINDS:
        findings = audited.audit.findings_of(kind)
        images = len({i for finding in findings for i in finding.ids.tolist()})
        to_remove = f"{removed.count(kind):,}" if kind in kinds else "-"
        rows.append([TITLES[kind].lower(), f"{len(findings):,}", f"{images:,}", to_remove])
    return _table(rows, ("finding", "groups", "images", "to remove"), style)


def _table(rows: list[list[str]], header: tuple[str, ...], style: str = "pipe") -> str:
    """The first column aligned left, numbers right."""
    if style == "pipe":
        rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    align = ("left", *["right"] * (len(header) - 1))
    return tabulate(rows, header, style, disable_numparse=True, colalign=align)


# --- the page ------------------------------------------------------------------------------------


def _render(audited: AuditedSource, folder: Path, kinds: Collection[str]) -> str:
    loader = FileSystemLoader(Path(__file__).with_name("assets"))
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.globals |= {
        "CONSTANT_DEVIATION": CONSTANT_DEVIATION,
        "DESCRIPTIONS": DESCRIPTIONS,
        "FINDINGS_SHOWN": FINDINGS_SHOWN,
        "IMAGE_SIZE": IMAGE_SIZE,
        "MANIFEST": MANIFEST,
        "MAPS": MAPS,
        "TITLES": TITLES,
        "duplicates": duplicates,
        "outlier_figures": outlier_figures,
        "outliers": outliers,
    }
    return environment.get_template("audit.md.j2").render(
        audited=audited,
        audit=audited.audit,
        kinds=kinds,
        manifest_path=(folder / MANIFEST).as_posix(),
        verdict=_verdict(audited, kinds),
        findings_table=_findings_table(audited, kinds, "pipe"),
        classes=_classes(audited, kinds),
        channels=_channels(audited.audit.pixels),
        source_sizes=_source_sizes(audited.audit.pixels),
    )


def _classes(audited: AuditedSource, kinds: Collection[str]) -> str:
    labels, removed = audited.dataset.labels, list(audited.audit.removals(kinds))
    count = len(audited.dataset.class_names)
    before = np.bincount(labels, minlength=count)
    gone = np.bincount(labels[removed], minlength=count)
    share = 100 * (before - gone) / max(1, len(labels) - len(removed))
    rows = [
        [name, f"{before[k]:,}", f"{gone[k]:,}", f"{before[k] - gone[k]:,}", f"{share[k]:.1f}"]
        for k, name in enumerate(audited.dataset.class_names)
    ]
    return _table(rows, ("class", "images", "to remove", "kept", "% of kept"))


def _channels(pixels: PixelStatistics) -> str:
    values = zip(("red", "green", "blue"), pixels.mean, pixels.deviation, strict=True)
    rows = [[name, f"{mean:.1f}", f"{deviation:.1f}"] for name, mean, deviation in values]
    return _table(rows, ("channel", "mean", "deviation"))


def _source_sizes(pixels: PixelStatistics) -> str:
    texts = [f"{width} × {height} px ({n:,})" for (height, width), n in pixels.sizes.items()]
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")


# --- its figures ---------------------------------------------------------------------------------


def outlier_figures(number: int) -> list[str]:
    return [f"not-a-cell-{number}.png", f"not-a-cell-{number}-similarity.png"]


def _figures(audited: AuditedSource) -> Iterator[tuple[str, bytes]]:
    dataset, audit = audited.dataset, audited.audit
    for number, outlier in enumerate(audit.outliers, start=1):
        sheet, histogram = outlier_figures(number)
        yield sheet, figures.contact_sheet(dataset, [_varied(outlier.ids, dataset)])
        yield (
            histogram,
            figures.similarity_histogram(audited.embeddings, outlier, audited.options.similar),
        )
    for kind in KINDS:
        findings = audit.findings_of(kind)[:FINDINGS_SHOWN]
        if findings and kind not in ("not-a-cell", "unreadable"):
            groups = [finding.ids[:IMAGES_SHOWN] for finding in findings]
            yield f"{kind}.png", figures.contact_sheet(dataset, groups)
    maps = figures.embedding_maps(dataset, audited.embeddings, audit)
    for name, one in zip(MAPS, maps, strict=True):
        yield name, figures.draw_map(one, dataset, audit)


def _varied(ids: NDArray[np.int64], dataset: Dataset) -> NDArray[np.int64]:
    """Some copies of a picture: different pixels first, every label in turn."""
    copies = pd.DataFrame({"id": ids, "label": dataset.labels[ids], "pixels": dataset.groups[ids]})
    copies["repeated"] = copies.duplicated("pixels")
    copies["turn"] = copies.groupby("label").cumcount()
    return copies.sort_values(["repeated", "turn", "id"])["id"].to_numpy()[:COPIES_SHOWN]
