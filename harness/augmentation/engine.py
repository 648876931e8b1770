"""A policy, carried out on a batch of images and soft labels, on as many cores as there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harness.augmentation import operations, transforms
from harness.augmentation.transforms import Chains
from harness.schema.augmentation import AugMix, CutMix, Enlarged, MixUp, Noise, SplitAndRotate, Step

NOISE_FIELDS = 16
"""Images that a batch's field of noise would cover without overlap."""

Batch = tuple[np.ndarray, np.ndarray]
"""Images uint8 (n, S, S, 3) and targets float32 (n, K), each row summing to 1."""

_CHAINS: dict[str, Callable[[Any, int, int, np.random.Generator], Chains]] = {
    "traditional": transforms.traditional,
    "randaugment": transforms.randaugment,
    "gridmask": transforms.gridmask,
    "cutout": transforms.cutout,
    "sharpness": transforms.sharpness,
}


def augment(steps: Sequence[Step], images: np.ndarray, targets: np.ndarray, seed: Any) -> Batch:
    """New images and targets: the steps on a batch, every draw from ``seed`` alone.

    Mixing takes its partners from the same batch. ``seed``: whatever np.random.default_rng takes.
    """
    rng = np.random.default_rng(seed)
    waiting: list[Chains] = []
    for step in steps:
        if step.name in _CHAINS:
            size = images.shape[1]
            waiting.append(_CHAINS[step.name](step, len(images), size, rng))
            continue
        images = _apply_transforms(waiting, images)
        waiting = []
        images, targets = _whole_batch(step, images, targets, rng)
    return _apply_transforms(waiting, images), np.asarray(targets, np.float32)


def _apply_transforms(waiting: Sequence[Chains], images: np.ndarray) -> np.ndarray:
    """Each image through its chains, so that moves of several steps are one resampling."""
    if not waiting:
        return images
    codes = np.concatenate([one.codes for one in waiting], axis=1).tolist()
    parameters = np.concatenate([one.parameters for one in waiting], axis=1).tolist()
    out = np.empty_like(images)
    for i, (code, drawn) in enumerate(zip(codes, parameters, strict=True)):
        out[i] = transforms.apply_transforms(images[i], code, drawn)
    return out


def _whole_batch(
    step: Step, images: np.ndarray, targets: np.ndarray, rng: np.random.Generator
) -> Batch:
    match step:
        case MixUp():
            return mixup(step, images, targets, rng)
        case CutMix():
            return cutmix(step, images, targets, rng)
        case AugMix():
            return augmix(step, images, rng), targets
        case Noise():
            return noise(step, images, rng), targets
        case SplitAndRotate():
            turns = rng.integers(4, size=(len(images), step.parts**2))
            return operations.split_and_rotate(images, step.parts, turns), targets
        case Enlarged():
            return enlarge(step, images, targets, rng)
        case _:  # A new step without its engine is a bug.
            raise NotImplementedError(step.name)


def mixup(step: MixUp, images: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> Batch:
    partner = rng.permutation(len(images))
    shares = rng.beta(step.alpha, step.alpha, len(images))
    out = np.empty_like(images)
    for i, (j, share) in enumerate(zip(partner.tolist(), shares.tolist(), strict=True)):
        operations.blend(images[i], images[j], share, out[i])
    return out, _mixed(targets, partner, shares)


def cutmix(
    step: CutMix, images: np.ndarray, targets: np.ndarray, rng: np.random.Generator
) -> Batch:
    """As keras-cv, except that a label's share is that of the pixels that are really seen.

    keras-cv counts the whole rectangle, even where it hangs over the edge.
    """
    count, side = len(images), images.shape[1]
    partner = rng.permutation(count)
    lengths = np.trunc(np.sqrt(1 - rng.beta(step.alpha, step.alpha, count)) * side)
    centers = rng.integers(side, size=(2, count))
    begin, end = operations.rectangles(centers, lengths, side)
    out = images.copy()
    ours, theirs = (x.reshape(count, side, 3 * side) for x in (out, images))  # Rows of bytes.
    boxes = zip(partner.tolist(), *begin.tolist(), *end.tolist(), strict=True)
    for i, (j, left, top, right, bottom) in enumerate(boxes):
        ours[i, top:bottom, 3 * left : 3 * right] = theirs[j, top:bottom, 3 * left : 3 * right]
    covered = np.prod(end - begin, axis=0) / side**2
    return out, _mixed(targets, partner, 1 - covered)


def _mixed(targets: np.ndarray, partner: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Rows that sum to 1: ``shares`` (n,) of their own target, the rest of their partner's."""
    mine = shares[:, None].astype(np.float32)
    return mine * targets + (1 - mine) * targets[partner]


AUGMIX = ("auto contrast", "equalize", "posterize", "rotation", "solarize", "shear x", "shear y",
          "shift x")  # fmt: skip
"""keras-cv's operations that are ever drawn, in its order."""


def augmix(step: AugMix, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    count, longest = len(images), step.depth[1]
    drawn = draw_augmix(step, count * step.chains, images.shape[1], rng)
    depth = rng.integers(step.depth[0], longest + 1, (count, step.chains))
    drawn.codes.reshape(count, step.chains, longest)[np.arange(longest) >= depth[..., None]] = 0
    weights = rng.dirichlet(np.full(step.chains, step.alpha), count)
    own = rng.beta(step.alpha, step.alpha, count)
    shares = np.column_stack([own, (1 - own[:, None]) * weights]).tolist()
    codes, parameters = drawn.codes.tolist(), drawn.parameters.tolist()
    out = np.empty_like(images)
    for i, image in enumerate(images):
        rows = range(i * step.chains, (i + 1) * step.chains)
        made = [transforms.apply_transforms(image, codes[row], parameters[row]) for row in rows]
        operations.mix([image, *made], shares[i], out[i])
    return out


def draw_augmix(step: AugMix, count: int, size: int, rng: np.random.Generator) -> Chains:
    """``count`` chains of full depth."""
    drawn = Chains.none(count, step.depth[1])
    chosen = rng.integers(len(AUGMIX), size=drawn.codes.shape)
    for i, name in enumerate(AUGMIX):
        which = np.nonzero(chosen == i)
        n = len(which[0])
        severity, sign = rng.uniform(0.01, step.severity, n), transforms.signs(rng, n)
        zero = np.zeros(n)
        match name:
            case "auto contrast" | "equalize":
                drawn.put(which, name, np.empty((n, 0)))
            case "posterize":
                drawn.put(which, name, 5 - np.floor(severity * 3)[:, None])
            case "solarize":
                drawn.put(which, name, np.stack([zero, np.floor(severity * 255)], axis=-1))
            case "rotation":
                drawn.put(which, "move", transforms.rotations(severity * 30, size))
            case "shear x":
                drawn.put(which, "move", transforms.shears(0.3 * severity * sign, zero))
            case "shear y":
                drawn.put(which, "move", transforms.shears(zero, 0.3 * severity * sign))
            case "shift x":
                drawn.put(
                    which, "move", transforms.shifts(np.trunc(severity * sign * size / 3), zero)
                )
    return drawn


def noise(step: Noise, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image takes a stretch of one long field of noise: drawing is what costs here."""
    values = images[0].size
    field = rng.standard_normal(NOISE_FIELDS * values, dtype=np.float32)
    field *= step.deviation
    np.rint(field, out=field)
    more, less = (np.clip(levels, 0, 255).astype(np.uint8) for levels in (field, -field))
    out = np.empty_like(images)
    for i, start in enumerate(rng.integers(len(field) - values, size=len(images)).tolist()):
        part = slice(start, start + values)
        shape = images[i].shape
        operations.noise(images[i], more[part].reshape(shape), less[part].reshape(shape), out[i])
    return out


def enlarge(
    step: Enlarged, images: np.ndarray, targets: np.ndarray, rng: np.random.Generator
) -> Batch:
    """(1 + copies) n images: the batch itself, then the batch through each step."""
    made = [augment([one], images, targets, rng) for one in step.copies]
    parts = [(images, targets), *made]
    return np.concatenate([x for x, _ in parts]), np.concatenate([t for _, t in parts])
