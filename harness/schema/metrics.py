"""Metrics of predictions: a pure function of them, so that ``verify`` can recompute them."""

from __future__ import annotations

from harness.schema.base import FrozenModel, added_field


class ClassMetrics(FrozenModel):
    name: str
    support: int
    precision: float
    recall: float
    f1: float


class Metrics(FrozenModel):
    """Metrics of one part. Fractions 0-1; macro: the unweighted mean over the classes."""

    images: int
    macro_f1: float
    accuracy: float
    balanced_accuracy: float
    macro_precision: float
    macro_recall: float
    auc: float | None
    """One versus rest, macro; None where a class is absent from the part."""
    log_loss: float
    """Nats per image."""
    brier: float
    """0 to 2."""
    calibration_error: float
    """Expected calibration error of the predicted class, 15 bins."""
    macro_f1_interval: tuple[float, float]
    """95 % interval over test sets with the same class counts, like that of accuracy."""
    macro_f1_sd: float
    """Standard deviation over such test sets."""
    accuracy_interval: tuple[float, float]
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Rows: the true class; columns: the predicted one."""


class Calibrated(FrozenModel):
    """Test metrics after temperature scaling, and the errors among the least confident images.

    Predicted classes, and with them F1, do not change.
    """

    temperature: float
    """Fitted on the validation images; above 1 lowers confidence."""
    log_loss: float
    brier: float
    calibration_error: float
    flagged: int
    """Number of the least confident test images, at most 2 % of all."""
    caught: int
    """Errors among the flagged."""
    errors: int
    """All errors."""


class Evaluation(FrozenModel):
    """Everything that is computed from predictions alone."""

    validation: Metrics | None
    """None only for external predictions without a validation part."""
    test: Metrics
    shifted: Metrics | None = added_field(None)
    """Metrics of the shifted test; None where it was not predicted."""
    calibrated: Calibrated | None
    """None without a validation part, on which the temperature is fitted."""
    predictions_sha256: str
