"""Policies as users write them: names, parameters, ranges, and what becomes part of a run's id."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.config import Benchmark, augmentation_named, load
from harness.errors import ConfigError, UserError
from harness.schema.augmentation import (
    NAMES,
    STEPS,
    Augmentation,
    CutMix,
    Enlarged,
    GridMask,
    MixUp,
    Noise,
    RandAugment,
    Sharpness,
    Traditional,
    parse,
)
from harness.schema.dataset import DataSummary
from harness.schema.protocol import Protocol
from harness.sweep import planner


def benchmark(tmp_path: Path, text: str) -> Benchmark:
    path = tmp_path / "benchmark.toml"
    path.write_text(f"[protocol.augmentation]\n{text}\n")
    return load(path, "quick")


@pytest.mark.parametrize(
    ("written", "steps"),
    [
        ("none", ()),
        ("traditional", (Traditional(),)),
        ("mixup+cutmix", (MixUp(), CutMix())),
        (" traditional + mixup+ cutmix ", (Traditional(), MixUp(), CutMix())),
        (["traditional", {"name": "mixup", "alpha": 1}], (Traditional(), MixUp(alpha=1))),
        ({"name": "gridmask", "ratio": 0.3}, (GridMask(ratio=0.3),)),
        (
            "report-002",
            (RandAugment(magnitude=0.2), Sharpness(), GridMask(ratio=0.4), Noise()),
        ),
        ("report-001", (Enlarged(),)),
    ],
)
def test_a_policy_is_its_steps(written: object, steps: tuple[object, ...]) -> None:
    assert parse(written) == steps


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_survives_its_json(name: str) -> None:
    augmentation = Augmentation(policy=parse(name), validation_share=0.5)
    assert Augmentation.model_validate_json(augmentation.canonical()) == augmentation


def test_augmentation_came_later_and_left_the_old_ids_alone() -> None:
    assert "augmentation" not in Protocol().model_dump()
    with_policy = Protocol(augmentation=Augmentation(policy=parse("mixup")))
    assert "mixup" in with_policy.canonical()
    assert "validation" not in with_policy.augmentation.canonical()


def test_a_name_and_its_steps_are_the_same_run() -> None:
    by_name = Augmentation(policy=parse("randaugment"))
    by_table = Augmentation(policy=parse([{"name": "randaugment", "magnitude": 0.5}]))
    assert by_name.canonical() == by_table.canonical()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('policy = "randaugmnt"', "unknown policy 'randaugmnt'; did you mean 'randaugment'?"),
        ('policy = "mixup+cutmx"', "unknown policy 'cutmx'; did you mean 'cutmix'?"),
        ('policy = [{ name = "mixpu" }]', "did you mean 'mixup'?"),
        ('policy = [{ name = "randaugment", magnitud = 1 }]', "did you mean 'magnitude'?"),
        ('policy = [{ name = "randaugment", magnitude = 1.5 }]', "randaugment.magnitude: should"),
        ('policy = [{ name = "traditional", rotation = -1 }]', "traditional.rotation"),
        ('policy = [{ name = "augmix", depth = [3, 1] }]', "depth must be"),
        ('policy = "enlarged+mixup"', "cannot be joined"),
        ("policy = 3", "policy"),
        ('validation_policy = "mixup"', "mixes labels"),
        ("validation_share = 1.5", "less than or equal to 1"),
        ('provider = "kerascv"', "keras-cv"),
        ('polcy = "mixup"', "did you mean 'policy'?"),
    ],
)
def test_wrong_settings_say_what_and_where(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        benchmark(tmp_path, text)
    assert says in str(raised.value)
    assert "benchmark.toml" in str(raised.value)
    assert "augmentation" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_preview_names_the_nearest_policy() -> None:
    with pytest.raises(UserError, match="did you mean 'gridmask'"):
        augmentation_named("gridmaks")
    with pytest.raises(UserError, match="cannot be joined"):
        augmentation_named("enlarged+mixup")


def test_a_limit_below_one_epoch_is_rejected_on_loading(tmp_path: Path) -> None:
    data = DataSummary(
        name="x", images=1500, image_size=96, class_names=("a", "b"),
        train=1000, validation=200, test=300,
    )  # fmt: skip
    text = 'policy = "{}"\n[sweep]\naugmented_gigabytes = {}'
    enough = benchmark(tmp_path, text.format("mixup", 0.03))
    store = planner.epoch_cache_settings(enough, data, tmp_path)
    assert store is not None
    assert store.limit_bytes == 30_000_000
    for policy, gigabytes in (("mixup", 0.02), ("report-001", 0.1), ("mixup", 0)):
        small = benchmark(tmp_path, text.format(policy, gigabytes))
        with pytest.raises(ConfigError, match=r"augmented_gigabytes = .* less than one"):
            planner.epoch_cache_settings(small, data, tmp_path)
    none = benchmark(tmp_path, text.format("none", 0))
    assert planner.epoch_cache_settings(none, data, tmp_path) is None


def test_every_step_says_what_it_does_to_pixels() -> None:
    for name in set(STEPS) - {"enlarged"}:
        assert Augmentation(policy=parse(name)).operations()
    assert "solarize" in Augmentation(policy=parse("report-001")).operations()
    assert Augmentation().operations() == frozenset()


def test_a_step_is_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        MixUp(alpha=0)
    with pytest.raises(ValidationError):
        MixUp().alpha = 1  # type: ignore[misc]
