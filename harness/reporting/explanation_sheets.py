"""Contact sheets of Grad-CAM maps, one a class, and which test images they show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from harness.data.contact_sheet import PAPER, Row, Tile
from harness.evaluation.deletion import enlarged
from harness.schema.dataset import Dataset
from harness.schema.predictions import Predictions
from harness.training.explanation import Explanation

SIDE = 128
"""Pixels at which an image is shown."""
OPACITY = 0.55
"""Of the hottest place."""


@dataclass(frozen=True)
class Chosen:
    """The test images of one class on a sheet, by id."""

    label: int
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    count: int
    """Test images of the class."""
    correct: int

    @property
    def ids(self) -> tuple[int, ...]:
        return self.right + self.wrong


def choose(test: Predictions, per_class: int, only: Sequence[int] = ()) -> list[Chosen]:
    """Of each class, ``per_class`` images that are predicted right, and as many wrong ones.

    The right ones are drawn at random, the wrong ones are those with the most confidence. With
    ``only`` exactly these ids, and the classes that they have.
    """
    right, confidence = test.y_pred == test.labels, test.probabilities.max(axis=1)
    shown = np.isin(test.ids, only) if only else np.ones(len(test.ids), bool)
    most = len(only) or per_class
    chosen = []
    for label in np.unique(test.labels[shown]):
        of_class = test.labels == label
        drawn = np.random.default_rng(int(label)).permutation(
            np.flatnonzero(of_class & right & shown)
        )
        wrong = np.flatnonzero(of_class & ~right & shown)
        wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
        chosen.append(
            Chosen(
                int(label),
                tuple(sorted(test.ids[drawn[:most]].tolist())),
                tuple(test.ids[wrong[:most]].tolist()),
                int(of_class.sum()),
                int((of_class & right).sum()),
            )
        )
    return chosen


@dataclass(frozen=True)
class Maps:
    """The explanations of the shown images by several networks, with the networks' names."""

    data: Dataset
    ids: tuple[int, ...]
    explained: dict[str, Explanation]

    def rows(self, chosen: Chosen) -> Iterator[Row]:
        """An image that is predicted right, and one that is not, in each row."""
        for i in range(max(len(chosen.right), len(chosen.wrong))):
            right = self._tiles(chosen.right[i : i + 1])
            wrong = self._tiles(chosen.wrong[i : i + 1])
            yield Row([*right, None, *wrong] if chosen.wrong else right)

    def header(self, chosen: Chosen) -> list[str | None]:
        names: list[str | None] = [*self.explained]
        return ["right", *names, *([None, "wrong", *names] if chosen.wrong else [])]

    def _tiles(self, ids: Sequence[int]) -> list[Tile]:
        """The image and its map by each network; empty without an image."""
        if not ids:
            blank = np.full((1, 1, 3), PAPER, np.uint8)
            return [Tile(blank)] * (1 + len(self.explained))
        image, i = np.asarray(self.data.images[ids[0]]), self.ids.index(ids[0])
        tiles = [Tile(image, (f"image {ids[0]}",))]
        for explanation in self.explained.values():
            probabilities = explanation.probabilities[i]
            k = int(probabilities.argmax())
            caption = f"{probabilities[k]:.2f} {self.data.class_names[k]}"
            tiles.append(Tile(overlay(image, explanation.maps[i]), (caption,)))
        return tiles


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image uint8 (S, S, 3) under what of its map (h, w) is above 0, red at the maximum."""
    positive = np.maximum(enlarged(heat, len(image)), 0)
    share = positive / max(float(positive.max()), 1e-12)
    colours = cv2.applyColorMap((255 * share).round().astype(np.uint8), cv2.COLORMAP_TURBO)
    opacity = OPACITY * share[..., None]
    return ((1 - opacity) * image + opacity * colours[..., ::-1]).round().astype(np.uint8)
