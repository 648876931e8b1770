"""The subcommands: parse, call, print. Each imports what it needs, so that ``--help`` is fast."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import click

from harness import __version__
from harness.commands import options
from harness.commands.data_group import data
from harness.commands.options import FILE
from harness.commands.terminal import EXIT_FAILED, EXIT_INPUT, echo, execute, print_error
from harness.errors import UserError
from harness.execution import address_space

SHELLS = ("bash", "zsh", "fish")


def main() -> None:
    """Run a command line: a user error is one line and exit code 2, anything else is a bug."""
    # A thousand records live until the end: the default looks through them again for every 700.
    gc.set_threshold(500_000)
    sys.exit(execute(lambda: cli.main(prog_name="wbc-bench", standalone_mode=False)))


@click.group(cls=options.Subcommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wbc-bench")
def cli() -> None:
    """Which backbone should classify my cell images, and what does it cost?"""
    address_space.check(address_space.COMMAND_GB)


cli.add_command(data)


@cli.command()
@options.running
@click.option("--cluster", metavar="ADDRESS", help="A Dask scheduler: tcp://… or tls://….")
@click.option("--tensorboard", type=FILE, metavar="FOLDER", help="Write learning curves there.")
@options.budget
def run(**request: Any) -> int:
    """Train recipes under one protocol and write the leaderboard."""
    from harness.commands.resolve import Request
    from harness.commands.run import run as run_recipes

    return run_recipes(Request(**request))


@cli.command()
@options.running
@options.budget
def plan(**request: Any) -> None:
    """Say what would run and how long it would take.

    With a budget, also on how many images.
    """
    from harness.commands.plan import show_plan
    from harness.commands.resolve import Request

    show_plan(Request(**request))


@cli.command()
@click.argument("targets", nargs=-1, metavar="[REPORT[/TABLE[/RECIPE]]]...")
@click.option("--all", "everything", is_flag=True, help="Every table of every report.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would run, and how long.")
@click.option(
    "--write", type=FILE, metavar="FILE", help="Write a table's settings as a file to change."
)
@options.training
@options.reproduction_results
def reproduce(targets: tuple[str, ...], only_plan: bool, write: Path | None, **request: Any) -> int:
    """Train the tables of the five reports.

    Reports are 000 to 004; without one, they are listed. A preset of your own is named by the path
    of its TOML file. From a settings file only backend, data, weights and sweep are used.
    """
    from harness.commands import reproduce as reproduction
    from harness.commands.resolve import Request

    options = Request(**request)
    if write is not None:
        click.echo(reproduction.write_settings(targets, write))
        return 0
    if not targets and not options.everything:
        click.echo(reproduction.listing(options.results))
        return 0
    return reproduction.reproduce(targets, options, only_plan=only_plan)


@cli.command()
@options.recipe_argument("recipe")
@click.option(
    "--method", type=click.Choice(["random", "grid", "bayes"]), default="bayes", show_default=True
)
@click.option(
    "--trials", type=options.Integer(1, 100_000), metavar="N",
    help="Number of trials in all, with those of earlier calls.  [50; of a grid all]",
)  # fmt: skip
@click.option("--budget", type=options.Duration(), help="Begin no trial after this time: 1h.")
@options.training
@options.results
def tune(recipe: str, method: Any, trials: int | None, **request: Any) -> int:
    """Search hyperparameters on the validation images.

    The best ones are then trained, and scored once on test. [tune] of the settings file lists the
    values that are tried. The same command goes on, also in several terminals at once.
    """
    from harness.commands.resolve import Request
    from harness.commands.tune import tune as search

    return search(recipe, Request(**request), method, trials)


@cli.command()
@options.existing_results
def status(results: Path) -> None:
    """Show what is running in a results folder."""
    import time

    from harness.storage.records import Store
    from harness.sweep.status import report

    echo(report(Store(results), time.time()))


@cli.group(cls=options.Subcommands, invoke_without_command=True)
@click.pass_context
def zoo(context: click.Context) -> None:
    """List the recipes, or show the layers of one.

    The list has names, aliases, parameters, image sizes and preprocessing.
    """
    if context.invoked_subcommand is not None:
        return
    from tabulate import tabulate

    from zoo.registry import RECIPES, REPORT_RECIPES

    rows = [
        {
            "recipe": recipe.name,
            "aliases": " ".join(recipe.aliases),
            "parameters": f"{recipe.parameters:,}",
            "features": recipe.feature_width,
            "input": recipe.native_size,
            "smallest": recipe.minimum_size,
            "preprocessing": recipe.preprocessing,
            "starts from": "ImageNet weights" if recipe.pretrained else "scratch; not in --all",
        }
        for recipe in (*RECIPES, *REPORT_RECIPES)
    ]
    align = ("left", "left", "right", "right", "right", "right", "left", "left")
    echo(tabulate(rows, headers="keys", disable_numparse=True, colalign=align))


@zoo.command("show")
@options.recipe_argument("recipe")
@click.option("--size", type=options.Integer(16, 1024), default=96, show_default=True)
def show_layers(recipe: str, size: int) -> None:
    """Print the layers of a network at an image size.

    A line for each layer: its type, output and parameters.
    """
    from harness.commands.zoo import layer_table

    echo(layer_table(recipe, size))


@zoo.command("fetch")
@options.recipe_argument("recipes", nargs=-1, metavar="[RECIPE]...")
@click.option("--all", "everything", is_flag=True, help="Those of every recipe of the zoo.")
@options.weights_dir
def fetch_weights(recipes: tuple[str, ...], everything: bool, weights_dir: Path | None) -> int:
    """Download ImageNet weights.

    Machines without a network that see the same folder can then use them.
    """
    from harness.commands.zoo import fetch as fetch_files

    problems = fetch_files(recipes, weights_dir, everything=everything)
    for problem in problems:
        print_error(problem)
    return EXIT_INPUT if problems else 0


@cli.command()
@click.option("--force", is_flag=True, help="Replace an existing file.")
def init(force: bool) -> None:
    """Write a commented benchmark.toml with every default."""
    from harness.config import default_text

    path = Path(options.CONFIG)
    if path.exists() and not force:
        raise UserError(f"{path} exists already; --force replaces it")
    path.write_text(default_text(), encoding="utf-8")
    echo(path)


@cli.command()
@options.existing_results
def leaderboard(results: Path) -> None:
    """Write the tables again from the records."""
    from harness.reporting.publish import write_tables

    echo(*write_tables(results))


@cli.command()
@options.existing_results
def verify(results: Path) -> int:
    """Recompute every published number from the stored predictions."""
    from harness.commands import verify as verification

    differences = verification.verify(results)
    echo(*differences, err=True)
    if differences:
        echo(f"{len(differences)} differ")
        return EXIT_FAILED
    echo("ok: every number is what the predictions give")
    return 0


@cli.command()
@options.recipe_argument("members", nargs=-1)
@click.option("--search", is_flag=True, help="Greedy and best subset of these (or all) networks.")
@click.option("--rule", "rules", multiple=True, metavar="RULE", help="Only this rule; repeatable.")
@click.option("--measure", is_flag=True, help="Also measure images/s; about a minute.")
@click.option("--joint", is_flag=True, help="Train one network of these branches, as a run.")
@options.profile
@options.config
@options.source
@options.results
def ensemble(
    members: tuple[str, ...],
    joint: bool,
    results: Path,
    search: bool,
    rules: tuple[str, ...],
    measure: bool,
    **training: Any,
) -> int:
    """Combine finished runs by every rule, in seconds.

    No backbone is trained. --joint trains one: it is `run A+B+C`, and --profile, --config and
    --data belong to it.
    """
    from harness.commands.ensemble import combine, train_joint
    from harness.commands.settings import DataOptions
    from harness.reporting.publish import write_tables

    if joint:
        if search or rules or measure:
            raise UserError("--joint trains one network; --search and --rule combine finished runs")
        return train_joint(members, DataOptions(**training), results)
    options.check_existing_results(results)
    for name, value in training.items():
        if value is not None:
            option = "data" if name == "source" else name
            raise UserError(f"--{option} belongs to --joint; finished runs have theirs already")
    for board, fitted in combine(members, rules, results, search=search, measure=measure):
        if board:
            echo(f"{board}:")
        for record in fitted.records:
            f1 = f"test macro F1 {100 * record.test.macro_f1:.2f} %"
            echo(f"{record.ensemble.rule}: {' + '.join(record.used_recipes)}: {f1}")
        for rule, reason in fitted.left_out:
            echo(f"{rule}: left out: {reason}", err=True)
    echo(write_tables(results)[0])
    return 0


@cli.command()
@options.recipe_argument("recipes", nargs=-1)
@options.existing_results
def measure(recipes: tuple[str, ...], results: Path) -> int:
    """Measure images/s and latency of finished networks again, in seconds each.

    Without names, of those that the table marks: others used the device meanwhile.
    """
    from harness.commands.measure import measure as measure_again
    from harness.reporting.publish import write_tables

    measured = False
    for line in measure_again(recipes, results):
        echo(line)
        measured = True
    if not measured:
        echo("no rate was disturbed; name networks to measure them again")
    echo(write_tables(results)[0])
    return 0


@cli.command()
@options.recipe_argument("first")
@options.recipe_argument("second")
@options.existing_results
def compare(first: str, second: str, results: Path) -> None:
    """Test whether two rows differ, by paired tests.

    A row is named by its recipe, its name as an import, or its id.
    """
    from harness.reporting.compare import compare as compare_rows

    echo(compare_rows(first, second, results))


@cli.command()
@options.recipe_argument("rows", nargs=-1, required=True)
@click.option(
    "--per-class",
    type=options.Integer(1, 50),
    default=4,
    show_default=True,
    help="Images that are predicted right, and as many wrong ones.",
)
@click.option(
    "--image",
    "images",
    multiple=True,
    type=int,
    metavar="INDEX",
    help="Show this test image; repeatable.",
)
@click.option(
    "--without-head",
    is_flag=True,
    help="What the pooled features rest on, instead of the predicted class.",
)
@click.option(
    "--out", type=FILE, default=Path("explain"), show_default=True, help="Folder of the sheets."
)
@options.config
@options.source
@options.cleaning
@options.existing_results
def explain(**request: Any) -> None:
    """Draw Grad-CAM maps, which show where networks look.

    One sheet of test images a class. ROWS are names or ids of rows; an ensemble is shown by its
    members. A deletion test says whether the maps mean anything: pixels that matter cost
    probability when they are removed.
    """
    from harness.commands.explain import ExplainOptions, draw_explanations

    for line in draw_explanations(ExplainOptions(**request)):
        echo(line)


@cli.command("import")
@click.argument("file", type=FILE)
@click.option("--as", "name", required=True, metavar="NAME", help="Name of its row.")
@click.option("--labels", type=FILE, help="Labels of a file without labels, as npy.")
@click.option("--data", metavar="NAME", help="Name of its images, for a board of its own.")
@click.option("--force", is_flag=True, help="Replace an earlier import of this name.")
@options.results
def import_(
    file: Path, name: str, labels: Path | None, data: str | None, force: bool, results: Path
) -> None:
    """Add predictions of another program as a row.

    FILE is an npz, npy or CSV. The row goes to a board with the same test images; with --data, also
    to a new one, without any run.
    """
    from harness.reporting.external import import_predictions
    from harness.reporting.publish import write_tables

    if data is None:
        options.check_existing_results(results)
    for record in import_predictions(file, name, results, labels, data=data, replace=force):
        f1 = f"test macro F1 {100 * record.test.macro_f1:.2f} %"
        echo(f"{name}: {record.data.name}, {record.profile} profile: {f1}; {record.note}")
    echo(write_tables(results)[0])


@cli.command()
@options.recipe_argument("name")
@click.option(
    "--format", "kind", type=click.Choice(["csv", "npz", "medmnist"]), default="csv",
    show_default=True,
)  # fmt: skip
@click.option("--out", type=FILE, default=Path(), help="[this folder]")
@options.existing_results
def export(name: str, kind: Any, out: Path, results: Path) -> None:
    """Write a row's predictions for other programs.

    `import` reads them too.
    """
    from harness.reporting.export import export_predictions

    echo(*export_predictions(name, results, out, kind))


@cli.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script for shell completion.

    Put eval "$(wbc-bench completion bash)" into your shell's start-up file.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click has a class for each of the shells above"
    click.echo(kind(cli, {}, "wbc-bench", "_WBC_BENCH_COMPLETE").source())


if __name__ == "__main__":
    main()
