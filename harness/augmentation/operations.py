"""Operations on one image: uint8 RGB (S, S, 3) in and out, in OpenCV and numpy.

The same operations as keras-cv 0.9.0's layers, whose oddities are kept where a name promises its
layer: sharpness blurs, AugMix rotates by radians. The tests compare each with its layer, given the
same parameters. keras-cv computes in float32; here pixels are rounded after each operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

Matrix = tuple[float, float, float, float, float, float]
"""a, b, c, d, e, f: the output pixel (x, y) comes from the input's (ax + by + c, dx + ey + f)."""

_LEVELS = np.arange(256)
_GREY = np.array([0.2989, 0.5870, 0.1140])
"""Luma of RGB, TensorFlow's rgb_to_grayscale."""
_IDENTITY = np.eye(3)


class Canvas:
    """An image whose moves are deferred, so that all of them cost one resampling.

    Moving pixels and changing each by a fixed table commute; so only an operation that depends on
    the whole image, or on a pixel's position, applies the moves.
    """

    __slots__ = ("_image", "_matrix")

    def __init__(self, image: np.ndarray) -> None:
        self._image = image
        self._matrix: Matrix | None = None

    def move(self, m: Matrix) -> None:
        n = self._matrix
        if n is None:
            self._matrix = m
            return
        self._matrix = (
            n[0] * m[0] + n[1] * m[3],
            n[0] * m[1] + n[1] * m[4],
            n[0] * m[2] + n[1] * m[5] + n[2],
            n[3] * m[0] + n[4] * m[3],
            n[3] * m[1] + n[4] * m[4],
            n[3] * m[2] + n[4] * m[5] + n[5],
        )

    def image(self) -> np.ndarray:
        """With all moves applied."""
        if self._matrix is not None:
            self._image = warp(self._image, self._matrix)
            self._matrix = None
        return self._image

    def recolour(self, pointwise: Callable[[np.ndarray], np.ndarray]) -> None:
        """Change pixels by a function of each alone; moves stay deferred."""
        self._image = pointwise(self._image)

    def change(self, operation: Callable[[np.ndarray], np.ndarray]) -> None:
        self._image = operation(self.image())


# --- moving pixels -------------------------------------------------------------------------------


def warp(image: np.ndarray, matrix: Matrix) -> np.ndarray:
    """Bilinear, mirrored at the edges."""
    a, b, right, d, e, down = matrix
    if (a, b, d, e) == (1, 0, 0, 1) and (right == int(right) or down == int(down)):
        return _shifted(image, right, down)
    height, width = image.shape[:2]
    # OpenCV resamples four channels in two thirds of the time of three, to the same pixels.
    wide = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    x, y = (
        _source_range(a * (width - 1), b * (height - 1), right),
        _source_range(d * (width - 1), e * (height - 1), down),
    )
    before, after = (max(0, -y[0]), max(0, -x[0])), (max(0, y[1] - height), max(0, x[1] - width))
    if max(*before, *after) <= min(height, width):
        # Mirrored first, it is resampled twice as fast: no pixel is checked against the edge.
        wide = cv2.copyMakeBorder(
            wide, before[0], after[0], before[1], after[1], cv2.BORDER_REFLECT
        )
        right, down = right + before[1], down + before[0]
    moved = cv2.warpAffine(
        wide,
        np.array(((a, b, right), (d, e, down))),
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    return cv2.cvtColor(moved, cv2.COLOR_RGBA2RGB)


def _source_range(x_extent: float, y_extent: float, offset: float) -> tuple[int, int]:
    """The first and the end of the pixels of one axis that a move reads, neighbours included."""
    low = offset + min(x_extent, 0) + min(y_extent, 0)
    high = offset + max(x_extent, 0) + max(y_extent, 0)
    return math.floor(low) - 1, math.ceil(high) + 2


def _shifted(image: np.ndarray, right: float, down: float) -> np.ndarray:
    """The same where only one axis has a fraction: a blend of two neighbours, six times faster."""
    (height, width), (x, y) = image.shape[:2], (math.floor(right), math.floor(down))
    before, after = (max(0, -y), max(0, -x)), (max(0, y + 1), max(0, x + 1))
    wide = cv2.copyMakeBorder(image, before[0], after[0], before[1], after[1], cv2.BORDER_REFLECT)
    y, x = y + before[0], x + before[1]
    here = wide[y : y + height, x : x + width]
    share = right % 1 or down % 1
    if not share:
        return here.copy()
    step = (0, 1) if right % 1 else (1, 0)
    y, x = y + step[0], x + step[1]
    return cv2.addWeighted(here, 1 - share, wide[y : y + height, x : x + width], share, 0)


def split_and_rotate(images: np.ndarray, parts: int, turns: np.ndarray) -> np.ndarray:
    """Each of parts x parts square tiles turned by its own number of quarter turns.

    ``images`` (n, S, S, 3), ``turns`` (n, parts ** 2). Pixels that the division leaves over, at the
    right and at the bottom, stay.
    """
    count, side = len(images), images.shape[1] // parts
    end = parts * side
    grid = images[:, :end, :end].reshape(count, parts, side, parts, side, 3).swapaxes(2, 3)
    tiles = grid.reshape(-1, side, side, 3)
    for quarter in (1, 2, 3):
        which = np.flatnonzero(turns == quarter)
        tiles[which] = np.rot90(tiles[which], quarter, axes=(1, 2))
    out = images.copy()
    grid = tiles.reshape(count, parts, parts, side, side, 3).swapaxes(2, 3)
    out[:, :end, :end] = grid.reshape(count, end, end, 3)
    return out


# --- changing colours ----------------------------------------------------------------------------


def _scaled(image: np.ndarray, factors: Sequence[float], offsets: Sequence[float]) -> np.ndarray:
    """Each channel times its factor, plus its offset."""
    (f, g, h), (k, m, n) = factors, offsets
    return cv2.transform(image, np.array(((f, 0, 0, k), (0, g, 0, m), (0, 0, h, n))))


def brightness(image: np.ndarray, delta: float) -> np.ndarray:
    """``delta``: grey levels, added."""
    levels = round(delta)
    return cv2.add(image, (levels, levels, levels, 0))


def solarize(image: np.ndarray, addition: float, threshold: float) -> np.ndarray:
    """Add, then invert what is not below the threshold; both in grey levels."""
    # Of uint8, x ^ 255 is 255 - x, and the threshold is one of the level before the addition.
    highest = math.ceil(threshold - addition) - 1
    inverted = cv2.threshold(image, highest, 255, cv2.THRESH_BINARY)[1]
    return cv2.bitwise_xor(brightness(image, addition), inverted)


def posterize(image: np.ndarray, shift: int) -> np.ndarray:
    """Without the ``shift`` lowest bits."""
    return image & np.uint8(255 >> shift << shift)


def color_degeneration(image: np.ndarray, factor: float) -> np.ndarray:
    """A blend with the grey image; 1 is grey."""
    return cv2.transform(image, (1 - factor) * _IDENTITY + factor * _GREY)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Each channel's distance from its mean, times ``factor``."""
    rest = 1 - factor
    red, green, blue, _ = cv2.mean(image)
    return _scaled(image, (factor,) * 3, (rest * red, rest * green, rest * blue))


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Each channel stretched to 0-255; a flat channel stays."""
    factors, offsets = [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]
    for i, channel in enumerate(cv2.split(image)):
        low, high, _, _ = cv2.minMaxLoc(channel)
        if high > low:
            factors[i] = 255 / (high - low)
            offsets[i] = -low * factors[i]
    return _scaled(image, factors, offsets)


def equalize(image: np.ndarray) -> np.ndarray:
    """Each channel's histogram levelled, in integers; the step leaves out the rarest level."""
    pixels = image.shape[0] * image.shape[1]
    counts = np.empty((3, 256), np.int32)
    for i in range(3):
        counts[i] = cv2.calcHist([image], [i], None, [256], [0, 256]).ravel()
    rarest = np.where(counts, counts, pixels).min(axis=1)
    step = ((pixels - rarest) // 255)[:, None]
    flat = not step.all()
    tables = np.cumsum(counts, axis=1, dtype=np.int32)
    tables -= counts
    tables += step // 2
    tables //= np.maximum(step, 1) if flat else step
    if flat:
        tables[step[:, 0] == 0] = _LEVELS
    return cv2.LUT(image, np.minimum(tables, 255).astype(np.uint8).T[None])


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """A blend with the image smoothed by [[1 1 1] [1 5 1] [1 1 1]] / 13.

    The outermost pixels stay as they are.
    """
    share = 9 / 13 * factor
    out = cv2.addWeighted(image, 1 - share, cv2.blur(image, (3, 3)), share, 0)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        out[edge] = image[edge]
    return out


def noise(image: np.ndarray, added: np.ndarray, removed: np.ndarray, out: np.ndarray) -> None:
    """Add and subtract grey levels, uint8, of which one is 0 everywhere."""
    cv2.subtract(cv2.add(image, added), removed, dst=out)


# --- covering pixels -----------------------------------------------------------------------------


def rectangles(
    centers: np.ndarray, lengths: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first and the end of the pixels that are covered, cut off at the image's edge; int."""
    begin, end = np.ceil(centers - lengths / 2), np.ceil(centers + lengths / 2)
    return np.maximum(begin, 0).astype(int), np.clip(end, 0, side).astype(int)


def cutout(image: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """A black rectangle from the pixel (left, top) up to, not including, (right, bottom)."""
    out = image.copy()
    out[top:bottom, left:right] = 0
    return out


def grid_mask(image: np.ndarray, grid: Sequence[float]) -> np.ndarray:
    """Black squares. ``grid``: spacing, square's side, offset in x and in y (pixels), and angle.

    A pixel is covered if any part of it is: keras-cv takes every non-zero of its turned mask.
    """
    unit, square, dx, dy, angle = grid[:5]
    height, width = image.shape[:2]
    side = math.ceil(math.hypot(height, width))
    # Turned back, a pixel lies between four of the mask: the first of them stands for all.
    spread = 1 if angle else 0
    rows, columns = (_uncovered(side, unit, square, offset, spread) for offset in (dy, dx))
    visible = rows[:, None] | columns
    cos, sin, middle = math.cos(angle), math.sin(angle), (side - 1) / 2
    left, top = (side - width) // 2 - middle, (side - height) // 2 - middle
    turn = (
        (cos, -sin, cos * left - sin * top + middle - spread / 2),
        (sin, cos, sin * left + cos * top + middle - spread / 2),
    )
    turned = cv2.warpAffine(
        visible, np.array(turn), (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    )
    return cv2.copyTo(image, turned)


def _uncovered(side: int, unit: float, square: float, offset: float, spread: int) -> np.ndarray:
    """Where neither a pixel nor the ``spread`` next are of the last ``square`` of every ``unit``.

    uint8 (side,).
    """
    at = np.arange(side) + offset
    covered = (at % unit >= unit - square) & (at < (side // unit + 1) * unit)
    covered[: side - spread] |= covered[spread:]
    return (~covered).view(np.uint8)


# --- mixing images -------------------------------------------------------------------------------


def mix(images: Sequence[np.ndarray], shares: Sequence[float], out: np.ndarray) -> None:
    """The sum of two or more images, each times its share, written to ``out``."""
    total, share = images[0], shares[0]
    between = np.empty(out.shape, np.float32) if len(images) > 2 else None
    for image, weight in zip(images[1:-1], shares[1:-1], strict=True):
        total = cv2.addWeighted(total, share, image, weight, 0, dst=between, dtype=cv2.CV_32F)
        share = 1.0
    cv2.addWeighted(total, share, images[-1], shares[-1], 0, dst=out, dtype=cv2.CV_8U)


def blend(first: np.ndarray, second: np.ndarray, share: float, out: np.ndarray) -> None:
    """``share`` of the first image, the rest of the second, written to ``out``."""
    cv2.addWeighted(first, share, second, 1 - share, 0, dst=out)
