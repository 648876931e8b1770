"""On a device of its own a run waits for nothing, and ends with the very same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.execution.devices import Device, slots
from harness.schema.augmentation import Augmentation, parse
from harness.schema.protocol import Phase
from harness.schema.run import Weights
from harness.storage.records import Store
from harness.sweep.scheduler import SweepContext, _job
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
def test_nothing_changes_where_nothing_waits_and_images_live_on_the_device(
    smear: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    weights: Weights,
    policy: str,
) -> None:
    from harness.training import context, device_images

    made: list[device_images.DeviceImages] = []

    class Watched(device_images.DeviceImages):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

    augmentation = Augmentation(policy=parse(policy), validation_share=0.5 * (policy != "none"))
    chosen = protocol(fine_tuning=SHORT, from_scratch=SHORT, augmentation=augmentation)
    waited = train(smear, recipe, weights, chosen, tmp_path, "mixed")
    monkeypatch.setattr(context, "room", lambda: 10**9)
    monkeypatch.setattr(context, "DeviceImages", Watched)
    flowed = train(smear, recipe, weights, chosen, tmp_path, "mixed", own=True)
    assert len(made) == (1 if policy == "none" else 2 + SHORT.epochs)
    assert all(each.on_device for each in made)
    for name, part in waited.predictions.items():
        np.testing.assert_array_equal(part.probabilities, flowed.predictions[name].probabilities)
    for one, other in zip(waited.network.get_weights(), flowed.network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    curves = ([line.model_copy(update={"seconds": 0.0}) for line in t.history]
              for t in (waited, flowed))  # fmt: skip
    for line, same in zip(*curves, strict=True):
        assert same == line
    assert flowed.seconds["compile"] > 0


@pytest.mark.parametrize("own", [True, False])
def test_batches_go_ahead_and_turns_end_when_their_work_does(
    monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    from harness.training import context

    under_way, most, turns = 0, 0, 0

    def forward(batch: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        return batch

    def numbers(features: int) -> np.ndarray:
        nonlocal under_way
        under_way -= 1
        return np.array([features])

    @contextmanager
    def shared() -> Iterator[None]:
        nonlocal turns
        turns += 1
        yield
        assert own or not under_way, "the turn ended before its work"

    monkeypatch.setattr(context, "numbers", numbers)
    device_lock = SimpleNamespace(own=own, shared=shared)
    bench: Any = SimpleNamespace(events=SimpleNamespace(device_lock=device_lock), _forward=forward)
    found = [int(each[0]) for each in context.RunContext.forward(bench, iter(range(40)))]
    assert found == list(range(40))
    assert under_way == 0
    assert most == (context.AHEAD + 1 if own else 1)
    assert turns >= 40


def test_a_gpu_is_a_runs_own_unless_it_is_shared(tmp_path: Path) -> None:
    gpus, cpu = (Device("gpu:0", "A"), Device("gpu:1", "B")), (Device("cpu", "C"),)

    def own(at_hand: tuple[Device, ...], per_gpu: int) -> set[bool]:
        there = slots(at_hand, 2, per_gpu)
        setting = SweepContext(Store(tmp_path), tmp_path, SUMMARY, "full", lambda: there)
        return {_job(made_planned(), setting, device).own_device for device in there}

    assert own(gpus, 1) == {True}
    assert own(gpus, 3) == {False}
    assert own(cpu, 1) == {False}
