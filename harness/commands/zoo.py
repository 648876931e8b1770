"""What ``zoo fetch`` does: put ImageNet weights where runs will look for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.commands.console import plain_console
from harness.errors import UserError
from harness.storage.download import Download
from harness.sweep.downloads import Downloads, find_sizes
from harness.sweep.weights import backbones, locate
from zoo.registry import RECIPES, find
from zoo.weights import weights_folder


def fetch(names: Sequence[str], folder: Path | None, *, everything: bool) -> list[str]:
    """Download what is missing of the weights of these recipes; why some could not be had.

    Raises UserError before anything is downloaded.
    """
    if not (names or everything):
        raise UserError("name recipes, or say --all; 'wbc-bench zoo' lists them")
    console = plain_console()
    recipes = backbones(RECIPES if everything else [find(name) for name in names])
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
