"""The settings of a command: the settings file, the command line over it, and the devices."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch

from harness.audit.pipeline import Workspace
from harness.config import FILENAME, Benchmark, DataSettings, Preset, load
from harness.errors import home_expanded
from harness.execution import devices
from harness.execution.devices import Device
from harness.schema.run import Profile
from zoo.registry import find


@dataclass(frozen=True)
class DataOptions:
    """Options of every subcommand that reads images, as typed."""

    source: str | None = None
    config: Path | None = None
    profile: Profile | None = None
    clean: bool = False
    mask: bool = False


@dataclass(frozen=True)
class Settings:
    benchmark: Benchmark
    profile: Profile
    profile_reason: str
    devices: tuple[Device, ...]

    @property
    def own_recipes(self) -> set[str]:
        """Recipes with settings of their own."""
        return {find(name).name for name in self.benchmark.recipes}

    @property
    def workspace(self) -> Workspace:
        return Workspace(cache_folder(), self.devices[0], backend=self.benchmark.backend)


def cache_folder() -> Path:
    """Where decoded images and augmented epochs are cached; ``WBC_BENCH_CACHE`` moves it."""
    return Path(os.environ.get("WBC_BENCH_CACHE") or pooch.os_cache("wbc-bench"))


def load_settings(
    options: DataOptions, preset: Callable[[Profile], Preset] | None = None
) -> Settings:
    """The settings file's benchmark, or the default one, with ``options`` over it.

    ``preset``: what is trained in a profile, instead of what it says of that. Raises ConfigError.
    """
    visible = devices.visible()
    gpu = visible[0].id != "cpu"
    if options.profile is not None:
        profile, reason = options.profile, "requested"
    elif gpu:
        profile, reason = "full", f"{visible[0].name} is visible"
    else:
        profile, reason = "quick", "no accelerator is visible"
    default = Path(FILENAME)
    file = options.config or (default if default.exists() else None)
    benchmark = load(file, profile, gpu=gpu, preset=preset(profile) if preset else None)
    data = _override(benchmark.data, options)
    return Settings(benchmark.model_copy(update={"data": data}), profile, reason, visible)


def _override(settings: DataSettings, options: DataOptions) -> DataSettings:
    flags = {"clean": settings.clean or options.clean, "mask": settings.mask or options.mask}
    if options.source is None or _same(options.source, settings.source):
        return settings.model_copy(update=flags)
    # Manifest and range are of images of the file's own source.
    changes = {**flags, "source": options.source, "manifest": None, "keep": None}
    return settings.model_copy(update=changes)


def _same(source: str, other: str) -> bool:
    """Whether both name the same data: one word, or one path."""
    return source == other or home_expanded(source).absolute() == Path(other).absolute()


def toml_lines(table: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A table as lines of TOML: its values, then the tables in it."""
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{key} = {_value(value)}" for key, value in values.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner = toml_lines(value, f"{prefix}{key}.")
            own = any(not isinstance(item, Mapping) for item in value.values())
            lines += [*(["", f"[{prefix}{key}]"] if own else []), *inner]
    return lines


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value)
