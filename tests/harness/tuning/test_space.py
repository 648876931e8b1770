"""Search spaces: what a trial has, every combination of a grid, what it changes in a protocol."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from harness.config import Preset, load
from harness.errors import ConfigError
from harness.schema.protocol import Head, Phase, Protocol
from harness.schema.tuning import SearchSpace
from harness.tuning.space import apply, changes, check, grid, suggest

NOTHING: Any = dict.fromkeys(SearchSpace.model_fields, ())


def space(**values: Any) -> SearchSpace:
    return SearchSpace(**{**NOTHING, **values})


def test_each_hidden_layer_has_parameters_of_its_own() -> None:
    last = suggest(lambda name, values: values[-1], SearchSpace(), Protocol())
    assert last == {
        "layers": 2, "units_1": 512, "dropout_1": 0.5, "batch_norm_1": True,
        "units_2": 512, "dropout_2": 0.5, "batch_norm_2": True,
        "learning_rate": 1e-2, "batch_size": 128,
    }  # fmt: skip
    first = suggest(lambda name, values: values[0], SearchSpace(), Protocol())
    assert "units_2" not in first


def test_a_grid_has_every_combination_once() -> None:
    """Without repeating one for values of layers that it does not have."""
    made = list(grid(space(layers=(0, 1, 2), units=(8, 16), batch_size=(32, 64)), Protocol()))
    assert len(made) == (1 + 2 + 4) * 2
    assert len({tuple(parameters.items()) for parameters in made}) == len(made)
    assert made[0] == {"layers": 0, "batch_size": 32}


def test_what_is_not_searched_stays() -> None:
    own = Protocol(head=Head(units=(64, 32), dropout=(0.4, 0.1)), frozen=Phase(batch_size=8))
    parameters = {"layers": 3, "units_1": 1, "units_2": 2, "units_3": 3, "learning_rate": 0.01}
    changed = apply(changes(parameters, own, from_scratch=False), own)
    assert changed.head.layers == ((1, False, 0.4), (2, False, 0.1), (3, False, 0.1))
    assert (changed.frozen.batch_size, changed.frozen.optimizer.learning_rate) == (8, 0.01)
    without = apply(changes({"layers": 0}, own, from_scratch=False), own)
    assert without.head.layers == ()
    scratch = Protocol(from_scratch=Phase())
    parameters = {"learning_rate": 0.01, "batch_size": 64}
    changed = apply(changes(parameters, scratch, from_scratch=True), scratch)
    assert changed.from_scratch is not None
    assert changed.from_scratch.optimizer.learning_rate == 0.01
    assert changed.frozen == Protocol().frozen.without_unused(unfreezes=False)


def test_a_variant_with_the_same_tables_is_the_same_protocol() -> None:
    own = load(None, "full").protocol
    parameters = {
        "units_1": 8, "unfreeze": 0.5, "fine_tuning_rate": 1e-3, "policy": "mixup+cutmix",
    }  # fmt: skip
    tables = changes(parameters, own, from_scratch=False)
    variant = load(None, "full", preset=Preset("here", ({"variants": {"x": tables}},)))
    assert variant.variants["x"] == apply(tables, own)
    assert variant.variants["x"].augmentation.policy


@pytest.mark.parametrize(
    ("name", "protocol", "from_scratch", "message"),
    [
        ("unfreeze", Protocol(), False, "tune.unfreeze .* has no fine-tuning"),
        ("fine_tuning_rate", Protocol(fine_tuning=Phase()), True, "is trained from scratch"),
        ("unfreeze", Protocol(fine_tuning=Phase(frozen_layers=3)), False, "sets frozen_layers"),
    ],
)
def test_values_of_what_the_protocol_lacks_are_rejected(
    name: str, protocol: Protocol, from_scratch: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(space(**{name: (0.5,)}), protocol, from_scratch=from_scratch)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no hyperparameter has values"),
        ({"layers": (1,)}, "units needs some too"),
        ({"units": (8, 8)}, "units has a value twice"),
        ({"policy": ("cutmux",)}, "did you mean 'cutmix'"),
        ({"dropout": (1.5,)}, "less than 1"),
    ],
)
def test_spaces_that_cannot_be_searched(values: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        space(**values)
