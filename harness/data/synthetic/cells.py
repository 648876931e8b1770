"""From the table of looks to a table of cells: everything about a picture but its pixels."""

from __future__ import annotations

from functools import partial

import numpy as np

from harness.data.synthetic.appearance import LOOKS
from harness.data.synthetic.painting import CELL, LOBES, RED_CELLS, SIZE, SPECKS, TEXTURES, VACUOLES

_FLAT = [look for looks in LOOKS for look in looks]
_AS_THEY_ARE = (
    "radius",
    "wobble",
    "frill",
    "bridge",
    "melt",
    "opacity",
    "rim",
    "mottle",
    "granules",
    "coarseness",
    "veil",
    "cluster",
    "pallor",
    "chromatin",
)
"""Properties that the painter takes just as the look gives them."""


def imagine(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one cell for each label: (n,) of dtype CELL."""
    looks = _choose_looks(labels, rng)
    cells = np.zeros(len(labels), CELL)
    for name in _AS_THEY_ARE:
        cells[name] = _within(name, looks, rng)
    cells["centre"] = (SIZE - 1) / 2 + rng.normal(0, 2.2, cells["centre"].shape)
    stretch, turn = rng.uniform(1.0, 1.14, len(cells)), rng.uniform(0, np.pi, len(cells))
    cells["stretch"] = _ellipses(stretch, turn)
    _place_lobes(cells, looks, rng)
    _place_discs(cells, looks, rng)
    _place_red_cells(cells, rng)
    _colour(cells, looks, rng)
    _expose(cells, rng)
    cells["texture"] = rng.integers(0, TEXTURES, cells["texture"].shape)
    return cells


def disturb(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same cells photographed again: moved by a pixel or so, a little lighter or darker."""
    again = cells.copy()
    shift = rng.uniform(0.4, 1.4, (len(cells), 2)) * rng.choice([-1, 1], (len(cells), 2))
    again["centre"] += shift
    for name in ("lobes", "red_cells", "vacuoles", "specks"):
        again[name][..., :2] += shift[:, None]
    change = rng.uniform(0.01, 0.03, (len(cells), 1)) * rng.choice([-1, 1], (len(cells), 1))
    again["gain"] *= 1 + change
    return again


def _choose_looks(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The row of the flat table of looks that each cell is drawn from."""
    chosen = np.empty(len(labels), int)
    first = 0
    for label, looks in enumerate(LOOKS):
        mine = labels == label
        shares = [look.share for look in looks]
        chosen[mine] = first + rng.choice(len(looks), int(mine.sum()), p=shares)
        first += len(looks)
    return chosen


def _within(name: str, looks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A value of each cell's range, (n,); the middle is likelier than the ends."""
    low, high = np.array([getattr(look, name) for look in _FLAT], float)[looks].T
    middling = rng.random((2, len(looks))).mean(0)
    values: np.ndarray = low + (high - low) * middling
    return values


def _counts(name: str, looks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    low, high = np.array([getattr(look, name) for look in _FLAT])[looks].T
    counts: np.ndarray = rng.integers(low, high + 1)
    return counts


def _ellipses(stretch: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Matrices (n, 2, 2) that turn an ellipse, of axes ``stretch`` and its inverse, to a circle."""
    c, s = np.cos(turn), np.sin(turn)
    rotation = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], -2)
    scale = np.stack([1 / stretch, stretch], -1)[..., None]
    matrices: np.ndarray = rotation.transpose(0, 2, 1) @ (scale * rotation)
    return matrices


def _place_lobes(cells: np.ndarray, looks: np.ndarray, rng: np.random.Generator) -> None:
    """Lobes on a bent chain, turned at random, its middle off the middle of the cell."""
    draw = partial(_within, looks=looks, rng=rng)
    radius = cells["radius"][:, None]
    count = _counts("lobes", looks, rng)[:, None]
    index = np.arange(LOBES)[None, :]
    present = index < count
    curl = draw("curl")[:, None]
    arc = (index - (count - 1) / 2) / np.maximum(count - 1, 1) * curl
    bend = draw("length")[:, None] * radius / curl
    chain = np.stack([bend * np.sin(arc), bend * np.cos(arc)], -1)
    chain += 0.05 * radius[..., None] * rng.normal(size=chain.shape) * (count > 1)[..., None]
    weight = present[..., None]
    chain -= (chain * weight).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
    chain = _turned(chain, rng.uniform(0, 2 * np.pi, len(cells)))
    chain += _polar(draw("offset") * cells["radius"], rng.uniform(0, 2 * np.pi, len(cells)))[
        :, None
    ]
    size = draw("lobe")[:, None] * radius
    size = size * (1 + 0.09 * rng.normal(size=present.shape) * (count > 1))
    cells["lobes"][..., :2] = chain + cells["centre"][:, None]
    cells["lobes"][..., 2] = np.where(present, size, -1)


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)


def _turned(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = points[..., 0], points[..., 1]
    return np.stack([c * x - s * y, s * x + c * y], -1)


def _place_discs(cells: np.ndarray, looks: np.ndarray, rng: np.random.Generator) -> None:
    """Vacuoles inside the cell; in one picture of four, stray platelets outside it."""
    shape = (len(cells), VACUOLES)
    reach = cells["radius"][:, None] * np.sqrt(rng.uniform(0.15, 1.0, shape))
    where = _polar(reach, rng.uniform(0, 2 * np.pi, shape))
    cells["vacuoles"][..., :2] = where + cells["centre"][:, None]
    present = np.arange(VACUOLES) < _counts("vacuoles", looks, rng)[:, None]
    cells["vacuoles"][..., 2] = np.where(present, rng.uniform(1.4, 5.0, shape), -1)

    shape = (len(cells), SPECKS)
    reach = cells["radius"][:, None] + rng.uniform(8, 26, shape)
    where = _polar(reach, rng.uniform(0, 2 * np.pi, shape))
    cells["specks"][..., :2] = where + cells["centre"][:, None]
    present = np.arange(SPECKS) < rng.choice(3, (len(cells), 1), p=[0.75, 0.15, 0.1])
    cells["specks"][..., 2] = np.where(present, rng.uniform(1.8, 4.0, shape), -1)


def _place_red_cells(cells: np.ndarray, rng: np.random.Generator) -> None:
    """A ring of erythrocytes around the cell, some touching, most cut by the border."""
    shape = (len(cells), RED_CELLS)
    size = rng.uniform(13.0, 17.0, (len(cells), 1)) * rng.uniform(0.88, 1.12, shape)
    crowd = rng.integers(3, RED_CELLS + 1, (len(cells), 1))
    slot = np.arange(RED_CELLS) + rng.uniform(-0.7, 0.7, shape)
    angle = rng.uniform(0, 2 * np.pi, (len(cells), 1)) + slot * 2 * np.pi / crowd
    clearing = np.maximum(cells["radius"][:, None], rng.uniform(10, 34, shape))
    reach = clearing + size * rng.uniform(0.85, 2.2, shape)
    where = _polar(reach, angle) + cells["centre"][:, None]
    oval, turn = rng.uniform(0.85, 1.18, shape), rng.uniform(0, np.pi, shape)
    present = np.arange(RED_CELLS) < crowd
    where[~present] = -99
    cells["red_cells"][..., :2] = where
    cells["red_cells"][..., 2] = 1 / (size * oval)
    cells["red_cells"][..., 3] = oval / size
    cells["red_cells"][..., 4] = np.cos(turn)
    cells["red_cells"][..., 5] = np.sin(turn)
    cells["pale"] = rng.uniform(0.2, 0.8, (len(cells), 1)) * rng.uniform(0.4, 1.2, shape)


def _colour(cells: np.ndarray, looks: np.ndarray, rng: np.random.Generator) -> None:
    """Stain each part; the whole slide is a little more red or blue, paler or darker."""
    count = len(cells)
    slide = rng.normal(0, 1, (count, 1)) * np.array([5.0, 2.0, -3.0])
    slide = slide + rng.normal(0, 5, (count, 1))
    for name in ("cytoplasm", "granule"):
        mean = np.array([getattr(look, name) for look in _FLAT], float)[looks]
        cells[name] = mean + slide + rng.normal(0, 5, (count, 3)) + rng.normal(0, 9, (count, 1))
    dark, light = np.array([56.0, 22.0, 108.0]), np.array([132.0, 78.0, 152.0])
    cells["nucleus"][:, 0] = dark + 0.7 * slide + rng.normal(0, 3, (count, 3))
    cells["nucleus"][:, 1] = light + 0.7 * slide + rng.normal(0, 4, (count, 3))
    cells["background"] = np.array([254.0, 229.0, 204.0]) + rng.normal(0, 1.5, (count, 3))
    cells["red"] = np.array([203.0, 170.0, 164.0]) + slide + rng.normal(0, 2.5, (count, 3))


def _expose(cells: np.ndarray, rng: np.random.Generator) -> None:
    """The microscope: white balance, illumination, focus. One slide in eight is bluish, blurred."""
    count = len(cells)
    other = rng.random((count, 1)) < 0.12
    balance = np.where(other, [0.88, 0.96, 1.17], [1.0, 1.0, 1.0])
    brightness = np.clip(rng.normal(1.0, 0.035, (count, 1)), 0.88, 1.06)
    cells["gain"] = balance * brightness * (1 + rng.normal(0, [0.007, 0.007, 0.018], (count, 3)))
    cells["light"][:, :2] = rng.normal(0, 0.02, (count, 2))
    cells["light"][:, 2] = rng.uniform(0, 0.04, count)
    soft = rng.random(count) ** 3
    cells["focus"] = 0.35 + 0.9 * soft + 0.4 * other[:, 0]
