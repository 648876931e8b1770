"""Embeddings of images: pooled ImageNet features, computed once, by a child process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from harness.data.image_cache import open_dataset, resizer_version
from harness.errors import DataError
from harness.execution import processes
from harness.execution.devices import Device
from harness.schema.base import FrozenModel
from harness.schema.events import Event
from harness.schema.run import Backend
from harness.storage.artifact_cache import ArtifactCache
from zoo import weights
from zoo.registry import find

RECIPE = "lite0"
"""The only backbone whose ImageNet weights install as a package, so that it is always there."""
IMAGE_SIZE = 64
"""Pixels: enough to tell a cell from anything else, at twice the speed of 96."""
BATCH = 128
VERSION = 1
"""Of how embeddings are computed: raised when the same network would give others."""
COMMAND_MODULE = "harness.audit.embedding_worker"
FILE = "embeddings.npy"


class EmbeddingJob(FrozenModel):
    """What the child process computes: a network on a folder of images."""

    recipe: str
    weights: str
    data: str
    """Folder of the decoded data."""
    output: str
    """npy file float32 (images with different pixels, width), in the order of their ids."""
    image_size: int
    batch: int
    device: str


def compute_embeddings(
    folder: Path,
    cache: Path,
    device: Device,
    report: Callable[[Event], None],
    backend: Backend = "tensorflow",
) -> np.ndarray:
    """Embeddings of every image of a decoded folder, float32 (N, width).

    Computed by a child process at the first call, kept under ``cache``. Raises WeightsError when
    the network's weights are not installed, DataError when the child does not finish.
    """
    dataset = open_dataset(folder)
    _, row = np.unique(dataset.groups, return_inverse=True)
    compute = partial(_run_child, folder, device, report, backend)
    artifacts = ArtifactCache(cache / "embeddings")
    artifact = artifacts.get_or_create(key(dataset.fingerprint, backend), compute, verify=True)
    return np.load(artifact / FILE, allow_pickle=False)[row]


def key(fingerprint: str, backend: Backend = "tensorflow") -> str:
    """Hash of all that the embeddings depend on."""
    recipe = find(RECIPE)
    frameworks = [version(name) for name in ("keras", backend)]
    content = [
        fingerprint, RECIPE, weights.digest(recipe, None), recipe.preprocessing, IMAGE_SIZE, BATCH,
        resizer_version(), "float32", frameworks, VERSION,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def _run_child(
    data: Path,
    device: Device,
    report: Callable[[Event], None],
    backend: Backend,
    folder: Path,
) -> None:
    job = EmbeddingJob(
        recipe=RECIPE,
        weights=str(weights.imagenet_file(find(RECIPE)).resolve()),
        data=str(data.resolve()),
        output=str((folder / FILE).resolve()),
        image_size=IMAGE_SIZE,
        batch=BATCH,
        device=device.id,
    )
    environment = {**device.environment, "KERAS_BACKEND": backend}
    _, reason = processes.run_task(COMMAND_MODULE, job, environment, report)
    if not reason and not (folder / FILE).exists():
        reason = "the child process wrote none"
    if reason:
        raise DataError(f"the embeddings of {data} could not be computed: {reason}")
