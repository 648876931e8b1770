"""What ``zoo fetch`` does: put ImageNet weights where runs will look for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from harness.commands.console import plain_console
from harness.errors import UserError
from harness.execution.devices import Device, environment
from harness.execution.processes import run_task
from harness.schema.base import FrozenModel
from harness.schema.run import RecipeName
from harness.storage.download import Download
from harness.sweep.downloads import Downloads, find_sizes
from harness.sweep.weights import backbones, locate
from zoo.registry import RECIPES, find
from zoo.weights import weights_folder

CPU = Device("cpu", "CPU")
LAYERS_MODULE = "harness.training.layers_worker"


class LayerTask(FrozenModel):
    """Input of the child process that builds a network."""

    recipe: RecipeName
    image_size: int


def layer_table(name: str, size: int) -> str:
    """The layers of a recipe's network without head, in their order. Raises UserError."""
    recipe = find(name)
    if problem := recipe.size_problem(size):
        raise UserError(f"--size {size} is {problem}")
    task = LayerTask(recipe=recipe.name, image_size=size)
    result, reason = run_task(LAYERS_MODULE, task, environment(CPU), lambda _: None)
    if reason:
        raise UserError(f"{recipe.name} could not be built: {reason}")
    rows = [(i, *row) for i, row in enumerate(result["layers"], start=1)]
    header = ("", "layer", "type", "output", "parameters")
    align = ("right", "left", "left", "left", "right")
    table = tabulate(rows, header, disable_numparse=True, colalign=align)
    return f"{table}\n{recipe.title} at {size} px: {result['parameters']:,} parameters"


def fetch(names: Sequence[str], folder: Path | None, *, everything: bool) -> list[str]:
    """Download what is missing of the weights of these recipes; why some could not be had.

    Raises UserError before anything is downloaded.
    """
    if not (names or everything):
        raise UserError("name recipes, or say --all; 'wbc-bench zoo' lists them")
    console = plain_console()
    recipes = backbones([*(RECIPES if everything else ()), *map(find, names)])
    pretrained = [recipe for recipe in recipes if recipe.pretrained]
    located = [locate(recipe, folder) for recipe in pretrained]
    missing = [file for file in located if isinstance(file, Download)]
    found, errors = find_sizes(missing, console)
    for error in errors.values():
        if (
            getattr(error.__cause__, "response", None) is None
        ):  # Without a network one line is enough.
            raise error
    with Downloads(found.values(), console) as downloads:
        errors |= downloads.wait()
    for recipe in recipes:
        if not recipe.pretrained:
            console.print(f"{recipe.name}: has no pretrained weights; it is trained from scratch")
    there = len(pretrained) - len(errors)
    console.print(
        f"{there} of {len(pretrained)} recipes have their weights; "
        f"downloaded ones lie in {weights_folder(folder)}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    return [str(error) for error in errors.values()]
