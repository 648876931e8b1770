"""The records of runs, of ensembles of runs, and of external predictions."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from harness.schema.base import (
    MOST,
    Amount,
    Count,
    FrozenModel,
    Id,
    Name,
    Rate,
    Score,
    Text,
    added_field,
)
from harness.schema.dataset import DataSummary, Split
from harness.schema.ledger import Ledger
from harness.schema.metrics import Brier, Evaluation, Loss
from harness.schema.protocol import Protocol
from harness.schema.run import EXTERNAL, BoardProfile, Profile, Run, Weights, known_recipe

SCHEMA = 1
"""Version of the record files. Raised when their meaning changes."""


Parameters = Annotated[int, Field(ge=1, le=MOST)]
EXTERNAL_NAME = r"^[a-z0-9][a-z0-9_.-]{0,59}$"
SHARES_TOLERANCE = 1e-6
"""Largest distance of the sum of an ensemble's shares from 1."""


class Throughput(FrozenModel):
    """Images per second from raw pixels to pooled features, warm, in batches of one fixed size.

    With several test views, an image counts once for all of them.
    """

    median: Rate
    p5: Rate
    p95: Rate
    batches: Count
    batch_size: Count
    precision: Name
    device: Name
    exclusive: bool
    """Whether no other run used the device at the same time, and on a CPU no other program."""


class Rates(FrozenModel):
    """How fast a network is in inference, measured alone on a device."""

    throughput: Throughput
    latency_ms: Amount | None = added_field(None)
    """Milliseconds from one image to its features, as a batch of its own: the median, warm."""
    best_images_per_second: Rate | None = added_field(None)
    """The highest median rate over the protocol's batch size, 1 and, on a GPU, 256."""
    best_batch_size: Count | None = added_field(None)


class Cost(Rates):
    parameters: Parameters
    trainable_parameters: Count
    multiply_adds: Count
    """Per image at the protocol's size, backbone and head."""
    peak_memory_mb: Amount
    """Peak resident memory of the run's process, MiB."""
    peak_device_memory_mb: Amount | None = None
    training_memory_mb: Amount | None = added_field(None)
    """Peak memory until training ended, MiB: of the GPU, else of the run's process."""


class Timings(FrozenModel):
    """Seconds, without waiting for others. ``training`` is all phases, with feature extraction.

    Of a resumed run ``training`` and ``total`` include the epochs from the checkpoint.
    """

    start: Amount
    build: Amount
    training: Amount
    evaluation: Amount
    total: Amount
    compile: Amount | None = added_field(None)
    """Part of training and evaluation: first calls minus warm ones. None: not measured."""


class Environment(FrozenModel):
    wbc_bench: Name
    python: Name
    keras: Name
    backend: Name
    """Name and version."""
    numpy: Name
    platform: Name
    cores: Count


class Epoch(FrozenModel):
    """An epoch of the learning curve. Losses are mean cross-entropies, without penalties."""

    phase: Literal["frozen", "fine-tuning", "from scratch"]
    epoch: Count
    learning_rate: Amount
    train_loss: Amount
    validation_loss: Amount
    validation_f1: Score
    seconds: Amount
    samples: Count = added_field(0)
    """In its steps: images, in the frozen phase rows of features; 0: not counted."""
    train_accuracy: Score | None = added_field(None)
    """Of the training batches, each before its step: augmented images, dropout on."""
    train_f1: Score | None = added_field(None)
    """Macro F1 of the same."""
    validation_accuracy: Score | None = added_field(None)


class Outcome(FrozenModel):
    """What a worker returns in addition to predictions."""

    cost: Cost
    timings: Timings
    environment: Environment
    history: tuple[Epoch, ...]
    micro_batches: Count = added_field(1)
    """Into which each batch was split, because memory was too small for the whole of it."""
    resumed: Count = added_field(0)
    """Epochs restored from a checkpoint."""
    notes: tuple[Text, ...] = added_field(())
    """That training diverged, or that fine-tuning kept the weights it began with."""
    ledger: Ledger | None = added_field(None)
    """None for runs made before there was one."""


class Finished(Outcome, Evaluation):
    status: Literal["finished"] = "finished"


class Failed(FrozenModel):
    status: Literal["failed"] = "failed"
    reason: Text
    log_tail: tuple[Text, ...] = ()


def _check_parts(evaluation: Evaluation, data: DataSummary) -> None:
    """Raises ValueError where metrics are of other classes than the record's data."""
    for part in ("validation", "test", "shifted"):
        metrics = getattr(evaluation, part)
        if metrics and tuple(metric.name for metric in metrics.per_class) != data.class_names:
            raise ValueError(f"{part}.per_class must be the classes of the data")
    if (evaluation.validation is None) != (evaluation.calibrated is None):
        raise ValueError("validation and calibrated belong together")


class RunRecord(FrozenModel):
    """The record of a run, which is done when it exists."""

    schema_number: int = SCHEMA
    run: Run
    profile: Profile
    data: DataSummary
    note: Text = ""
    """What a reader of its row must know, such as a fall-back to random weights."""
    variant: Text = added_field("")
    """The name of its protocol in the settings file, or of its row in a report."""
    result: Annotated[Finished | Failed, Field(discriminator="status")]

    @model_validator(mode="after")
    def _consistent(self) -> RunRecord:
        if self.run.weights.source == EXTERNAL:
            raise ValueError("run.weights are those of no run")
        if isinstance(self.result, Finished):
            _check_parts(self.result, self.data)
            if self.result.validation is None:
                raise ValueError("result.validation is missing")
        return self

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


def _member_name(name: str) -> str:
    """A recipe, or ``@`` and the name of an import. Raises ValueError."""
    if not name.startswith("@"):
        return known_recipe(name)
    if not re.fullmatch(EXTERNAL_NAME, name[1:]):
        raise ValueError("must be a recipe, or @ and the name of an import")
    return name


MemberName = Annotated[str, Field(max_length=1000), AfterValidator(_member_name)]


class Ensemble(FrozenModel):
    """Members and a rule. Which members were selected, and their weights, is in the record."""

    rule: Rule
    members: tuple[Id, ...] = Field(min_length=2)
    """Ids of the members' runs."""

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]


class EnsembleCost(FrozenModel):
    """Sums over the members that the rule selected."""

    parameters: Parameters
    multiply_adds: Count
    images_per_second: Rate | None
    """Computed: the members in sequence, each at its measured rate; None where these were measured
    on several devices."""
    device: Text
    throughput: Throughput | None = None
    """Measured: the members in sequence in one process; None where it was not."""


class CalibratedMembers(FrozenModel):
    """Test metrics of the same vote over temperature-scaled members."""

    temperatures: tuple[Rate, ...]
    macro_f1: Score
    log_loss: Loss
    brier: Brier
    calibration_error: Score


class EnsembleRecord(Evaluation):
    """The record of an ensemble of finished runs."""

    schema_number: int = SCHEMA
    ensemble: Ensemble
    recipes: tuple[MemberName, ...]
    """Of the members, in order."""
    shares: tuple[Score, ...]
    """The weight of each member in the vote, summing to 1; 0 for those not selected. Equal for
    stacking and concatenation, which weight inputs and not members."""
    run: Run
    """The first member's; data, split, protocol and seed are the same for all."""
    profile: BoardProfile
    data: DataSummary
    cost: EnsembleCost | None
    """None where a member's cost is unknown, as for external predictions."""
    seconds: Amount
    """Of fitting and predicting."""
    calibrated_members: CalibratedMembers | None = None
    """Only for rules that vote."""
    folds: int = added_field(0, ge=0)
    """Into which the validation images were split: those of a fold are predicted by the rule fitted
    on the others. 0 for soft vote and concatenation, which fit nothing on them."""
    fold_shares: tuple[tuple[Score, ...], ...] = added_field(())
    """Of a fitted vote: the shares fitted without each fold."""

    @model_validator(mode="after")
    def _consistent(self) -> EnsembleRecord:
        _check_parts(self, self.data)
        members = len(self.ensemble.members)
        if bool(self.folds) == (self.ensemble.rule in {"soft vote", "concatenation"}):
            raise ValueError("folds belong to the rules that are fitted on validation images")
        if len(self.recipes) != members or len(self.shares) != members:
            raise ValueError(f"recipes and shares must have an entry for each of {members} members")
        if any(abs(sum(s) - 1) > SHARES_TOLERANCE for s in (self.shares, *self.fold_shares)):
            raise ValueError("shares must sum to 1")
        if self.fold_shares and [len(s) for s in self.fold_shares] != [members] * self.folds:
            raise ValueError("fold_shares must have an entry for each member, in each fold")
        if self.calibrated_members and len(self.calibrated_members.temperatures) != members:
            raise ValueError("calibrated_members must have a temperature for each member")
        return self

    @property
    def subject(self) -> Ensemble:
        return self.ensemble

    @property
    def evaluation(self) -> Evaluation:
        return self

    @property
    def used(self) -> dict[str, str]:
        """The members with a share in the vote: id of the run -> recipe."""
        triples = zip(self.ensemble.members, self.recipes, self.shares, strict=True)
        return {id_: recipe for id_, recipe, share in triples if share > 0}

    @property
    def used_recipes(self) -> tuple[str, ...]:
        return tuple(self.used.values())


def external_run(fingerprint: str) -> Run:
    """The stand-in for a run on a board of external predictions alone.

    Only its data count: split and protocol are another program's, and not known.
    """
    weights = Weights(source=EXTERNAL)
    return Run(
        recipe=EXTERNAL, weights=weights, protocol=Protocol(), data=fingerprint, split=Split()
    )


PIXEL_BASELINE = "raw-pixels"
"""The name of the pixel baseline, which no import can have."""


class External(FrozenModel):
    """Predictions that no run of this program made: imported, or a baseline without a network."""

    name: str = Field(pattern=EXTERNAL_NAME)
    reference: Run
    """A run with the same data, split, protocol and seed; ``external_run`` where there is none."""

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
    external: External
    """Its name, and the images that it predicts."""
    baseline: bool = False
    """Whether this program made them, as a baseline for the networks."""
    note: Text
    """Their origin."""
    profile: BoardProfile
    data: DataSummary

    @model_validator(mode="after")
    def _consistent(self) -> ExternalRecord:
        _check_parts(self, self.data)
        return self

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
