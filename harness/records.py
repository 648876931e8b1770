"""What stands in a table beside a run: ensembles of runs, and predictions from outside."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Literal

from pydantic import Field

from harness.nouns import SCHEMA, DataSummary, Judged, Noun, Run, RunRecord, Throughput

# --- ensembles -----------------------------------------------------------------------------------

Rule = Literal["soft vote", "weighted vote", "greedy", "best subset", "stacking", "concatenation"]


class Ensemble(Noun):
    """Members and a rule. Which ones it took of them is in the record, with what it learnt."""

    rule: Rule
    members: tuple[str, ...] = Field(min_length=2)
    """Ids of the members' runs."""

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]


class EnsembleCost(Noun):
    """In the columns of a run's cost, summed over the members that the rule kept."""

    parameters: int
    multiply_adds: int
    images_per_second: float
    """By formula: the members one after the other, each at its measured rate."""
    device: str
    throughput: Throughput | None = None
    """Measured, the members one after the other in one process; None where it was not."""


class CalibratedMembers(Noun):
    """The same vote of members that were softened first, each by its own temperature."""

    temperatures: tuple[float, ...]
    macro_f1: float
    log_loss: float
    brier: float
    calibration_error: float


class EnsembleRecord(Judged):
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
    def of(self) -> Ensemble:
        return self.ensemble

    @property
    def judged(self) -> Judged:
        return self

    @property
    def kept(self) -> tuple[str, ...]:
        return tuple(n for n, share in zip(self.recipes, self.shares, strict=True) if share > 0)


# --- from outside --------------------------------------------------------------------------------


class Outside(Noun):
    """Predictions that no run of this program made: imported, or a baseline without a network."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,59}$")
    beside: Run
    """A run whose data, split, protocol and seed they share."""

    @cached_property
    def id(self) -> str:
        like = self.beside.model_dump(mode="json", include={"protocol", "data", "split", "seed"})
        told = json.dumps({"name": self.name, **like}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(told.encode()).hexdigest()[:16]


class OutsideRecord(Judged):
    """What such predictions are worth. Imported ones may have no validation part."""

    schema_number: int = SCHEMA
    outside: Outside
    baseline: bool = False
    """Whether this program made them, as a floor for the networks."""
    note: str
    """Where they came from."""
    profile: str
    data: DataSummary

    @property
    def run(self) -> Run:
        return self.outside.beside

    @property
    def of(self) -> Outside:
        return self.outside

    @property
    def judged(self) -> Judged:
        return self


Predicted = Run | Ensemble | Outside
"""What predictions are of; each has an id."""
Record = RunRecord | EnsembleRecord | OutsideRecord
"""What stands in a table."""
