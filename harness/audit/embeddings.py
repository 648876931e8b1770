"""Embeddings of images: pooled ImageNet features, computed once, by a child process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
"""Pixels: enough to distinguish a cell from anything else, at twice the speed of 96."""
BATCH = 128
VERSION = 1
"""Of how embeddings are computed: raised when the same network would give others."""
COMMAND_MODULE = "harness.audit.embedding_worker"
FILE = "embeddings.npy"


@dataclass(frozen=True)
class Embedder:
    """The network whose features are compared, and the size of the images that it sees."""

    recipe: str = RECIPE
    image_size: int = IMAGE_SIZE
    layer: str = ""
    """Whose outputs are taken, a map averaged; empty: the pooled features."""
    weights: Path | None = None
    """Their file; None: the ImageNet weights that install as a package."""

    def __str__(self) -> str:
        layer = f"layer {self.layer} of " if self.layer else ""
        return f"{layer}{find(self.recipe).title} at {self.image_size} px"

    @property
    def weights_file(self) -> Path:
        return self.weights or weights.imagenet_file(find(self.recipe))


class EmbeddingJob(FrozenModel):
    """What the child process computes: a network on a folder of images."""

    recipe: str
    weights: str
    data: str
    """Folder of the decoded data."""
    output: str
    """npy file float32 (images with different pixels, width), in the order of their ids."""
    image_size: int
    layer: str = ""
    batch: int
    device: str


def compute_embeddings(
    folder: Path,
    cache: Path,
    device: Device,
    report: Callable[[Event], None],
    backend: Backend = "tensorflow",
    embedder: Embedder | None = None,
) -> np.ndarray:
    """Embeddings of every image of a decoded folder, float32 (N, width).

    Computed by a child process at the first call, kept under ``cache``. Raises WeightsError when
    the network's weights are not installed, DataError when the child does not finish.
    """
    dataset, embedder = open_dataset(folder), embedder or Embedder()
    _, row = np.unique(dataset.groups, return_inverse=True)
    environment = processes.worker_environment(device, backend, cache / "compiled")
    compute = partial(_run_child, embedder, folder, device, report, environment)
    artifacts = ArtifactCache(cache / "embeddings")
    name = key(dataset.fingerprint, backend, embedder)
    artifact = artifacts.get_or_create(name, compute, verify=True)
    return np.load(artifact / FILE, allow_pickle=False)[row]


def key(fingerprint: str, backend: Backend = "tensorflow", embedder: Embedder | None = None) -> str:
    """Hash of all that the embeddings depend on."""
    embedder = embedder or Embedder()
    recipe = find(embedder.recipe)
    frameworks = [version(name) for name in ("keras", backend)]
    content = [
        fingerprint, recipe.name, weights.digest(recipe, embedder.weights), recipe.preprocessing,
        embedder.image_size, BATCH, resizer_version(), "float32", frameworks, VERSION,
        *filter(None, [embedder.layer]),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def _run_child(
    embedder: Embedder,
    data: Path,
    device: Device,
    report: Callable[[Event], None],
    environment: Mapping[str, str],
    folder: Path,
) -> None:
    job = EmbeddingJob(
        recipe=embedder.recipe,
        weights=str(embedder.weights_file.resolve()),
        data=str(data.resolve()),
        output=str((folder / FILE).resolve()),
        image_size=embedder.image_size,
        layer=embedder.layer,
        batch=BATCH,
        device=device.id,
    )
    _, reason = processes.run_task(COMMAND_MODULE, job, environment, report)
    if not reason and not (folder / FILE).exists():
        reason = "the child process wrote none"
    if reason:
        raise DataError(f"embeddings of {embedder.recipe} could not be computed: {reason}")
