"""What predictions alone say, in numbers: recomputed from them, they must be the same."""

from __future__ import annotations

from typing import ClassVar

from harness.schema.base import FrozenModel


class ClassMetrics(FrozenModel):
    name: str
    support: int
    precision: float
    recall: float
    f1: float


class Metrics(FrozenModel):
    """Of one part. Fractions 0-1; macro: the plain mean over the classes."""

    images: int
    macro_f1: float
    accuracy: float
    balanced_accuracy: float
    macro_precision: float
    macro_recall: float
    auc: float | None
    """One class against the rest, macro; None where a class is absent from the part."""
    log_loss: float
    """Nats an image."""
    brier: float
    """0 to 2."""
    calibration_error: float
    """Expected calibration error of the guessed class, 15 bins."""
    macro_f1_interval: tuple[float, float]
    """95 %, over test sets with as many images of each class; so for accuracy."""
    macro_f1_sd: float
    """Of macro F1, over such test sets."""
    accuracy_interval: tuple[float, float]
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Rows: the true class; columns: the predicted one."""


class Calibrated(FrozenModel):
    """What a temperature does to the test images, and what their least sure ones hold.

    A row's guesses, and with them its F1, stay what they are.
    """

    temperature: float
    """Fitted on the validation images; above 1 is less sure."""
    log_loss: float
    brier: float
    calibration_error: float
    flagged: int
    """The least sure test images, at most 2 % of them."""
    caught: int
    """Errors among the flagged."""
    errors: int
    """Errors in all."""


class Evaluation(FrozenModel):
    """Everything that predictions alone say: recomputed from them, it must be the same."""

    OMITTED_AT_DEFAULT: ClassVar[tuple[str, ...]] = ("shifted",)

    validation: Metrics | None
    """None only of predictions from outside that came without."""
    test: Metrics
    shifted: Metrics | None = None
    """Of the shifted copy of the test images; None where no pass was made over it."""
    calibrated: Calibrated | None
    """None without validation images, on which a temperature is fitted."""
    predictions_sha256: str
