"""Images of cells from their parameters.

Outlines are signed distances in pixels, negative inside, computed on a grid of half the size,
upsampled, and roughened by noise. All steps are independent of the other images of a batch.
"""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 96
LOBES, RED_CELLS, VACUOLES, SPECKS = 5, 10, 6, 2

# fmt: off
CELL = np.dtype([
    ("centre", "f4", 2), ("radius", "f4"),
    ("stretch", "f4", (2, 2)),  # Maps the ellipse to a circle.
    ("wobble", "f4"), ("frill", "f4"),
    ("lobes", "f4", (LOBES, 3)),  # x, y, radius; a negative radius: absent.
    ("bridge", "f4"), ("melt", "f4"),
    ("red_cells", "f4", (RED_CELLS, 6)),  # x, y, 1/a, 1/b, cosine, sine.
    ("pale", "f4", RED_CELLS),
    ("vacuoles", "f4", (VACUOLES, 3)), ("specks", "f4", (SPECKS, 3)),
    ("cytoplasm", "f4", 3), ("opacity", "f4"), ("rim", "f4"), ("mottle", "f4"),
    ("granule", "f4", 3), ("granules", "f4"), ("coarseness", "f4"), ("veil", "f4"),
    ("cluster", "f4"),
    ("nucleus", "f4", (2, 3)),  # The dark and the light stain.
    ("pallor", "f4"), ("chromatin", "f4"), ("background", "f4", 3), ("red", "f4", 3),
    ("gain", "f4", 3),
    ("light", "f4", 3),  # Slope in x, slope in y, fall-off towards the border.
    ("focus", "f4"),  # Sigma of a Gaussian blur, pixels.
    ("texture", "i4", (4, 2)),  # Offsets into the noise.
])
# fmt: on
"""The parameters of one image. Lengths in pixels, colours 0-255."""

Floats = NDArray[np.float32]
_GRID = np.arange(0, SIZE, 2, dtype=np.float32) + 0.5
_FULL = (np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2) / (SIZE / 2)
_NOISE_SIZE = 512
TEXTURES = _NOISE_SIZE - SIZE
"""Offsets into the noise are below this."""


def paint(cells: np.ndarray) -> NDArray[np.uint8]:
    """Images uint8 RGB (n, 96, 96, 3) of cells (n,) of dtype CELL."""
    fine, grain, cloud, wave = (_noise(cells, k) for k in range(4))
    body = _upsample(_body(cells))
    body += _planes(cells["wobble"]) * wave + _planes(cells["frill"]) * (cloud + 0.3 * grain)
    nucleus, seam = (_upsample(plane) for plane in _nucleus(cells))
    nucleus += _planes(np.minimum(cells["melt"], 3) + 0.6) * (0.25 * cloud + 0.06 * grain)
    np.maximum(nucleus, body + 1.2, out=nucleus)

    canvas = _scene(cells, cloud)
    _cytoplasm(canvas, cells, body, cloud, fine)
    _stain_nucleus(canvas, cells, nucleus, seam, grain, fine)
    _granules(canvas, cells, body, nucleus, fine, grain)
    _vacuoles(canvas, cells, body, nucleus)
    return _expose(canvas, cells)


def _planes(values: np.ndarray) -> Floats:
    """Values per image, shaped to broadcast over its pixels."""
    return values[..., None, None]


def _alpha(distance: Floats, width: float = 1.2) -> Floats:
    """Opacity from a signed distance: 1 inside, 0 outside, an edge of ``width`` pixels."""
    alpha = distance * (-1 / width)
    alpha += 0.5
    return np.clip(alpha, 0, 1, out=alpha)


def _upsample(planes: Floats) -> Floats:
    """(n, 48, 48) to (n, 96, 96), bilinear."""
    out = np.empty((len(planes), SIZE, SIZE), np.float32)
    for plane, target in zip(planes, out, strict=True):
        cv2.resize(plane, (SIZE, SIZE), dst=target, interpolation=cv2.INTER_LINEAR)
    return out


def _blend(canvas: Floats, colour: Floats, alpha: Floats) -> None:
    """Blend a colour, (n, 3) or (n, 3, 96, 96), into the canvas (n, 3, 96, 96)."""
    if colour.ndim == 2:
        colour = _planes(colour)
    layer = colour - canvas
    layer *= alpha[:, None]
    canvas += layer


# --- noise -------------------------------------------------------------------------------------


@cache
def _noise_layers() -> Floats:
    """Noise (4, 512, 512) of unit variance at four scales: fine, grain, cloud, wave."""
    rng = np.random.default_rng(0)
    layers = []
    for inner, outer in ((0.6, 2.0), (1.0, 3.0), (2.4, 7.0), (8.0, 0.0)):
        white = rng.standard_normal((_NOISE_SIZE, _NOISE_SIZE), dtype=np.float32)
        layer = cv2.GaussianBlur(white, (0, 0), inner)
        if outer:
            layer = layer - cv2.GaussianBlur(white, (0, 0), outer)
        layers.append((layer - layer.mean()) / layer.std())
    return np.stack(layers)


def _noise(cells: np.ndarray, layer: int) -> Floats:
    noise = _noise_layers()[layer]
    return np.stack([noise[y : y + SIZE, x : x + SIZE] for y, x in cells["texture"][:, layer]])


# --- outlines, on the half-size grid --------------------------------------------------------


def _offsets(points: np.ndarray) -> tuple[Floats, Floats]:
    """x and y of every pixel relative to points (..., 2 or more)."""
    return _GRID[None, :] - _planes(points[..., 0]), _GRID[:, None] - _planes(points[..., 1])


def _body(cells: np.ndarray) -> Floats:
    x, y = _offsets(cells["centre"])
    m = cells["stretch"]
    u = _planes(m[:, 0, 0]) * x + _planes(m[:, 0, 1]) * y
    v = _planes(m[:, 1, 0]) * x + _planes(m[:, 1, 1]) * y
    return np.asarray(np.sqrt(u * u + v * v) - _planes(cells["radius"]))


def _nucleus(cells: np.ndarray) -> tuple[Floats, Floats]:
    """Signed distance to the lobes and bridges, and the seams (0-1) where lobes overlap."""
    lobes = cells["lobes"]
    x, y = _offsets(lobes)
    present, far = _planes(lobes[..., 2]) > 0, 99
    discs = np.where(present, np.sqrt(x * x + y * y) - _planes(lobes[..., 2]), far)
    step = lobes[:, 1:, :2] - lobes[:, :-1, :2]
    squared = np.maximum((step**2).sum(-1), 1e-3)
    unit_x, unit_y = (_planes(step[..., k] / squared) for k in range(2))
    along = np.clip(x[:, :-1] * unit_x + y[:, :-1] * unit_y, 0, 1)
    u = x[:, :-1] - along * _planes(step[..., 0])
    v = y[:, :-1] - along * _planes(step[..., 1])
    width = cells["bridge"][:, None] * np.minimum(lobes[:, 1:, 2], lobes[:, :-1, 2])
    bridges = np.where(present[:, 1:], np.sqrt(u * u + v * v) - _planes(width), far)

    melt = _planes(cells["melt"])
    merged = _melt(discs, melt)
    seam = (discs.min(1) - merged) / (melt * math.log(2))
    return np.minimum(merged, bridges.min(1)), seam


def _melt(distances: Floats, softness: Floats) -> Floats:
    """Smooth minimum over axis 1 by log-sum-exp."""
    total = np.exp(np.minimum(distances / -softness[:, None], 80)).sum(1) + 1e-30
    return np.asarray(-softness * np.log(total))


def _discs(discs: np.ndarray) -> Floats:
    """Signed distance to the nearest of some discs (n, k, 3), on the half-size grid."""
    x, y = _offsets(discs)
    return np.asarray((np.sqrt(x * x + y * y) - _planes(discs[..., 2])).min(1))


def _red_cells(cells: np.ndarray) -> Floats:
    """Stain density of the red cells, summed where they overlap; pale at the centre."""
    red = cells["red_cells"]
    x, y = _offsets(red)
    cosine, sine = _planes(red[..., 4]), _planes(red[..., 5])
    u = (x * cosine + y * sine) * _planes(red[..., 2])
    v = (y * cosine - x * sine) * _planes(red[..., 3])
    rho = u * u + v * v
    pale = np.sqrt(np.maximum(1 - rho * 2.2, 0))
    density = _alpha(rho - 1, 0.28) * (1 - _planes(cells["pale"]) * pale)
    return np.asarray(np.minimum(density.sum(1), 1.6))


# --- layers --------------------------------------------------------------------------------------


def _scene(cells: np.ndarray, cloud: Floats) -> Floats:
    density = _upsample(_red_cells(cells))
    density *= 1 + 0.03 * cloud
    canvas = density[:, None] * _planes(cells["red"] - cells["background"])
    canvas += _planes(cells["background"])
    some = np.flatnonzero((cells["specks"][..., 2] > 0).any(1))
    if some.size:
        part = canvas[some]
        alpha = _alpha(_upsample(_discs(cells["specks"][some])), 2.5)
        _blend(part, cells["nucleus"][some, 1], alpha)
        canvas[some] = part
    return canvas


def _cytoplasm(
    canvas: Floats, cells: np.ndarray, body: Floats, cloud: Floats, fine: Floats
) -> None:
    depth = body * (-1 / _planes(cells["radius"]))
    tone = 1 - _planes(cells["rim"]) * np.clip(0.6 - 2 * depth, 0, 1)
    tone += _planes(cells["mottle"]) * (0.14 * cloud + 0.16 * fine)
    # A darker stain absorbs most green and least blue.
    power = np.array([1.0, 1.15, 0.75], np.float32)
    colour = _planes(cells["cytoplasm"]) * (1 + _planes(power) * (tone - 1)[:, None])
    _blend(canvas, colour, _alpha(body) * _planes(cells["opacity"]))


def _stain_nucleus(
    canvas: Floats, cells: np.ndarray, nucleus: Floats, seam: Floats, grain: Floats, fine: Floats
) -> None:
    light = _planes(cells["chromatin"]) * (0.45 * grain + 0.35 * fine)
    light += _planes(cells["pallor"])
    light += 0.45 * seam
    light -= 0.35 * np.clip(nucleus * 0.4 + 1, 0, 1)
    np.clip(light, -0.3, 1.3, out=light)
    dark, pale = cells["nucleus"][:, 0], cells["nucleus"][:, 1]
    colour = light[:, None] * _planes(pale - dark)
    colour += _planes(dark)
    _blend(canvas, colour, _alpha(nucleus))


def _granules(
    canvas: Floats, cells: np.ndarray, body: Floats, nucleus: Floats, fine: Floats, grain: Floats
) -> None:
    coarse = _planes(cells["coarseness"])
    noise = fine + coarse * (grain - fine)
    noise /= np.sqrt(1 - 2 * coarse + 2 * coarse * coarse)
    if cells["cluster"].any():
        depth = body * (-1 / _planes(cells["radius"]))
        noise += 2 * _planes(cells["cluster"]) * (depth - 0.4)
    level = 2.3 - 4.0 * _planes(cells["granules"])
    alpha: Floats = np.clip((noise - level) * 1.1, 0, 1)
    alpha *= _alpha(body + 0.8)
    alpha *= 1 - (1 - _planes(cells["veil"])) * _alpha(nucleus)
    _blend(canvas, cells["granule"], alpha)


def _vacuoles(canvas: Floats, cells: np.ndarray, body: Floats, nucleus: Floats) -> None:
    some = np.flatnonzero((cells["vacuoles"][..., 2] > 0).any(1))
    if some.size == 0:
        return
    alpha = _alpha(_upsample(_discs(cells["vacuoles"][some])), 1.5)
    alpha *= _alpha(body[some] + 2) * (1 - 0.75 * _alpha(nucleus[some]))
    part = canvas[some]
    alpha *= 0.8
    _blend(part, cells["background"][some], alpha)
    canvas[some] = part


# --- the camera ----------------------------------------------------------------------------------


def _expose(canvas: Floats, cells: np.ndarray) -> NDArray[np.uint8]:
    slope_x, slope_y, fall = (_planes(cells["light"][:, k]) for k in range(3))
    x, y = _FULL[None, :], _FULL[:, None]
    canvas *= (1 + slope_x * x + slope_y * y - fall * (x * x + y * y))[:, None]
    canvas *= _planes(cells["gain"])
    np.clip(canvas, 0, 255, out=canvas)
    planes = (canvas + 0.5).astype(np.uint8)
    images = np.empty((len(cells), SIZE, SIZE, 3), np.uint8)
    for image, colours, focus in zip(images, planes, cells["focus"], strict=True):
        cv2.GaussianBlur(cv2.merge(list(colours)), (0, 0), float(focus), dst=image)
    return images
