"""The training loop: what it keeps when training diverges, or when fine-tuning is in vain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.schema.protocol import Phase
from harness.training.loop import BatchResults, Diverged, FitResult, Learner, PhaseName, fit

TARGETS = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
PHASE = Phase(epochs=4, batch_size=2)


class Scripted(Learner):
    """Its weights are the number of its epochs; validation and training losses are given."""

    def __init__(self, confidences: list[float], losses: dict[int, float] | None = None) -> None:
        """``confidences``: in the true class, before the first epoch and after each."""
        self.confidences, self.losses = confidences, losses or {}
        self.epoch = 0

    @property
    def sample_count(self) -> int:
        return 4

    def on_epoch_begin(self, epoch: int) -> None:
        self.epoch = epoch + 1

    def train_on_batches(self, batches: np.ndarray, learning_rate: float) -> BatchResults:
        y_true = TARGETS.argmax(axis=1)[batches.ravel()]
        losses = np.full(len(batches), self.losses.get(self.epoch, 1.0))
        return BatchResults(losses, y_true, np.zeros_like(y_true))

    def predict_validation(self) -> np.ndarray:
        sure = self.confidences[self.epoch]
        return np.where(TARGETS == 1, sure, 1 - sure)

    def get_weights(self) -> Any:
        return self.epoch

    def set_weights(self, weights: Any) -> None:
        self.epoch = weights


def fitted(learner: Learner, name: PhaseName = "from scratch") -> FitResult:
    return fit(learner, name, PHASE, TARGETS, seed=0)


NAN = float("nan")


def test_the_first_epoch_that_diverges_says_when_and_why() -> None:
    with pytest.raises(Diverged) as error:
        fitted(Scripted([0.5, 0.6], {1: NAN}), "frozen")
    assert str(error.value) == (
        "training diverged in epoch 1 (frozen): the training loss is not finite"
    )


@pytest.mark.parametrize(
    ("learner", "part"),
    [
        (Scripted([0.5, 0.7, 0.6, 0.9, 0.9], {3: NAN}), "training"),
        (Scripted([0.5, 0.7, 0.6, NAN, 0.9]), "validation"),
    ],
)
def test_a_later_epoch_that_diverges_leaves_the_best_before(learner: Scripted, part: str) -> None:
    result = fitted(learner)
    assert learner.get_weights() == 1
    assert [line.epoch for line in result.history] == [1, 2]
    assert result.notes == (
        f"training diverged in epoch 3 (from scratch): the {part} loss is not finite",
        "the weights are those of epoch 1",
    )


def test_fine_tuning_that_only_worsens_keeps_the_head_it_began_with() -> None:
    learner = Scripted([0.9, 0.5, 0.6, 0.7, 0.8])
    result = fitted(learner, "fine-tuning")
    assert learner.get_weights() == 0
    assert len(result.history) == 4, "it is still given all its epochs"
    assert result.notes == (
        "fine-tuning did not lower the validation loss: the weights are those it began with",
    )


def test_fine_tuning_that_helps_keeps_its_best_epoch() -> None:
    learner = Scripted([0.6, 0.5, 0.7, 0.8, 0.7])
    result = fitted(learner, "fine-tuning")
    assert result.notes == ()
    assert learner.get_weights() == 3
    first = result.history[0]
    assert (first.train_accuracy, first.validation_accuracy) == (0.5, 0.5)
    assert first.train_f1 == pytest.approx(1 / 3), "everything is predicted as one of two classes"
    assert result.history[2].validation_accuracy == 1


def test_fine_tuning_that_diverges_at_once_leaves_the_head_it_began_with() -> None:
    learner = Scripted([0.6, 0.9], {1: float("inf")})
    result = fitted(learner, "fine-tuning")
    assert learner.get_weights() == 0
    assert result.history == ()
    assert len(result.notes) == 2


def test_other_phases_begin_with_random_weights_which_are_no_candidate() -> None:
    learner = Scripted([0.9, 0.5, 0.6, 0.7, 0.8])
    assert fitted(learner).notes == ()
    assert learner.get_weights() == 4
