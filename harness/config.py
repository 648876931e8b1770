"""``benchmark.toml`` -> Benchmark, strictly: an unknown key is an error with the nearest key.

The file holds ``backend`` and the tables ``data``, ``split``, ``protocol``, ``variants``,
``recipes``, ``weights``, ``sweep``, ``ensembles`` and ``tune``. The user's file overrides the
defaults, which are the commented ``benchmark.toml`` in this folder. In each file,
``[profile.quick]`` and ``[profile.full]`` override the file's own tables. A variant overrides keys
of the protocol.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from harness.errors import ConfigError, UnknownName, UserError, did_you_mean, home_expanded
from harness.schema.augmentation import NAMES, Augmentation, parse
from harness.schema.base import FrozenModel
from harness.schema.dataset import Split
from harness.schema.problems import describe, shortened
from harness.schema.protocol import Positive, Protocol
from harness.schema.records import Rule
from harness.schema.run import Backend, Profile, Shift
from harness.schema.tuning import SearchSpace
from zoo.registry import find

FILENAME = "benchmark.toml"
MOST_BYTES = 1 << 20
SOURCES = ("smear", "bloodmnist")
"""Words that name data; every other source is a path."""
ALL = "all"
"""In place of the names of all variants."""
OPTIONAL_TABLES = ("fine_tuning", "from_scratch", "subset")
"""Tables that ``false`` removes."""


class DataSettings(FrozenModel):
    source: str = "smear"
    keep: tuple[Annotated[int, Field(ge=0)], Positive] | None = None
    """The first image that is kept, and the one after the last; the others are as if they were not
    in the source. None: all."""
    clean: bool = False
    """Leave out images without a cell, blank images and unreadable ones, as an audit finds them."""
    manifest: str | None = None
    """With ``clean``: the user's own list of images to remove; relative to benchmark.toml."""
    mask: bool = False
    """Paint everything white but the cell."""

    @model_validator(mode="after")
    def _something_is_kept(self) -> DataSettings:
        if self.keep is not None and self.keep[0] >= self.keep[1]:
            raise ValueError(f"keep = {list(self.keep)} keeps no image: [first, end]")
        return self

    @model_validator(mode="after")
    def _manifest_needs_clean(self) -> DataSettings:
        if self.manifest is not None and not self.clean:
            raise ValueError("a manifest is named, but clean is false; set clean = true")
        return self


def _known_recipe(name: str) -> str:
    try:
        find(name)
    except UserError as error:
        raise ValueError(str(error)) from None
    return name


KnownRecipe = Annotated[str, AfterValidator(_known_recipe)]
KnownMember = Annotated[
    str, AfterValidator(lambda name: name if name.startswith("@") else _known_recipe(name))
]
"""A recipe, or the name of an import after @, which may come later."""


class WeightSettings(FrozenModel):
    source: Literal["imagenet", "random"] = "imagenet"
    when_offline: Literal["fail", "random"] = "fail"
    """Where a download fails: an error, or random weights, which every table marks."""
    files: dict[KnownRecipe, str] = Field(default_factory=dict)
    """Recipe -> the user's own weights file; relative to benchmark.toml."""


class SweepSettings(FrozenModel):
    recipes: tuple[KnownRecipe, ...] = ()
    """What ``run --all`` runs; empty means the whole zoo."""
    seeds: int = Field(1, ge=1, le=100)
    timeout_minutes: float = Field(0, ge=0, le=1e6)
    """Time after which a run is stopped and recorded as failed; 0: no limit."""
    cpu_slots: int = Field(2, ge=1, le=1024)
    """Parallel runs on the CPU: one builds its network while another computes."""
    shift: Shift = "mixed"
    """The shifted test: one corruption per test image, all corruptions of each, or none."""
    per_gpu: int = Field(1, ge=1, le=64)
    """Parallel runs on each GPU."""
    preparing: Annotated[int, Field(ge=0, le=64)] | Literal["auto"] = "auto"
    """Further runs on each GPU that build and compile while others train; on the CPU too where a
    number is given. ``auto``: as cores and memory allow, none on the CPU."""
    memory_gb: float = Field(0, ge=0, le=1e6)
    """Host memory of a run; above it the run restarts with micro-batches. 0: no limit."""
    checkpoint_seconds: float = Field(30, ge=0, le=1e9)
    """Seconds of training that a checkpoint saves, at least; 0: one after each epoch."""
    compiled_gigabytes: float = Field(5, ge=0, le=1e6)
    """Disk space for compiled programs (JAX), which all runs share."""
    augmented_gigabytes: float = Field(20, ge=0, le=1e6)
    """Disk space for augmented epochs, which all recipes share; the rest is made in memory."""


class EnsembleSettings(FrozenModel):
    members: tuple[Annotated[tuple[KnownMember, ...], Field(min_length=2)], ...] = (
        ("v2s", "v2m", "v2l"),
    )
    """Sets of recipes that are combined when ``run --all`` has finished them."""
    rules: tuple[Rule, ...] = ()
    """Rules for each set; empty: all but best subset."""
    search: bool = True
    """Also fit greedy and best subset to all networks."""


class Benchmark(FrozenModel):
    """What to run, and under which protocol: the settings of one profile."""

    backend: Backend = "tensorflow"
    data: DataSettings = DataSettings()
    split: Split = Split()
    protocol: Protocol = Protocol()
    variants: dict[str, Protocol] = Field(default_factory=dict)
    """Name -> complete protocol."""
    recipes: dict[KnownRecipe, dict[str, Any]] = Field(default_factory=dict)
    """Recipe -> keys of the protocol with other values for it alone, in every variant."""
    weights: WeightSettings = WeightSettings()
    sweep: SweepSettings = SweepSettings()
    ensembles: EnsembleSettings = EnsembleSettings()
    tune: SearchSpace = SearchSpace()

    @model_validator(mode="after")
    def _variants_share_the_images(self) -> Benchmark:
        for name, protocol in self.variants.items():
            if protocol.image_size != self.protocol.image_size:
                raise ValueError(
                    f"variants.{name}.image_size: variants share the decoded images, and with "
                    f"them protocol.image_size = {self.protocol.image_size}"
                )
        return self

    def protocol_of(self, recipe: str, protocol: Protocol) -> Protocol:
        """A protocol as this recipe is trained under it. Raises ConfigError."""
        own = {find(name).name: table for name, table in self.recipes.items()}.get(recipe)
        if not own:
            return protocol
        try:
            changed = Protocol.model_validate(_merge(protocol.model_dump(mode="json"), own))
        except ValidationError as error:
            raise ConfigError(f"recipes.{recipe}.{describe(error)}") from None
        if changed.image_size != protocol.image_size:
            raise ConfigError(f"recipes.{recipe}.image_size: recipes share the decoded images")
        return changed.with_current_version()

    def with_variants(self, names: Sequence[str]) -> Benchmark:
        """The benchmark with only these variants; ``all`` for every one. Raises UnknownName."""
        known = (*self.variants, ALL) if self.variants else ()
        for name in names:
            if name not in known:
                none = "; the settings file has no table [variants.NAME]"
                raise UnknownName("variant", name, known, none)
        chosen = self.variants if ALL in names else {name: self.variants[name] for name in names}
        return self.model_copy(update={"variants": chosen})

    @property
    def protocols(self) -> dict[str, Protocol]:
        """Variant -> protocol; the plain protocol has the empty name."""
        return {"": self.protocol, **self.variants}


def default_text() -> str:
    """The commented defaults, which ``wbc-bench init`` writes."""
    return (files("harness") / FILENAME).read_text(encoding="utf-8")


class SettingsFile(Benchmark):
    """Every key of a settings file."""

    recipes: dict[str, Protocol]  # type: ignore[assignment]

    profile: dict[Profile, Benchmark] = Field(default_factory=dict)


def load(
    path: Path | None, profile: Profile, *, gpu: bool = False, preset: Preset | None = None
) -> Benchmark:
    """The Benchmark of one profile: the defaults, overridden by the file at ``path``.

    ``gpu``: whether a GPU computes, which decides the precision "auto". With a ``preset``, training
    and split are its own, and not those of the file. Raises ConfigError naming the file, the key
    and the nearest valid key.
    """
    tables, where = overlay({}, _defaults(), profile), str(path or "built-in defaults")
    if path is not None:
        user = read_toml(path)
        check_keys(user, SettingsFile, path)
        tables = overlay(tables, _without_training(user) if preset else user, profile)
    if preset is not None:
        where = preset.where
        for part in preset.overlays:
            tables = overlay(tables, part, profile)
    try:
        benchmark = Benchmark.model_validate(_complete_protocols(tables, gpu))
    except ValidationError as error:
        raise ConfigError(f"{where}: {describe(error)}") from None
    _check_trainable(benchmark, path)
    return _resolve_paths(_with_current_versions(benchmark), path)


class Preset(NamedTuple):
    """Settings of the program's own that say how to train: tables as in a settings file."""

    where: str
    """Their name in messages."""
    overlays: tuple[Mapping[str, Any], ...]
    """Each overrides those before it."""


TRAINING_TABLES = ("protocol", "split", "variants", "recipes")
"""What a preset decides alone."""


def _without_training(user: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in user.items() if key not in TRAINING_TABLES}
    if "profile" in kept:
        kept["profile"] = {
            name: _without_training(table) for name, table in kept["profile"].items()
        }
    return kept


@cache
def _defaults() -> dict[str, Any]:
    return tomllib.loads(default_text())


def augmentation_named(name: str) -> Augmentation:
    """The augmentation of a policy, or of policies joined by +. Raises UnknownName, ConfigError."""
    for policy in map(str.strip, name.split("+")):
        if policy not in NAMES:
            raise UnknownName("policy", policy, NAMES)
    try:
        return Augmentation(policy=parse(name))
    except ValueError as error:
        raise ConfigError(f"--policy {name}: {error}") from None


def overlay(base: Mapping[str, Any], top: Mapping[str, Any], profile: str) -> dict[str, Any]:
    """``base`` overridden by ``top``, then by ``top``'s profile of this name."""
    merged = _merge(base, {key: value for key, value in top.items() if key != "profile"})
    return _merge(merged, top.get("profile", {}).get(profile, {}))


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        if isinstance(value, dict):
            lower = merged.get(key)
            merged[key] = _merge(lower if isinstance(lower, dict) else {}, value)
        else:
            merged[key] = None if value is False and key in OPTIONAL_TABLES else value
    return merged


def _complete_protocols(tables: Mapping[str, Any], gpu: bool) -> dict[str, Any]:
    """Add the protocol's keys to each variant, and replace the precision "auto" in all of them."""

    def complete(own: Mapping[str, Any]) -> dict[str, Any]:
        protocol = _merge(tables["protocol"], own)
        if protocol["precision"] == "auto":
            protocol["precision"] = "mixed_bfloat16" if gpu else "float32"
        return protocol

    variants = {name: complete(own) for name, own in tables.get("variants", {}).items()}
    return {**tables, "protocol": complete({}), "variants": variants}


def _with_current_versions(benchmark: Benchmark) -> Benchmark:
    protocols = {
        name: protocol.with_current_version() for name, protocol in benchmark.protocols.items()
    }
    split = benchmark.split.with_current_version()
    changed = {"split": split, "protocol": protocols.pop(""), "variants": protocols}
    return benchmark.model_copy(update=changed)


def _check_trainable(benchmark: Benchmark, path: Path | None) -> None:
    """Raise ConfigError for settings under which nothing can be learnt."""
    for name, protocol in benchmark.protocols.items():
        weights = protocol.loss.class_weight
        if isinstance(weights, tuple) and not any(weights):
            where = f"variants.{name}" if name else "protocol"
            raise ConfigError(
                f"{path}: {where}.loss.class_weight: all weights are 0, so that nothing is learnt"
            )


def _resolve_paths(benchmark: Benchmark, path: Path | None) -> Benchmark:
    """Take every relative path as relative to the settings file."""
    if path is None:
        return benchmark

    def resolved(name: str) -> str:
        return str(path.parent / home_expanded(name))

    files = {recipe: resolved(file) for recipe, file in benchmark.weights.files.items()}
    data, weights = benchmark.data, benchmark.weights.model_copy(update={"files": files})
    changes = {} if data.manifest is None else {"manifest": resolved(data.manifest)}
    if data.source.partition("@")[0] not in SOURCES:
        changes["source"] = resolved(data.source)
    data = data.model_copy(update=changes)
    return benchmark.model_copy(update={"data": data, "weights": weights})


def read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a regular file")
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{path}: larger than any settings file")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; 'wbc-bench init' writes one") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except (OSError, ValueError) as error:  # Not TOML, no text, or a number of 5,000 digits.
        raise ConfigError(f"{path}: {error}") from None


def check_keys(
    table: Mapping[str, Any], model: type[BaseModel], path: Path, prefix: str = ""
) -> None:
    """Check that every key exists and every table is one, in all profiles.

    Before the merge, because pydantic would report neither where a key stands nor the nearest one.
    """
    known = model.model_fields.keys() - set(getattr(model, "NOT_CONFIGURABLE", ()))
    for key, value in table.items():
        name = prefix + key
        if key not in known:
            raise ConfigError(f"{path}: unknown key {name!r}{did_you_mean(key, known)}")
        if _is_no_number(value, model.model_fields[key].annotation):
            raise ConfigError(f"{path}: {name} must be a number, not {shortened(value)}")
        inner = _model_in(model.model_fields[key].annotation)
        if inner is None or (value is False and key in OPTIONAL_TABLES):
            continue
        kind = get_origin(model.model_fields[key].annotation)
        if kind is dict:
            _check_named_tables(value, inner, path, name)
        elif kind is tuple and isinstance(value, list):
            for i, item in enumerate(value, start=1):
                if not isinstance(item, dict):
                    raise ConfigError(f"{path}: {name} must be a list of tables, not {item!r}")
                check_keys(item, inner, path, f"{name}.{i}.")
        elif isinstance(value, dict):
            check_keys(value, inner, path, f"{name}.")
        else:
            raise ConfigError(f"{path}: {name} must be a table, not {value!r}")


def _check_named_tables(tables: Any, model: type[BaseModel], path: Path, kind: str) -> None:
    for name, table in (tables if isinstance(tables, dict) else {"NAME": tables}).items():
        where = f"{kind}.{name}"
        if not isinstance(table, dict):
            keys = f"{model.__name__.lower()}'s keys"
            raise ConfigError(f"{path}: {where} must be a table of {keys}: [{where}]")
        if kind == "profile" and name not in get_args(Profile):
            hint = did_you_mean(name, get_args(Profile))
            raise ConfigError(f"{path}: unknown profile {name!r}{hint}")
        if not name.strip() or not name.isprintable():
            raise ConfigError(f"{path}: {kind}: {name!r} is no name that can be shown")
        if name == ALL:
            raise ConfigError(f"{path}: {where}: {ALL!r} means every variant; use another name")
        check_keys(table, model, path, f"{where}.")


def _is_no_number(value: Any, annotation: Any) -> bool:
    """Whether a field takes a number where this is none: pydantic reads true and "5" as one."""
    union = get_origin(annotation) in (Union, UnionType)
    forms = get_args(annotation) if union else (annotation,)
    kinds = {get_args(form)[0] if get_origin(form) is Annotated else form for form in forms}
    if isinstance(value, bool):
        return bool not in kinds and bool(kinds & {int, float})
    return isinstance(value, str) and kinds <= {int, float, type(None)}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    types = (type_ for type_ in get_args(annotation) or (annotation,) if isinstance(type_, type))
    return next((type_ for type_ in types if issubclass(type_, BaseModel)), None)
