"""Steps of a policy -> for each image a chain of operations with random parameters.

All parameters of a batch are drawn at once, from one generator; the distributions are those of
keras-cv 0.9.0's layers. A chain is then applied image by image, on a Canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.augmentation import operations as ops
from harness.augmentation.operations import Canvas
from harness.schema.augmentation import (
    AugMix,
    CutOut,
    GridMask,
    RandAugment,
    Sharpness,
    Traditional,
)

MOST_PARAMETERS = 6
Parameters = np.ndarray
"""Of one operation for n images: float (n, at most MOST_PARAMETERS)."""
Rng = np.random.Generator


@dataclass(frozen=True)
class Chains:
    """``codes`` int (n, length), an index of OPERATIONS each; ``parameters`` (n, length, 6)."""

    codes: np.ndarray
    parameters: np.ndarray

    @classmethod
    def empty(cls, count: int, length: int) -> Chains:
        return cls(np.zeros((count, length), np.int64), np.zeros((count, length, MOST_PARAMETERS)))

    @classmethod
    def of_one(cls, name: str, parameters: Parameters) -> Chains:
        """The same operation for every image."""
        chains = cls.empty(len(parameters), 1)
        chains.set((slice(None), 0), name, parameters)
        return chains

    def set(self, where: Any, name: str, parameters: Parameters) -> None:
        """Set an operation at the positions that ``where``, a pair of indices, selects."""
        self.codes[where] = CODES[name]
        self.parameters[(*where, slice(parameters.shape[-1]))] = parameters


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
CODES = {name: code for code, (name, _) in enumerate(OPERATIONS)}


def apply_transforms(
    image: np.ndarray, codes: Sequence[int], parameters: Sequence[Sequence[float]]
) -> np.ndarray:
    """A copy of one image after its chain."""
    canvas = Canvas(image)
    for code, values in zip(codes, parameters, strict=True):
        if code:
            OPERATIONS[code][1](canvas, values)
    return canvas.image()


# --- moves as matrices: (n, 6) of scalars and (n,) ------------------------------------------------


def _matrices(*entries: Any) -> Parameters:
    return np.stack(np.broadcast_arrays(*entries), axis=-1).astype(float)


def flips(horizontal: np.ndarray, vertical: np.ndarray, size: int) -> Parameters:
    x, y = np.where(horizontal, -1.0, 1.0), np.where(vertical, -1.0, 1.0)
    return _matrices(x, 0, (size - 1) * horizontal, 0, y, (size - 1) * vertical)


def rotations(angles: np.ndarray, size: int) -> Parameters:
    """Around the centre; radians."""
    cos, sin, end = np.cos(angles), np.sin(angles), size - 1
    x, y = (end - (cos - sin) * end) / 2, (end - (sin + cos) * end) / 2
    return _matrices(cos, -sin, x, sin, cos, y)


def zooms(factors: np.ndarray, size: int) -> Parameters:
    """Around the centre; above 1 is out."""
    rest = (size - 1) / 2 * (1 - factors)
    return _matrices(factors, 0, rest, 0, factors, rest)


def shifts(x: Any, y: Any) -> Parameters:
    """To the right and down, in pixels."""
    return _matrices(1, 0, np.negative(x), 0, 1, np.negative(y))


def shears(x: Any, y: Any) -> Parameters:
    """Along x by y times the first, along y by x times the second; from the corner."""
    return _matrices(1, x, 0, y, 1, 0)


def compose(first: Parameters, second: Parameters) -> Parameters:
    """One move for two, the second on the result of the first."""
    corner = np.broadcast_to(np.array([0.0, 0.0, 1.0]), (len(first), 1, 3))
    whole = np.concatenate([second.reshape(-1, 2, 3), corner], axis=1)
    return (first.reshape(-1, 2, 3) @ whole).reshape(-1, MOST_PARAMETERS)


# --- the chains of each step ---------------------------------------------------------------------


def signs(rng: Rng, count: int) -> np.ndarray:
    return np.where(rng.random(count) > 0.5, -1.0, 1.0)


def traditional(step: Traditional, count: int, size: int, rng: Rng) -> Chains:
    chains = Chains.empty(count, 3)
    flip = rng.random((2, count)) > 0.5
    move = flips(
        flip[0] & (step.flip in ("horizontal", "both")),
        flip[1] & (step.flip in ("vertical", "both")),
        size,
    )
    angle = rng.uniform(-step.rotation, step.rotation, count) * 2 * np.pi
    move = compose(move, rotations(angle, size))
    move = compose(move, zooms(rng.uniform(1 - step.zoom, 1 + step.zoom, count), size))
    move = compose(move, shifts(*rng.uniform(-step.shift, step.shift, (2, count)) * size))
    chains.set((slice(None), 0), "move", move)
    delta = rng.uniform(-step.brightness, step.brightness, (count, 1)) * 255
    factor = rng.uniform(1 - step.contrast, 1 + step.contrast, (count, 1))
    if step.brightness:
        chains.set((slice(None), 1), "brightness", delta)
    if step.contrast:
        chains.set((slice(None), 2), "contrast", factor)
    return chains


def randaugment(step: RandAugment, count: int, size: int, rng: Rng) -> Chains:
    chains = Chains.empty(count, step.operations)
    operations = RANDAUGMENT if step.geometric else RANDAUGMENT[:6]
    chosen = rng.integers(len(operations), size=chains.codes.shape)
    chosen[rng.random(chosen.shape) > step.rate] = -1
    for i, (name, sample) in enumerate(operations):
        where = np.nonzero(chosen == i)
        chains.set(where, name, sample(step, len(where[0]), size, rng))
    return chains


def _normal(step: RandAugment, count: int, rng: Rng) -> np.ndarray:
    return np.clip(rng.normal(step.magnitude, step.deviation, count), 0, 1)


def _uniform(step: RandAugment, count: int, rng: Rng) -> np.ndarray:
    return rng.uniform(-step.magnitude, step.magnitude, count)


def _solarize(step: RandAugment, n: int, size: int, rng: Rng) -> Parameters:
    addition = np.clip(rng.normal(110 * step.magnitude, 110 * step.deviation, n), 0, 110)
    threshold = np.clip(rng.normal(255 * (1 - step.magnitude), 255 * step.deviation, n), 0, 255)
    return np.stack([addition, threshold], axis=-1)


RANDAUGMENT: tuple[tuple[str, Callable[[RandAugment, int, int, Rng], Parameters]], ...] = (
    ("auto contrast", lambda step, n, size, rng: np.empty((n, 0))),
    ("equalize", lambda step, n, size, rng: np.empty((n, 0))),
    ("solarize", _solarize),
    ("color", lambda step, n, size, rng: _normal(step, n, rng)[:, None]),
    ("contrast", lambda step, n, size, rng: 1 + _uniform(step, n, rng)[:, None]),
    ("brightness", lambda step, n, size, rng: 255 * _uniform(step, n, rng)[:, None]),
    ("move", lambda step, n, size, rng: shears(_normal(step, n, rng) * signs(rng, n), 0)),
    ("move", lambda step, n, size, rng: shears(0, _normal(step, n, rng) * signs(rng, n))),
    ("move", lambda step, n, size, rng: shifts(size * _uniform(step, n, rng), 0)),
    ("move", lambda step, n, size, rng: shifts(0, size * _uniform(step, n, rng))),
)
"""keras-cv's standard policy, in its order; the last four are geometric."""


def augmix(step: AugMix, count: int, size: int, rng: Rng) -> Chains:
    """``count`` chains of full depth."""
    chains = Chains.empty(count, step.depth[1])
    chosen = rng.integers(len(AUGMIX), size=chains.codes.shape)
    for i, (name, parameters) in enumerate(AUGMIX):
        where = np.nonzero(chosen == i)
        n = len(where[0])
        severity, sign = rng.uniform(0.01, step.severity, n), signs(rng, n)
        chains.set(where, name, parameters(severity, sign, size))
    return chains


AUGMIX: tuple[tuple[str, Callable[[np.ndarray, np.ndarray, int], Parameters]], ...] = (
    ("auto contrast", lambda severity, sign, size: np.empty((len(severity), 0))),
    ("equalize", lambda severity, sign, size: np.empty((len(severity), 0))),
    ("posterize", lambda severity, sign, size: 5 - np.floor(severity * 3)[:, None]),
    ("move", lambda severity, sign, size: rotations(severity * 30, size)),
    ("solarize", lambda severity, sign, size: _matrices(0, np.floor(severity * 255))),
    ("move", lambda severity, sign, size: shears(0.3 * severity * sign, 0)),
    ("move", lambda severity, sign, size: shears(0, 0.3 * severity * sign)),
    ("move", lambda severity, sign, size: shifts(np.trunc(severity * sign * size / 3), 0)),
)
"""keras-cv's operations that are ever drawn, in its order; parameters of severities and signs."""


def gridmask(step: GridMask, count: int, size: int, rng: Rng) -> Chains:
    ratio = rng.uniform(0, step.ratio, count)
    unit = rng.uniform(0.3 * size, 0.5 * size + 1, count)
    offsets = rng.uniform(0, 1, (2, count)) * unit
    angle = rng.uniform(-step.rotation, step.rotation, count) * 2 * np.pi
    return Chains.of_one("grid mask", np.stack([unit, ratio * unit, *offsets, angle], axis=-1))


def cutout(step: CutOut, count: int, size: int, rng: Rng) -> Chains:
    centers = rng.integers(size, size=(2, count))
    lengths = np.ceil(rng.uniform(0, step.size, (2, count)) * size)
    return Chains.of_one("cutout", np.concatenate(ops.rectangles(centers, lengths, size)).T)


def sharpness(step: Sharpness, count: int, size: int, rng: Rng) -> Chains:
    return Chains.of_one("sharpness", rng.uniform(0, step.factor, (count, 1)))
