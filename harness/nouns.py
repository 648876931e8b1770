"""The nouns of an experiment. Frozen: they travel, they are never mutated.

A Run is identified by the hash of its canonical JSON. No path, host or date is part of it, so
the same run has the same id on every machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from harness.ledger import Ledger
from harness.noun import Noun as Noun
from harness.policies import Augmentation, EpochStore
from harness.scores import Calibrated as Calibrated
from harness.scores import ClassMetrics as ClassMetrics
from harness.scores import Judged as Judged
from harness.scores import Metrics as Metrics

SCHEMA = 1
"""Of the record files. Raised when their meaning changes."""

Backend = Literal["tensorflow", "jax", "torch"]
"""What Keras computes with. No part of a run's id, like the device: its environment tells it."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
Shift = Literal["none", "mixed", "full"]
"""What is predicted besides: nothing, each test image harmed once, or each in every way."""


# --- the protocol: what every recipe gets, alike ---------------------------------------------


class Optimizer(Noun):
    name: Literal["adam", "adamw", "nadam", "lion", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(0.0, ge=0)
    momentum: Fraction = 0.9
    """Of SGD (Nesterov); the others ignore it."""


class Schedule(Noun):
    """How the learning rate moves. Steps are epochs; ``period`` doubles after each restart."""

    name: Literal["constant", "plateau", "cosine_restarts"] = "constant"
    factor: float = Field(0.3, gt=0, lt=1)
    patience: int = Field(3, ge=1)
    period: int = Field(10, ge=1)
    minimum: Fraction = 1e-6


class Phase(Noun):
    """One stretch of training: at most ``epochs``, ended early by the validation loss."""

    epochs: int = Field(50, ge=1)
    batch_size: int = Field(32, ge=1)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    patience: int = Field(8, ge=1)
    """Epochs without a better validation loss before stopping; the best weights come back."""
    unfreeze: Annotated[float, Field(gt=0, le=1)] | Annotated[int, Field(ge=1)] = 0.4
    """Of fine-tuning: the last part of the backbone, as a fraction or a number of its layers."""


class Head(Noun):
    """The classifier on the pooled features: dense layers, then softmax."""

    ADDED: ClassVar[tuple[str, ...]] = ("damping",)

    units: tuple[Annotated[int, Field(ge=1)], ...] = (128,)
    dropout: Fraction = 0.3
    batch_norm: bool = False
    l1: float = Field(0.0, ge=0)
    l2: float = Field(1e-4, ge=0)
    standardise: bool = True
    """Standardise each feature by its training mean and deviation before the first layer."""
    damping: float = Field(0.0, ge=0)
    """How many times the mean variance of a network's features is added to that of each, so that
    one that hardly varies is not blown up to the size of the others when it is standardised."""


class Loss(Noun):
    ADDED: ClassVar[tuple[str, ...]] = ("oversampling",)

    label_smoothing: Fraction = 0.0
    class_weight: Literal["none", "balanced"] | tuple[Annotated[float, Field(ge=0)], ...] = "none"
    oversampling: bool | Annotated[int, Field(ge=1)] = False
    """Repeat the training images of rare classes until all classes are as large as the largest,
    or until each has so many (report 003: 1,500). With an augmentation, no repeat is the same."""


class Protocol(Noun):
    """The fixed hyperparameters. ``version`` is raised by hand when training changes meaning."""

    ADDED: ClassVar[tuple[str, ...]] = ("test_views", "augmentation")

    version: int = 1
    image_size: int = Field(96, ge=16, le=1024)
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    inference_batch: int = Field(32, ge=1, le=4096)
    """Images at once when features are computed and throughput is measured."""
    head: Head = Head()
    loss: Loss = Loss()
    augmentation: Augmentation = Augmentation()
    frozen: Phase = Phase()
    fine_tuning: Phase | None = None
    from_scratch: Phase | None = None
    """Replaces both phases where the weights are random; without it they stay frozen."""
    test_views: int = Field(1, ge=1, le=8)
    """Test-time augmentation: predictions are averaged over so many flips and quarter turns."""


# --- the data ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dataset:
    """``images`` uint8 (N, H, W, 3) raw RGB; ``labels`` int64 (N,), 0..K-1; K class names.

    ``fingerprint`` is the hash of exactly this content. ``given`` is the split that the source
    came with, (N,) of 0 train, 1 validation, 2 test, or None.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str
    groups: np.ndarray
    """(N,) int64: the index of the first image with the same pixels; its own where it is unique."""
    given: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


class Subset(Noun):
    """At most so many images of each part, stratified. Sizes the work to a small machine."""

    train: int = Field(ge=1)
    validation: int = Field(ge=1)
    test: int = Field(ge=1)


Count = Annotated[int, Field(ge=1)]
Ratios = tuple[float, float, float]


class Split(Noun):
    """Which image is train, validation and test: a rule, reproducible from the data alone."""

    ADDED: ClassVar[tuple[str, ...]] = ("counts", "balanced_test", "folds", "fold")

    ratios: Ratios = (0.7, 0.1, 0.2)
    """Of train, validation and test; also as a word in percent, "72/8/20"."""
    seed: int = Field(0, ge=0)
    use_given: bool = True
    """Keep the split that the source came with, if it came with one."""
    subset: Subset | None = None
    counts: tuple[Count, Count, Count] | None = None
    """So many images instead of ratios; what is left over is in no part."""
    balanced_test: bool = False
    """Equally many test images of each class (report 000)."""
    folds: int = Field(0, ge=0, le=100)
    """Fold number ``fold`` of so many is the test part; the ratios divide the others."""
    fold: int = Field(0, ge=0)

    @field_validator("ratios", mode="before")
    @classmethod
    def _from_percents(cls, value: Any) -> Any:
        """``"72/8/20"`` -> (0.72, 0.08, 0.2)."""
        if not isinstance(value, str):
            return value
        try:
            percents = [float(word) for word in value.split("/")]
        except ValueError:
            percents = []
        if len(percents) != 3:
            raise ValueError('ratios must be three numbers, or percents as in "72/8/20"')
        return tuple(percent / 100 for percent in percents)

    @model_validator(mode="after")
    def _makes_sense(self) -> Split:
        if min(self.ratios) <= 0 or abs(sum(self.ratios) - 1) > 1e-6:
            raise ValueError("ratios must be three positive numbers that sum to 1")
        if self.folds == 1 or self.fold >= max(self.folds, 1):
            raise ValueError("folds must be 2 or more, and fold one of 0 to folds - 1")
        if self.folds and (self.counts or self.balanced_test):
            raise ValueError("folds go with ratios alone, without counts or balanced_test")
        return self


@dataclass(frozen=True)
class Parts:
    """The split, carried out: sorted image ids (int64) of each part; no image is in two."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


# --- the run -------------------------------------------------------------------------------------


class Weights(Noun):
    """What the backbone starts from, identified by the hash of its file."""

    source: Literal["imagenet", "file", "random"]
    digest: str | None = None
    """``md5:...`` where Keras pins its file so, else ``sha256:...``; None for random weights."""


class Run(Noun):
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


@dataclass(frozen=True)
class Predictions:
    """What a run said of one part: ids (n,), labels (n,), probabilities float32 (n, K)."""

    ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray | None = None
    """Pooled features of the backbone, float32 (n, width)."""


# --- the record ----------------------------------------------------------------------------------


class Throughput(Noun):
    """Images a second from raw pixels to pooled features, warm, one fixed batch after another.

    With several test views an image counts once, when it was seen in all of them.
    """

    median: float
    p5: float
    p95: float
    batches: int
    batch_size: int
    precision: str
    device: str
    exclusive: bool
    """Whether nothing else of this sweep ran on the device meanwhile."""


class Cost(Noun):
    parameters: int
    trainable_parameters: int
    multiply_adds: int
    """For one image at the protocol's size, backbone and head."""
    throughput: Throughput
    peak_memory_mb: float
    """Largest resident size of the run's process, MiB."""
    peak_device_memory_mb: float | None = None


class Timings(Noun):
    """Seconds. ``training`` is what the phases took, the computing of features included."""

    ADDED: ClassVar[tuple[str, ...]] = ("compile",)
    start: float
    build: float
    training: float
    evaluation: float
    total: float
    compile: float | None = None
    """Of training and evaluation: what first calls took beyond warm ones. None: not counted."""


class Environment(Noun):
    wbc_bench: str
    python: str
    keras: str
    backend: str
    numpy: str
    platform: str
    cores: int


class Epoch(Noun):
    """One line of the learning curve. Losses are mean cross-entropies, without penalties."""

    ADDED: ClassVar[tuple[str, ...]] = ("samples",)

    phase: Literal["frozen", "fine-tuning", "from scratch"]
    epoch: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    validation_f1: float
    seconds: float
    samples: int = 0
    """That its steps learnt from: images, in the frozen phase rows of features; 0: not counted."""


class DataSummary(Noun):
    name: str
    images: int
    image_size: int
    class_names: tuple[str, ...]
    train: int
    validation: int
    test: int


class Outcome(Noun):
    """What the worker hands back beside the predictions."""

    ADDED: ClassVar[tuple[str, ...]] = ("parts", "resumed", "ledger")

    cost: Cost
    timings: Timings
    environment: Environment
    history: tuple[Epoch, ...]
    parts: int = 1
    """Micro-batches that a batch was cut into, because memory was too small for it whole."""
    resumed: int = 0
    """Epochs that this process took from a checkpoint; their seconds count in ``training``."""
    ledger: Ledger | None = None
    """None of a run that kept none, before there was one."""


class Finished(Outcome, Judged):
    ADDED: ClassVar[tuple[str, ...]] = (*Outcome.ADDED, *Judged.ADDED)

    status: Literal["finished"] = "finished"


class Failed(Noun):
    status: Literal["failed"] = "failed"
    reason: str
    log_tail: tuple[str, ...] = ()


class RunRecord(Noun):
    """The one durable trace of a run. A run is done when its record exists."""

    schema_number: int = SCHEMA
    run: Run
    profile: str
    data: DataSummary
    note: str = ""
    """What the reader of the row must know: a fall-back to random weights, say."""
    result: Annotated[Finished | Failed, Field(discriminator="status")]

    @property
    def finished(self) -> bool:
        return isinstance(self.result, Finished)

    @property
    def of(self) -> Run:
        return self.run

    @property
    def judged(self) -> Judged | None:
        return self.result if isinstance(self.result, Finished) else None


class Job(Noun):
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
    parts: int = Field(1, ge=1)
    """Micro-batches to cut each batch into; images go through in as many smaller batches."""
    checkpoint_seconds: float = Field(30.0, ge=0)
    """At least so long between two checkpoints."""
    epochs: EpochStore | None = None
    """None where nothing is augmented."""

    @property
    def own_device(self) -> bool:
        """Whether that is a GPU which no other run of the sweep is on."""
        return self.device != "cpu" and not self.device_shared
