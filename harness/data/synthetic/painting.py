"""The painter of the smear: a table of cells in, pictures out.

Outlines are distances in pixels, negative inside. They are smooth, so they are computed on a
grid of half the size and enlarged; noise then roughens them at full size. Every step is
elementwise in a picture, so the way a table is cut into batches changes nothing.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 96
LOBES, RED_CELLS, VACUOLES, SPECKS = 5, 10, 6, 2

CELL = np.dtype(
    [
        ("centre", "f4", 2),
        ("radius", "f4"),
        ("stretch", "f4", (2, 2)),  # makes a circle of the ellipse
        ("wobble", "f4"),
        ("frill", "f4"),
        ("lobes", "f4", (LOBES, 3)),  # x, y, radius; a negative radius is no lobe
        ("bridge", "f4"),
        ("melt", "f4"),
        ("red_cells", "f4", (RED_CELLS, 6)),  # x, y, 1/a, 1/b, cosine, sine
        ("pale", "f4", RED_CELLS),
        ("vacuoles", "f4", (VACUOLES, 3)),
        ("specks", "f4", (SPECKS, 3)),
        ("cytoplasm", "f4", 3),
        ("opacity", "f4"),
        ("rim", "f4"),
        ("mottle", "f4"),
        ("granule", "f4", 3),
        ("granules", "f4"),
        ("coarseness", "f4"),
        ("veil", "f4"),
        ("cluster", "f4"),
        ("nucleus", "f4", (2, 3)),  # its dark and its light stain
        ("pallor", "f4"),
        ("chromatin", "f4"),
        ("background", "f4", 3),
        ("red", "f4", 3),
        ("gain", "f4", 3),
        ("light", "f4", 3),  # slope in x, slope in y, fall-off towards the border
        ("focus", "f4"),  # Gaussian blur, pixels
        ("texture", "i4", (4, 2)),  # where in the bank this picture's noise lies
    ]
)
"""All that is needed to paint one picture. Lengths in pixels, colours 0-255."""

Floats = NDArray[np.float32]
_GRID = np.arange(0, SIZE, 2, dtype=np.float32) + 0.5
_FULL = (np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2) / (SIZE / 2)
_BANK = 512
TEXTURES = _BANK - SIZE
"""Offsets into the bank are below this."""


def paint(cells: np.ndarray) -> NDArray[np.uint8]:
    """Paint a table of cells.

    ``cells`` is of dtype CELL, (n,); the result is uint8 (n, 96, 96, 3) RGB.
    """
    fine, grain, cloud, wave = (_noise(cells, k) for k in range(4))
    body = _enlarge(_body(cells))
    body += _px(cells["wobble"]) * wave + _px(cells["frill"]) * (cloud + np.float32(0.3) * grain)
    nucleus, seam = (_enlarge(plane) for plane in _nucleus(cells))
    nucleus += _px(np.minimum(cells["melt"], 3) + np.float32(0.6)) * (
        np.float32(0.25) * cloud + np.float32(0.06) * grain
    )
    np.maximum(nucleus, body + np.float32(1.2), out=nucleus)

    canvas = _scene(cells, cloud)
    _cytoplasm(canvas, cells, body, cloud, fine)
    _stain_nucleus(canvas, cells, nucleus, seam, grain, fine)
    _granules(canvas, cells, body, nucleus, fine, grain)
    _vacuoles(canvas, cells, body, nucleus)
    return _photograph(canvas, cells)


def _px(values: np.ndarray) -> Floats:
    """One value a picture, ready to meet its pixels."""
    return values[..., None, None]


def _fade(distance: Floats, width: float = 1.2) -> Floats:
    """Opacity 1 inside, 0 outside, with a soft edge of ``width`` pixels."""
    alpha = distance * np.float32(-1 / width)
    alpha += np.float32(0.5)
    return np.clip(alpha, 0, 1, out=alpha)


def _enlarge(planes: Floats) -> Floats:
    """(n, 48, 48) to (n, 96, 96), bilinear."""
    out = np.empty((len(planes), SIZE, SIZE), np.float32)
    for plane, target in zip(planes, out, strict=True):
        cv2.resize(plane, (SIZE, SIZE), dst=target, interpolation=cv2.INTER_LINEAR)
    return out


def _lay(canvas: Floats, colour: Floats, alpha: Floats) -> None:
    """Lay a paint, (n, 3) or (n, 3, 96, 96), over the canvas (n, 3, 96, 96)."""
    if colour.ndim == 2:
        colour = _px(colour)
    layer = colour - canvas
    layer *= alpha[:, None]
    canvas += layer


# --- noise -------------------------------------------------------------------------------------


@cache
def _bank() -> Floats:
    """Noise of unit deviation at four scales: fine, grain, cloud, wave. (4, 512, 512)."""
    rng = np.random.default_rng(0)
    layers = []
    for inner, outer in ((0.6, 2.0), (1.0, 3.0), (2.4, 7.0), (8.0, 0.0)):
        white = rng.standard_normal((_BANK, _BANK), dtype=np.float32)
        layer = cv2.GaussianBlur(white, (0, 0), inner)
        if outer:
            layer = layer - cv2.GaussianBlur(white, (0, 0), outer)
        layers.append((layer - layer.mean()) / layer.std())
    return np.stack(layers)


def _noise(cells: np.ndarray, layer: int) -> Floats:
    bank = _bank()[layer]
    corners = cells["texture"][:, layer]
    return np.stack([bank[y : y + SIZE, x : x + SIZE] for y, x in corners])


# --- outlines, on the half-size grid --------------------------------------------------------


def _body(cells: np.ndarray) -> Floats:
    x = _GRID[None, :] - _px(cells["centre"][:, 0])
    y = _GRID[:, None] - _px(cells["centre"][:, 1])
    m = cells["stretch"]
    u = _px(m[:, 0, 0]) * x + _px(m[:, 0, 1]) * y
    v = _px(m[:, 1, 0]) * x + _px(m[:, 1, 1]) * y
    distance: Floats = np.sqrt(u * u + v * v) - _px(cells["radius"])
    return distance


def _nucleus(cells: np.ndarray) -> tuple[Floats, Floats]:
    """Distance to a chain of lobes and bridges, and the seams (0-1) where lobes overlap."""
    lobes = cells["lobes"]
    x = _GRID[None, :] - _px(lobes[..., 0])
    y = _GRID[:, None] - _px(lobes[..., 1])
    present = _px(lobes[..., 2]) > 0
    far = np.float32(99)
    discs = np.where(present, np.sqrt(x * x + y * y) - _px(lobes[..., 2]), far)

    step = lobes[:, 1:, :2] - lobes[:, :-1, :2]
    squared = np.maximum((step**2).sum(-1), np.float32(1e-3))
    along = x[:, :-1] * _px(step[..., 0] / squared) + y[:, :-1] * _px(step[..., 1] / squared)
    np.clip(along, 0, 1, out=along)
    u = x[:, :-1] - along * _px(step[..., 0])
    v = y[:, :-1] - along * _px(step[..., 1])
    width = cells["bridge"][:, None] * np.minimum(lobes[:, 1:, 2], lobes[:, :-1, 2])
    bridges = np.where(present[:, 1:], np.sqrt(u * u + v * v) - _px(width), far)

    melt = _px(cells["melt"])
    merged = _melt(discs, melt)
    seam = (discs.min(1) - merged) / (melt * np.float32(np.log(2)))
    return np.minimum(merged, bridges.min(1)), seam


def _melt(distances: Floats, softness: Floats) -> Floats:
    """Smooth minimum over axis 1: the log-sum-exp of the negated distances."""
    scaled = np.exp(np.minimum(distances / -softness[:, None], np.float32(80)))
    total = scaled.sum(1)
    total += np.float32(1e-30)
    merged: Floats = -softness * np.log(total)
    return merged


def _discs(discs: np.ndarray) -> Floats:
    """Distance to the nearest of some discs (n, k, 3), on the half-size grid."""
    x = _GRID[None, :] - _px(discs[..., 0])
    y = _GRID[:, None] - _px(discs[..., 1])
    distance: Floats = (np.sqrt(x * x + y * y) - _px(discs[..., 2])).min(1)
    return distance


def _red_cells(cells: np.ndarray) -> Floats:
    """Stain density of the erythrocytes, summed where they overlap; pale in the middle."""
    red = cells["red_cells"]
    x = _GRID[None, :] - _px(red[..., 0])
    y = _GRID[:, None] - _px(red[..., 1])
    cosine, sine = _px(red[..., 4]), _px(red[..., 5])
    u = (x * cosine + y * sine) * _px(red[..., 2])
    v = (y * cosine - x * sine) * _px(red[..., 3])
    rho = u * u + v * v
    density = _fade(rho - 1, 0.28)
    pale = np.maximum(1 - rho * np.float32(2.2), 0)
    density *= 1 - _px(cells["pale"]) * np.sqrt(pale)
    total: Floats = density.sum(1)
    return np.minimum(total, np.float32(1.6), out=total)


# --- paints --------------------------------------------------------------------------------------


def _scene(cells: np.ndarray, cloud: Floats) -> Floats:
    density = _enlarge(_red_cells(cells))
    density *= 1 + np.float32(0.03) * cloud
    paint = _px(cells["red"] - cells["background"])
    canvas = density[:, None] * paint
    canvas += _px(cells["background"])

    near = np.flatnonzero((cells["specks"][..., 2] > 0).any(1))
    if near.size:
        part = canvas[near]
        _lay(part, cells["nucleus"][near, 1], _fade(_enlarge(_discs(cells["specks"][near])), 2.5))
        canvas[near] = part
    return canvas


def _cytoplasm(
    canvas: Floats, cells: np.ndarray, body: Floats, cloud: Floats, fine: Floats
) -> None:
    depth = body * (np.float32(-1) / _px(cells["radius"]))
    tone = 1 - _px(cells["rim"]) * np.clip(np.float32(0.6) - 2 * depth, 0, 1)
    mottle = _px(cells["mottle"])
    tone += mottle * (np.float32(0.14) * cloud + np.float32(0.16) * fine)
    # Darker stain takes more green than red, and least blue.
    power = np.array([1.0, 1.15, 0.75], np.float32)
    colour = _px(cells["cytoplasm"]) * (1 + _px(power) * (tone - 1)[:, None])
    _lay(canvas, colour, _fade(body) * _px(cells["opacity"]))


def _stain_nucleus(
    canvas: Floats, cells: np.ndarray, nucleus: Floats, seam: Floats, grain: Floats, fine: Floats
) -> None:
    light = _px(cells["chromatin"]) * (np.float32(0.45) * grain + np.float32(0.35) * fine)
    light += _px(cells["pallor"])
    light += np.float32(0.45) * seam
    light -= np.float32(0.35) * np.clip(nucleus * np.float32(0.4) + 1, 0, 1)
    np.clip(light, -0.3, 1.3, out=light)
    dark, pale = cells["nucleus"][:, 0], cells["nucleus"][:, 1]
    colour = light[:, None] * _px(pale - dark)
    colour += _px(dark)
    _lay(canvas, colour, _fade(nucleus))


def _granules(
    canvas: Floats,
    cells: np.ndarray,
    body: Floats,
    nucleus: Floats,
    fine: Floats,
    grain: Floats,
) -> None:
    coarse = _px(cells["coarseness"])
    noise = fine + coarse * (grain - fine)
    noise /= np.sqrt(1 - 2 * coarse + 2 * coarse * coarse)
    if cells["cluster"].any():
        depth = body * (np.float32(-1) / _px(cells["radius"]))
        noise += 2 * _px(cells["cluster"]) * (depth - np.float32(0.4))
    level = np.float32(2.3) - np.float32(4.0) * _px(cells["granules"])
    alpha = np.clip((noise - level) * np.float32(1.1), 0, 1)
    alpha *= _fade(body + np.float32(0.8))
    alpha *= 1 - (1 - _px(cells["veil"])) * _fade(nucleus)
    _lay(canvas, cells["granule"], alpha)


def _vacuoles(canvas: Floats, cells: np.ndarray, body: Floats, nucleus: Floats) -> None:
    some = np.flatnonzero((cells["vacuoles"][..., 2] > 0).any(1))
    if some.size == 0:
        return
    alpha = _fade(_enlarge(_discs(cells["vacuoles"][some])), 1.5)
    alpha *= _fade(body[some] + 2) * (1 - np.float32(0.75) * _fade(nucleus[some]))
    part = canvas[some]
    _lay(part, cells["background"][some], np.float32(0.8) * alpha)
    canvas[some] = part


# --- the camera ----------------------------------------------------------------------------------


def _photograph(canvas: Floats, cells: np.ndarray) -> NDArray[np.uint8]:
    slope_x, slope_y, fall = (_px(cells["light"][:, k]) for k in range(3))
    x, y = _FULL[None, :], _FULL[:, None]
    canvas *= (1 + slope_x * x + slope_y * y - fall * (x * x + y * y))[:, None]
    canvas *= _px(cells["gain"])
    np.clip(canvas, 0, 255, out=canvas)
    planes = (canvas + np.float32(0.5)).astype(np.uint8)
    images = np.empty((len(cells), SIZE, SIZE, 3), np.uint8)
    for image, colours, focus in zip(images, planes, cells["focus"], strict=True):
        cv2.GaussianBlur(cv2.merge(list(colours)), (0, 0), float(focus), dst=image)
    return images
