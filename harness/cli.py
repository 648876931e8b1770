"""The verbs. Each imports what it needs when it runs, so that ``--help`` costs nothing."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import click

from harness import __version__
from harness.errors import NoRoom, UserError, did_you_mean, is_no_room

CONFIG = "benchmark.toml"
SHELLS = ("bash", "zsh", "fish")
EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130


class Subcommands(click.Group):
    """Click's group, with the nearest verb named when one is mistyped."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            hint = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"unknown command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)


def main() -> None:
    """Entry point: user errors are one line and exit code 2; anything else is a bug."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = cli.main(prog_name="wbc-bench", standalone_mode=False)
    except UserError as error:
        code = _complain(str(error))
    except click.ClickException as error:
        code = _complain(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; the same command goes on from here", err=True)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if not is_no_room(error):
            raise
        code = _complain(str(NoRoom.at(error.filename or "somewhere")))
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    click.echo(f"wbc-bench: {' '.join(message.split())}", err=True)
    return EXIT_INPUT


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _options(*options: Any) -> Any:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _recipe_names(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    from zoo.registry import RECIPES

    names = [name for recipe in RECIPES for name in (recipe.name, *recipe.aliases)]
    return [name for name in names if name.startswith(typed)]


config_option = click.option(
    "--config", type=click.Path(path_type=Path), help=f"Settings file [{CONFIG} here, if any]."
)
data_option = click.option("--data", "source", metavar="SOURCE", help="Overrides data.source.")
clean_option = click.option(
    "--clean", is_flag=True, help="Leave out what 'data audit' would remove."
)
mask_option = click.option(
    "--mask", is_flag=True, help="Make everything white but the cells, as mask = true does."
)
results_option = click.option(
    "--results", type=click.Path(path_type=Path), default=Path("results"), show_default=True,
    help="Folder for records, tables and artefacts.",
)  # fmt: skip
profile_option = click.option(
    "--profile", type=click.Choice(["quick", "full"]),
    help="[full where a GPU is visible, else quick]",
)  # fmt: skip
experiment_options = _options(
    click.argument("recipes", nargs=-1, shell_complete=_recipe_names),
    click.option("--all", "everything", is_flag=True, help="Every recipe of the zoo."),
    profile_option,
    click.option("--seeds", type=click.IntRange(1, 100), help="Overrides sweep.seeds."),
    click.option("--per-gpu", type=click.IntRange(1, 64), help="Overrides sweep.per_gpu."),
    click.option("--retry-failed", is_flag=True, help="Run failed runs again."),
    click.option(
        "--shift", type=click.Choice(["none", "mixed", "full"]),
        help="Overrides sweep.shift: the pass over harmed test images.",
    ),
    click.option(
        "--variant", "variants", multiple=True, metavar="NAME",
        help="Also under this variant of the protocol, of the settings file; 'all' for every one.",
    ),
    config_option,
    data_option,
    clean_option,
    mask_option,
    results_option,
)  # fmt: skip


@click.group(cls=Subcommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wbc-bench")
def cli() -> None:
    """Which backbone should classify my cell images, and what does it cost?"""


@cli.command()
@experiment_options
@click.option("--cluster", metavar="ADDRESS", help="A Dask scheduler: tcp://… or tls://….")
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write learning curves there, for TensorBoard.",
)
def run(**options: Any) -> int:
    """Train recipes under the one protocol and write the leaderboard."""
    from harness.commands.resolve import Request
    from harness.commands.run import run as run_recipes

    return run_recipes(Request(**options))


def _duration(ctx: Any, param: Any, value: str | None) -> float | None:
    """``2h``, ``90m``, ``1h30m``, ``45s``: seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", value)
    if not value or found is None:
        raise click.BadParameter(f"{value!r} is no duration; write 2h, 90m or 1h30m", ctx, param)
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(3600 * hours + 60 * minutes + seconds)


@cli.command()
@experiment_options
@click.option("--budget", callback=_duration, help="Say what fits this time: 2h, 90m, 1h30m.")
def plan(budget: float | None, **options: Any) -> int:
    """What would run, how long it would take, and what of it fits a budget."""
    from harness.commands.plan import show_plan
    from harness.commands.resolve import Request

    return show_plan(Request(**options), budget)


@cli.command()
@results_option
def status(results: Path) -> int:
    """What is running in a results folder, from another terminal."""
    import time

    from harness.storage.records import Store
    from harness.sweep.status import report

    click.echo(report(Store(results), time.time()))
    return 0


@cli.command()
@results_option
def leaderboard(results: Path) -> int:
    """Write the tables again from the records."""
    from harness.reporting.publish import write_tables

    for path in write_tables(results):
        click.echo(path)
    return 0


@cli.command()
@results_option
def verify(results: Path) -> int:
    """Recompute every printed number from the stored predictions."""
    from harness.reporting import publish

    wrong = publish.verify(results)
    for line in wrong:
        click.echo(line, err=True)
    click.echo(f"{len(wrong)} differ" if wrong else "ok: every number is what the predictions give")
    return EXIT_FAILED if wrong else 0


@cli.command()
@click.argument("members", nargs=-1, shell_complete=_recipe_names)
@click.option("--search", is_flag=True, help="Greedy and best subset of these (or all) networks.")
@click.option("--rule", "rules", multiple=True, metavar="RULE", help="Only this rule; repeatable.")
@click.option("--measure", is_flag=True, help="Time the members one after the other; a minute.")
@click.option("--joint", is_flag=True, help="Train one network of these branches, as a run.")
@profile_option
@config_option
@data_option
@results_option
def ensemble(members: tuple[str, ...], joint: bool, **options: Any) -> int:
    """Combine finished runs by every rule; seconds, no backbone runs.

    --profile, --config and --data belong to --joint, which trains: it is `run A+B+C`.
    """
    if joint:
        return _train_joint(members, options)
    for name in ("profile", "config", "source"):
        if options[name] is not None:
            name = name.replace("source", "data")
            raise UserError(f"--{name} belongs to --joint; finished runs have theirs already")
    return _combine(members, options)


def _combine(members: tuple[str, ...], options: dict[str, Any]) -> int:
    from harness.ensembling import builder
    from harness.reporting.publish import write_tables
    from harness.storage.records import Store

    search, results = options["search"], options["results"]
    if not (members or search):
        raise UserError("name two or more networks, or say --search for the best of all")
    wanted = builder.resolve_rules(options["rules"], search=search)
    for together in builder.group_members(Store(results), members):
        convened = builder.fit_ensembles(together, wanted)
        for record in convened.records:
            f1 = f"test macro F1 {100 * record.test.macro_f1:.2f} %"
            click.echo(f"{record.ensemble.rule}: {' + '.join(record.kept)}: {f1}")
        if options["measure"]:
            from harness.ensembling import throughput
            from harness.execution import devices

            throughput.measure_all(Store(results), list(convened.records), devices.visible()[0])
        for rule, reason in convened.left_out:
            click.echo(f"{rule}: left out: {reason}", err=True)
    click.echo(write_tables(results)[0])
    return 0


def _train_joint(members: tuple[str, ...], options: dict[str, Any]) -> int:
    from harness.commands.resolve import Request
    from harness.commands.run import run as run_recipes
    from zoo.registry import find

    if options["search"] or options["rules"] or options["measure"]:
        raise UserError("--joint trains one network; --search and --rule combine finished runs")
    joint = find("+".join(members)) if members else None
    if joint is None or not joint.branches:
        raise UserError("a joint network needs at least two different branches")
    request = Request(
        recipes=(joint.name,),
        **{name: options[name] for name in ("profile", "config", "source", "results")},
    )
    return run_recipes(request)


@cli.command()
@click.argument("first", shell_complete=_recipe_names)
@click.argument("second", shell_complete=_recipe_names)
@results_option
def compare(first: str, second: str, results: Path) -> int:
    """Is the difference between two rows real? (paired tests; names, imports or ids)"""
    from harness.reporting.compare import compare as compare_rows

    click.echo(compare_rows(first, second, results))
    return 0


@cli.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "name", required=True, metavar="NAME", help="What its row is called.")
@click.option("--labels", type=click.Path(path_type=Path), help="Of an npy: the npy of labels.")
@click.option("--force", is_flag=True, help="Replace what was imported under this name.")
@results_option
def import_(file: Path, name: str, labels: Path | None, force: bool, results: Path) -> int:
    """Put predictions from elsewhere beside the networks: npz, npy, csv."""
    from harness.reporting.external import import_predictions
    from harness.reporting.publish import write_tables

    for record in import_predictions(file, name, results, labels, replace=force):
        f1 = f"test macro F1 {100 * record.test.macro_f1:.2f} %"
        click.echo(f"{name}: {record.data.name}, {record.profile} profile: {f1}")
    click.echo(write_tables(results)[0])
    return 0


@cli.command()
@click.argument("name", shell_complete=_recipe_names)
@click.option(
    "--format", "kind", type=click.Choice(["csv", "npz", "medmnist"]), default="csv",
    show_default=True,
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="[this folder]")
@results_option
def export(name: str, kind: Any, out: Path, results: Path) -> int:
    """Write a row's predictions for other programs; `import` reads them."""
    from harness.reporting.external import export_predictions

    for path in export_predictions(name, results, out, kind):
        click.echo(path)
    return 0


@cli.command()
def zoo() -> int:
    """List the recipes: names, aliases, parameters, contract."""
    from tabulate import tabulate

    from zoo.registry import RECIPES

    heads = ["recipe", "aliases", "parameters", "features", "input", "smallest", "preprocessing"]
    rows = [
        [
            recipe.name, " ".join(recipe.aliases), f"{recipe.parameters:,}", recipe.feature_width,
            recipe.native_size, recipe.minimum_size, recipe.preprocessing,
        ]
        for recipe in RECIPES
    ]  # fmt: skip
    align = ("left", "left", "right", "right", "right", "right", "left")
    click.echo(tabulate(rows, heads, disable_numparse=True, colalign=align))
    return 0


@cli.group(cls=Subcommands)
def data() -> None:
    """Look at a data set, or fetch one."""


@data.command()
@click.argument("source")
def fetch(source: str) -> int:
    """Download a public data set: bloodmnist[@28|64|128|224]."""
    from harness.data.readers.medmnist import fetch as download

    click.echo(download(source))
    return 0


@data.command()
@click.argument("source", required=False)
@click.option("--out", type=click.Path(path_type=Path), default=Path("preview.png"))
@click.option("--per-class", type=click.IntRange(1, 50), default=10, show_default=True)
@click.option("--shift", is_flag=True, help="Show how the shifted test harms some cells.")
@click.option("--policy", metavar="NAME", help="Show what this augmentation policy does.")
@clean_option
@mask_option
@config_option
def preview(source: str | None, config: Path | None, clean: bool, mask: bool, **how: Any) -> int:
    """Write a labelled sheet of a data set as PNG."""
    from harness.commands import data as data_commands
    from harness.commands.settings import DataOptions

    out = how.pop("out")
    options = DataOptions(source, config, clean=clean, mask=mask)
    data_commands.draw_preview(options, out, **how)
    click.echo(out)
    return 0


@data.command("split")
@click.argument("source", required=False)
@click.option("--out", type=click.Path(path_type=Path), default=Path("split.csv"))
@clean_option
@mask_option
@profile_option
@config_option
def write_split(out: Path, **options: Any) -> int:
    """Write which image is train, validation or test: CSV of index, part and hash."""
    from harness.commands import data as data_commands
    from harness.commands.settings import DataOptions

    click.echo(data_commands.write_split(DataOptions(**options), out))
    return 0


@data.command()
@click.argument("source", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the page.  [audit/NAME]")
@click.option(
    "--remove", "also", multiple=True, metavar="KIND",
    help="Findings to remove as well: several-labels, exact-copies, near-copies, leak.",
)  # fmt: skip
@click.option(
    "--like", "named", multiple=True, type=int, metavar="INDEX",
    help="An image that you know to be no cell: what is like it goes too.",
)  # fmt: skip
@config_option
def audit(
    source: str | None,
    config: Path | None,
    out: Path | None,
    also: tuple[str, ...],
    named: tuple[int, ...],
) -> int:
    """What is wrong with a data set, and what to leave out of it."""
    from harness.audit.audit import REMOVABLE
    from harness.commands import data as data_commands
    from harness.commands.settings import DataOptions
    from harness.errors import UnknownName

    for kind in also:
        if kind not in REMOVABLE:
            raise UnknownName("kind of finding", kind, REMOVABLE)
    lines, page = data_commands.run_audit(DataOptions(source, config), out, also, named)
    for line in (*lines, page):
        click.echo(line)
    return 0


@cli.command()
@click.option("--force", is_flag=True, help="Replace the file that is there.")
def init(force: bool) -> int:
    """Write a commented benchmark.toml with every default."""
    from harness.config import default_text

    path = Path(CONFIG)
    if path.exists() and not force:
        raise UserError(f"{path} exists already; --force replaces it")
    path.write_text(default_text(), encoding="utf-8")
    click.echo(path)
    return 0


@cli.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> int:
    """Print the script for shell completion: eval "$(wbc-bench completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "all the shells above are click's own"
    click.echo(kind(cli, {}, "wbc-bench", "_WBC_BENCH_COMPLETE").source())
    return 0


if __name__ == "__main__":
    main()
