"""Small sources, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.data import image_cache, sources
from harness.schema.dataset import Dataset

Save = Callable[..., Path]


def pictures(count: int, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture
def stack() -> Callable[..., np.ndarray]:
    return pictures


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save arrays as an npz in a folder of their own; 24 pictures of 3 classes unless given."""

    def saved(name: str = "cells.npz", **arrays: object) -> Path:
        if not arrays:
            arrays = {"images": pictures(24), "labels": np.arange(24) % 3}
        path = tmp_path / "given" / name
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **{key: np.asarray(value) for key, value in arrays.items()})
        return path

    return saved


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Dataset]:
    """Prepare and open in one step."""

    def prepare(source: Path | str, size: int = 8) -> Dataset:
        return image_cache.open_dataset(sources.prepare(str(source), size, tmp_path / "cache"))

    return prepare
