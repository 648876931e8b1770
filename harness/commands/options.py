"""Groups, types and options of the command line that several subcommands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from harness.commands.terminal import discard_output
from harness.errors import UserError, did_you_mean

CONFIG = "benchmark.toml"
FILE = click.Path(path_type=Path)
RESULTS_HOLD = ("records", "external", "ensembles", "artefacts", "LEADERBOARD.md")
"""Any of these makes a folder a results folder."""


class Subcommands(click.Group):
    """A group that names the nearest subcommand when one is mistyped."""

    def invoke(self, ctx: click.Context) -> Any:
        """Raises UserError where the output is closed; click would exit without a word."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            discard_output()
            raise UserError("the output was closed") from None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            hint = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"unknown subcommand {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)


class Integer(click.IntRange):
    """A range of integers; click calls a wrong one "not a valid integer range"."""

    name = "integer"


class Number(click.FloatRange):
    """A range of numbers."""

    name = "number"


class Duration(click.ParamType[float]):
    """``2h``, ``90m``, ``1h30m`` or ``45s``, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", value)
        if not value or match is None:
            self.fail(f"{value!r} is no duration; write 2h, 90m or 1h30m", param, ctx)
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return float(3600 * hours + 60 * minutes + seconds)


def complete_recipe(ctx: click.Context, param: click.Parameter, prefix: str) -> list[str]:
    from zoo.registry import RECIPES, REPORT_RECIPES

    recipes = (*RECIPES, *REPORT_RECIPES)
    names = [name for recipe in recipes for name in (recipe.name, *recipe.aliases)]
    return [name for name in names if name.startswith(prefix)]


def several(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One decorator for several options."""

    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def is_results(folder: Path) -> bool:
    """Whether a folder holds what a sweep or an import writes."""
    return any((folder / name).exists() for name in RESULTS_HOLD)


def check_folder(_: Any, param: click.Parameter, folder: Any) -> Any:
    """A folder that is there, or can be made. Raises UserError for anything else."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; {param.opts[0]} names a folder")
    return folder


def check_existing_results(folder: Path) -> Path:
    """A folder with results. Raises UserError that names the nearest one."""
    if is_results(folder):
        return folder
    parent = folder.parent
    others = [e for e in parent.iterdir() if is_results(e)] if parent.is_dir() else []
    by_name = {other.name: str(other) for other in others}
    hint = did_you_mean(folder.name, by_name) if by_name else "; 'wbc-bench run' makes one"
    for name, path in by_name.items():
        hint = hint.replace(repr(name), repr(path))
    problem = "holds no results" if folder.exists() else "no such results folder"
    raise UserError(f"{folder}: {problem}{hint}")


def recipe_argument(name: str, **settings: Any) -> Any:
    return click.argument(name, shell_complete=complete_recipe, **settings)


budget = click.option(
    "--budget", type=Duration(), help="Train on as many images as fit this time: 30m, 2h."
)
source_argument = click.argument("source", required=False)
config = click.option("--config", type=FILE, help=f"Settings file.  [{CONFIG}, if any]")
source = click.option("--data", "source", metavar="SOURCE", help="Overrides data.source.")
profile = click.option(
    "--profile", type=click.Choice(["quick", "full"]),
    help="[full where a GPU is visible, else quick]",
)  # fmt: skip


def _results(default: str = "results", **settings: Any) -> Any:
    return click.option(
        "--results", type=FILE, default=Path(default), show_default=True,
        help="Folder for records, tables and artefacts.", **settings,
    )  # fmt: skip


results = _results(callback=check_folder)
existing_results = _results(
    callback=lambda *context: check_existing_results(check_folder(*context))
)
reproduction_results = _results("results/reproductions", callback=check_folder)
cleaning = several(
    click.option("--clean", is_flag=True, help="Leave out what 'data audit' would remove."),
    click.option("--mask", is_flag=True, help="Paint everything white but the cells."),
)
weights_dir = click.option(
    "--weights-dir", type=FILE, envvar="WBC_BENCH_WEIGHTS", show_envvar=True,
    callback=check_folder, metavar="FOLDER",
    help="Where ImageNet weights lie, and are downloaded to.  [Keras's own folder]",
)  # fmt: skip
training = several(
    weights_dir,
    profile,
    click.option("--seeds", type=Integer(1, 100), help="Overrides sweep.seeds."),
    click.option("--per-gpu", type=Integer(1, 64), help="Overrides sweep.per_gpu."),
    click.option("--retry-failed", is_flag=True, help="Run failed runs again."),
    click.option(
        "--shift", type=click.Choice(["none", "mixed", "full"]),
        help="Overrides sweep.shift: which corrupted test images are predicted.",
    ),
    config,
    source,
    cleaning,
)  # fmt: skip
running = several(
    recipe_argument("recipes", nargs=-1),
    click.option("--all", "everything", is_flag=True, help="Every recipe of the zoo."),
    click.option(
        "--variant", "variants", multiple=True, metavar="NAME",
        help="Also run this variant of the protocol from the settings file; 'all' for every one.",
    ),
    training,
    results,
)  # fmt: skip
