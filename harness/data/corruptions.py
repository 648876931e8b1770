"""Eleven corruptions of cell images, at five severities each.

They are those of MedMNIST-C for blood cells (Di Salvo et al. 2024, arXiv:2406.17536), with its
parameters where it has any; lengths are for its 224 pixels and scale with the side, so that an
image is corrupted equally at every size. Only JPEG's blocks are 8 pixels at every size.

All functions take and return uint8 RGB images, and change nothing in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np

from harness.errors import DataError, UnknownName

VERSION = 1
"""Raised when the same corruption, severity and seed would give other pixels."""

REFERENCE = 224
"""Side in pixels that the lengths below are for."""

SEVERITIES = (1, 2, 3, 4, 5)

PIXELATED_SIDE = (0.6, 0.5, 0.4, 0.3, 0.25)
"""Fraction of the side."""
JPEG_QUALITY = (50, 30, 15, 10, 7)
DEFOCUS_RADIUS = (2.0, 3.0, 4.0, 5.0, 6.0)
MOTION_RADIUS, MOTION_SIGMA = (3.0, 5.0, 10.0, 10.0, 10.0), (3.0, 5.0, 5.0, 7.0, 9.0)
BRIGHTER, DARKER = (1.1, 1.2, 1.3, 1.35, 1.4), (0.9, 0.8, 0.7, 0.6, 0.5)
MORE_CONTRAST, LESS_CONTRAST = (1.1, 1.15, 1.2, 1.25, 1.3), (0.9, 0.8, 0.7, 0.6, 0.5)
ADDED_SATURATION = (0.05, 0.10, 0.15, 0.17, 0.20)

DEPOSITS = (1, 2, 3, 4, 5)
DEPOSIT_RADIUS = (0.030, 0.035, 0.040, 0.045, 0.050)
"""Fraction of the side. MedMNIST-C stops at three deposits; here number and size go on rising."""
BUBBLES = (1, 2, 2, 3, 3)
BUBBLE_RADIUS = (0.07, 0.09, 0.12, 0.14, 0.17)
"""Fraction of the side."""

GREY = np.array([0.299, 0.587, 0.114])
"""Rec. 601 luma."""
COLOURLESS = 0.1
"""Saturation below which a hue is noise, and is not amplified."""

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""Image (H, W, 3), severity 0-4, the image's own generator -> image (H, W, 3)."""


def corrupt(
    images: np.ndarray, corruption: str, severity: int, seeds: Sequence[Sequence[int]]
) -> np.ndarray:
    """Corrupt a batch uint8 (n, H, W, 3) by one corruption at one severity, 1-5.

    ``seeds``: those of each image's own generator, so that an image is corrupted the same way in
    every batch. Raises UnknownName for an unknown corruption, DataError for an impossible severity
    or images that are not uint8 RGB.
    """
    if corruption not in CORRUPTIONS:
        raise UnknownName("corruption", corruption, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise DataError(f"severity {severity} of {corruption}: choose from 1 to {len(SEVERITIES)}")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        given = f"{images.dtype} {images.shape}"
        raise DataError(f"corrupt takes uint8 images (n, height, width, 3), not {given}")
    corrupted = np.empty_like(images)
    function, number = _FUNCTIONS[corruption], CORRUPTIONS.index(corruption)
    for i, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        rng = np.random.default_rng([*seed, number, severity])
        corrupted[i] = function(np.ascontiguousarray(image), severity - 1, rng)
    return corrupted


# --- camera and file format ----------------------------------------------------------------------


def pixelate(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    factor = PIXELATED_SIDE[severity]
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def jpeg(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY[severity]]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    return np.asarray(cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def defocus(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Convolution with a uniform disc."""
    return _filtered(image, disc_kernel(_scaled(DEFOCUS_RADIUS[severity], image)))


def motion(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Convolution with half a Gaussian along a random direction, its mean at the centre."""
    length = _scaled(2 * MOTION_RADIUS[severity] + 1, image)
    sigma = _scaled(MOTION_SIGMA[severity], image)
    return _filtered(image, trail_kernel(length, sigma, rng.uniform(0, 2 * np.pi)))


# --- light and stain -----------------------------------------------------------------------------


def brightness(
    factors: Sequence[float], image: np.ndarray, severity: int, rng: np.random.Generator
) -> np.ndarray:
    """Every value times a factor, clipped."""
    return _looked_up(image, np.arange(256) * factors[severity])


def contrast(
    factors: Sequence[float], image: np.ndarray, severity: int, rng: np.random.Generator
) -> np.ndarray:
    """Every value's distance from the image's mean luma times a factor, in all channels alike."""
    grey = float(image.mean(axis=(0, 1)) @ GREY)
    return _looked_up(image, grey + (np.arange(256) - grey) * factors[severity])


def saturation(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The saturation of HSV plus a number; hue and value stay."""
    channels = cv2.split(image)
    top = cv2.max(cv2.max(channels[0], channels[1]), channels[2])
    bottom = cv2.min(cv2.min(channels[0], channels[1]), channels[2])
    ratio = _SATURATION[severity][top, bottom]
    return cv2.merge([_rounded(top - (top - c.astype(np.float32)) * ratio) for c in channels])


# --- artefacts on the slide ----------------------------------------------------------------------


def stain_deposit(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Dark violet grains of dried dye with ragged outlines, which absorb light."""
    out, side = image.copy(), min(image.shape[:2])
    for _ in range(DEPOSITS[severity]):
        centre = rng.uniform(0.08, 0.92, 2) * image.shape[1::-1]
        radius = side * DEPOSIT_RADIUS[severity] * rng.uniform(0.7, 1.4)
        dye = np.array([0.36, 0.16, 0.48]) + rng.uniform(-0.08, 0.08, 3)
        window, origin = _around(image, centre, 2 * radius + 2)
        cover = _ragged(out[window].shape[:2], centre - origin, radius, rng)[..., None]
        out[window] = _rounded(out[window] * (1 - cover * (1 - dye.astype(np.float32))))
    return out


def bubble(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Air bubbles: bright lenses with a dark rim and a highlight."""
    out, side = image.copy(), min(image.shape[:2])
    for _ in range(BUBBLES[severity]):
        centre = rng.uniform(0.1, 0.9, 2) * image.shape[1::-1]
        radius = max(1.0, side * BUBBLE_RADIUS[severity] * rng.uniform(0.75, 1.25))
        window, origin = _around(image, centre, radius + 1)
        out[window] = _rounded(_lens(out[window], centre - origin, radius))
    return out


_FUNCTIONS: dict[str, Corruption] = {
    "pixelate": pixelate,
    "JPEG": jpeg,
    "defocus": defocus,
    "motion": motion,
    "brighter": partial(brightness, BRIGHTER),
    "darker": partial(brightness, DARKER),
    "less contrast": partial(contrast, LESS_CONTRAST),
    "more contrast": partial(contrast, MORE_CONTRAST),
    "saturation": saturation,
    "stain deposit": stain_deposit,
    "bubble": bubble,
}
CORRUPTIONS = tuple(_FUNCTIONS)


# --- steps ---------------------------------------------------------------------------------------


def _scaled(length: float, image: np.ndarray) -> float:
    return length * min(image.shape[:2]) / REFERENCE


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255.5).astype(np.uint8)


def _looked_up(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.LUT(image, _rounded(values)))


def _saturating(added: float) -> np.ndarray:
    """(256, 256): new over old saturation, by the largest and the smallest channel."""
    top, bottom = np.arange(256.0)[:, None], np.arange(256.0)
    old = np.clip((top - bottom) / np.maximum(top, 1), 0, 1)
    new = np.minimum(old + added * np.minimum(old / COLOURLESS, 1), 1)
    return np.divide(new, old, out=np.ones_like(old), where=old > 0).astype(np.float32)


_SATURATION = tuple(_saturating(added) for added in ADDED_SATURATION)


def _filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def disc_kernel(radius: float, fine: int = 8) -> np.ndarray:
    """The kernel of a uniform disc with a smooth edge, from ``fine``² points a pixel."""
    reach = int(np.ceil(radius - 0.5))
    points = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    inside = np.hypot(points[:, None], points) <= max(radius, 0.5)
    shares = inside.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean(axis=(1, 3))
    return np.asarray(shares / shares.sum(), dtype=np.float32)


def trail_kernel(length: float, sigma: float, angle: float) -> np.ndarray:
    """The kernel of half a Gaussian along a line, its mean at the centre."""
    along = np.linspace(0, length, 8 * int(np.ceil(length)) + 1)
    weights = np.exp(-0.5 * (along / sigma) ** 2)
    along -= (along * weights).sum() / weights.sum()
    reach = int(np.ceil(np.abs(along).max())) + 1
    x, y = along * np.cos(angle) + reach, along * np.sin(angle) + reach
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    left, up = np.floor(x).astype(int), np.floor(y).astype(int)
    for right, down in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = np.abs(1 - right - x + left) * np.abs(1 - down - y + up)
        np.add.at(kernel, (up + down, left + right), weights * share)
    return np.asarray(kernel / kernel.sum(), dtype=np.float32)


def _around(
    image: np.ndarray, centre: np.ndarray, reach: float
) -> tuple[tuple[slice, slice], np.ndarray]:
    """The window within ``reach`` of a point (x, y), and its upper left corner (x, y)."""
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.ceil(centre + reach).astype(int) + 1
    return (slice(low[1], high[1]), slice(low[0], high[0])), low


def _ragged(
    shape: tuple[int, ...], centre: np.ndarray, radius: float, rng: np.random.Generator
) -> np.ndarray:
    """The coverage of each pixel by a blob with a ragged outline, 0-1, float32 (H, W)."""
    angles = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    waves = np.arange(2, 7)
    phases = rng.uniform(0, 2 * np.pi, len(waves))
    heights = rng.uniform(0, 0.45, len(waves)) / np.sqrt(waves)
    outline = 1 + (heights * np.cos(angles[:, None] * waves + phases)).sum(axis=1)
    points = centre + radius * outline[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    soft = cv2.GaussianBlur(mask, (0, 0), max(0.3, 0.15 * radius))
    return np.asarray(soft, dtype=np.float32) / 255


def _lens(image: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """The uint8 image with one bubble, as float32; it refracts and brightens what is behind it."""
    height, width = image.shape[:2]
    x = ((np.arange(width) - centre[0]) / radius).astype(np.float32)[None]
    y = ((np.arange(height) - centre[1]) / radius).astype(np.float32)[:, None]
    distance = np.hypot(x, y)
    bend = np.float32(radius) * (0.75 + 0.9 * np.minimum(distance, 1) ** 2)
    refracted = cv2.remap(
        image, x * bend + np.float32(centre[0]), y * bend + np.float32(centre[1]),
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101,
    ).astype(np.float32)  # fmt: skip
    refracted += (255 - refracted) * 0.3
    refracted *= 1 - 0.6 * np.exp(-(((distance - 0.93) / 0.09) ** 2))[..., None]
    refracted += 120 * np.exp(-((x + 0.4) ** 2 + (y + 0.4) ** 2) / 0.03)[..., None]
    inside = np.clip((1 - distance) * radius + 0.5, 0, 1)[..., None]
    return np.asarray(image + (refracted - image) * inside)
