"""From a source to its audit, and to the benchmark's data without what the audit removes.

Every audit is done at 96 pixels, whatever size is trained on, so that one source has one answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.audit import embeddings
from harness.audit.embeddings import Embedder
from harness.audit.findings import Audit, audit_dataset
from harness.audit.manifest import Manifest, cleaned, parse, read_manifest
from harness.audit.outliers import SIMILAR
from harness.config import DataSettings
from harness.data.image_cache import (
    Provenance,
    Source,
    get_or_decode,
    open_dataset,
    provenance,
    resizer_version,
)
from harness.data.masking import masked
from harness.data.sources import find, kept
from harness.errors import DataError
from harness.execution.devices import Device
from harness.schema.dataset import Dataset
from harness.schema.events import Event, StepEvent
from harness.schema.run import Backend
from harness.storage.artifact_cache import ArtifactCache

IMAGE_SIZE = 96
VERSION = 3
"""Of the audit: raised when the same data would have other findings."""
MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class AuditOptions:
    """How an audit compares images."""

    not_cells: tuple[int, ...] = ()
    """Images that are known to show no cell."""
    embedder: Embedder = field(default_factory=Embedder)
    similar: float = SIMILAR
    """Cosine similarity from which on two pictures are of one kind."""


@dataclass(frozen=True)
class AuditedSource:
    """A source that was audited, with everything its page shows."""

    dataset: Dataset
    origin: Provenance
    embeddings: np.ndarray
    audit: Audit
    passed_over: tuple[str, ...] = ()
    """As in Source."""
    options: AuditOptions = field(default_factory=AuditOptions)


@dataclass(frozen=True)
class Workspace:
    """Where an audit caches and computes, and the callback that receives its progress in words."""

    cache: Path
    device: Device
    on_progress: Callable[[str], object] = lambda _: None
    backend: Backend = "tensorflow"


def run_audit(
    source: Source, workspace: Workspace, options: AuditOptions | None = None
) -> AuditedSource:
    """Audit one source: copies as decoding found them, outliers by embeddings of a child process.

    Raises DataError for an image that the source does not have.
    """
    options = options or AuditOptions()
    workspace.on_progress(f"reading {source.name}")
    folder = get_or_decode(source, IMAGE_SIZE, workspace.cache, tolerant=True)
    dataset, origin = open_dataset(folder), provenance(folder)
    for index in options.not_cells:
        if not 0 <= index < len(dataset):
            raise DataError(
                f"{source.name} has no image {index}: its {len(dataset):,} are counted from 0"
            )

    def report(event: Event) -> None:
        if isinstance(event, StepEvent):
            embedded = f"{event.done:,} of {event.total:,} images embedded"
            workspace.on_progress(embedded)

    workspace.on_progress("starting the network")
    vectors = embeddings.compute_embeddings(
        folder, workspace.cache, workspace.device, report, workspace.backend, options.embedder
    )
    workspace.on_progress("searching outliers")
    near_groups = dataset.groups if dataset.near_groups is None else dataset.near_groups
    audit = audit_dataset(dataset, origin, vectors, near_groups, options.not_cells, options.similar)
    return AuditedSource(dataset, origin, vectors, audit, source.passed_over, options)


def find_source(settings: DataSettings, image_size: int) -> Source:
    """The source of the settings, with the images that they keep."""
    source = find(settings.source, image_size)
    return source if settings.keep is None else kept(source, *settings.keep)


def prepare_data(settings: DataSettings, image_size: int, workspace: Workspace) -> Path:
    """The folder of the benchmark's data, decoded at ``image_size``; cleaned and masked if set so.

    Without a manifest of the user's own, the source is audited first, once. Raises DataError for
    a manifest that does not fit the data.
    """
    source = find_source(settings, image_size)
    if settings.clean:
        manifest = (
            read_manifest(Path(settings.manifest))
            if settings.manifest
            else default_manifest(source, workspace)
        )
        source = cleaned(source, manifest)
    if settings.mask:
        source = masked(source)
    workspace.on_progress("reading the images")
    return get_or_decode(source, image_size, workspace.cache)


def default_manifest(source: Source, workspace: Workspace) -> Manifest:
    """What an audit removes by default; audited at the first call, then read."""

    def create(folder: Path) -> None:
        audited = run_audit(source, workspace)
        text = audited.audit.manifest(audited.origin).to_csv()
        (folder / MANIFEST).write_text(text, "utf-8")

    content = [source.identity, IMAGE_SIZE, VERSION,
               embeddings.key("", workspace.backend), resizer_version()]  # fmt: skip
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
    artifact = ArtifactCache(workspace.cache / "audits").get_or_create(key, create, verify=True)
    return parse((artifact / MANIFEST).read_text("utf-8"), f"the audit of {source.name}")
