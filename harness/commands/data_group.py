"""The subcommands of ``data``: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands import options
from harness.commands.options import FILE
from harness.commands.terminal import echo


@click.group(cls=options.Subcommands)
def data() -> None:
    """Download, show, split or audit a data set."""


@data.command()
@click.argument("source")
def fetch(source: str) -> None:
    """Download a public data set.

    SOURCE is bloodmnist, or bloodmnist@28, @64, @128 or @224: its size in pixels.
    """
    from harness.data.readers.medmnist import published_file

    echo(published_file(source))


@data.command()
@options.source_argument
@click.option("--out", type=FILE, default=Path("preview.png"), show_default=True)
@click.option("--per-class", type=options.Integer(1, 50), default=10, show_default=True)
@click.option("--shift", is_flag=True, help="Show corrupted cells, as in the shifted test.")
@click.option(
    "--policy", "policies", metavar="NAME", multiple=True,
    help="Show what this augmentation policy does; of several, to the same images.",
)  # fmt: skip
@options.cleaning
@options.config
def preview(
    out: Path, per_class: int, shift: bool, policies: tuple[str, ...], **source: Any
) -> None:
    """Draw images of each class on one sheet.

    A PNG, JPEG or WebP, as the name of the file says.
    """
    from harness.commands.data import draw_preview
    from harness.commands.settings import DataOptions

    draw_preview(DataOptions(**source), out, per_class=per_class, shift=shift, policies=policies)
    echo(out)


@data.command()
@options.source_argument
@click.option("--out", type=FILE, default=Path("classes.png"), show_default=True)
@options.cleaning
@options.profile
@options.config
def classes(out: Path, **source: Any) -> None:
    """Print the images and weight of each class.

    Both before and after cleaning and balancing, also as a chart.
    """
    from harness.commands.data import class_table
    from harness.commands.settings import DataOptions

    echo(*class_table(DataOptions(**source), out), out)


@data.command()
@options.source_argument
@click.option("--out", type=FILE, default=Path("split.csv"), show_default=True)
@options.cleaning
@options.profile
@options.config
def split(out: Path, **source: Any) -> None:
    """Write which image is train, validation or test.

    A CSV of index, part and hash.
    """
    from harness.commands.data import write_split
    from harness.commands.settings import DataOptions

    echo(write_split(DataOptions(**source), out))


@data.command()
@options.source_argument
@click.option("--out", type=FILE, help="Folder of the page.  [audit/NAME]")
@click.option(
    "--remove", "also_remove", multiple=True, metavar="KIND",
    help="Findings to remove as well: several-labels, exact-copies, near-copies, leak.",
)  # fmt: skip
@click.option(
    "--similar-to", "not_cells", multiple=True, type=int, metavar="INDEX",
    help="An image that shows no cell: images similar to it are removed too.",
)  # fmt: skip
@click.option(
    "--network", metavar="RECIPE", shell_complete=options.complete_recipe,
    help="The network whose features compare the images.  [lite0]",
)  # fmt: skip
@click.option(
    "--size", type=options.Integer(16, 1024),
    help="Pixels of that network's images.  [64; of others 96]",
)  # fmt: skip
@click.option(
    "--layer", default="", metavar="NAME", help="Compare the outputs of this layer, such as fc1."
)
@click.option(
    "--similarity", type=options.Number(-1, 1), help="Least cosine of similar images.  [0.8]"
)
@click.option("--removed", type=FILE, help="Also write the removed images, as npz.")
@options.config
def audit(**request: Any) -> None:
    """Find what is wrong with a data set.

    A page with pictures, and a manifest of what to leave out.
    """
    from harness.commands.data import AuditRequest, run_audit

    echo(*run_audit(AuditRequest(**request)))
