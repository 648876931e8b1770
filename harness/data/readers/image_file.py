"""One image file -> upright 8-bit RGB, and what a set's files say of their bits and pages.

Transparency becomes white, the background of a smear. Files of more than 8 bits hold 10, 12 or 14
as often as 16, and say so nowhere: the largest value of all such files of a set decides, so that
brightness stays comparable between them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.image_cache import Unreadable
from harness.data.readers.npz import DAMAGE, LARGEST_SIDE
from harness.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp", ".webp", ".gif",
)  # fmt: skip
LARGEST_PIXELS = 1 << 27
"""Of an image; the photographs of the largest cameras have 10^8."""
DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras give, in files that have room for 16 or 32."""
ORIENTATION, BITS_PER_SAMPLE = 0x0112, 258


@dataclass(frozen=True)
class FileHeader:
    """``largest``: the largest value of a file of more than 8 bits; None of another."""

    largest: int | None = None
    pages: int = 1
    pixels: int = 0


def set_depth(headers: Sequence[FileHeader], names: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """The bits of those files of a set that have room for more than 8, and what to say of them.

    ``names`` are those of the files.
    """
    notes = []
    deep = [header.largest for header in headers if header.largest is not None]
    depth = _bits(max(deep, default=0)) if deep else 16
    if deep:
        notes.append(
            f"{len(deep):,} images with room for more than 8 bits are scaled from {depth} bits: "
            f"their largest value is {max(deep):,}"
        )
    counts = {bits: [_bits(largest) for largest in deep].count(bits) for bits in DEPTHS}
    counts[8] += len(headers) - len(deep) if deep else 0
    if deep and len(deep) < len(headers):
        notes.append(
            f"mixed depths: {len(headers) - len(deep):,} images have 8 bits, {len(deep):,} have "
            f"{depth}; where these are different classes, brightness alone may separate them"
        )
    pages = [name for name, header in zip(names, headers, strict=True) if header.pages > 1]
    if pages:
        notes.append(f"{len(pages):,} files have further pages, which are not read ({pages[0]})")
    return depth, tuple(notes)


def _bits(largest: int) -> int:
    return next((bits for bits in DEPTHS if largest < 1 << bits), DEPTHS[-1])


def read_header(path: Path) -> FileHeader:
    """Pages and, of a deep file, the largest value; a file that cannot be read is as any other."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            pages = int(getattr(image, "n_frames", 1))
            deep = _is_deep(image) and max(image.size) <= LARGEST_SIDE
            largest = int(_deep_pixels(image, path).max()) if deep else None
            return FileHeader(largest, pages, image.width * image.height)
    except (*DAMAGE, DataError, Image.DecompressionBombError):
        return FileHeader()


def decode(path: Path, bits: int = 16) -> np.ndarray:
    """One image file as uint8 RGB (h, w, 3), upright; DataError naming it if unreadable.

    ``bits`` of a file that has room for more than 8.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            if max(image.size) > LARGEST_SIDE or image.width * image.height > LARGEST_PIXELS:
                limits = f"at most {LARGEST_SIDE:,} a side and {LARGEST_PIXELS:,} in all are read"
                raise DataError(f"{path}: {image.width:,} x {image.height:,} pixels; {limits}")
            if image.mode == "F":
                raise DataError(f"{path}: float pixels; save it with 8 or 16 bits")
            if _is_deep(image):
                return _upright(_deep_pixels(image, path) >> (bits - 8), image)
            return _rgb(ImageOps.exif_transpose(image))
    except (*DAMAGE, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path}: unreadable image: {reason}") from error


def decode_or_report(path: Path, bits: int) -> np.ndarray | Unreadable:
    """As ``decode``; what cannot be read is known by its bytes, or else by its name."""
    try:
        return decode(path, bits)
    except DataError as error:
        return Unreadable(str(error), hashlib.sha256(content_of(path)).digest())


def content_of(path: Path) -> bytes:
    """A file's bytes; of one that cannot be read, as a broken link, a word instead."""
    try:
        return path.read_bytes()
    except OSError:
        return b"unreadable"


def _is_deep(image: Image) -> bool:
    """Whether a file has room for more than 8 bits; Pillow reads such colour by its upper 8."""
    samples = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, ())
    modes = (str(tile[3]) for tile in getattr(image, "tile", ()))
    return (
        image.mode.startswith("I") or max(samples, default=0) > 8 or any(";16" in m for m in modes)
    )


def _deep_pixels(image: Image, path: Path) -> np.ndarray:
    """Grey (h, w) or colour (h, w, 3), perhaps with alpha, uint16 as stored; DataError beyond."""
    import cv2

    if image.mode.startswith("I"):
        pixels = np.asarray(image)
    else:
        content = np.frombuffer(path.read_bytes(), np.uint8)
        found: Any = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
        if found is None:
            raise DataError(f"{path}: unreadable image: {image.mode} of more than 8 bits")
        pixels = found if found.ndim == 2 else found[..., [2, 1, 0, *range(3, found.shape[2])]]
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise DataError(f"{path}: pixels beyond 16 bits; save it with 8 or 16 bits")
    return pixels.astype(np.uint16)


def _upright(pixels: np.ndarray, image: Image) -> np.ndarray:
    """Scaled pixels as uint8 RGB: alpha on white, turned as the EXIF orientation says."""
    from PIL import Image as images
    from PIL import ImageOps

    pixels = np.minimum(pixels, 255).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)
    scaled = images.fromarray(pixels)
    scaled.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    return np.asarray(ImageOps.exif_transpose(scaled))


def _rgb(image: Image) -> np.ndarray:
    from PIL import Image as images

    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = images.alpha_composite(images.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))
