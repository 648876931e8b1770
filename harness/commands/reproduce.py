"""What ``reproduce`` does: train the rows of reports and write their tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from tabulate import tabulate

from harness.commands.console import plain_console
from harness.commands.plan import Plan, plan_of, plan_table, print_missing_weights
from harness.commands.resolve import Experiment, Request, find_inputs, load_request
from harness.commands.run import announce, prepare_sweep, report, run_sweep, write
from harness.commands.settings import Settings, toml_lines
from harness.config import overlay
from harness.errors import DataError, UserError
from harness.reporting.publish import read_boards, reproductions_of
from harness.reporting.reproduction import IMAGE_TOLERANCE, reproductions
from harness.reporting.reproduction_table import summary
from harness.reports.preset import PresetRow, find_rows, packaged
from harness.storage.files import write_atomically
from harness.storage.records import Store
from harness.sweep import estimates, planner
from harness.sweep.downloads import Downloads
from harness.sweep.progress import duration
from zoo.registry import find


@dataclass(frozen=True)
class Group:
    """Rows on the same images and split: one sweep."""

    rows: tuple[PresetRow, ...]
    settings: Settings
    """Of the first row; its variants are the protocols of all rows, by their names."""


def reproduce(targets: Sequence[str], request: Request, *, only_plan: bool = False) -> int:
    """Train what is pending of the targets and write their tables; as for ``run``, an exit code."""
    console = plain_console()
    rows = _rows(targets, everything=request.everything)
    experiments = [
        (group, _experiment(group, request, console, download=not only_plan))
        for group in _groups(rows, request)
    ]
    for line in dict.fromkeys(line for pair in experiments for line in _other_images(*pair)):
        console.print(line, highlight=False)
    plans = [_plan(group, experiment, console) for group, experiment in experiments]
    if only_plan:
        _show(plans, console)
        return 0
    _begin_pages(rows, targets, request.results)
    with Downloads([file for plan in plans for file in plan.missing_weights], console) as files:
        code = max(_train(plan, files, console) for plan in plans)
    store = Store(request.results)
    for found in reproductions_of(store, read_boards(request.results)):
        if found.number in {row.number for row in rows}:
            page = request.results / f"{found.number}.md"
            console.print(f"{page}: {summary(found)}", soft_wrap=True, markup=False)
    return code


def listing(results: Path) -> str:
    """The packaged reports with their tables, and how many rows have runs in the folder."""
    store = Store(results)
    records = [record for record in store.records() if record.finished]
    parts = {record.run.id: store.load_verified(record) for record in records}
    lines = []
    for found in reproductions(packaged(), records, parts):
        for name, table in found.report.tables.items():
            rows = [row for row in found.rows if row.preset.table_name == name]
            done = [row for row in rows if row.averages]
            lines.append(
                {
                    "report": found.number,
                    "team": found.report.title,
                    "table": name,
                    "title": table.title,
                    "rows": len(rows),
                    "measured": len(done),
                    "reproduced": sum(row.reproduced for row in done),
                }
            )
    return tabulate(lines, headers="keys", disable_numparse=True)


def write_settings(targets: Sequence[str], path: Path) -> Path:
    """Write a table as a settings file: the common protocol, and what each row changes of it.

    That is a table of its recipe, or a variant where a recipe has rows with different settings.
    Raises UserError where the file exists, or where the rows have no common images and split.
    """
    if len(targets) != 1 or not (rows := find_rows(targets[0])):
        raise UserError("--write takes one table: wbc-bench reproduce 003/table1 --write FILE")
    if path.exists():
        raise UserError(f"{path} exists already; name another file")
    first = rows[0]
    common = overlay(first.report.settings, first.table.settings, "")
    if len({row.table_name for row in rows}) > 1:
        tables = ", ".join(first.report.tables)
        raise UserError(f"report {first.number} has several tables: name one of {tables}")
    same_settings = all(row.row.settings == first.row.settings for row in rows)
    if same_settings:
        common = overlay(common, first.row.settings, "")
    variants: dict[str, Any] = {}
    recipes: dict[str, Any] = {}
    lines = [f"# Report {first.number}, {first.report.title}: {first.table.title}", "#"]
    for place, row in enumerate(rows, start=1):
        own = {} if same_settings else row.row.settings.get("protocol", {})
        recipe = row.row.recipe
        alone = all(r.row.settings == row.row.settings for r in rows if r.row.recipe == recipe)
        variant = f" --variant row{place}" if own and not alone else ""
        if "image_size" in own or (not same_settings and set(row.row.settings) - {"protocol"}):
            own_file = f"reproduce {row.number}/{row.table_name}/{row.row.recipe} --write FILE"
            lines.append(f"# {row.row.label}: on other images; wbc-bench {own_file}")
            continue
        if variant:
            variants[f"row{place}"] = own
        elif own:
            recipes[recipe] = own
        command = f"wbc-bench run {recipe} --config {path.name}{variant}"
        lines.append(f"# {row.row.label}: {command}")
    text = "\n".join(
        [*lines, "", *toml_lines({**common, "recipes": recipes, "variants": variants}), ""]
    )
    path.write_text(text, encoding="utf-8")
    return path


# --- steps ---------------------------------------------------------------------------------------


def _rows(targets: Sequence[str], *, everything: bool) -> list[PresetRow]:
    every = [*packaged(), *targets] if everything else targets
    return list({row.name: row for target in every for row in find_rows(target)}.values())


def _groups(rows: Sequence[PresetRow], request: Request) -> list[Group]:
    groups: dict[tuple[int, str], list[tuple[PresetRow, Settings]]] = {}
    for row in rows:
        settings = load_request(request, row.preset)
        key = settings.benchmark.protocol.image_size, settings.benchmark.split.canonical()
        groups.setdefault(key, []).append((row, settings))
    made = []
    for pairs in groups.values():
        variants = {row.name: settings.benchmark.protocol for row, settings in pairs}
        first = pairs[0][1]
        benchmark = first.benchmark.model_copy(update={"variants": variants})
        made.append(Group(tuple(row for row, _ in pairs), replace(first, benchmark=benchmark)))
    return made


def _experiment(group: Group, request: Request, console: Console, *, download: bool) -> Experiment:
    recipes = tuple(dict.fromkeys(find(row.row.recipe) for row in group.rows))
    experiment = find_inputs(request, group.settings, recipes, console, download=download)
    found = experiment.summary
    for number, preset in {row.number: row.report for row in group.rows}.items():
        if len(found.class_names) != preset.classes:
            raise DataError(
                f"report {number} has {preset.classes} classes, "
                f"but {found.name} has {len(found.class_names)}: {', '.join(found.class_names)}"
            )
    return experiment


def _other_images(group: Group, experiment: Experiment) -> Iterator[str]:
    """A line for each report whose images these are not, in the profile that might reproduce it."""
    found = experiment.summary
    for number, preset in {row.number: row.report for row in group.rows}.items():
        other = abs(found.images / preset.images - 1) > IMAGE_TOLERANCE
        if other and group.settings.profile == "full":
            images = f"{found.name} has {found.images:,} images, the report {preset.images:,}"
            yield f"no reproduction of report {number}: {images}"


def _plan(group: Group, experiment: Experiment, console: Console) -> Plan:
    benchmark = experiment.benchmark
    choices = [(row.name, benchmark.variants[row.name], find(row.row.recipe)) for row in group.rows]
    dataset, weights = experiment.data.dataset, experiment.weights
    runs = planner.plan_choices(choices, benchmark, dataset, weights)
    return plan_of(experiment, runs, console)


def _train(plan: Plan, downloads: Downloads, console: Console) -> int:
    announce(plan, console)
    prepared = prepare_sweep(plan, downloads, console)
    try:
        summary = run_sweep(prepared, console)
    finally:  # The tables show what has finished, also after an interrupt.
        leaderboard = write(plan)
    return report(plan, summary, leaderboard, console)


def _begin_pages(rows: Sequence[PresetRow], targets: Sequence[str], results: Path) -> None:
    """Make a page for each report, so that it is written with the tables from now on.

    The preset of a user's report is kept in the same folder.
    """
    for number in {row.number for row in rows}:
        page = results / f"{number}.md"
        if not page.exists():
            write_atomically(page, b"")
    for target in targets:
        name, suffix, _ = target.partition(".toml")
        if suffix:
            path = Path(name + suffix)
            write_atomically(results / path.name, path.read_bytes())


def _show(plans: Sequence[Plan], console: Console) -> None:
    settings = plans[0].experiment.settings
    console.print(f"{settings.profile} profile: {settings.profile_reason}")
    seconds: list[float] = []
    for plan in plans:
        data = plan.experiment.summary
        console.print(f"\n{data.name} at {data.image_size} px: {plan.counts}")
        if plan.pending:
            console.print(plan_table(plan, plan.pending), soft_wrap=True, markup=False)
            seconds += [plan.seconds[planned.run.id] for planned in plan.pending]
    print_missing_weights(plans, console)
    if seconds:
        total = duration(max(estimates.end_times(seconds, len(settings.devices))))
        console.print(f"about {total} in all, if no phase stops early")
