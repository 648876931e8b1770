"""What each recipe starts from: its pretrained weights, a file of the user, or random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config import WeightSettings
from harness.errors import Offline
from harness.schema.run import Weights
from zoo import weights as zoo_weights
from zoo.recipe import Recipe
from zoo.registry import find

OFFLINE_NOTE = "random weights: the ImageNet weights could not be downloaded"


@dataclass(frozen=True)
class ResolvedWeights:
    """The weights that a recipe starts from: their identity, their files, and a note for tables."""

    weights: Weights
    files: tuple[Path | None, ...] = (None,)
    """One for each branch of the network; None where its weights are random."""
    note: str = ""


def resolve_weights(
    settings: WeightSettings,
    recipes: Sequence[Recipe],
    *,
    download: bool = True,
    report: Callable[[str], object] = lambda _: None,
) -> dict[str, ResolvedWeights]:
    """Recipe name -> its weights, downloaded here, once, before any worker starts.

    Without ``download``, weights that are not on this machine are planned as if they were. Raises
    WeightsError or Offline, unless the settings let an offline recipe start at random.
    """
    files = {find(name).name: Path(path) for name, path in settings.files.items()}
    resolved: dict[str, ResolvedWeights] = {}
    offline_reason = ""
    for recipe in dict.fromkeys(branch for r in recipes for branch in r.branches or (r,)):
        if recipe.name in files:
            file = zoo_weights.user_file(recipe, files[recipe.name])
            weights = Weights(source="file", digest=f"sha256:{zoo_weights.sha256(file)}")
            resolved[recipe.name] = ResolvedWeights(weights, (file,))
        elif settings.source == "random" or not recipe.pretrained:
            resolved[recipe.name] = ResolvedWeights(Weights(source="random"))
        else:
            report(f"looking for the ImageNet weights of {recipe.name}")
            try:
                resolved[recipe.name] = _imagenet(recipe, download, offline_reason)
            except Offline as error:
                if settings.when_offline == "fail":
                    raise Offline(f"{recipe.name}: {error}") from None
                offline_reason = str(error)
                random = Weights(source="random")
                resolved[recipe.name] = ResolvedWeights(random, note=OFFLINE_NOTE)
    joint = [recipe for recipe in recipes if recipe.branches]
    return resolved | {
        recipe.name: _join([resolved[branch.name] for branch in recipe.branches])
        for recipe in joint
    }


def _imagenet(recipe: Recipe, download: bool, offline_reason: str) -> ResolvedWeights:
    """The ImageNet weights of a recipe; Offline at once if that was the answer before."""
    file = zoo_weights.local_imagenet_file(recipe)
    if file is None and not download:
        weights = Weights(source="imagenet", digest=zoo_weights.digest(recipe, None))
        return ResolvedWeights(weights, note="ImageNet weights to be downloaded")
    if file is None:
        if offline_reason:
            raise Offline(offline_reason)
        file = zoo_weights.imagenet_file(recipe)
    weights = Weights(source="imagenet", digest=zoo_weights.digest(recipe, file))
    return ResolvedWeights(weights, (file,))


def _join(branches: Sequence[ResolvedWeights]) -> ResolvedWeights:
    """The weights of a network of several branches: pretrained if any of them is."""
    sources = [branch.weights.source for branch in branches]
    pretrained = next((source for source in sources if source != "random"), None)
    digests = [branch.weights.digest or "random" for branch in branches]
    weights = branches[0].weights
    if pretrained:
        weights = Weights(source=pretrained, digest="+".join(digests))
    notes = dict.fromkeys(branch.note for branch in branches if branch.note)
    suffix = " (some branches)" if pretrained and notes else ""
    files = tuple(file for branch in branches for file in branch.files)
    return ResolvedWeights(weights, files, "; ".join(notes) + suffix)
