"""``benchmark.toml`` -> Benchmark, strictly: an unknown key is an error that names its neighbour.

The file holds ``backend`` and the tables ``data``, ``split``, ``protocol``, ``variants``,
``weights``, ``sweep`` and ``ensembles``. A variant is an overlay of the protocol. A profile
(``[profile.quick]``, ``[profile.full]``) is an overlay of the same tables; so is the user's file
over the defaults, which are the commented ``benchmark.toml`` beside this module.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from harness.errors import ConfigError, UnknownName, did_you_mean
from harness.schema import augmentation as policies
from harness.schema.augmentation import Augmentation
from harness.schema.base import FrozenModel
from harness.schema.dataset import Split
from harness.schema.protocol import Protocol
from harness.schema.records import Rule
from harness.schema.run import Backend, Shift

Profile = Literal["quick", "full"]
FILENAME = "benchmark.toml"
ALL = "all"
"""What names every variant at once."""


class DataSettings(FrozenModel):
    source: str = "smear"
    clean: bool = False
    """Leave out what an audit finds to be no cell, to show nothing or to be unreadable."""
    manifest: str | None = None
    """Of a clean set: a removal manifest of the user's own; relative to benchmark.toml."""
    mask: bool = False
    """Make everything white but the cell."""

    @model_validator(mode="after")
    def _manifest_is_meant(self) -> DataSettings:
        if self.manifest is not None and not self.clean:
            raise ValueError("a manifest is named, but clean is false; set clean = true")
        return self


class WeightSettings(FrozenModel):
    source: Literal["imagenet", "random"] = "imagenet"
    when_offline: Literal["fail", "random"] = "fail"
    """Of ImageNet weights that cannot be had: an error, or random weights, said loudly."""
    files: dict[str, str] = Field(default_factory=dict)
    """Recipe -> a weights file of the user's own; relative to benchmark.toml."""


class SweepSettings(FrozenModel):
    recipes: tuple[str, ...] = ()
    """What ``run --all`` runs; empty means the whole zoo."""
    seeds: int = Field(1, ge=1, le=100)
    timeout_minutes: float = Field(0, ge=0)
    """After which a run is ended and recorded as failed; 0: never."""
    cpu_slots: int = Field(2, ge=1)
    """Runs side by side on the CPU: one builds its network while another computes."""
    shift: Shift = "mixed"
    """The pass over the shifted test images: each harmed once, in every way, or none."""
    per_gpu: int = Field(1, ge=1, le=64)
    """Runs side by side on each GPU."""
    memory_gb: float = Field(0, ge=0)
    """Of the host, for one run; past it the run goes on in smaller parts. 0: no limit."""
    checkpoint_seconds: float = Field(30, ge=0)
    """At least so long between two checkpoints of a run; 0: one after each epoch."""
    augmented_gigabytes: float = Field(20, ge=0)
    """Of disk for augmented epochs, which every recipe reads; what is over is made in memory."""


class EnsembleSettings(FrozenModel):
    members: tuple[tuple[str, ...], ...] = (("v2s", "v2m", "v2l"),)
    """Sets of recipes that are combined when ``run --all`` has finished them."""
    rules: tuple[Rule, ...] = ()
    """By which each set is combined; empty: by all but best subset."""
    search: bool = True
    """Also greedy and best subset of all networks."""


class Benchmark(FrozenModel):
    """What to run, under which protocol: one profile, resolved."""

    backend: Backend = "tensorflow"
    data: DataSettings = DataSettings()
    split: Split = Split()
    protocol: Protocol = Protocol()
    variants: dict[str, Protocol] = Field(default_factory=dict)
    """Whole protocols, by the name of the overlay that they were made with."""
    weights: WeightSettings = WeightSettings()
    sweep: SweepSettings = SweepSettings()
    ensembles: EnsembleSettings = EnsembleSettings()

    @model_validator(mode="after")
    def _variants_share_the_images(self) -> Benchmark:
        for name, protocol in self.variants.items():
            if protocol.image_size != self.protocol.image_size:
                raise ValueError(
                    f"variants.{name}.image_size: variants share the decoded images, and with "
                    f"them protocol.image_size = {self.protocol.image_size}"
                )
        return self

    def with_variants(self, names: Sequence[str]) -> Benchmark:
        """With these of its variants; ``all`` means every one. Raises UnknownName."""
        for name in names:
            if name not in (*self.variants, ALL):
                raise UnknownName("variant", name, (*self.variants, ALL))
        chosen = self.variants if ALL in names else {name: self.variants[name] for name in names}
        return self.model_copy(update={"variants": chosen})

    @property
    def protocols(self) -> dict[str, Protocol]:
        """The plain protocol, under no name, and those of the variants."""
        return {"": self.protocol, **self.variants}


def default_text() -> str:
    """The commented defaults; what ``wbc-bench init`` writes."""
    return (files("harness") / FILENAME).read_text(encoding="utf-8")


def load(path: Path | None, profile: Profile, *, gpu: bool = False) -> Benchmark:
    """The Benchmark of one profile: defaults, then the file, each with its profile on top.

    ``gpu``: whether one will be used, which decides what the precision "auto" means; a Benchmark
    holds what was decided. Raises ConfigError naming the file, the key and the nearest valid key.
    """
    tables = overlay({}, tomllib.loads(default_text()), profile)
    if path is not None:
        user = _read(path)
        _check(user, path)
        tables = overlay(tables, user, profile)
    where = str(path or "built-in defaults")
    try:
        benchmark = Benchmark.model_validate(_decided(tables, gpu))
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_error(error)}") from None
    return _rooted(_with_current_streams(benchmark), path)


def augmentation_named(name: str) -> Augmentation:
    """The augmentation of a policy's name, or of names joined by +. Raises UnknownName."""
    for one in name.split("+"):
        if one.strip() not in policies.NAMES:
            raise UnknownName("policy", one.strip(), policies.NAMES)
    try:
        return Augmentation(policy=policies.parse(name))
    except ValueError as error:
        raise ConfigError(f"--policy {name}: {error}") from None


def overlay(base: Mapping[str, Any], top: Mapping[str, Any], profile: str) -> dict[str, Any]:
    """``top`` over ``base``, then ``top``'s own profile over both; ``false`` removes a table."""
    merged = _merge(base, {k: v for k, v in top.items() if k != "profile"})
    return _merge(merged, top.get("profile", {}).get(profile, {}))


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        if isinstance(value, dict):
            below = merged.get(key)
            merged[key] = _merge(below if isinstance(below, dict) else {}, value)
        elif value is False and _is_optional_table(key):
            merged[key] = None
        else:
            merged[key] = value
    return merged


def _decided(tables: Mapping[str, Any], gpu: bool) -> dict[str, Any]:
    """Each variant as a whole protocol, the plain one's keys below its own; no precision "auto"."""
    automatic = "mixed_bfloat16" if gpu else "float32"

    def protocol(own: Mapping[str, Any]) -> dict[str, Any]:
        whole = _merge(tables["protocol"], own)
        return whole | ({"precision": automatic} if whole["precision"] == "auto" else {})

    variants = {name: protocol(own) for name, own in tables.get("variants", {}).items()}
    return {**tables, "protocol": protocol({}), "variants": variants}


def _with_current_streams(benchmark: Benchmark) -> Benchmark:
    def dated(protocol: Protocol) -> Protocol:
        return protocol.model_copy(
            update={"augmentation": protocol.augmentation.with_current_stream()}
        )

    variants = {name: dated(protocol) for name, protocol in benchmark.variants.items()}
    return benchmark.model_copy(
        update={"protocol": dated(benchmark.protocol), "variants": variants}
    )


def _is_optional_table(key: str) -> bool:
    return key in {"fine_tuning", "from_scratch", "subset"}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; 'wbc-bench init' writes one") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _check(user: Mapping[str, Any], path: Path) -> None:
    """Every key of the user's file exists, in the tables and in each profile's overlay."""
    profiles = user.get("profile", {})
    if not isinstance(profiles, dict):
        raise ConfigError(f"{path}: profile must be a table: [profile.quick]")
    for name, tables in profiles.items():
        if name not in ("quick", "full"):
            hint = did_you_mean(name, ["quick", "full"])
            raise ConfigError(f"{path}: unknown profile {name!r}{hint}")
        _check_keys(tables, Benchmark, path, f"profile.{name}.")
    rest = {key: value for key, value in user.items() if key != "profile"}
    _check_keys(rest, Benchmark, path, "", extra=("profile",))


def _check_keys(
    table: Mapping[str, Any],
    model: type[BaseModel],
    path: Path,
    prefix: str,
    extra: tuple[str, ...] = (),
) -> None:
    for key, value in table.items():
        known = [
            name
            for name in model.model_fields
            if name not in getattr(model, "NOT_CONFIGURABLE", ())
        ]
        if key not in known:
            hint = did_you_mean(key, [*known, *extra])
            raise ConfigError(f"{path}: unknown key {prefix + key!r}{hint}")
        if key == "variants":
            _check_variants(value, path, prefix)
            continue
        inner = _inner_model(model.model_fields[key].annotation)
        if inner is None:
            continue
        if isinstance(value, dict):
            _check_keys(value, inner, path, f"{prefix}{key}.")
        elif not (value is False and _is_optional_table(key)):
            raise ConfigError(f"{path}: {prefix + key} must be a table, not {value!r}")


def _check_variants(variants: Any, path: Path, prefix: str) -> None:
    tables = variants if isinstance(variants, dict) else {"NAME": variants}
    for name, own in tables.items():
        where = f"{prefix}variants.{name}"
        if not isinstance(own, dict):
            raise ConfigError(f"{path}: {where} must be a table of protocol's keys: [{where}]")
        if name == ALL:
            raise ConfigError(f"{path}: {where}: {ALL!r} means every variant; name it otherwise")
        _check_keys(own, Protocol, path, f"{where}.")


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    return next(_models_of(annotation), None)


def _models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    candidates = getattr(annotation, "__args__", (annotation,))
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            yield candidate


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
    value = first.get("input")
    shown = "" if isinstance(value, dict) else f", not {value!r}"
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"


def _rooted(benchmark: Benchmark, path: Path | None) -> Benchmark:
    """Relative weights files and manifests are meant relative to the file that names them."""
    if path is None:
        return benchmark
    files = {recipe: str(path.parent / file) for recipe, file in benchmark.weights.files.items()}
    data, weights = benchmark.data, benchmark.weights.model_copy(update={"files": files})
    if data.manifest is not None:
        data = data.model_copy(update={"manifest": str(path.parent / data.manifest)})
    return benchmark.model_copy(update={"data": data, "weights": weights})
