"""The records of runs, of ensembles of runs, and of external predictions."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from harness.schema.base import FrozenModel, added_field
from harness.schema.dataset import DataSummary
from harness.schema.ledger import Ledger
from harness.schema.metrics import Evaluation
from harness.schema.run import Run

SCHEMA = 1
"""Version of the record files. Raised when their meaning changes."""


class Throughput(FrozenModel):
    """Images per second from raw pixels to pooled features, warm, in batches of one fixed size.

    With several test views, an image counts once for all of them.
    """

    median: float
    p5: float
    p95: float
    batches: int
    batch_size: int
    precision: str
    device: str
    exclusive: bool
    """Whether nothing else of this sweep ran on the device at the same time."""


class Cost(FrozenModel):
    parameters: int
    trainable_parameters: int
    multiply_adds: int
    """Per image at the protocol's size, backbone and head."""
    throughput: Throughput
    peak_memory_mb: float
    """Peak resident memory of the run's process, MiB."""
    peak_device_memory_mb: float | None = None


class Timings(FrozenModel):
    """Seconds. ``training`` is all phases, with feature extraction."""

    start: float
    build: float
    training: float
    evaluation: float
    total: float
    compile: float | None = added_field(None)
    """Part of training and evaluation: first calls minus warm ones. None: not measured."""


class Environment(FrozenModel):
    wbc_bench: str
    python: str
    keras: str
    backend: str
    numpy: str
    platform: str
    cores: int


class Epoch(FrozenModel):
    """An epoch of the learning curve. Losses are mean cross-entropies, without penalties."""

    phase: Literal["frozen", "fine-tuning", "from scratch"]
    epoch: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    validation_f1: float
    seconds: float
    samples: int = added_field(0)
    """In its steps: images, in the frozen phase rows of features; 0: not counted."""


class Outcome(FrozenModel):
    """What a worker returns in addition to predictions."""

    cost: Cost
    timings: Timings
    environment: Environment
    history: tuple[Epoch, ...]
    micro_batches: int = added_field(1, validation_alias=AliasChoices("micro_batches", "parts"))
    """Into which each batch was split, because memory was too small for the whole of it. Older
    records call the field ``parts``."""
    resumed: int = added_field(0)
    """Epochs restored from a checkpoint; their seconds count in ``training``."""
    ledger: Ledger | None = added_field(None)
    """None for runs made before there was one."""


class Finished(Outcome, Evaluation):
    status: Literal["finished"] = "finished"


class Failed(FrozenModel):
    status: Literal["failed"] = "failed"
    reason: str
    log_tail: tuple[str, ...] = ()


class RunRecord(FrozenModel):
    """The record of a run, which is done when it exists."""

    schema_number: int = SCHEMA
    run: Run
    profile: str
    data: DataSummary
    note: str = ""
    """What a reader of its row must know, such as a fall-back to random weights."""
    result: Annotated[Finished | Failed, Field(discriminator="status")]

    @property
    def finished(self) -> bool:
        return isinstance(self.result, Finished)

    @property
    def subject(self) -> Run:
        return self.run

    @property
    def evaluation(self) -> Evaluation | None:
        return self.result if isinstance(self.result, Finished) else None


Rule = Literal["soft vote", "weighted vote", "greedy", "best subset", "stacking", "concatenation"]


class Ensemble(FrozenModel):
    """Members and a rule. Which members were selected, and their weights, is in the record."""

    rule: Rule
    members: tuple[str, ...] = Field(min_length=2)
    """Ids of the members' runs."""

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]


class EnsembleCost(FrozenModel):
    """Sums over the members that the rule selected."""

    parameters: int
    multiply_adds: int
    images_per_second: float
    """Computed: the members in sequence, each at its measured rate."""
    device: str
    throughput: Throughput | None = None
    """Measured: the members in sequence in one process; None where it was not."""


class CalibratedMembers(FrozenModel):
    """Test metrics of the same vote over temperature-scaled members."""

    temperatures: tuple[float, ...]
    macro_f1: float
    log_loss: float
    brier: float
    calibration_error: float


class EnsembleRecord(Evaluation):
    """The record of an ensemble of finished runs."""

    schema_number: int = SCHEMA
    ensemble: Ensemble
    recipes: tuple[str, ...]
    """Of the members, in order."""
    shares: tuple[float, ...]
    """The weight of each member in the vote, summing to 1; 0 for those not selected. Equal for
    stacking and concatenation, which weight inputs and not members."""
    run: Run
    """The first member's; data, split, protocol and seed are the same for all."""
    profile: str
    data: DataSummary
    cost: EnsembleCost | None
    """None where a member's cost is unknown, as for external predictions."""
    seconds: float
    """Of fitting and predicting."""
    calibrated_members: CalibratedMembers | None = None
    """Only for rules that vote."""

    @property
    def subject(self) -> Ensemble:
        return self.ensemble

    @property
    def evaluation(self) -> Evaluation:
        return self

    @property
    def used_recipes(self) -> tuple[str, ...]:
        return tuple(
            name for name, share in zip(self.recipes, self.shares, strict=True) if share > 0
        )


PIXEL_BASELINE = "raw-pixels"
"""The name of the pixel baseline, which no import can have."""


class External(FrozenModel):
    """Predictions that no run of this program made: imported, or a baseline without a network."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,59}$")
    reference: Run = Field(validation_alias=AliasChoices("reference", "beside"))
    """A run with the same data, split, protocol and seed. Older records call it ``beside``."""

    @cached_property
    def id(self) -> str:
        shared = self.reference.model_dump(
            mode="json", include={"protocol", "data", "split", "seed"}
        )
        identity = json.dumps({"name": self.name, **shared}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(identity.encode()).hexdigest()[:16]


class ExternalRecord(Evaluation):
    """The record of external predictions. Imported ones may have no validation part."""

    schema_number: int = SCHEMA
    external: External = Field(validation_alias=AliasChoices("external", "outside"))
    """Older records call it ``outside``."""
    baseline: bool = False
    """Whether this program made them, as a baseline for the networks."""
    note: str
    """Their origin."""
    profile: str
    data: DataSummary

    @property
    def run(self) -> Run:
        return self.external.reference

    @property
    def subject(self) -> External:
        return self.external

    @property
    def evaluation(self) -> Evaluation:
        return self


Subject = Run | Ensemble | External
"""What has predictions and a record, under its id."""
Record = RunRecord | EnsembleRecord | ExternalRecord
