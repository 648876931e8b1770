"""What pictures look like to a network: features, computed once, by a child process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from harness.data.image_cache import open_dataset, resizer_version
from harness.errors import DataError
from harness.execution import processes
from harness.execution.devices import Device
from harness.schema.base import FrozenModel
from harness.schema.run import Backend
from zoo import weights as shelf
from zoo.registry import find

RECIPE = "lite0"
"""The only backbone whose ImageNet weights install as a package, so that it is always there."""

IMAGE_SIZE = 64
"""Pixels that the network sees: enough to tell a cell from what is none, at twice the speed."""

BATCH = 128

VERSION = 1
"""Of how features are computed: raised when the same network would give others."""

COMMAND_MODULE = "harness.audit.embedding_worker"


class FeatureJob(FrozenModel):
    """What the child is told: a network, the folder of images, where the features go."""

    recipe: str
    weights: str
    data: str
    """Folder of the decoded data."""
    output: str
    """npy file float32 (images with different pixels, width), in the order of their ids."""
    image_size: int
    batch: int
    device: str


def features(
    folder: Path,
    cache: Path,
    device: Device,
    report: Callable[[processes.Event], None],
    backend: Backend = "tensorflow",
) -> np.ndarray:
    """Pooled ImageNet features of every image of a decoded folder, float32 (N, width).

    Computed by a child process at the first call, kept under ``cache``. Raises WeightsError when
    the network's weights are not installed, DataError when the child does not finish.
    """
    dataset = open_dataset(folder)
    ids, of_image = np.unique(dataset.groups, return_inverse=True)
    weights = shelf.local_imagenet_file(find(RECIPE))
    assert weights is not None, "they come with a package"
    path = cache / "features" / f"{key(dataset.fingerprint, backend)}.npy"
    known = _read(path, len(ids))
    if known is None:
        job = FeatureJob(
            recipe=RECIPE,
            weights=str(weights.resolve()),
            data=str(folder.resolve()),
            output=str(path.resolve()),
            image_size=IMAGE_SIZE,
            batch=BATCH,
            device=device.id,
        )
        environment = {**device.environment, "KERAS_BACKEND": backend}
        _, reason = processes.run_task(COMMAND_MODULE, job, environment, report)
        if reason:
            raise DataError(f"the features of {job.data} could not be computed: {reason}")
        known = _read(path, len(ids))
    if known is None:
        raise DataError(f"{path}: the features cannot be kept there")
    return known[of_image]


def key(fingerprint: str, backend: Backend = "tensorflow") -> str:
    """All that the features depend on."""
    recipe = find(RECIPE)
    frameworks = [version(name) for name in ("keras", backend)]
    content = [
        fingerprint, RECIPE, shelf.digest(recipe, None), recipe.preprocessing, IMAGE_SIZE, BATCH,
        resizer_version(), "float32", frameworks, VERSION,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def _read(path: Path, count: int) -> np.ndarray | None:
    try:
        held = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return held if held.ndim == 2 and len(held) == count and held.dtype == np.float32 else None
