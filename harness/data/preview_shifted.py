"""A sheet of the shifts: every kind at every severity, so that a person sees what is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.data import corruptions
from harness.data.image_cache import square
from harness.data.preview import FAINT, GAP, INK, LARGEST, MARGIN, PAPER, SMALLEST
from harness.errors import DataError
from harness.schema.dataset import Dataset

CELLS = 3
"""Images that the sheet shows, of different classes."""


def shift_sheet(dataset: Dataset, path: Path, *, seed: int = 0) -> None:
    """Write a PNG to ``path``: a row a kind; three cells, each as it is and at five severities.

    The cells are drawn from ``seed``, among pictures that have no copies. Raises DataError where
    ``path`` cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    title, bold, plain = (ImageFont.load_default(size) for size in (20, 16, 13))
    side = min(max(dataset.images.shape[1], SMALLEST), LARGEST)
    ids = _cells(dataset, seed)
    left = 2 * MARGIN + int(max(bold.getlength(kind) for kind in corruptions.KINDS))
    top = 2 * MARGIN + 66
    columns, group = 1 + len(corruptions.SEVERITIES), GAP * 4
    block = columns * (side + GAP) + group
    picture = Image.new(
        "RGB",
        (left + len(ids) * block + MARGIN, top + len(corruptions.KINDS) * (side + GAP) + MARGIN),
        PAPER,
    )
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), f"{dataset.name}, shifted", INK, title)
    detail = f"{len(corruptions.KINDS)} kinds, severities 1 to 5, at {dataset.images.shape[1]} px"
    draw.text((MARGIN, MARGIN + 28), detail, FAINT, plain)
    for cell, i in enumerate(ids):
        x = left + cell * block
        words = (dataset.class_names[dataset.labels[i]], *map(str, corruptions.SEVERITIES))
        for column, word in enumerate(words):
            draw.text((x + column * (side + GAP), top - 6), word, FAINT, plain, anchor="ls")
        for row, kind in enumerate(corruptions.KINDS):
            y = top + row * (side + GAP)
            draw.text((MARGIN, y + side // 2), kind, INK, bold, anchor="lm")
            for column, image in enumerate(_worse(np.asarray(dataset.images[i]), kind, (seed, i))):
                thumbnail = Image.fromarray(square(image, side))
                picture.paste(thumbnail, (x + column * (side + GAP), y))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, "PNG")
    except OSError as error:
        raise DataError(f"{path}: the preview cannot be written: {error}") from error


def _cells(dataset: Dataset, seed: int) -> list[int]:
    rng = np.random.default_rng([seed, *b"shift sheet"])
    single = np.bincount(dataset.groups, minlength=len(dataset))[dataset.groups] == 1
    cells = np.flatnonzero(single) if single.any() else np.arange(len(dataset))
    labels = dataset.labels[cells]
    classes = rng.permutation(np.unique(labels))[:CELLS]
    return [int(rng.choice(cells[labels == k])) for k in np.sort(classes)]


def _worse(image: np.ndarray, kind: str, stream: tuple[int, int]) -> list[np.ndarray]:
    severities = corruptions.SEVERITIES
    harmed = [
        corruptions.corrupt(image[None], kind, severity, [stream])[0] for severity in severities
    ]
    return [image, *harmed]
