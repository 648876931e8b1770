"""Predictions of the parts of a data set, and the names of the parts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Predictions of one part: ids (n,), labels (n,), probabilities float32 (n, K)."""

    ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray | None = None
    """Pooled features of the backbone, float32 (n, width)."""

    @property
    def y_pred(self) -> np.ndarray:
        """(n,): the predicted classes."""
        return self.probabilities.argmax(axis=1)


SHIFTED, EVERY_SHIFT, PLAIN, FROZEN = "shifted", "every-shift", "plain-", "frozen"
"""Further parts: the mixed shifted copy; the test images with all 55 corruptions and severities,
one pair after the other; for a run with several views, either test in the first view only; and for
a run with fine-tuning the test images in the first view, predicted before it."""
EVERY_SHIFT_COPIES = 55
"""Of each test image."""
PARTS = (
    "train", "validation", "test", SHIFTED, EVERY_SHIFT, f"{PLAIN}test", f"{PLAIN}{SHIFTED}",
    f"{PLAIN}{EVERY_SHIFT}", FROZEN,
)  # fmt: skip


def digest(parts: Mapping[str, Predictions]) -> str:
    """sha256 over ids, labels and probabilities of every part, bit for bit."""
    sha = hashlib.sha256()
    for name in sorted(parts):
        part = parts[name]
        sha.update(f"{name}:{part.probabilities.shape}".encode())
        sha.update(np.ascontiguousarray(part.ids, dtype="<i8").tobytes())
        sha.update(np.ascontiguousarray(part.labels, dtype="<i8").tobytes())
        sha.update(np.ascontiguousarray(part.probabilities, dtype="<f4").tobytes())
    return sha.hexdigest()
