"""Drawn cells, small and the same for all tests here."""

from __future__ import annotations

import numpy as np
import pytest

from harness.augmentation.stream import Stream
from harness.data.image_cache import open_dataset
from harness.data.sources import prepare
from harness.schema.augmentation import Augmentation, Policy
from harness.schema.dataset import Dataset


@pytest.fixture(scope="session")
def smear(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The embedded set at 48 pixels."""
    return open_dataset(prepare("smear@600", 48, tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def cells(smear: Dataset) -> np.ndarray:
    """Sixteen images (16, 48, 48, 3)."""
    return np.asarray(smear.images[:16])


def make_stream(data: Dataset, policy: Policy, count: int = 300, seed: int = 5) -> Stream:
    ids = np.arange(1, count + 1)
    targets = np.eye(len(data.class_names), dtype=np.float32)[data.labels[ids]]
    return Stream(data.images, ids, targets, Augmentation(policy=policy), seed, data.fingerprint)
