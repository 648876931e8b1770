"""What ``wbc-bench tune`` searches: the values that are tried of each hyperparameter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from harness.schema.augmentation import parse
from harness.schema.base import Amount, FrozenModel, Score
from harness.schema.protocol import Fraction, Positive

Method = Literal["random", "grid", "bayes"]

LearningRate = Annotated[float, Field(gt=0, le=10)]
Unfreeze = Annotated[float, Field(gt=0, le=1)] | Positive


class SearchSpace(FrozenModel):
    """The values that are tried; a hyperparameter without values stays as the protocol has it."""

    layers: tuple[Annotated[int, Field(ge=0, le=8)], ...] = (1, 2)
    """Hidden layers of the head."""
    units: tuple[Positive, ...] = (64, 128, 256, 512)
    """Of each hidden layer."""
    dropout: tuple[Fraction, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    """After each hidden layer."""
    batch_norm: tuple[bool, ...] = (False, True)
    """Of each hidden layer."""
    learning_rate: tuple[LearningRate, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    """Of the frozen phase; of training from scratch where the weights are random."""
    batch_size: tuple[Positive, ...] = (16, 32, 64, 128)
    """Of the same phase."""
    unfreeze: tuple[Unfreeze, ...] = ()
    """The part of the backbone that is fine-tuned."""
    fine_tuning_rate: tuple[LearningRate, ...] = ()
    """The learning rate of fine-tuning."""
    policy: tuple[str, ...] = ()
    """Augmentation policies."""

    @field_validator("policy")
    @classmethod
    def _policies_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            parse(name)
        return names

    @model_validator(mode="after")
    def _values_differ(self) -> SearchSpace:
        for name, values in self:
            if len(set(values)) < len(values):
                raise ValueError(f"{name} has a value twice")
        if not any(values for _, values in self):
            raise ValueError("no hyperparameter has values to try")
        if self.layers and not self.units:
            raise ValueError("layers has values to try, so units needs some too")
        return self

    @property
    def needs_training(self) -> tuple[str, ...]:
        """What is searched that needs more than the features of a frozen backbone."""
        return tuple(
            name for name in ("unfreeze", "fine_tuning_rate", "policy") if getattr(self, name)
        )


class TrialOutcome(FrozenModel):
    """Of a trial, on the validation images."""

    macro_f1: Score
    log_loss: Amount
