"""Predictions of a trained network: averaged over test-time views, and of the shifted copy.

It knows no framework: it is given a function that extracts features, and one that classifies them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.augmentation.test_time import apply_view
from harness.data.shifted_test import Shifted
from harness.schema.predictions import EVERY_SHIFT, PLAIN, SHIFTED, Predictions

ImageRows = tuple[np.ndarray, np.ndarray]
"""An array of images (m, S, S, 3), and the rows (n,) to predict."""


@dataclass(frozen=True)
class Predictor:
    """``labels`` are those of the whole data set, by image id.

    ``extract``: what returns a batch of images by their rows, and all rows -> features (n, width).
    ``classify``: features -> probabilities (n, K).
    """

    labels: np.ndarray
    extract: Callable[[Callable[[np.ndarray], Any], np.ndarray], np.ndarray]
    classify: Callable[[np.ndarray], np.ndarray]
    views: int = 1

    def predict(
        self, part: str, images: ImageRows, ids: np.ndarray, features: np.ndarray
    ) -> dict[str, Predictions]:
        """A part whose ``features`` (n, width) in the first view are known, in all views.

        Of a test in several views there is also the prediction from the first view alone, so that
        the effect of the views can be computed from stored predictions. Validation ``images`` may
        be augmented.
        """
        first = self.classify(features)
        predictions = {part: self._predictions(ids, self._average(images, first), features)}
        if self.views > 1 and part != "validation":
            predictions[PLAIN + part] = self._predictions(ids, first)
        return predictions

    def predict_first_view(self, ids: np.ndarray, features: np.ndarray) -> Predictions:
        """The training part, which is not scored: one view is enough."""
        return self._predictions(ids, self.classify(features), features)

    def predict_shifted(self, shifted: Shifted) -> dict[str, Predictions]:
        """The mixed copy, and the full one, corruption after corruption, where there is one."""
        mixed = (shifted.images, shifted.mixed)
        ids = shifted.ids[shifted.mixed]
        predictions = self.predict(SHIFTED, mixed, ids, self._features(mixed, 0))
        if _is_full(shifted):
            full = np.arange(len(shifted.ids)).reshape(-1, len(shifted.mixed))
            images = [(shifted.images, rows) for rows in full]
            every = [self._average(rows, self.classify(self._features(rows, 0))) for rows in images]
            predictions[EVERY_SHIFT] = self._predictions(shifted.ids, np.concatenate(every))
        return predictions

    def _average(self, images: ImageRows, first: np.ndarray) -> np.ndarray:
        """Mean probabilities (n, K) over the views; ``first`` are those of view 0."""
        if self.views == 1:
            return first
        total = first.astype(np.float64)
        for view in range(1, self.views):
            total += self.classify(self._features(images, view))
        return (total / self.views).astype(np.float32)

    def _features(self, images: ImageRows, view: int) -> np.ndarray:
        array, rows = images
        return self.extract(lambda batch: apply_view(np.asarray(array[batch]), view), rows)

    def _predictions(
        self, ids: np.ndarray, probabilities: np.ndarray, features: np.ndarray | None = None
    ) -> Predictions:
        if not np.isfinite(probabilities).all():
            raise FloatingPointError("training diverged: the probabilities are not finite")
        return Predictions(ids, np.asarray(self.labels[ids]), probabilities, features)


def count_passes(views: int, evaluated: int, shifted: Shifted | None) -> int:
    """Images that a Predictor passes through the backbone, given so many validation and test ones.

    Each in every view but the first, and each of the shifted copies in every view.
    """
    copies = 0
    if shifted is not None:
        copies = len(shifted.mixed) + (len(shifted.ids) if _is_full(shifted) else 0)
    return (views - 1) * evaluated + views * copies


def _is_full(shifted: Shifted) -> bool:
    return len(shifted.ids) > len(shifted.mixed)
