"""What stands in a table beside a run: ensembles of runs, and predictions from outside."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import AliasChoices, Field

from harness.schema.base import FrozenModel
from harness.schema.dataset import DataSummary
from harness.schema.ledger import Ledger
from harness.schema.metrics import Evaluation
from harness.schema.run import Run

SCHEMA = 1
"""Of the record files. Raised when their meaning changes."""


class Throughput(FrozenModel):
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


class Cost(FrozenModel):
    parameters: int
    trainable_parameters: int
    multiply_adds: int
    """For one image at the protocol's size, backbone and head."""
    throughput: Throughput
    peak_memory_mb: float
    """Largest resident size of the run's process, MiB."""
    peak_device_memory_mb: float | None = None


class Timings(FrozenModel):
    """Seconds. ``training`` is what the phases took, the computing of features included."""

    OMITTED_AT_DEFAULT: ClassVar[tuple[str, ...]] = ("compile",)
    start: float
    build: float
    training: float
    evaluation: float
    total: float
    compile: float | None = None
    """Of training and evaluation: what first calls took beyond warm ones. None: not counted."""


class Environment(FrozenModel):
    wbc_bench: str
    python: str
    keras: str
    backend: str
    numpy: str
    platform: str
    cores: int


class Epoch(FrozenModel):
    """One line of the learning curve. Losses are mean cross-entropies, without penalties."""

    OMITTED_AT_DEFAULT: ClassVar[tuple[str, ...]] = ("samples",)

    phase: Literal["frozen", "fine-tuning", "from scratch"]
    epoch: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    validation_f1: float
    seconds: float
    samples: int = 0
    """That its steps learnt from: images, in the frozen phase rows of features; 0: not counted."""


class Outcome(FrozenModel):
    """What the worker hands back beside the predictions."""

    OMITTED_AT_DEFAULT: ClassVar[tuple[str, ...]] = ("micro_batches", "resumed", "ledger")

    cost: Cost
    timings: Timings
    environment: Environment
    history: tuple[Epoch, ...]
    micro_batches: int = Field(1, validation_alias=AliasChoices("micro_batches", "parts"))
    """Into which each batch was split, because memory was too small for the whole of it. Older
    records call the field ``parts``."""
    resumed: int = 0
    """Epochs that this process took from a checkpoint; their seconds count in ``training``."""
    ledger: Ledger | None = None
    """None of a run that kept none, before there was one."""


class Finished(Outcome, Evaluation):
    OMITTED_AT_DEFAULT: ClassVar[tuple[str, ...]] = (
        *Outcome.OMITTED_AT_DEFAULT,
        *Evaluation.OMITTED_AT_DEFAULT,
    )

    status: Literal["finished"] = "finished"


class Failed(FrozenModel):
    status: Literal["failed"] = "failed"
    reason: str
    log_tail: tuple[str, ...] = ()


class RunRecord(FrozenModel):
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
    def subject(self) -> Run:
        return self.run

    @property
    def evaluation(self) -> Evaluation | None:
        return self.result if isinstance(self.result, Finished) else None


Rule = Literal["soft vote", "weighted vote", "greedy", "best subset", "stacking", "concatenation"]


class Ensemble(FrozenModel):
    """Members and a rule. Which ones it took of them is in the record, with what it learnt."""

    rule: Rule
    members: tuple[str, ...] = Field(min_length=2)
    """Ids of the members' runs."""

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]


class EnsembleCost(FrozenModel):
    """In the columns of a run's cost, summed over the members that the rule kept."""

    parameters: int
    multiply_adds: int
    images_per_second: float
    """By formula: the members one after the other, each at its measured rate."""
    device: str
    throughput: Throughput | None = None
    """Measured, the members one after the other in one process; None where it was not."""


class CalibratedMembers(FrozenModel):
    """The same vote of members that were softened first, each by its own temperature."""

    temperatures: tuple[float, ...]
    macro_f1: float
    log_loss: float
    brier: float
    calibration_error: float


class EnsembleRecord(Evaluation):
    """What an ensemble of finished runs is worth; its predictions lie with those of the runs."""

    schema_number: int = SCHEMA
    ensemble: Ensemble
    recipes: tuple[str, ...]
    """Of the members, in their order."""
    shares: tuple[float, ...]
    """Of each member in the vote, summing to 1; 0 for one that was not kept. Stacking and
    concatenation weigh inputs and not members: equal shares there."""
    run: Run
    """The first member's: data, split, protocol and seed are those of all."""
    profile: str
    data: DataSummary
    cost: EnsembleCost | None
    """None where a member's cost is unknown, as of predictions from outside."""
    seconds: float
    """What fitting and predicting took."""
    calibrated_members: CalibratedMembers | None = None
    """Of rules that vote; of the test images."""

    @property
    def subject(self) -> Ensemble:
        return self.ensemble

    @property
    def evaluation(self) -> Evaluation:
        return self

    @property
    def used_recipes(self) -> tuple[str, ...]:
        return tuple(n for n, share in zip(self.recipes, self.shares, strict=True) if share > 0)


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
    """What such predictions are worth. Imported ones may have no validation part."""

    schema_number: int = SCHEMA
    external: External = Field(validation_alias=AliasChoices("external", "outside"))
    """Older records call it ``outside``."""
    baseline: bool = False
    """Whether this program made them, as a floor for the networks."""
    note: str
    """Where they came from."""
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
"""What stands in a table."""
