"""Steps -> for each image a chain of operations with drawn parameters.

All draws of a batch are made at once, from one generator; the distributions are those of
keras-cv 0.9.0's layers. A chain is then carried out image by image, on a Canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.augmentation import operations as ops
from harness.augmentation.operations import Canvas
from harness.schema.augmentation import CutOut, GridMask, RandAugment, Sharpness, Traditional

PARAMETERS = 6
Drawn = np.ndarray
"""Parameters of one operation for n images, (n, at most PARAMETERS)."""


@dataclass(frozen=True)
class Chains:
    """``codes`` int (n, length), an index of OPERATIONS each; ``parameters`` (n, length, 6)."""

    codes: np.ndarray
    parameters: np.ndarray

    @classmethod
    def none(cls, count: int, length: int) -> Chains:
        return cls(np.zeros((count, length), np.int64), np.zeros((count, length, PARAMETERS)))

    def put(self, which: Any, name: str, drawn: Drawn) -> None:
        """Set an operation at the places that ``which``, a pair of indices, selects."""
        self.codes[which] = CODES[name]
        self.parameters[(*which, slice(drawn.shape[-1]))] = drawn


OPERATIONS: tuple[tuple[str, Callable[[Canvas, Sequence[float]], None]], ...] = (
    ("nothing", lambda canvas, p: None),
    ("move", lambda canvas, p: canvas.move(tuple(p))),  # type: ignore[arg-type]
    ("brightness", lambda canvas, p: canvas.recolour(lambda x: ops.brightness(x, p[0]))),
    ("solarize", lambda canvas, p: canvas.recolour(lambda x: ops.solarize(x, p[0], p[1]))),
    ("posterize", lambda canvas, p: canvas.recolour(lambda x: ops.posterize(x, int(p[0])))),
    ("color", lambda canvas, p: canvas.recolour(lambda x: ops.color_degeneration(x, p[0]))),
    ("contrast", lambda canvas, p: canvas.change(lambda x: ops.contrast(x, p[0]))),
    ("auto contrast", lambda canvas, p: canvas.change(ops.auto_contrast)),
    ("equalize", lambda canvas, p: canvas.change(ops.equalize)),
    ("sharpness", lambda canvas, p: canvas.change(lambda x: ops.sharpness(x, p[0]))),
    ("cutout", lambda canvas, p: canvas.change(lambda x: ops.cutout(x, *map(int, p[:4])))),
    ("grid mask", lambda canvas, p: canvas.change(lambda x: ops.grid_mask(x, p))),
)
CODES = {name: i for i, (name, _) in enumerate(OPERATIONS)}
_FUNCTIONS = tuple(function for _, function in OPERATIONS)


def apply_transforms(
    image: np.ndarray, codes: Sequence[int], parameters: Sequence[Sequence[float]]
) -> np.ndarray:
    """One chain on one image; the image itself is left alone."""
    canvas = Canvas(image)
    for code, drawn in zip(codes, parameters, strict=True):
        if code:
            _FUNCTIONS[code](canvas, drawn)
    return canvas.image()


# --- the moves, as matrices ----------------------------------------------------------------------


def flips(horizontal: np.ndarray, vertical: np.ndarray, size: int) -> Drawn:
    """(n, 6) from two (n,) bools."""
    x, y = np.where(horizontal, -1.0, 1.0), np.where(vertical, -1.0, 1.0)
    zero = np.zeros_like(x)
    return np.stack([x, zero, (size - 1) * horizontal, zero, y, (size - 1) * vertical], axis=-1)


def rotations(angles: np.ndarray, size: int) -> Drawn:
    """Around the centre; radians."""
    cos, sin, end = np.cos(angles), np.sin(angles), size - 1
    x = (end - (cos - sin) * end) / 2
    y = (end - (sin + cos) * end) / 2
    return np.stack([cos, -sin, x, sin, cos, y], axis=-1)


def zooms(factors: np.ndarray, size: int) -> Drawn:
    """Around the centre; above 1 is out."""
    zero, rest = np.zeros_like(factors), (size - 1) / 2 * (1 - factors)
    return np.stack([factors, zero, rest, zero, factors, rest], axis=-1)


def shifts(x: np.ndarray, y: np.ndarray) -> Drawn:
    """To the right and down, in pixels."""
    one, zero = np.ones_like(x), np.zeros_like(x)
    return np.stack([one, zero, -x, zero, one, -y], axis=-1)


def shears(x: np.ndarray, y: np.ndarray) -> Drawn:
    """Along x by y times the first, or along y by x times the second; from the corner."""
    one, zero = np.ones_like(x), np.zeros_like(x)
    return np.stack([one, x, zero, y, one, zero], axis=-1)


def after(first: Drawn, second: Drawn) -> Drawn:
    """One move for two, the second on the result of the first; (n, 6) each."""
    corner = np.broadcast_to(np.array([0.0, 0.0, 1.0]), (len(first), 1, 3))
    whole = np.concatenate([second.reshape(-1, 2, 3), corner], axis=1)
    return (first.reshape(-1, 2, 3) @ whole).reshape(-1, PARAMETERS)


# --- the draws -----------------------------------------------------------------------------------


def signs(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.where(rng.random(count) > 0.5, -1.0, 1.0)


def traditional(step: Traditional, count: int, size: int, rng: np.random.Generator) -> Chains:
    chains = Chains.none(count, 3)
    flip = rng.random((2, count)) > 0.5
    move = flips(
        flip[0] & (step.flip in ("horizontal", "both")),
        flip[1] & (step.flip in ("vertical", "both")),
        size,
    )
    turn = rng.uniform(-step.rotation, step.rotation, count) * 2 * np.pi
    move = after(move, rotations(turn, size))
    move = after(move, zooms(rng.uniform(1 - step.zoom, 1 + step.zoom, count), size))
    move = after(move, shifts(*rng.uniform(-step.shift, step.shift, (2, count)) * size))
    everywhere = slice(None)
    chains.put((everywhere, 0), "move", move)
    light = rng.uniform(-step.brightness, step.brightness, (count, 1)) * 255
    spread = rng.uniform(1 - step.contrast, 1 + step.contrast, (count, 1))
    if step.brightness:
        chains.put((everywhere, 1), "brightness", light)
    if step.contrast:
        chains.put((everywhere, 2), "contrast", spread)
    return chains


def randaugment(step: RandAugment, count: int, size: int, rng: np.random.Generator) -> Chains:
    chains = Chains.none(count, step.operations)
    operations = RANDAUGMENT if step.geometric else RANDAUGMENT[:6]
    chosen = rng.integers(len(operations), size=chains.codes.shape)
    chosen[rng.random(chosen.shape) > step.rate] = -1
    for i, (name, draw) in enumerate(operations):
        which = np.nonzero(chosen == i)
        chains.put(which, name, draw(step, len(which[0]), size, rng))
    return chains


_Draw = Callable[[RandAugment, int, int, np.random.Generator], Drawn]


def _normal(step: RandAugment, count: int, rng: np.random.Generator) -> np.ndarray:
    return np.clip(rng.normal(step.magnitude, step.deviation, count), 0, 1)


def _uniform(step: RandAugment, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-step.magnitude, step.magnitude, count)


def _draw_nothing(step: RandAugment, n: int, size: int, rng: np.random.Generator) -> Drawn:
    return np.empty((n, 0))


def _draw_solarize(step: RandAugment, n: int, size: int, rng: np.random.Generator) -> Drawn:
    addition = np.clip(rng.normal(110 * step.magnitude, 110 * step.deviation, n), 0, 110)
    threshold = np.clip(rng.normal(255 * (1 - step.magnitude), 255 * step.deviation, n), 0, 255)
    return np.stack([addition, threshold], axis=-1)


def _draw_color(step: RandAugment, n: int, size: int, rng: np.random.Generator) -> Drawn:
    return _normal(step, n, rng)[:, None]


def _draw_contrast(step: RandAugment, n: int, size: int, rng: np.random.Generator) -> Drawn:
    return 1 + _uniform(step, n, rng)[:, None]


def _draw_brightness(step: RandAugment, n: int, size: int, rng: np.random.Generator) -> Drawn:
    return 255 * _uniform(step, n, rng)[:, None]


def _draw_shear_x(step: RandAugment, n: int, size: int, rng: np.random.Generator) -> Drawn:
    return shears(_normal(step, n, rng) * signs(rng, n), np.zeros(n))


def _draw_shear_y(step: RandAugment, n: int, size: int, rng: np.random.Generator) -> Drawn:
    return shears(np.zeros(n), _normal(step, n, rng) * signs(rng, n))


def _draw_shift_x(step: RandAugment, n: int, size: int, rng: np.random.Generator) -> Drawn:
    return shifts(size * _uniform(step, n, rng), np.zeros(n))


def _draw_shift_y(step: RandAugment, n: int, size: int, rng: np.random.Generator) -> Drawn:
    return shifts(np.zeros(n), size * _uniform(step, n, rng))


RANDAUGMENT: tuple[tuple[str, _Draw], ...] = (
    ("auto contrast", _draw_nothing),
    ("equalize", _draw_nothing),
    ("solarize", _draw_solarize),
    ("color", _draw_color),
    ("contrast", _draw_contrast),
    ("brightness", _draw_brightness),
    ("move", _draw_shear_x),
    ("move", _draw_shear_y),
    ("move", _draw_shift_x),
    ("move", _draw_shift_y),
)
"""keras-cv's standard policy, in its order; the last four are geometric."""


def gridmask(step: GridMask, count: int, size: int, rng: np.random.Generator) -> Chains:
    chains = Chains.none(count, 1)
    ratio = rng.uniform(0, step.ratio, count)
    unit = rng.uniform(0.3 * size, 0.5 * size + 1, count)
    offsets = rng.uniform(0, 1, (2, count)) * unit
    angle = rng.uniform(-step.rotation, step.rotation, count) * 2 * np.pi
    drawn = np.stack([unit, ratio * unit, *offsets, angle], axis=-1)
    chains.put((slice(None), 0), "grid mask", drawn)
    return chains


def cutout(step: CutOut, count: int, size: int, rng: np.random.Generator) -> Chains:
    chains = Chains.none(count, 1)
    centers = rng.integers(size, size=(2, count))
    lengths = np.ceil(rng.uniform(0, step.size, (2, count)) * size)
    corners = np.concatenate(ops.rectangles(centers, lengths, size))
    chains.put((slice(None), 0), "cutout", corners.T)
    return chains


def sharpness(step: Sharpness, count: int, size: int, rng: np.random.Generator) -> Chains:
    chains = Chains.none(count, 1)
    chains.put((slice(None), 0), "sharpness", rng.uniform(0, step.factor, (count, 1)))
    return chains
