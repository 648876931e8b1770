"""Augmentation policies: their steps, the ranges of their parameters, and their names.

A policy is a tuple of steps, carried out in order. In ``benchmark.toml`` it is a name
(``"randaugment"``), names joined by + (``"traditional+mixup+cutmix"``), or a list of names and of
tables with parameters (``[{ name = "randaugment", magnitude = 0.2 }, "sharpness"]``). A run's id
contains the steps that this means, not the name.

Ranges and defaults are those of keras-cv 0.9.0's layers, where keras-cv has the layer.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from harness.schema.base import FrozenModel
from zoo.errors import did_you_mean

STREAM = 2
"""Version of the engine's stream of pixels: raised when the same seed would give others."""

Share = Annotated[float, Field(ge=0, le=1)]


class Traditional(FrozenModel):
    """Flip, rotation, zoom, shift, brightness and contrast, each image its own amount of each."""

    name: Literal["traditional"] = "traditional"
    flip: Literal["none", "horizontal", "vertical", "both"] = "both"
    rotation: float = Field(0.5, ge=0, le=0.5)
    """At most, either way, as a fraction of a turn. A cell on a slide has no upright position."""
    zoom: float = Field(0.1, ge=0, lt=1)
    shift: Share = 0.1
    brightness: Share = 0.1
    contrast: Share = 0.1


class RandAugment(FrozenModel):
    """So many operations an image, drawn from ten (Cubuk 2019, arXiv:1909.13719)."""

    name: Literal["randaugment"] = "randaugment"
    operations: int = Field(3, ge=1, le=10)
    magnitude: Share = 0.5
    deviation: Share = 0.15
    rate: Share = 10 / 11
    """Of the operations that are carried out at all."""
    geometric: bool = True


class MixUp(FrozenModel):
    """Two images and their labels, averaged (Zhang 2017, arXiv:1710.09412)."""

    name: Literal["mixup"] = "mixup"
    alpha: float = Field(0.2, gt=0, le=10)


class CutMix(FrozenModel):
    """A rectangle of another image, with its share of the label (Yun 2019, arXiv:1905.04899)."""

    name: Literal["cutmix"] = "cutmix"
    alpha: float = Field(1.0, gt=0, le=10)


class GridMask(FrozenModel):
    """A turned grid of black squares (Chen 2020, arXiv:2001.04086)."""

    name: Literal["gridmask"] = "gridmask"
    ratio: Share = 0.5
    """Of a square's side to the grid's spacing, at most."""
    rotation: float = Field(0.15, ge=0, le=0.5)


class CutOut(FrozenModel):
    """One black rectangle (DeVries 2017, arXiv:1708.04552)."""

    name: Literal["cutout"] = "cutout"
    size: Share = 0.5
    """Of its sides to the image's, at most."""


class AugMix(FrozenModel):
    """Chains of operations, averaged with the original (Hendrycks 2019, arXiv:1912.02781).

    As keras-cv does it: the rotation is up to 30 x severity in radians, and of the shifts only the
    horizontal one is ever drawn.
    """

    name: Literal["augmix"] = "augmix"
    severity: float = Field(0.3, ge=0.01, le=1)
    chains: int = Field(3, ge=1, le=10)
    depth: tuple[Annotated[int, Field(ge=1, le=10)], Annotated[int, Field(ge=1, le=10)]] = (1, 3)
    """The fewest and the most operations of a chain."""
    alpha: float = Field(1.0, gt=0, le=10)

    @model_validator(mode="after")
    def _ordered(self) -> AugMix:
        if self.depth[0] > self.depth[1]:
            raise ValueError("depth must be the fewest and the most operations, in this order")
        return self


class Sharpness(FrozenModel):
    """A blend with the smoothed image, by up to ``factor``: keras-cv's RandomSharpness blurs."""

    name: Literal["sharpness"] = "sharpness"
    factor: Share = 0.5


class Noise(FrozenModel):
    """Gaussian noise (report 002, which does not say how much)."""

    name: Literal["noise"] = "noise"
    deviation: float = Field(8.0, ge=0, le=128)
    """Grey levels of 255."""


class SplitAndRotate(FrozenModel):
    """The image in parts x parts tiles, each turned by its own quarter turns.

    Report 001 names it without a description; this is our reading.
    """

    name: Literal["split-and-rotate"] = "split-and-rotate"
    parts: int = Field(2, ge=2, le=8)


Simple = Annotated[
    Traditional | RandAugment | MixUp | CutMix | GridMask | CutOut | AugMix
    | Sharpness | Noise | SplitAndRotate,
    Field(discriminator="name"),
]  # fmt: skip


class Enlarged(FrozenModel):
    """One fixed set for all epochs: the images as they are, and one copy through each step.

    Report 001 enlarged its training set once, through these four.
    """

    name: Literal["enlarged"] = "enlarged"
    copies: tuple[Simple, ...] = (CutMix(), MixUp(), RandAugment(), SplitAndRotate())


Step = (
    Traditional | RandAugment | MixUp | CutMix | GridMask | CutOut | AugMix
    | Sharpness | Noise | SplitAndRotate | Enlarged
)  # fmt: skip
MIXING = ("mixup", "cutmix", "enlarged")
"""Steps that change labels."""

STEPS: dict[str, type[Step]] = {
    kind.model_fields["name"].default: kind
    for kind in (
        Traditional, RandAugment, MixUp, CutMix, GridMask, CutOut, AugMix,
        Sharpness, Noise, SplitAndRotate, Enlarged,
    )
}  # fmt: skip
NAMED: dict[str, tuple[Step, ...]] = {
    "none": (),
    "report-001": (Enlarged(),),
    "report-002": (RandAugment(magnitude=0.2), Sharpness(), GridMask(ratio=0.4), Noise()),
}
"""Policies that are more, or less, than one step."""

NAMES = (*NAMED, *STEPS)


def parse(told: Any) -> tuple[Step, ...]:
    """A policy as ``benchmark.toml`` or a record tells it -> its steps.

    Raises ValueError naming the nearest policy, the nearest parameter or the range.
    """
    if not isinstance(told, list | tuple):
        told = [told]
    steps = tuple(step for item in told for step in _parse_one(item))
    if len(steps) > 1 and any(isinstance(step, Enlarged) for step in steps):
        raise ValueError("enlarged is a whole training set: it cannot be joined with other steps")
    return steps


def _parse_one(item: Any) -> tuple[Step, ...]:
    if isinstance(item, Step):
        return (item,)
    if isinstance(item, str):
        return tuple(step for name in item.split("+") for step in _named(name.strip()))
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise ValueError(f"a step is a name or a table with a name, not {item!r}")
    return (_with_parameters(item),)


def _named(name: str) -> tuple[Step, ...]:
    if name in NAMED:
        return NAMED[name]
    if name in STEPS:
        return (STEPS[name](),)
    raise ValueError(f"unknown policy {name!r}{did_you_mean(name, NAMES)}")


def _with_parameters(item: dict[str, Any]) -> Step:
    name = item["name"]
    if name not in STEPS:
        raise ValueError(f"unknown policy {name!r}{did_you_mean(name, STEPS)}")
    kind = STEPS[name]
    for key in item:
        if key not in kind.model_fields:
            known = [field for field in kind.model_fields if field != "name"]
            raise ValueError(f"{name} has no parameter {key!r}{did_you_mean(key, known)}")
    if isinstance(item.get("copies"), list | tuple):
        item = {**item, "copies": parse(item["copies"])}
    try:
        return kind.model_validate(item)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (name, *first["loc"]))
        message = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
        raise ValueError(f"{where}: {message}, not {first['input']!r}") from None


Policy = Annotated[tuple[Step, ...], BeforeValidator(parse)]


class Augmentation(FrozenModel):
    """How the training images are varied, alike for every recipe: the same stream of epochs."""

    OMITTED_AT_DEFAULT: ClassVar[tuple[str, ...]] = (
        "validation_share",
        "validation_policy",
        "stream",
    )
    NOT_CONFIGURABLE: ClassVar[tuple[str, ...]] = ("stream",)
    """Fields that the program alone sets."""

    policy: Policy = ()
    provider: Literal["wbc-bench", "keras-cv"] = "wbc-bench"
    """Whose code carries out the steps: ours, or keras-cv's layers, at a fraction of the rate."""
    frozen_epochs: int = Field(5, ge=1, le=1000)
    """Different augmented epochs that the frozen phase goes round; each is one pass over images."""
    validation_share: Share = 0.0
    """Of the validation images that are augmented too, once and for all (report 001: 0.7)."""
    validation_policy: Policy = (RandAugment(),)
    stream: int = Field(1, ge=1)
    """STREAM when the run was planned: other pixels make another run."""

    @model_validator(mode="after")
    def _labels_stay_hard(self) -> Augmentation:
        for step in self.validation_policy:
            if step.name in MIXING:
                raise ValueError(
                    f"validation_policy: {step.name} mixes labels, and validation images are scored"
                )
        return self

    def of_today(self) -> Augmentation:
        """As this version of the program carries it out."""
        varies = bool(self.policy or self.validation_share)
        return self.model_copy(update={"stream": STREAM if varies else 1})

    def distinct(self, epoch: int) -> int:
        """Which epoch of the stream an epoch of training reads: a fixed set has only one."""
        return 0 if any(isinstance(step, Enlarged) for step in self.policy) else epoch

    def operations(self) -> frozenset[str]:
        """Names of everything that may happen to a pixel, for comparison with corruptions."""
        steps = [
            inner
            for step in self.policy
            for inner in (step.copies if isinstance(step, Enlarged) else (step,))
        ]
        return frozenset(name for step in steps for name in OPERATIONS[step.name])


class EpochCacheSettings(FrozenModel):
    """Where this machine keeps augmented epochs, and how much of them."""

    folder: str
    limit_bytes: int


_RANDAUGMENT = ("auto contrast", "equalize", "solarize", "color degeneration", "contrast",
                "brightness", "shear", "shift")  # fmt: skip
OPERATIONS: dict[str, tuple[str, ...]] = {
    "traditional": ("flip", "rotation", "zoom", "shift", "brightness", "contrast"),
    "randaugment": _RANDAUGMENT,
    "mixup": ("mixing",),
    "cutmix": ("cutting",),
    "gridmask": ("masking",),
    "cutout": ("masking",),
    "augmix": ("auto contrast", "equalize", "posterize", "rotation", "solarize", "shear", "shift"),
    "sharpness": ("blur",),
    "noise": ("noise",),
    "split-and-rotate": ("rotation of parts",),
}
