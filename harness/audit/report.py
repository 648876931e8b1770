"""The page of an audit: what was found, what goes, and pictures of it, in one folder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from tabulate import tabulate

from harness.audit import duplicates, figures
from harness.audit.audit import CHANNELS, KINDS, REMOVABLE, Finding, Kind
from harness.audit.inspection import Inspection
from harness.audit.outliers import CHANCE, DEVIATIONS, NEAR
from harness.errors import DataError
from harness.storage.files import write_atomically

PAGE, MANIFEST = "AUDIT.md", "manifest.csv"

SHOWN = 24
"""Findings of one kind on a sheet."""

IN_A_CARD = 6
"""Images of one finding on a sheet."""

COPIES_SHOWN = 20

TITLES: dict[Kind, str] = {
    "not-a-cell": "Not a cell",
    "constant": "Shows nothing",
    "unreadable": "Cannot be read",
    "several-labels": "One picture, several labels",
    "exact-copies": "Exact copies",
    "near-copies": "Near copies",
    "leak": "On both sides of the given split",
    "lonely": "Least like any other",
}

REMARKS: dict[Kind, str] = {
    "not-a-cell": "Pictures that occur again and again, with nothing but their copies near them.",
    "unreadable": "Files that are damaged, or hold no image of a kind that can be used.",
    "constant": "All pixels have nearly one colour.",
    "several-labels": "At most one of the labels is right; which one, the pixels do not say.",
    "exact-copies": "The same pixels. A split keeps them on one side.",
    "near-copies": "The same picture moved, compressed or photographed again.",
    "leak": "A split that is kept as given loses the copies outside its last part.",
    "lonely": "Single pictures, worth a look. An audit removes none of them.",
}


def write_page(inspected: Inspection, folder: Path, kinds: Collection[str]) -> Path:
    """Write page, sheets, maps and manifest into ``folder``; the page's path.

    ``kinds`` of findings are removed. Raises DataError where it cannot be written.
    """
    pictures = dict(_pictures(inspected))
    manifest = inspected.audit.manifest(inspected.origin, kinds)
    page = "\n\n".join(_sections(inspected, folder, kinds, pictures)) + "\n"
    try:
        for name, content in pictures.items():
            write_atomically(folder / name, content)
        write_atomically(folder / MANIFEST, manifest.text().encode())
        write_atomically(folder / PAGE, page.encode())
    except OSError as error:
        raise DataError(f"{folder}: the audit cannot be written: {error}") from error
    return folder / PAGE


def summary(inspected: Inspection, kinds: Collection[str]) -> list[str]:
    """What the audit found, for a terminal."""
    table = tabulate(_found(inspected, kinds), _HEADS, disable_numparse=True, colalign=_ALIGN)
    return [*table.splitlines(), _verdict(inspected, kinds)]


_HEADS = ("finding", "pictures", "images", "to remove")
_ALIGN = ("left", "right", "right", "right")


def _found(inspected: Inspection, kinds: Collection[str]) -> list[list[str]]:
    audit = inspected.audit
    why = [finding.kind for finding in audit.removed(kinds).values()]
    rows = []
    for kind in KINDS:
        found = audit.of(kind)
        images = len({int(i) for finding in found for i in finding.ids})
        goes = f"{why.count(kind):,}" if kind in kinds else "-"
        rows.append([TITLES[kind].lower(), f"{len(found):,}", f"{images:,}", goes])
    return rows


def _verdict(inspected: Inspection, kinds: Collection[str]) -> str:
    total, goes = len(inspected.dataset), len(inspected.audit.removed(kinds))
    return f"{total:,} images: {goes:,} to remove, {total - goes:,} kept"


# --- the page ------------------------------------------------------------------------------------


def _sections(
    inspected: Inspection, folder: Path, kinds: Collection[str], pictures: Collection[str]
) -> Iterator[str]:
    dataset, origin = inspected.dataset, inspected.origin
    yield f"# What is in {dataset.name}"
    yield f"{origin.source}. **{_verdict(inspected, kinds)}.**"
    yield _markdown(_found(inspected, kinds), _HEADS, _ALIGN)
    yield _how_to_apply(inspected, folder, kinds)
    for kind in KINDS:
        if inspected.audit.of(kind):
            yield from _section(kind, inspected, kinds, pictures)
    yield "## Classes"
    yield _classes(inspected, kinds)
    yield "## Pixels"
    yield _pixels(inspected)
    yield "## Maps"
    yield "Features of an ImageNet network in two dimensions. What lies apart is unlike the rest."
    for name in ("map-pca.png", "map-tsne.png"):
        if name in pictures:
            yield f"![{name}]({name})"
    yield "## How it was found"
    yield _method()


def _how_to_apply(inspected: Inspection, folder: Path, kinds: Collection[str]) -> str:
    goes = inspected.audit.removed(kinds)
    if not goes:
        return "Nothing has to go."
    return (
        f"[`{MANIFEST}`]({MANIFEST}) lists each image to remove: its index, the hash of its pixels "
        "and the reason. `clean = true` under `[data]` in `benchmark.toml` leaves out what every "
        f'audit removes; `manifest = "{(folder / MANIFEST).as_posix()}"` beside it, the path as '
        "seen from that file, exactly what is listed."
    )


def _section(
    kind: Kind, inspected: Inspection, kinds: Collection[str], pictures: Collection[str]
) -> Iterator[str]:
    found = inspected.audit.of(kind)
    yield f"## {TITLES[kind]}"
    fate = "They go." if kind in kinds else "Reported, not removed."
    yield f"{REMARKS[kind]} {fate if kind in REMOVABLE else ''}".strip()
    if kind == "not-a-cell":
        for number, finding in enumerate(found, start=1):
            yield f"{number}. {_sentence(finding.reason)}"
            yield from (f"![{n}]({n})" for n in _stranger_names(number) if n in pictures)
        return
    if len(found) > SHOWN:
        yield f"The first {SHOWN} of {len(found):,} are shown."
    if kind == "unreadable":
        yield "\n".join(f"- image {f.ids[0]}: {f.reason}" for f in found[:SHOWN])
    name = f"{kind}.png"
    if name in pictures:
        yield f"![{TITLES[kind].lower()}]({name})"


def _sentence(reason: str) -> str:
    return f"{reason[0].upper()}{reason[1:]}."


def _classes(inspected: Inspection, kinds: Collection[str]) -> str:
    dataset = inspected.dataset
    kept = np.ones(len(dataset), bool)
    kept[list(inspected.audit.removed(kinds))] = False
    rows = []
    for k, name in enumerate(dataset.class_names):
        before = int((dataset.labels == k).sum())
        after = int((dataset.labels[kept] == k).sum())
        share = 100 * after / max(1, int(kept.sum()))
        rows.append([name, f"{before:,}", f"{before - after:,}", f"{after:,}", f"{share:.1f}"])
    heads = ("class", "images", "to remove", "kept", "% of kept")
    return _markdown(rows, heads, ("left", "right", "right", "right", "right"))


def _pixels(inspected: Inspection) -> str:
    pixels = inspected.audit.pixels
    sizes = [f"{width} × {height} px ({n:,})" for (height, width), n in pixels.sizes.items()]
    shown = ", ".join(sizes[:5]) + (f" and {len(sizes) - 5} more" if len(sizes) > 5 else "")
    rows = [
        [name, f"{mean:.1f}", f"{deviation:.1f}"]
        for name, mean, deviation in zip(CHANNELS, pixels.mean, pixels.deviation, strict=True)
    ]
    table = _markdown(rows, ("channel", "mean", "deviation"), ("left", "right", "right"))
    side = inspected.dataset.images.shape[1]
    values = f"Values, at {side} × {side} px, from {pixels.darkest} to {pixels.brightest}."
    text = f"{values} Sizes in the source: {shown}."
    return f"{text}\n\n{table}"


def _method() -> str:
    return (
        "- **Exact copies** have the same SHA-256 of their pixels in the source.\n"
        f"- **Near copies**: pairs whose {duplicates.HASH_SIDE**2}-bit perceptual hashes "
        "(imagehash's "
        f"pHash) differ in at most {duplicates.FAR} bits, and whose fine detail, moved onto each "
        f"other, correlates with {duplicates.ALIKE} or more.\n"
        f"- **Not a cell**: a picture that is repeated while nothing as rare comes within a "
        f"cosine similarity of {NEAR} (report 003's threshold) of any of its copies, in the "
        "features of EfficientNet-Lite0 with ImageNet weights; and that is lonelier than chance "
        f"allows: its angle to the nearest picture is {DEVIATIONS} deviations beyond the mean, and "
        f"the share of pictures as lonely, times the repeated pictures, at most {CHANCE}.\n"
        "- **Shows nothing**: the pixels' deviation is below 2 of 255."
    )


def _markdown(rows: list[list[str]], heads: tuple[str, ...], align: tuple[str, ...]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return tabulate(escaped, heads, "pipe", disable_numparse=True, colalign=align)


# --- its pictures --------------------------------------------------------------------------------


def _stranger_names(number: int) -> tuple[str, str]:
    return f"not-a-cell-{number}.png", f"not-a-cell-{number}-similarity.png"


def _pictures(inspected: Inspection) -> Iterator[tuple[str, bytes]]:
    dataset, audit, features = inspected.dataset, inspected.audit, inspected.features
    for number, stranger in enumerate(audit.outliers, start=1):
        sheet, histogram = _stranger_names(number)
        some = _varied(stranger.ids, dataset.labels, dataset.groups)
        card = tuple((int(i), dataset.class_names[dataset.labels[i]]) for i in some)
        yield sheet, figures.sheet(dataset, [card])
        yield histogram, figures.similarity(features, stranger)
    for kind in KINDS:
        found = audit.of(kind)[:SHOWN]
        if found and kind not in ("not-a-cell", "unreadable"):
            yield f"{kind}.png", figures.sheet(dataset, [_card(f, inspected) for f in found])
    pca, tsne = figures.maps(dataset, features, audit)
    yield "map-pca.png", figures.draw_map(pca, dataset, audit)
    yield "map-tsne.png", figures.draw_map(tsne, dataset, audit)


def _card(finding: Finding, inspected: Inspection) -> figures.Card:
    names, labels = inspected.dataset.class_names, inspected.dataset.labels
    return tuple((int(i), names[labels[i]]) for i in finding.ids[:IN_A_CARD])


def _varied(ids: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Some of a family's images: every label in turn, different pixels first."""
    seen: dict[tuple[int, int], int] = {}
    turn = []
    for i in ids.tolist():
        for key in ((0, int(labels[i])), (1, int(groups[i]))):
            seen[key] = seen.get(key, 0) + 1
        turn.append((seen[1, int(groups[i])] > 1, seen[0, int(labels[i])], i))
    return np.array([i for *_, i in sorted(turn)[:COPIES_SHOWN]], np.int64)
