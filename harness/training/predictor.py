"""A trained network on the images that judge it: in every view, and on their shifted copy.

It knows no framework: what it is given runs a batch through the backbone, and features through
the head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from harness.augmentation.test_time import apply_view
from harness.data.shifted_test import PAIRS, Shifted
from harness.schema.dataset import Dataset
from harness.schema.predictions import EVERY_SHIFT, PLAIN, SHIFTED, Predictions

ImageRows = tuple[np.ndarray, np.ndarray]
"""An array of images, and which of its rows."""


@dataclass
class Predictor:
    """``forward``: batches of images (batch, S, S, 3) to the features of one after the other;
    ``classify``: features to probabilities."""

    data: Dataset
    forward: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]
    classify: Callable[[np.ndarray], np.ndarray]
    batch: int
    views: int = 1
    step: Callable[[int], None] = lambda _: None
    """Told how many images have gone through the backbone so far."""
    _done: int = 0

    def part(
        self, name: str, rows: ImageRows, ids: np.ndarray, features: np.ndarray
    ) -> dict[str, Predictions]:
        """Of a part whose first view has been through the backbone: (n, width).

        ``rows``: its images; those of validation may be augmented ones.
        """
        return self._told(name, rows, ids, features)

    def train(self, ids: np.ndarray, features: np.ndarray) -> Predictions:
        """Of the training images, which judge nobody: the first view is enough."""
        return self._predictions(ids, self.classify(features), features)

    def shifted(self, copy: Shifted) -> dict[str, Predictions]:
        """Of the mixed copy, and of every shift where it has all 55, one way after the other."""
        rows = (copy.images, copy.mixed)
        told = self._told(SHIFTED, rows, copy.ids[copy.mixed], self._pass(rows, 0))
        if len(copy.ids) > len(copy.mixed):
            every = [self._averaged((copy.images, way)) for way in _each_way(copy)]
            told[EVERY_SHIFT] = self._predictions(copy.ids, np.concatenate(every))
        return told

    def _told(
        self, name: str, rows: ImageRows, ids: np.ndarray, features: np.ndarray
    ) -> dict[str, Predictions]:
        """Averaged over the views; beside a test, if there are several, what the first alone says.

        So the effect of the views on both tests can be told from what one run has stored.
        """
        plain = self.classify(features)
        told = {name: self._predictions(ids, self._averaged(rows, plain), features)}
        if self.views > 1 and name != "validation":
            told[PLAIN + name] = self._predictions(ids, plain)
        return told

    def _averaged(self, rows: ImageRows, first: np.ndarray | None = None) -> np.ndarray:
        """Mean probabilities (n, K) over the views; ``first`` are those of view 0, if known."""
        total = self.classify(self._pass(rows, 0)) if first is None else first
        if self.views == 1:
            return total
        sums = total.astype(np.float64)
        for view in range(1, self.views):
            sums += self.classify(self._pass(rows, view))
        return (sums / self.views).astype(np.float32)

    def _pass(self, rows: ImageRows, view: int) -> np.ndarray:
        """Features (n, width) in one view. Short batches are filled up: nothing recompiles."""
        images, which = rows
        chosen = [which[at : at + self.batch] for at in range(0, len(which), self.batch)]
        batches = (
            apply_view(np.asarray(images[np.resize(ids, self.batch)]), view) for ids in chosen
        )
        found = []
        for ids, features in zip(chosen, self.forward(batches), strict=True):
            found.append(features[: len(ids)])
            self._done += len(ids)
            self.step(self._done)
        return np.concatenate(found)

    def _predictions(
        self, ids: np.ndarray, probabilities: np.ndarray, features: np.ndarray | None = None
    ) -> Predictions:
        if not np.isfinite(probabilities).all():
            raise FloatingPointError("training diverged: the probabilities are not finite")
        return Predictions(ids, np.asarray(self.data.labels[ids]), probabilities, features)


def images_to_pass(views: int, evaluation: tuple[int, int], shifted: Shifted | None) -> int:
    """Images that a Judge sends through the backbone: views, shifted copies and all.

    ``judged``: how many validation and test images there are.
    """
    more = 0 if shifted is None else len(shifted.mixed)
    every = len(shifted.ids) if shifted is not None and len(shifted.ids) > more else 0
    return (views - 1) * sum(evaluation) + views * (more + every)


def _each_way(copy: Shifted) -> list[np.ndarray]:
    return np.split(np.arange(len(copy.ids)), len(PAIRS))
