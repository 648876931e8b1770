"""An audit from a source to its findings, and the data with what was found taken out.

Every audit looks at 96 pixels, whatever size is trained on, so that one source has one answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.audit import embeddings
from harness.audit.audit import Audit, audit, near_duplicate_groups
from harness.audit.manifest import Manifest, cleaned, parse, read_manifest
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
from harness.data.sources import find
from harness.errors import DataError
from harness.execution.devices import Device
from harness.schema.dataset import Dataset
from harness.schema.run import Backend
from harness.storage.files import write_atomically

IMAGE_SIZE = 96

VERSION = 2
"""Of the audit: raised when the same data would have other findings."""

Tell = Callable[[str], object]


@dataclass(frozen=True)
class Inspection:
    """A source that was audited, with everything its page shows."""

    dataset: Dataset
    origin: Provenance
    features: np.ndarray
    audit: Audit


@dataclass(frozen=True)
class Workspace:
    """Where an audit keeps and computes things, and whom it tells how far it is."""

    cache: Path
    device: Device
    tell: Tell = lambda _: None
    backend: Backend = "tensorflow"


def inspect(source: Source, at: Workspace, named: Sequence[int] = ()) -> Inspection:
    """Audit one source. The network looks on in a child process while copies are sought here.

    ``named``: indices of images that are known to be no cells. Raises DataError for one that the
    source does not have.
    """
    at.tell(f"reading {source.name}")
    folder = get_or_decode(source, IMAGE_SIZE, at.cache, tolerant=True)
    dataset, origin = open_dataset(folder), provenance(folder)
    for index in named:
        if not 0 <= index < len(dataset):
            raise DataError(
                f"{source.name} has no image {index}: its {len(dataset):,} are counted from 0"
            )
    at.tell("looking for copies; starting the network")
    with ThreadPoolExecutor(1) as pool:
        family = pool.submit(near_duplicate_groups, dataset)
        features = embeddings.features(
            folder, at.cache, at.device, lambda event: _pass_on(event, at), at.backend
        )
        at.tell("looking for copies")
        found = audit(dataset, origin, features, family.result(), named)
    return Inspection(dataset, origin, features, found)


def prepare_data(settings: DataSettings, image_size: int, at: Workspace) -> Path:
    """The folder of the benchmark's data, decoded at ``image_size``, cleaned and masked if told.

    Without a manifest of the user's own, the source is audited first, once. Raises DataError for
    a manifest that does not fit the data.
    """
    source = find(settings.source, image_size)
    if settings.clean:
        own = settings.manifest
        manifest = read_manifest(Path(own)) if own else default_manifest(source, at)
        source = cleaned(source, manifest)
    if settings.mask:
        source = masked(source)
    at.tell("reading the images")
    return get_or_decode(source, image_size, at.cache)


def default_manifest(source: Source, at: Workspace) -> Manifest:
    """What an audit would remove by default; audited at the first call, then read."""
    path = at.cache / "audits" / f"{_key(source, at.backend)}.csv"
    try:
        return parse(path.read_text("utf-8"), f"the audit of {source.name}")
    except (OSError, UnicodeDecodeError, DataError):
        pass  # Not there, or damaged: audit.
    inspected = inspect(source, at)
    manifest = inspected.audit.manifest(inspected.origin)
    write_atomically(path, manifest.text().encode())
    return manifest


def _key(source: Source, backend: Backend) -> str:
    content = [source.identity, IMAGE_SIZE, VERSION, embeddings.key("", backend), resizer_version()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def _pass_on(event: dict[str, object], at: Workspace) -> None:
    if event.get("event") == "step":
        at.tell(
            f"looking for copies; {event['done']:,} of {event['of']:,} images seen by a network"
        )
