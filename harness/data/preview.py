"""Previews of a data set: its classes, and its shifted test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.data import corruptions
from harness.data.contact_sheet import Row, Tile, draw, save, thumbnail_side
from harness.schema.dataset import Dataset

LONGEST_NAME = 32
CELLS = 3
"""Images that the preview of the shifted test shows, of different classes."""


def class_preview(dataset: Dataset, path: Path, *, per_class: int = 10, seed: int = 0) -> None:
    """Write a PNG to ``path``: a row of ``per_class`` random images for each class.

    Raises DataError where ``path`` cannot be written.
    """
    count, height, width, _ = dataset.images.shape
    rows = []
    for k, name in enumerate(dataset.class_names):
        ids = np.flatnonzero(dataset.labels == k)
        chosen = np.sort(np.random.default_rng([seed, k]).permutation(ids)[:per_class])
        tiles = [Tile(np.asarray(dataset.images[i])) for i in chosen]
        label = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
        rows.append(Row(tiles, label, f"{len(ids):,} images"))
    subtitle = (
        f"{count:,} images of {width} x {height} px, {len(rows)} classes, "
        f"fingerprint {dataset.fingerprint}"
    )
    save(draw(rows, thumbnail_side(height), title=dataset.name, subtitle=subtitle), path)


def shifted_preview(dataset: Dataset, path: Path, *, seed: int = 0) -> None:
    """Write a PNG to ``path``: a row a corruption; three cells, original and at five severities.

    The cells are random images without copies. Raises DataError where ``path`` cannot be written.
    """
    ids, size = _cells(dataset, seed), dataset.images.shape[1]
    rows = []
    for corruption in corruptions.CORRUPTIONS:
        tiles: list[Tile | None] = []
        for i in ids:
            image = np.asarray(dataset.images[i])
            corrupted = [
                corruptions.corrupt(image[None], corruption, severity, [(seed, i)])[0]
                for severity in corruptions.SEVERITIES
            ]
            tiles += [*map(Tile, (image, *corrupted)), None]
        rows.append(Row(tiles[:-1], corruption))
    severities = [str(severity) for severity in corruptions.SEVERITIES]
    header = [
        text for i in ids for text in (dataset.class_names[dataset.labels[i]], *severities, None)
    ]
    title, subtitle = f"{dataset.name}, shifted", f"11 corruptions, severities 1 to 5, at {size} px"
    sheet = draw(rows, thumbnail_side(size), title=title, subtitle=subtitle, header=header)
    save(sheet, path)


def _cells(dataset: Dataset, seed: int) -> list[int]:
    rng = np.random.default_rng([seed, *b"shift sheet"])
    single = np.bincount(dataset.groups, minlength=len(dataset))[dataset.groups] == 1
    cells = np.flatnonzero(single) if single.any() else np.arange(len(dataset))
    labels = dataset.labels[cells]
    classes = rng.permutation(np.unique(labels))[:CELLS]
    return [int(rng.choice(cells[labels == k])) for k in np.sort(classes)]
