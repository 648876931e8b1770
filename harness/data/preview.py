"""A contact sheet: what the classes look like, before anything is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.data.image_cache import square
from harness.errors import DataError
from harness.schema.dataset import Dataset

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

LARGEST = 128
"""Pixels of a thumbnail's side; smaller images are shown as they are."""

SMALLEST = 48
"""Below this a row has no room for its name and count; smaller images are enlarged."""

GAP, MARGIN = 4, 20
PAPER, INK, FAINT = (252, 252, 250), (25, 25, 30), (110, 110, 118)
LONGEST_NAME = 32


def sheet(dataset: Dataset, path: Path, *, per_class: int = 10, seed: int = 0) -> None:
    """Write a PNG to ``path``: a row of ``per_class`` images for each class, drawn from ``seed``.

    Each row says the class's name and its count; the title says name, size and fingerprint.
    Raises DataError where ``path`` cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    title, bold, plain = (ImageFont.load_default(size) for size in (20, 16, 13))
    side = min(max(dataset.images.shape[1], SMALLEST), LARGEST)
    labels = [_shortened(name) for name in dataset.class_names]
    left = 2 * MARGIN + int(max(bold.getlength(label) for label in labels))
    top = 2 * MARGIN + 46
    heading, detail = _title(dataset)
    width = max(
        left + per_class * (side + GAP) + MARGIN,
        int(max(title.getlength(heading), plain.getlength(detail))) + 2 * MARGIN,
    )
    height = top + len(labels) * (side + GAP) + MARGIN
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), heading, INK, title)
    draw.text((MARGIN, MARGIN + 28), detail, FAINT, plain)
    for k, label in enumerate(labels):
        ids = np.flatnonzero(dataset.labels == k)
        y = top + k * (side + GAP)
        _write_label(draw, (MARGIN, y + side // 2), (label, f"{len(ids):,} images"), (bold, plain))
        shown = np.sort(np.random.default_rng([seed, k]).permutation(ids)[:per_class])
        for column, i in enumerate(shown):
            thumbnail = square(np.asarray(dataset.images[i]), side)
            picture.paste(Image.fromarray(thumbnail), (left + column * (side + GAP), y))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, "PNG")
    except OSError as error:
        raise DataError(f"{path}: the preview cannot be written: {error}") from error


def _title(dataset: Dataset) -> tuple[str, str]:
    count, height, width, _ = dataset.images.shape
    classes = len(dataset.class_names)
    return dataset.name, (
        f"{count:,} images of {width} x {height} px, {classes} classes, "
        f"fingerprint {dataset.fingerprint}"
    )


def _write_label(
    draw: ImageDraw, middle: tuple[int, int], texts: tuple[str, str], fonts: tuple[Font, Font]
) -> None:
    x, y = middle
    draw.text((x, y - 2), texts[0], INK, fonts[0], anchor="ls")
    draw.text((x, y + 4), texts[1], FAINT, fonts[1], anchor="lt")


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
