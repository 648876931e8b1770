"""Contact sheets: rows of thumbnails with labels and captions, as one picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.data.fonts import BOXES, font_file
from harness.data.image_cache import square
from harness.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

GAP, MARGIN, LINE = 4, 20, 14
"""Pixels between thumbnails, around the sheet, and of a line of a caption."""
PAPER, INK, FAINT = (252, 252, 250), (25, 25, 30), (110, 110, 118)


@dataclass(frozen=True)
class Tile:
    """A uint8 RGB image and the lines below it."""

    image: np.ndarray
    caption: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Tiles after a label with a fainter detail below it; ``None`` is a gap between tiles."""

    tiles: Sequence[Tile | None]
    label: str = ""
    detail: str = ""


def thumbnail_side(image_size: int) -> int:
    """Pixels at which images of a size are shown: as they are from 48 to 128, else the nearest."""
    return min(max(image_size, 48), 128)


def draw(
    rows: Sequence[Row],
    side: int,
    *,
    title: str = "",
    subtitle: str = "",
    header: Sequence[str | None] = (),
    width: int = 0,
) -> Image:
    """The sheet of ``rows``, thumbnails ``side`` pixels wide, at least ``width`` pixels wide.

    ``header``: texts above the columns of the first row, ``None`` at its gaps.
    """
    from PIL import Image, ImageDraw

    texts = [title, subtitle, *(text or "" for text in header)]
    for row in rows:
        texts += [row.label, row.detail, *(c for tile in row.tiles if tile for c in tile.caption)]
    load, legible = _font("".join(texts))
    if not legible:
        subtitle = "; ".join(filter(None, [subtitle, BOXES]))
    large, bold, plain, small = map(load, (20, 16, 13, 12))
    labels = max(int(bold.getlength(row.label)) for row in rows)
    left = 2 * MARGIN + labels if labels else MARGIN
    top = MARGIN + (46 + MARGIN if title else 0) + (MARGIN if header else 0)
    captions = [len(tile.caption) for row in rows for tile in row.tiles if tile]
    step = side + GAP + LINE * max(captions, default=0)
    lefts = [_lefts(row.tiles, left, side) for row in rows]
    width = max(
        width,
        *(positions[-1] + MARGIN for positions in lefts),
        int(max(large.getlength(title), plain.getlength(subtitle))) + 2 * MARGIN,
    )
    sheet = Image.new("RGB", (width, top + len(rows) * step + MARGIN), PAPER)
    canvas = ImageDraw.Draw(sheet)
    canvas.text((MARGIN, MARGIN), title, INK, large)
    canvas.text((MARGIN, MARGIN + 28), subtitle, FAINT, plain)
    for x, text in zip(lefts[0], header, strict=False):
        canvas.text((x, top - 6), text or "", FAINT, plain, anchor="ls")
    for row, positions, y in zip(rows, lefts, range(top, sheet.height, step), strict=False):
        middle = y + side // 2 - (2 if row.detail else 0)
        canvas.text((MARGIN, middle), row.label, INK, bold, anchor="ls" if row.detail else "lm")
        canvas.text((MARGIN, middle + 6), row.detail, FAINT, plain, anchor="lt")
        for tile, x in zip(row.tiles, positions, strict=False):
            if tile:
                sheet.paste(Image.fromarray(square(tile.image, side)), (x, y))
                for line, text in enumerate(tile.caption):
                    at = (x, y + side + 2 + line * LINE)
                    canvas.text(at, _shortened(text, small, side), INK, small)
    return sheet


def save(sheet: Image, path: Path) -> None:
    """Write a sheet in the format of the suffix; without one as PNG.

    Raises DataError where ``path`` cannot be written, or its suffix is that of no image.
    """
    from PIL import Image

    known = Image.registered_extensions()
    kind = known.get(path.suffix.lower()) if path.suffix else "PNG"
    if kind not in Image.SAVE:
        raise DataError(f"{path}: {path.suffix} is no kind of image; write .png, .jpg or .webp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, kind, quality=95)
    except OSError as error:
        raise DataError(f"{path}: the preview cannot be written: {error}") from error


def _lefts(tiles: Sequence[Tile | None], left: int, side: int) -> list[int]:
    """The left edge of every tile, and of the next one."""
    widths = [side + GAP if tile else MARGIN for tile in tiles]
    return [left, *(left + np.cumsum(widths)).tolist()]


def _font(text: str) -> tuple[Callable[[int], FreeTypeFont | ImageFont], bool]:
    """What loads a font at a size, and whether it has every letter of the text."""
    from PIL import ImageFont

    if text.isascii():
        return ImageFont.load_default, True
    file, ours = font_file(text), font_file("")
    assert ours is not None, "matplotlib brings it"
    return partial(ImageFont.truetype, file or ours), file is not None


def _shortened(text: str, font: FreeTypeFont | ImageFont, width: int) -> str:
    while font.getlength(text) > width and len(text) > 4:
        text = f"{text[:-4]}..."
    return text
