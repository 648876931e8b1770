"""Made-up members of ensembles."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from harness.evaluation.metrics import macro_f1


def make_members(count: int, images: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (m, n, K) of members of differing quality, and the labels."""
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), rng.integers(0, classes, images - classes)]
    quality = rng.uniform(0.2, 2, count)[:, None, None]
    logits = rng.normal(0, 1, (count, images, classes)) + quality * np.eye(classes)[labels]
    powers = np.exp(logits)
    return (powers / powers.sum(axis=2, keepdims=True)).astype(np.float32), labels


members_and_labels = st.builds(
    make_members, st.integers(2, 5), st.integers(12, 60), st.integers(2, 4), st.integers(0, 2**31)
)


def f1(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return macro_f1(labels, probabilities.argmax(axis=1), probabilities.shape[1])
