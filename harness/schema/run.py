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
"""Keras' backend. Like the device, not part of a run's id: it is in the environment."""

Shift = Literal["none", "mixed", "full"]
"""The shifted test: none, one random corruption per test image, or all corruptions of each."""


class Weights(FrozenModel):
    """The initial weights of the backbone, identified by the hash of their file."""

    source: Literal["imagenet", "file", "random"]
    digest: str | None = None
    """``md5:...`` for files that Keras pins by MD5, else ``sha256:...``; None: random weights."""


class Run(FrozenModel):
    """One network trained once: everything that can change its predictions."""

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
    """A run with its paths and device on this machine: the payload of a worker."""

    run: Run
    data: str
    """Folder of the decoded data."""
    weights: tuple[str | None, ...]
    """Files of the pretrained weights, one per branch; None: random."""
    output: str
    """Folder for predictions, features and trained weights."""
    device: str
    device_name: str
    device_shared: bool = False
    """Whether other runs of the sweep may use it at the same time."""
    shifted: str | None = None
    """File of the shifted copy of the test images, if it is to be predicted."""
    micro_batches: int = Field(1, ge=1)
    """Into which each training batch is split; inference batches shrink by the same factor."""
    checkpoint_seconds: float = Field(30.0, ge=0)
    """The shortest time between two checkpoints."""
    epochs: EpochCacheSettings | None = None
    """None without augmentation."""

    @property
    def own_device(self) -> bool:
        """Whether the device is a GPU without other runs of the sweep."""
        return self.device != "cpu" and not self.device_shared
