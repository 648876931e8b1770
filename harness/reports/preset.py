"""A report's preset: its tables, what each row trains, and the numbers that were reported.

The five presets are the TOML files in this folder; a preset of the user's is any other TOML
file of this form.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import Field, ValidationError, field_validator, model_validator

from harness.config import Preset, SettingsFile, check_keys, load, read_toml
from harness.errors import ConfigError, UnknownName, UserError, did_you_mean
from harness.schema.base import FrozenModel
from harness.schema.dataset import Split
from harness.schema.problems import describe
from harness.schema.protocol import Protocol
from harness.schema.run import Profile
from zoo.registry import find

Measure = Literal[
    "accuracy", "macro_precision", "macro_recall", "macro_f1", "weighted_precision",
    "weighted_recall", "weighted_f1", "precision_above_half", "recall_above_half",
]  # fmt: skip
Tables = dict[str, Any]
"""As in a settings file."""
TRIAL, TRIAL_EPOCHS = "quick.toml", 1
"""What the quick profile changes in every report, and its epochs from scratch."""


class ReportedRow(FrozenModel):
    """One line of a reported table; scores in percent."""

    label: str
    recipe: str
    frozen: bool = False
    """Scored after the frozen phase, not after fine-tuning."""
    settings: Tables = Field(default_factory=dict)
    """Override those of the table."""
    reported: dict[Measure, float]
    deviation: dict[Measure, float] = Field(default_factory=dict)
    """Reported standard deviations over the classes."""
    online: float | None = None
    """Score on the challenge's hidden, corrupted test images."""
    online_below: bool = False
    """The report says only that the online score is below ``online``."""
    parameters: str = ""
    """As printed."""

    @field_validator("reported", "deviation", mode="before")
    @classmethod
    def _known_measures(cls, scores: Any) -> Any:
        for name in scores if isinstance(scores, dict) else ():
            if name not in get_args(Measure):
                raise ValueError(f"unknown score {name!r}{did_you_mean(name, get_args(Measure))}")
        return scores


class ReportedTable(FrozenModel):
    title: str
    settings: Tables = Field(default_factory=dict)
    """Override those of the report."""
    rows: tuple[ReportedRow, ...] = Field(min_length=1)


class ReportedClass(FrozenModel):
    """A class of the report's data: its images after cleaning, and its weight in the loss."""

    name: str
    images: int = Field(ge=1)
    weight: float = Field(gt=0)


class Report(FrozenModel):
    """A preset file."""

    title: str
    """The team's name."""
    aliases: tuple[str, ...] = ()
    classes: int = Field(8, ge=2)
    images: int = Field(ge=1)
    """Of the report's data set after cleaning."""
    assumptions: tuple[str, ...] = ()
    """What the preset assumes, because the report does not say it."""
    settings: Tables = Field(default_factory=dict)
    class_weights: tuple[ReportedClass, ...] = ()
    """The report's table of its classes, in the order of their labels."""
    tables: dict[str, ReportedTable] = Field(min_length=1)

    @model_validator(mode="after")
    def _recipes_exist(self) -> Report:
        for table in self.tables.values():
            for row in table.rows:
                try:
                    find(row.recipe)
                except UserError as error:
                    raise ValueError(f"{row.label}: {error}") from None
        return self


class PresetRow(NamedTuple):
    """A row with the report and the table that it stands in."""

    number: str
    report: Report
    table_name: str
    place: int

    @property
    def table(self) -> ReportedTable:
        return self.report.tables[self.table_name]

    @property
    def row(self) -> ReportedRow:
        return self.table.rows[self.place]

    @property
    def name(self) -> str:
        return f"{self.number}/{self.table_name}/{self.row.label}"

    def preset(self, profile: Profile) -> Preset:
        """What it trains: the report's settings, the table's, the row's; in the quick profile cut
        down to what two cores do in seconds.
        """
        parts = [self.report.settings, self.table.settings, self.row.settings]
        if profile == "quick":
            scratch = False if find(self.row.recipe).pretrained else {"epochs": TRIAL_EPOCHS}
            own = {"profile": self.report.settings.get("profile", {})}
            parts += [_trial(), {"protocol": {"from_scratch": scratch}}, own]
        return Preset(self.name, tuple(parts))


def rows_of(number: str, report: Report, table: str | None = None) -> tuple[PresetRow, ...]:
    """The rows of a report, or of one table of it."""
    return tuple(
        PresetRow(number, report, name, i)
        for name, shown in report.tables.items()
        if table in (None, name)
        for i in range(len(shown.rows))
    )


def packaged() -> dict[str, Report]:
    """The five reports, by number."""
    folder = files("harness.reports")
    names = sorted(path.name for path in folder.iterdir() if path.name[:3].isdigit())
    return {name.removesuffix(".toml"): _packaged(name) for name in names}


@cache
def _packaged(name: str) -> Report:
    return read_preset(Path(str(files("harness.reports") / name)))


@cache
def _trial() -> Tables:
    return read_toml(Path(str(files("harness.reports") / TRIAL)))


def find_report(name: str) -> tuple[str, Report]:
    """Number and preset of a report by its number, an alias, or the path of a preset file.

    Raises UnknownName with the nearest name, ConfigError.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.exists():
            raise ConfigError(f"{name}: no such preset; 'wbc-bench reproduce' lists the reports")
        return path.stem, read_preset(path)
    reports = packaged()
    known = {alias: number for number, report in reports.items() for alias in report.aliases}
    known |= {number: number for number in reports}
    number = known.get(name.lower())
    if number is None:
        raise UnknownName("report", name, known)
    return number, reports[number]


def find_rows(target: str) -> tuple[PresetRow, ...]:
    """The rows of ``REPORT``, ``REPORT/TABLE`` or ``REPORT/TABLE/RECIPE``.

    Raises UnknownName, ConfigError.
    """
    if Path(target).suffix not in {"", ".toml"} and Path(target).is_file():
        raise ConfigError(f"{target}: a preset is a TOML file, and its name ends with .toml")
    path, found, rest = target.partition(".toml")
    name, _, inner = (path + found, "/", rest.removeprefix("/")) if found else target.partition("/")
    number, report = find_report(name)
    table, _, recipe = inner.partition("/")
    if table and table not in report.tables:
        raise UnknownName(f"table of report {number}", table, report.tables)
    rows = rows_of(number, report, table or None)
    if not recipe:
        return rows
    chosen = tuple(row for row in rows if find(row.row.recipe) == find(recipe))
    if not chosen:
        raise UnknownName(f"recipe of {number}/{table}", recipe, {r.row.recipe for r in rows})
    return chosen


def read_preset(path: Path) -> Report:
    """A preset file, read strictly. Raises ConfigError with the key and the nearest valid one."""
    content = read_toml(path)
    check_keys(content, Report, path)
    try:
        report = Report.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe(error)}") from None
    for where, settings in _settings_of(report):
        check_keys(settings, SettingsFile, path, f"{where}.")
    return report


def _settings_of(report: Report) -> Iterator[tuple[str, Tables]]:
    yield "settings", report.settings
    for name, table in report.tables.items():
        yield f"tables.{name}.settings", table.settings
        for i, row in enumerate(table.rows, start=1):
            yield f"tables.{name}.rows.{i}.settings", row.settings


def signature(recipe: str, protocol: Protocol, split: Split) -> tuple[str, str, str]:
    """What makes a run the run of a row: all of its settings, whatever the precision.

    The same for runs of an older version of the program, and with or without near copies.
    """
    augmentation = protocol.augmentation.model_copy(update={"stream": 1})
    common = {"version": 1, "precision": "float32", "augmentation": augmentation}
    split = split.with_defaults("group_near_copies")
    return recipe, protocol.model_copy(update=common).canonical(), split.canonical()


def rows_by_signature(
    rows: Sequence[PresetRow],
) -> dict[tuple[str, str, str], list[tuple[PresetRow, Profile]]]:
    """Signature -> the rows, and in which profile, whose run has it."""
    found: dict[tuple[str, str, str], list[tuple[PresetRow, Profile]]] = defaultdict(list)
    for row in rows:
        for profile in get_args(Profile):
            benchmark = load(None, profile, preset=row.preset(profile))
            key = signature(find(row.row.recipe).name, benchmark.protocol, benchmark.split)
            found[key].append((row, profile))
    return found
