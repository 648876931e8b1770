"""Random cells: the parameters of every image, sampled from the appearance of its class."""

from __future__ import annotations

from functools import partial

import numpy as np

from harness.data.synthetic.appearance import APPEARANCES
from harness.data.synthetic.painting import CELL, LOBES, RED_CELLS, SIZE, SPECKS, TEXTURES, VACUOLES

_ROWS = [appearance for of_class in APPEARANCES for appearance in of_class]
_DIRECT = (
    "radius", "wobble", "frill", "bridge", "melt", "opacity", "rim", "mottle", "granules",
    "coarseness", "veil", "cluster", "pallor", "chromatin",
)  # fmt: skip
"""Properties that are painted as they are sampled."""


def sample_cells(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One random cell for each label: (n,) of dtype CELL."""
    rows = _sample_rows(labels, rng)
    cells = np.zeros(len(labels), CELL)
    for name in _DIRECT:
        cells[name] = _sample(name, rows, rng)
    cells["centre"] = (SIZE - 1) / 2 + rng.normal(0, 2.2, cells["centre"].shape)
    stretch, angle = rng.uniform(1.0, 1.14, len(cells)), rng.uniform(0, np.pi, len(cells))
    cells["stretch"] = _ellipses(stretch, angle)
    _place_lobes(cells, rows, rng)
    _place_discs(cells, rows, rng)
    _place_red_cells(cells, rng)
    _stain(cells, rows, rng)
    _expose(cells, rng)
    cells["texture"] = rng.integers(0, TEXTURES, cells["texture"].shape)
    return cells


def perturb(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same cells, moved by about a pixel, and a little lighter or darker."""
    perturbed = cells.copy()
    shift = rng.uniform(0.4, 1.4, (len(cells), 2)) * rng.choice([-1, 1], (len(cells), 2))
    perturbed["centre"] += shift
    for name in ("lobes", "red_cells", "vacuoles", "specks"):
        perturbed[name][..., :2] += shift[:, None]
    change = rng.uniform(0.01, 0.03, (len(cells), 1)) * rng.choice([-1, 1], (len(cells), 1))
    perturbed["gain"] *= 1 + change
    return perturbed


def _sample_rows(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The row of the table of appearances of each cell, (n,)."""
    rows, first = np.empty(len(labels), int), 0
    for label, appearances in enumerate(APPEARANCES):
        of_class = labels == label
        shares = [appearance.share for appearance in appearances]
        rows[of_class] = first + rng.choice(len(shares), int(of_class.sum()), p=shares)
        first += len(shares)
    return rows


def _sample(name: str, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A value of each cell's range, (n,), from a triangular distribution."""
    low, high = np.array([getattr(row, name) for row in _ROWS], float)[rows].T
    return np.asarray(low + (high - low) * rng.random((2, len(rows))).mean(0))


def _sample_count(name: str, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    low, high = np.array([getattr(row, name) for row in _ROWS])[rows].T
    return np.asarray(rng.integers(low, high + 1))


def _ellipses(stretch: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Matrices (n, 2, 2) that map an ellipse, of axes ``stretch`` and its inverse, to a circle."""
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], -2)
    scale = np.stack([1 / stretch, stretch], -1)[..., None]
    return np.asarray(rotation.transpose(0, 2, 1) @ (scale * rotation))


def _place_lobes(cells: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Lobes on a bent chain, randomly rotated, its centre at an offset from the cell's."""
    sample = partial(_sample, rows=rows, rng=rng)
    radius = cells["radius"][:, None]
    count = _sample_count("lobes", rows, rng)[:, None]
    index = np.arange(LOBES)[None, :]
    present = index < count
    curl = sample("curl")[:, None]
    arc = (index - (count - 1) / 2) / np.maximum(count - 1, 1) * curl
    bend = sample("length")[:, None] * radius / curl
    chain = np.stack([bend * np.sin(arc), bend * np.cos(arc)], -1)
    chain += 0.05 * radius[..., None] * rng.normal(size=chain.shape) * (count > 1)[..., None]
    weight = present[..., None]
    chain -= (chain * weight).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
    chain = _rotated(chain, rng.uniform(0, 2 * np.pi, len(cells)))
    offset = sample("offset") * cells["radius"]
    chain += _polar(offset, rng.uniform(0, 2 * np.pi, len(cells)))[:, None]
    size = sample("lobe")[:, None] * radius
    size = size * (1 + 0.09 * rng.normal(size=present.shape) * (count > 1))
    cells["lobes"][..., :2] = chain + cells["centre"][:, None]
    cells["lobes"][..., 2] = np.where(present, size, -1)


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)


def _rotated(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = points[..., 0], points[..., 1]
    return np.stack([c * x - s * y, s * x + c * y], -1)


def _place_discs(cells: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Vacuoles inside the cell; in a quarter of the images, platelets outside it."""
    shape = (len(cells), VACUOLES)
    distance = cells["radius"][:, None] * np.sqrt(rng.uniform(0.15, 1.0, shape))
    points = _polar(distance, rng.uniform(0, 2 * np.pi, shape))
    cells["vacuoles"][..., :2] = points + cells["centre"][:, None]
    present = np.arange(VACUOLES) < _sample_count("vacuoles", rows, rng)[:, None]
    cells["vacuoles"][..., 2] = np.where(present, rng.uniform(1.4, 5.0, shape), -1)

    shape = (len(cells), SPECKS)
    distance = cells["radius"][:, None] + rng.uniform(8, 26, shape)
    points = _polar(distance, rng.uniform(0, 2 * np.pi, shape))
    cells["specks"][..., :2] = points + cells["centre"][:, None]
    present = np.arange(SPECKS) < rng.choice(3, (len(cells), 1), p=[0.75, 0.15, 0.1])
    cells["specks"][..., 2] = np.where(present, rng.uniform(1.8, 4.0, shape), -1)


def _place_red_cells(cells: np.ndarray, rng: np.random.Generator) -> None:
    """Red cells around the cell, some touching, most cut by the image's border."""
    shape = (len(cells), RED_CELLS)
    size = rng.uniform(13.0, 17.0, (len(cells), 1)) * rng.uniform(0.88, 1.12, shape)
    count = rng.integers(3, RED_CELLS + 1, (len(cells), 1))
    slot = np.arange(RED_CELLS) + rng.uniform(-0.7, 0.7, shape)
    angle = rng.uniform(0, 2 * np.pi, (len(cells), 1)) + slot * 2 * np.pi / count
    clearing = np.maximum(cells["radius"][:, None], rng.uniform(10, 34, shape))
    distance = clearing + size * rng.uniform(0.85, 2.2, shape)
    points = _polar(distance, angle) + cells["centre"][:, None]
    aspect, turn = rng.uniform(0.85, 1.18, shape), rng.uniform(0, np.pi, shape)
    present = np.arange(RED_CELLS) < count
    points[~present] = -99
    cells["red_cells"][..., :2] = points
    shapes = (1 / (size * aspect), aspect / size, np.cos(turn), np.sin(turn))
    cells["red_cells"][..., 2:] = np.stack(shapes, -1)
    cells["pale"] = rng.uniform(0.2, 0.8, (len(cells), 1)) * rng.uniform(0.4, 1.2, shape)


def _stain(cells: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> None:
    """The colours of all parts, which vary together from slide to slide."""
    count = len(cells)
    slide = rng.normal(0, 1, (count, 1)) * np.array([5.0, 2.0, -3.0])
    slide = slide + rng.normal(0, 5, (count, 1))
    for name in ("cytoplasm", "granule"):
        mean = np.array([getattr(row, name) for row in _ROWS], float)[rows]
        cells[name] = mean + slide + rng.normal(0, 5, (count, 3)) + rng.normal(0, 9, (count, 1))
    dark, light = np.array([56.0, 22.0, 108.0]), np.array([132.0, 78.0, 152.0])
    cells["nucleus"][:, 0] = dark + 0.7 * slide + rng.normal(0, 3, (count, 3))
    cells["nucleus"][:, 1] = light + 0.7 * slide + rng.normal(0, 4, (count, 3))
    cells["background"] = np.array([254.0, 229.0, 204.0]) + rng.normal(0, 1.5, (count, 3))
    cells["red"] = np.array([203.0, 170.0, 164.0]) + slide + rng.normal(0, 2.5, (count, 3))


def _expose(cells: np.ndarray, rng: np.random.Generator) -> None:
    """White balance, illumination and focus. One image in eight is bluish and blurred."""
    count = len(cells)
    bluish = rng.random((count, 1)) < 0.12
    balance = np.where(bluish, [0.88, 0.96, 1.17], [1.0, 1.0, 1.0])
    brightness = np.clip(rng.normal(1.0, 0.035, (count, 1)), 0.88, 1.06)
    cells["gain"] = balance * brightness * (1 + rng.normal(0, [0.007, 0.007, 0.018], (count, 3)))
    cells["light"][:, :2] = rng.normal(0, 0.02, (count, 2))
    cells["light"][:, 2] = rng.uniform(0, 0.04, count)
    blur = rng.random(count) ** 3
    cells["focus"] = 0.35 + 0.9 * blur + 0.4 * bluish[:, 0]
