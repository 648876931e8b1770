"""A policy applied to a batch of images and soft labels, on one core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harness.augmentation import operations, transforms
from harness.augmentation.transforms import Chains
from harness.schema.augmentation import AugMix, CutMix, Enlarged, MixUp, Noise, SplitAndRotate, Step

NOISE_IMAGES = 16
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
    """New images and targets: the steps applied to a batch, all randomness from ``seed``.

    Mixing takes its partners from the same batch. ``seed``: whatever np.random.default_rng takes.
    """
    rng = np.random.default_rng(seed)
    pending: list[Chains] = []
    for step in steps:
        if step.name in _CHAINS:
            pending.append(_CHAINS[step.name](step, len(images), images.shape[1], rng))
            continue
        images = _apply_chains(pending, images)
        pending = []
        images, targets = _augment_batch(step, images, targets, rng)
    return _apply_chains(pending, images), np.asarray(targets, np.float32)


def _apply_chains(chains: Sequence[Chains], images: np.ndarray) -> np.ndarray:
    """Each image through its chains, so that moves of several steps are one resampling."""
    if not chains:
        return images
    codes = np.concatenate([c.codes for c in chains], axis=1).tolist()
    parameters = np.concatenate([c.parameters for c in chains], axis=1).tolist()
    out = np.empty_like(images)
    for i, image in enumerate(images):
        out[i] = transforms.apply_transforms(image, codes[i], parameters[i])
    return out


def _augment_batch(
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
    """As keras-cv, except that a label's share is that of the visible pixels.

    keras-cv counts the whole rectangle, even where it hangs over the edge.
    """
    count, side = len(images), images.shape[1]
    partner = rng.permutation(count)
    lengths = np.trunc(np.sqrt(1 - rng.beta(step.alpha, step.alpha, count)) * side)
    centers = rng.integers(side, size=(2, count))
    begin, end = operations.rectangles(centers, lengths, side)
    out = images.copy()
    target, source = (x.reshape(count, side, 3 * side) for x in (out, images))  # Rows of bytes.
    boxes = zip(partner.tolist(), *begin.tolist(), *end.tolist(), strict=True)
    for i, (j, left, top, right, bottom) in enumerate(boxes):
        columns = slice(3 * left, 3 * right)
        target[i, top:bottom, columns] = source[j, top:bottom, columns]
    covered = np.prod(end - begin, axis=0) / side**2
    return out, _mixed(targets, partner, 1 - covered)


def _mixed(targets: np.ndarray, partner: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Rows that sum to 1: ``shares`` (n,) of their own target, the rest of their partner's."""
    own = shares[:, None].astype(np.float32)
    return own * targets + (1 - own) * targets[partner]


def augmix(step: AugMix, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    count, longest = len(images), step.depth[1]
    chains = transforms.augmix(step, count * step.chains, images.shape[1], rng)
    depth = rng.integers(step.depth[0], longest + 1, (count, step.chains))
    chains.codes.reshape(count, step.chains, longest)[np.arange(longest) >= depth[..., None]] = 0
    weights = rng.dirichlet(np.full(step.chains, step.alpha), count)
    own = rng.beta(step.alpha, step.alpha, count)
    shares = np.column_stack([own, (1 - own[:, None]) * weights]).tolist()
    branches = _apply_chains([chains], np.repeat(images, step.chains, axis=0))
    out = np.empty_like(images)
    for i, image in enumerate(images):
        own_branches = branches[i * step.chains : (i + 1) * step.chains]
        operations.mix([image, *own_branches], shares[i], out[i])
    return out


def noise(step: Noise, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image takes a stretch of one long field of noise: drawing is what costs here."""
    values = images[0].size
    field = rng.standard_normal(NOISE_IMAGES * values, dtype=np.float32)
    field *= step.deviation
    np.rint(field, out=field)
    added, removed = (np.clip(levels, 0, 255).astype(np.uint8) for levels in (field, -field))
    out = np.empty_like(images)
    for i, start in enumerate(rng.integers(len(field) - values, size=len(images)).tolist()):
        part = slice(start, start + values)
        shape = images[i].shape
        operations.noise(
            images[i], added[part].reshape(shape), removed[part].reshape(shape), out[i]
        )
    return out


def enlarge(
    step: Enlarged, images: np.ndarray, targets: np.ndarray, rng: np.random.Generator
) -> Batch:
    """(1 + copies) n images: the batch itself, then the batch through each step."""
    copies = [augment([copy], images, targets, rng) for copy in step.copies]
    return concatenate_batches([(images, targets), *copies])


def concatenate_batches(batches: Sequence[Batch]) -> Batch:
    images, targets = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(targets)
