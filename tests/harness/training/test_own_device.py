"""On a device of its own a run queues its steps, and ends with the very same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.execution.devices import Device, slots
from harness.schema.augmentation import Augmentation, parse
from harness.schema.protocol import Phase
from harness.schema.run import Weights
from harness.storage.records import Store
from harness.sweep.scheduler import SweepContext
from tests.harness.conftest import SUMMARY, made_planned
from tests.harness.training.test_trainer import IMAGENET, protocol, smear, train

__all__ = ["smear"]

SHORT = Phase(epochs=2, batch_size=16, unfreeze=0.3)


@pytest.mark.parametrize(
    ("recipe", "weights", "policy"),
    [
        ("lite0", IMAGENET, "none"),
        ("mobilenet", Weights(source="random"), "none"),
        ("mobilenet", Weights(source="random"), "traditional"),
    ],
)
def test_images_on_the_device_and_queued_steps_change_no_number(
    smear: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    weights: Weights,
    policy: str,
) -> None:
    from harness.training import context, device_images

    made: list[device_images.DeviceImages] = []

    class Recorded(device_images.DeviceImages):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    augmentation = Augmentation(policy=parse(policy), validation_share=0.5 * (policy != "none"))
    chosen = protocol(fine_tuning=SHORT, from_scratch=SHORT, augmentation=augmentation)
    shared = train(smear, recipe, weights, chosen, tmp_path, "mixed")
    monkeypatch.setattr(context, "memory_budget", lambda: 10**9)
    monkeypatch.setattr(context, "DeviceImages", Recorded)
    own = train(smear, recipe, weights, chosen, tmp_path, "mixed", own=True)
    assert len(made) == (1 if policy == "none" else 2 + SHORT.epochs)
    assert all(each.on_device for each in made)
    for name, part in shared.predictions.items():
        np.testing.assert_array_equal(part.probabilities, own.predictions[name].probabilities)
    for one, other in zip(shared.network.get_weights(), own.network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    curves = ([line.model_copy(update={"seconds": 0.0}) for line in t.history]
              for t in (shared, own))  # fmt: skip
    for line, same in zip(*curves, strict=True):
        assert same == line
    assert own.seconds["compile"] > 0


def test_a_gpu_is_a_runs_own_unless_it_is_shared(tmp_path: Path) -> None:
    gpus, cpu = (Device("gpu:0", "A"), Device("gpu:1", "B")), (Device("cpu", "C"),)

    def own(at_hand: tuple[Device, ...], per_gpu: int) -> set[bool]:
        there = slots(at_hand, 2, per_gpu)
        context = SweepContext(Store(tmp_path), tmp_path, SUMMARY, "full", lambda: there)
        return {context.job(made_planned(), device).device.exclusive for device in there}

    assert own(gpus, 1) == {True}
    assert own(gpus, 3) == {False}
    assert own(cpu, 1) == {False}
