"""What a policy does to the images, on one sheet: look before you train."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.augmentation.engine import augment
from harness.augmentation.epoch_cache import enlargement
from harness.data.image_cache import square
from harness.errors import DataError
from harness.schema.augmentation import Augmentation
from harness.schema.dataset import Dataset

SIDE = 112
"""Pixels of a thumbnail."""
CAPTION, GAP, MARGIN = 34, 6, 20
PAPER, INK, FAINT = (252, 252, 250), (25, 25, 30), (110, 110, 118)
SURE = 0.995
"""From this share of its own class on, nothing is written."""


def sheet(
    dataset: Dataset, augmentation: Augmentation, path: Path, *, versions: int = 8, seed: int = 0
) -> None:
    """Write a PNG to ``path``: for each class an original and ``versions`` that a policy makes.

    Under an image whose label is mixed stand the shares of its classes. Raises DataError where
    ``path`` cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    title, bold, small = (ImageFont.load_default(size) for size in (20, 16, 11))
    originals = _one_of_each(dataset, seed)
    images, targets = _varied(originals, augmentation, versions, seed)
    names = dataset.class_names
    left = 2 * MARGIN + int(max(bold.getlength(name) for name in names))
    top, step = 2 * MARGIN + 46, (SIDE + GAP, SIDE + CAPTION)
    width = left + (1 + len(images)) * step[0] + MARGIN
    picture = Image.new("RGB", (width, top + len(names) * step[1] + MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), f"{dataset.name}: {_told(augmentation)}", INK, title)
    heading = "the original, then what the policy makes of it; shares of the classes where mixed"
    draw.text((MARGIN, MARGIN + 28), heading, FAINT, small)
    for k, name in enumerate(names):
        y = top + k * step[1]
        draw.text((MARGIN, y + SIDE // 2), name, INK, bold, anchor="lm")
        row = [originals[k], *(batch[k] for batch in images)]
        for column, image in enumerate(row):
            x = left + column * step[0]
            picture.paste(Image.fromarray(square(image, SIDE)), (x, y))
            if column:
                told = _shares(targets[column - 1][k], k, names)
                draw.text((x, y + SIDE + 1), told, FAINT, small, spacing=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, "PNG")
    except OSError as error:
        raise DataError(f"{path}: the preview cannot be written: {error}") from error


def _one_of_each(dataset: Dataset, seed: int) -> np.ndarray:
    """An image of each class, (K, S, S, 3)."""
    rng = np.random.default_rng(seed)
    classes = range(len(dataset.class_names))
    return np.stack(
        [dataset.images[rng.choice(np.flatnonzero(dataset.labels == k))] for k in classes]
    )


def _varied(
    originals: np.ndarray, augmentation: Augmentation, versions: int, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """So many batches of all classes, and their targets; mixing takes partners from all of them."""
    classes, copies = len(originals), enlargement(augmentation)
    batch = np.concatenate([originals] * versions)
    hard = np.tile(np.eye(classes, dtype=np.float32), (versions, 1))
    images, targets = augment(augmentation.policy, batch, hard, [seed, *b"preview"])
    if copies > 1:  # Each copy once, without the images as they are.
        rows = range(versions * classes, len(images), versions * classes)
        return [images[i : i + classes] for i in rows], [targets[i : i + classes] for i in rows]
    return np.split(images, versions), np.split(targets, versions)


def _told(augmentation: Augmentation) -> str:
    return " + ".join(step.name for step in augmentation.policy) or "no augmentation"


def _shares(target: np.ndarray, own: int, names: tuple[str, ...]) -> str:
    """The two largest shares of a label, unless its own class has it all."""
    if target[own] >= SURE:
        return ""
    largest = [k for k in np.argsort(-target)[:2] if target[k] >= 1 - SURE]
    return "\n".join(f"{100 * target[k]:.0f} % {names[k][:14]}" for k in largest)
