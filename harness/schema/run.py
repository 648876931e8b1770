"""A run: one network trained once. Identified by the hash of its canonical JSON.

No path, host or date is part of it, so the same run has the same id on every machine.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Literal

from pydantic import Field

from harness.schema.augmentation import EpochCacheSettings
from harness.schema.base import FrozenModel
from harness.schema.dataset import Split
from harness.schema.protocol import Protocol

Backend = Literal["tensorflow", "jax", "torch"]
"""What Keras computes with. No part of a run's id, like the device: its environment tells it."""


Shift = Literal["none", "mixed", "full"]
"""What is predicted besides: nothing, each test image harmed once, or each in every way."""


class Weights(FrozenModel):
    """What the backbone starts from, identified by the hash of its file."""

    source: Literal["imagenet", "file", "random"]
    digest: str | None = None
    """``md5:...`` where Keras pins its file so, else ``sha256:...``; None for random weights."""


class Run(FrozenModel):
    """One network trained once. Everything that can change its predictions is in here."""

    recipe: str
    weights: Weights
    protocol: Protocol
    data: str
    """Fingerprint of the Dataset."""
    split: Split
    seed: int = Field(0, ge=0)

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]


class Job(FrozenModel):
    """A run with its whereabouts on this machine: what a worker is told."""

    run: Run
    data: str
    """Folder of the decoded data."""
    weights: tuple[str | None, ...]
    """File that the run's pretrained weights lie in, None if random; one a branch."""
    output: str
    """Folder for predictions, features and trained weights."""
    device: str
    device_name: str
    device_shared: bool = False
    """Whether other runs of the sweep may be on it meanwhile."""
    shifted: str | None = None
    """File of the shifted copy of the test images, if there is to be a pass over it."""
    micro_batches: int = Field(1, ge=1)
    """Into which each training batch is split; inference batches shrink by the same factor."""
    checkpoint_seconds: float = Field(30.0, ge=0)
    """At least so long between two checkpoints."""
    epochs: EpochCacheSettings | None = None
    """None where nothing is augmented."""

    @property
    def own_device(self) -> bool:
        """Whether that is a GPU which no other run of the sweep is on."""
        return self.device != "cpu" and not self.device_shared
