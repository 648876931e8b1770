"""Eleven ways in which a picture of a cell goes wrong, at five severities each.

The kinds are those of MedMNIST-C for blood cells (Di Salvo et al. 2024, arXiv:2406.17536), and so
are the ladders of numbers where a kind has any; lengths are for its 224 pixels and scale with the
side, so that a picture is harmed alike at every size. Only JPEG's blocks are 8 pixels whatever the
size, as in a file. The pictures are drawn by this program's own means.

All functions take and give uint8 RGB, and change nothing in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from harness.errors import DataError, UnknownName

DRAWING = 1
"""Raised when the same kind, severity and stream would give other pixels."""

REFERENCE = 224
"""Pixels of the side that the lengths below are meant for."""

SEVERITIES = (1, 2, 3, 4, 5)

KEPT_SIDE = (0.6, 0.5, 0.4, 0.3, 0.25)
"""Of pixelate: what is left of the side, as in MedMNIST-C."""
JPEG_QUALITY = (50, 30, 15, 10, 7)
DEFOCUS_RADIUS = (2.0, 3.0, 4.0, 5.0, 6.0)
MOTION_RADIUS, MOTION_SIGMA = (3.0, 5.0, 10.0, 10.0, 10.0), (3.0, 5.0, 5.0, 7.0, 9.0)
BRIGHTER, DARKER = (1.1, 1.2, 1.3, 1.35, 1.4), (0.9, 0.8, 0.7, 0.6, 0.5)
MORE_CONTRAST, LESS_CONTRAST = (1.1, 1.15, 1.2, 1.25, 1.3), (0.9, 0.8, 0.7, 0.6, 0.5)
ADDED_SATURATION = (0.05, 0.10, 0.15, 0.17, 0.20)

DEPOSITS = (1, 2, 3, 4, 5)
DEPOSIT_RADIUS = (0.030, 0.035, 0.040, 0.045, 0.050)
"""Of the side. MedMNIST-C stops at three deposits; here number and size go on rising."""
BUBBLES = (1, 2, 2, 3, 3)
BUBBLE_RADIUS = (0.07, 0.09, 0.12, 0.14, 0.17)
"""Of the side."""

GREY = np.array([0.299, 0.587, 0.114])
"""Rec. 601 luma."""
COLOURLESS = 0.1
"""Saturation below which a hue is noise: what has none must not be given a colour."""

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""(H, W, 3), severity 0-4, the picture's own stream -> (H, W, 3)."""


def corrupt(
    images: np.ndarray, kind: str, severity: int, streams: Sequence[Sequence[int]]
) -> np.ndarray:
    """Every image of a batch uint8 (n, H, W, 3), corrupted by one kind at one severity, 1-5.

    ``streams``: for each image the numbers that its own randomness is drawn from, so that an
    image comes out alike in whatever batch it is. Raises UnknownName for a kind that is none,
    DataError for a severity that is none or for images that are not uint8 RGB.
    """
    if kind not in CORRUPTIONS:
        raise UnknownName("kind of shift", kind, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise DataError(f"severity {severity} of {kind}: choose from 1 to {len(SEVERITIES)}")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        shown = f"{images.dtype} {images.shape}"
        raise DataError(f"shift takes uint8 images (n, height, width, 3), not {shown}")
    out = np.empty_like(images)
    change, number = CORRUPTIONS[kind], KINDS.index(kind)
    for i, (image, stream) in enumerate(zip(images, streams, strict=True)):
        rng = np.random.default_rng([*stream, number, severity])
        out[i] = change(np.ascontiguousarray(image), severity - 1, rng)
    return out


# --- what a camera and a file do -----------------------------------------------------------------


def pixelate(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    kept = KEPT_SIDE[severity]
    coarse = (max(1, round(width * kept)), max(1, round(height * kept)))
    small = cv2.resize(image, coarse, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def jpeg(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY[severity]]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    return np.asarray(cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def defocus(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A point becomes an even disc."""
    return _filtered(image, _disc(_scaled(DEFOCUS_RADIUS[severity], image)))


def motion(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A point becomes a fading trail in a random direction, centred on where it was."""
    length = _scaled(2 * MOTION_RADIUS[severity] + 1, image)
    sigma = _scaled(MOTION_SIGMA[severity], image)
    return _filtered(image, _trail(length, sigma, rng.uniform(0, 2 * np.pi)))


# --- what a lamp and a dye do --------------------------------------------------------------------


def brighter(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Every value times a factor: more light on a sensor that clips."""
    return _looked_up(image, np.arange(256) * BRIGHTER[severity])


def darker(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    return _looked_up(image, np.arange(256) * DARKER[severity])


def less_contrast(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Every value nearer to the picture's mean grey, one for all three channels."""
    return _stretched(image, LESS_CONTRAST[severity])


def more_contrast(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    return _stretched(image, MORE_CONTRAST[severity])


def saturation(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The saturation of HSV plus a number; hue and value stay."""
    channels = cv2.split(image)
    top = cv2.max(cv2.max(channels[0], channels[1]), channels[2])
    bottom = cv2.min(cv2.min(channels[0], channels[1]), channels[2])
    ratio = _SATURATION[severity][top, bottom]
    return cv2.merge(
        [_rounded(top - (top - channel.astype(np.float32)) * ratio) for channel in channels]
    )


# --- what lies on the glass ----------------------------------------------------------------------


def stain_deposit(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Grains of dried dye, dark violet and ragged, that swallow light."""
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
    """Air under the glass: a bright lens with a dark rim and a glint."""
    out, side = image.copy(), min(image.shape[:2])
    for _ in range(BUBBLES[severity]):
        centre = rng.uniform(0.1, 0.9, 2) * image.shape[1::-1]
        radius = max(1.0, side * BUBBLE_RADIUS[severity] * rng.uniform(0.75, 1.25))
        window, origin = _around(image, centre, radius + 1)
        out[window] = _rounded(_lens(out[window], centre - origin, radius))
    return out


CORRUPTIONS: dict[str, Corruption] = {
    "pixelate": pixelate,
    "JPEG": jpeg,
    "defocus": defocus,
    "motion": motion,
    "brighter": brighter,
    "darker": darker,
    "less contrast": less_contrast,
    "more contrast": more_contrast,
    "saturation": saturation,
    "stain deposit": stain_deposit,
    "bubble": bubble,
}
KINDS = tuple(CORRUPTIONS)


# --- the pieces ----------------------------------------------------------------------------------


def _scaled(length: float, image: np.ndarray) -> float:
    return length * min(image.shape[:2]) / REFERENCE


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255.5).astype(np.uint8)


def _looked_up(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.LUT(image, _rounded(values)))


def _stretched(image: np.ndarray, factor: float) -> np.ndarray:
    grey = float(image.mean(axis=(0, 1)) @ GREY)
    return _looked_up(image, grey + (np.arange(256) - grey) * factor)


def _saturating(added: float) -> np.ndarray:
    """(256, 256): new over old saturation for every pair of largest and smallest channel."""
    top, bottom = np.arange(256.0)[:, None], np.arange(256.0)
    old = np.clip((top - bottom) / np.maximum(top, 1), 0, 1)
    new = np.minimum(old + added * np.minimum(old / COLOURLESS, 1), 1)
    return np.divide(new, old, out=np.ones_like(old), where=old > 0).astype(np.float32)


_SATURATION = tuple(_saturating(added) for added in ADDED_SATURATION)


def _filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def _disc(radius: float, fine: int = 8) -> np.ndarray:
    """The share of each pixel that a disc covers, summing to 1; from ``fine``² points a pixel."""
    reach = int(np.ceil(radius - 0.5))
    points = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    inside = np.hypot(points[:, None], points) <= max(radius, 0.5)
    shares = inside.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean(axis=(1, 3))
    return np.asarray(shares / shares.sum(), dtype=np.float32)


def _trail(length: float, sigma: float, angle: float) -> np.ndarray:
    """A line from a point on, fading as half a Gaussian, centred on its mean and summing to 1."""
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
    """The pixels within ``reach`` of a point (x, y), and where in the image they begin."""
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.ceil(centre + reach).astype(int) + 1
    return (slice(low[1], high[1]), slice(low[0], high[0])), low


def _ragged(
    shape: tuple[int, ...], centre: np.ndarray, radius: float, rng: np.random.Generator
) -> np.ndarray:
    """How far a blob with a ragged outline covers each pixel, 0-1, float32 (H, W)."""
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
    """The uint8 image with one bubble, as float32; what lies under it is seen bent and brighter."""
    height, width = image.shape[:2]
    x = ((np.arange(width) - centre[0]) / radius).astype(np.float32)[None]
    y = ((np.arange(height) - centre[1]) / radius).astype(np.float32)[:, None]
    away = np.hypot(x, y)
    bend = np.float32(radius) * (0.75 + 0.9 * np.minimum(away, 1) ** 2)
    seen = cv2.remap(
        image, x * bend + np.float32(centre[0]), y * bend + np.float32(centre[1]),
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101,
    ).astype(np.float32)  # fmt: skip
    seen += (255 - seen) * 0.3
    seen *= 1 - 0.6 * np.exp(-(((away - 0.93) / 0.09) ** 2))[..., None]
    seen += 120 * np.exp(-((x + 0.4) ** 2 + (y + 0.4) ** 2) / 0.03)[..., None]
    inside = np.clip((1 - away) * radius + 0.5, 0, 1)[..., None]
    return np.asarray(image + (seen - image) * inside)
