"""A run: one network trained once. Identified by the hash of its canonical JSON.

No path, host or date is part of it, so the same run has the same id on every machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from harness.schema.augmentation import EpochCacheSettings
from harness.schema.base import MOST, FrozenModel
from harness.schema.dataset import Split
from harness.schema.protocol import Phase, Protocol
from zoo.errors import UnknownName
from zoo.registry import find

Backend = Literal["tensorflow", "jax", "torch"]
"""Keras' backend. Like the device, not part of a run's id: it is in the environment."""

Profile = Literal["quick", "full"]
"""The settings for a machine: a CPU or a GPU."""

EXTERNAL: Literal["external"] = "external"
"""The profile of a board without runs, and the recipe and weights of the stand-in for one."""

BoardProfile = Literal["quick", "full", "external"]

Shift = Literal["none", "mixed", "full"]
"""The shifted test: none, one random corruption per test image, or all corruptions of each."""


@cache
def known_recipe(name: str) -> str:
    """The name of a recipe of the zoo, as the zoo writes it. Raises ValueError."""
    try:
        recipe = find(name)
    except UnknownName as error:
        raise ValueError(str(error)) from None
    if recipe.name != name:
        raise ValueError(f"must be {recipe.name!r}")
    return name


RecipeName = Annotated[str, Field(max_length=1000), AfterValidator(known_recipe)]


class Weights(FrozenModel):
    """The initial weights of the backbone, identified by the hash of their file."""

    source: Literal["imagenet", "file", "random", "external"]
    """``external``: of another program; only of the stand-in for a run (External.reference)."""
    digest: str | None = Field(None, pattern=r"^[a-z0-9:+]{1,4000}$")
    """``md5:...`` for files that Keras pins by MD5, else ``sha256:...``; None: random weights."""


class Run(FrozenModel):
    """One network trained once: everything that can change its predictions."""

    recipe: RecipeName | Literal["external"]
    weights: Weights
    protocol: Protocol
    data: str = Field(pattern=r"^[0-9a-f]{16,64}$")
    """Fingerprint of the Dataset."""
    split: Split
    seed: int = Field(0, ge=0, le=MOST)

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    @property
    def from_scratch(self) -> Phase | None:
        """The only phase, where random weights have one."""
        return self.protocol.from_scratch if self.weights.source == "random" else None

    @property
    def phase_on_images(self) -> Phase | None:
        """That of all layers or the last ones; None where the backbone stays frozen."""
        return self.from_scratch or self.protocol.fine_tuning


@dataclass(frozen=True)
class Device:
    """``id`` is ``cpu`` or ``gpu:INDEX``, ``name`` the one in tables."""

    id: str
    name: str
    shared: bool = False
    """Whether several runs may train on it at once: then none reserves all of its memory at the
    start, and its energy is not that of one run."""
    turns: int = 0
    """How many runs train on it at once, one after the other as they are ready; 0: each trains
    from the start."""
    preparing: bool = False
    """Whether further runs build and compile meanwhile, and hold some of its memory."""
    memory_gb: float = 0.0
    """Of a GPU; 0: unknown."""

    @property
    def exclusive(self) -> bool:
        """Whether it is a GPU on which no other run of the sweep trains meanwhile."""
        return self.id != "cpu" and not self.shared


class Job(FrozenModel):
    """A run with its paths and device on this machine: the payload of a worker."""

    run: Run
    data: str
    """Folder of the decoded data."""
    weights: tuple[str | None, ...]
    """Files of the pretrained weights, one per branch; None: random."""
    output: str
    """Folder for predictions, features and trained weights."""
    kept: str | None = None
    """Folder for them where ``output`` cannot be written when the run has finished."""
    device: Device
    order: int = 0
    """Place of the run in the plan: of those that are ready the first trains first."""
    shifted: str | None = None
    """File of the shifted copy of the test images, if it is to be predicted."""
    micro_batches: int = Field(1, ge=1)
    """Into which each training batch is split; inference batches shrink by the same factor."""
    checkpoint_seconds: float = Field(30.0, ge=0)
    """Seconds of training that a checkpoint saves, at least."""
    epochs: EpochCacheSettings | None = None
    """None without augmentation."""
    trial: bool = False
    """Score it on the validation images alone, as a trial of a search."""
