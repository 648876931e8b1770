"""A preview of an augmentation policy: images of every class before and after it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from harness.augmentation.engine import augment
from harness.augmentation.stream import enlargement
from harness.data.contact_sheet import Row, Tile, draw, save
from harness.schema.augmentation import Augmentation
from harness.schema.dataset import Dataset

SIDE = 112
"""Pixels of a thumbnail."""
WHOLE = 0.995
"""Share of a label from which on it counts as all of it."""


def policy_preview(
    dataset: Dataset, augmentation: Augmentation, path: Path, *, versions: int = 8, seed: int = 0
) -> None:
    """Write a PNG to ``path``: for each class an original and ``versions`` augmented images.

    Below an image with a mixed label are the shares of its classes. Raises DataError where
    ``path`` cannot be written.
    """
    names, originals = dataset.class_names, _one_a_class(dataset, seed)
    images, targets = _augmented(originals, augmentation, versions, seed)
    rows = []
    for k, name in enumerate(names):
        captions = [label_shares(target, k, names) for target in targets[:, k]]
        tiles = map(Tile, images[:, k], captions)
        rows.append(Row([Tile(originals[k]), *tiles], name))
    policy = " + ".join(step.name for step in augmentation.policy) or "no augmentation"
    subtitle = "left the original, then augmented versions; shares of the classes where labels mix"
    save(draw(rows, SIDE, title=f"{dataset.name}: {policy}", subtitle=subtitle), path)


def policies_preview(
    dataset: Dataset, augmentations: Mapping[str, Augmentation], path: Path, *, seed: int = 0
) -> None:
    """Write a PNG to ``path``: the same image of each class, a row for each policy.

    Captions and errors are those of ``policy_preview``.
    """
    names, originals = dataset.class_names, _one_a_class(dataset, seed)
    rows = [Row([Tile(image, (name,)) for image, name in zip(originals, names, strict=True)],
                "original")]  # fmt: skip
    for policy, augmentation in augmentations.items():
        images, targets = _augmented(originals, augmentation, 1, seed)
        captions = [label_shares(target, k, names) for k, target in enumerate(targets[0])]
        rows.append(Row(list(map(Tile, images[0], captions)), policy))
    subtitle = "the same images under each policy; shares of the classes where labels mix"
    save(draw(rows, SIDE, title=dataset.name, subtitle=subtitle), path)


def _one_a_class(dataset: Dataset, seed: int) -> np.ndarray:
    """A random image of each class (K, S, S, 3)."""
    rng = np.random.default_rng(seed)
    classes = range(len(dataset.class_names))
    ids = [rng.choice(np.flatnonzero(dataset.labels == k)) for k in classes]
    return np.stack([dataset.images[i] for i in ids])


def _augmented(
    originals: np.ndarray, augmentation: Augmentation, versions: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images (versions, K, S, S, 3) and their targets; mixing takes partners from all of them."""
    classes = len(originals)
    batch = np.concatenate([originals] * versions)
    hard = np.tile(np.eye(classes, dtype=np.float32), (versions, 1))
    images, targets = augment(augmentation.policy, batch, hard, [seed, *b"preview"])
    if enlargement(augmentation) > 1:  # Each copy once, without the images as they are.
        images, targets = images[len(batch) :], targets[len(batch) :]
    return images.reshape(-1, *originals.shape), targets.reshape(-1, classes, classes)


def label_shares(target: np.ndarray, own: int, names: tuple[str, ...]) -> tuple[str, ...]:
    """The two largest shares of a label, unless its own class has it all."""
    if target[own] >= WHOLE:
        return ()
    largest = [k for k in np.argsort(-target)[:2] if target[k] >= 1 - WHOLE]
    return tuple(f"{100 * target[k]:.0f} % {names[k]}" for k in largest)
