"""A search space and a protocol -> the parameters of a trial, and what they change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import ValidationError

from harness.config import overlay
from harness.errors import ConfigError
from harness.schema.problems import describe
from harness.schema.protocol import Head, Protocol
from harness.schema.tuning import SearchSpace

Value = float | int | bool | str
Parameters = dict[str, Value]
"""The name of each parameter of a trial -> its value; of a hidden layer as ``units_1``."""
Suggest = Callable[[str, Sequence[Value]], Value]
"""Chooses one of the values of a parameter."""


def check(space: SearchSpace, protocol: Protocol, *, from_scratch: bool) -> None:
    """Raises ConfigError where a value is to be tried of what this protocol does not have."""
    tuning = protocol.fine_tuning
    for name in ("unfreeze", "fine_tuning_rate"):
        if getattr(space, name) and (from_scratch or tuning is None):
            why = "is trained from scratch" if from_scratch else "has no fine-tuning"
            raise ConfigError(f"tune.{name} has values to try, but the network {why}")
    if space.unfreeze and tuning is not None and tuning.frozen_layers:
        raise ConfigError("tune.unfreeze has values to try, but the protocol sets frozen_layers")


def suggest(choose: Suggest, space: SearchSpace, protocol: Protocol) -> Parameters:
    """The parameters of one trial; those of a hidden layer depend on how many there are."""
    layers = choose("layers", space.layers) if space.layers else None
    return _with_layers(layers) | {
        name: choose(name, values) for name, values in _choices(layers, space, protocol).items()
    }


def grid(space: SearchSpace, protocol: Protocol) -> Iterator[Parameters]:
    """Every combination of values, each once."""
    for layers in space.layers or (None,):
        choices = _choices(layers, space, protocol)
        for values in product(*choices.values()):
            yield _with_layers(layers) | dict(zip(choices, values, strict=True))


def _with_layers(layers: Value | None) -> Parameters:
    return {} if layers is None else {"layers": layers}


def _choices(
    layers: Value | None, space: SearchSpace, protocol: Protocol
) -> dict[str, Sequence[Value]]:
    """The values of every other parameter that is searched, with so many hidden layers."""
    count = len(protocol.head.units) if layers is None else int(layers)
    choices: dict[str, Sequence[Value]] = {
        f"{name}_{layer}": getattr(space, name)
        for layer in range(1, count + 1)
        for name in ("units", "dropout", "batch_norm")
    }
    for name in ("learning_rate", "batch_size", "unfreeze", "fine_tuning_rate", "policy"):
        choices[name] = getattr(space, name)
    return {name: values for name, values in choices.items() if values}


def changes(
    parameters: Mapping[str, Value], protocol: Protocol, *, from_scratch: bool
) -> dict[str, Any]:
    """Parameters as the tables of a settings file that change ``protocol`` so.

    What is not searched of a further hidden layer is as in the protocol's last one.
    """
    head: dict[str, list[Any]] = {}
    own = protocol.head.layers or Head().layers
    for layer in range(1, int(parameters.get("layers", len(protocol.head.units))) + 1):
        for name, value in own[min(layer, len(own)) - 1]._asdict().items():
            head.setdefault(name, []).append(parameters.get(f"{name}_{layer}", value))
    places = {
        "learning_rate": ("from_scratch" if from_scratch else "frozen", "optimizer"),
        "batch_size": ("from_scratch" if from_scratch else "frozen",),
        "unfreeze": ("fine_tuning",),
        "fine_tuning_rate": ("fine_tuning", "optimizer"),
        "policy": ("augmentation",),
    }
    without: dict[str, list[Any]] = {"units": [], "dropout": [], "batch_norm": []}
    tables: dict[str, Any] = {"head": head or without}
    for name in places.keys() & parameters.keys():
        table = tables
        for key in places[name]:
            table = table.setdefault(key, {})
        table["learning_rate" if name == "fine_tuning_rate" else name] = parameters[name]
    return tables


def apply(tables: Mapping[str, Any], protocol: Protocol) -> Protocol:
    """The protocol with these tables over its own. Raises ConfigError."""
    try:
        changed = overlay(protocol.model_dump(mode="json"), tables, "")
        return Protocol.model_validate(changed).with_current_version()
    except ValidationError as error:
        raise ConfigError(f"tune: {describe(error)}") from None
