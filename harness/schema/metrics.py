"""Metrics of predictions: a pure function of them, so that ``verify`` can recompute them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from harness.schema.base import MOST, Count, FrozenModel, Name, Rate, Score, added_field

Loss = Annotated[float, Field(ge=-0.01, le=1e6)]
"""Nats; below 0 where imported probabilities sum to a little more than 1."""
Brier = Annotated[float, Field(ge=0, le=2.1)]
Interval = tuple[Score, Score]


class ClassMetrics(FrozenModel):
    name: Name
    support: Count
    precision: Score
    recall: Score
    f1: Score


class Metrics(FrozenModel):
    """Metrics of one part. Fractions 0-1; macro: the unweighted mean over the classes."""

    images: int = Field(ge=1, le=MOST)
    macro_f1: Score
    accuracy: Score
    balanced_accuracy: Score
    macro_precision: Score
    macro_recall: Score
    auc: Score | None
    """One versus rest, macro; None where a class is absent from the part."""
    log_loss: Loss
    """Nats per image."""
    brier: Brier
    """0 to 2."""
    calibration_error: Score
    """Expected calibration error of the predicted class, 15 bins."""
    macro_f1_interval: Interval
    """95 % interval over test sets with the same class counts, like that of accuracy."""
    macro_f1_sd: Score
    """Standard deviation over such test sets."""
    accuracy_interval: Interval
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[Count, ...], ...]
    """Rows: the true class; columns: the predicted one."""

    @model_validator(mode="after")
    def _one_size(self) -> Metrics:
        classes = len(self.per_class)
        if len(self.confusion) != classes or any(len(row) != classes for row in self.confusion):
            raise ValueError(f"confusion must have {classes} rows of {classes} numbers")
        return self


class Calibrated(FrozenModel):
    """Test metrics after temperature scaling, and the errors among the least confident images.

    Predicted classes, and with them F1, do not change.
    """

    temperature: Rate
    """Fitted on the validation images; above 1 lowers confidence."""
    log_loss: Loss
    brier: Brier
    calibration_error: Score
    flagged: Count
    """Number of the least confident test images, at most 2 % of all."""
    caught: Count
    """Errors among the flagged."""
    errors: Count
    """All errors."""


class Evaluation(FrozenModel):
    """Everything that is computed from predictions alone."""

    validation: Metrics | None
    """None only for external predictions without a validation part."""
    test: Metrics
    shifted: Metrics | None = added_field(None)
    """Metrics of the shifted test; None where it was not predicted."""
    frozen: Metrics | None = added_field(None)
    """Metrics of the test images before fine-tuning, in the first view; None without fine-tuning,
    and for runs made before they were kept."""
    calibrated: Calibrated | None
    """None without a validation part, on which the temperature is fitted."""
    predictions_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
