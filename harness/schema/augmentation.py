"""Augmentation policies: their steps, the ranges of their parameters, and their names.

A policy is a tuple of steps, applied in order. In ``benchmark.toml`` it is a name
(``"randaugment"``), names joined by + (``"traditional+mixup+cutmix"``), or a list of names and of
tables with parameters (``[{ name = "randaugment", magnitude = 0.2 }, "sharpness"]``). A run's id
contains the steps, not the name.

Ranges and defaults are those of keras-cv 0.9.0's layers, where keras-cv has the layer.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from harness.schema.base import MOST, FrozenModel, added_field
from zoo.errors import did_you_mean

STREAM = {"wbc-bench": 2, "keras-cv": 3}
"""Version of each provider's augmented pixels: raised when the same seed would give others."""

Share = Annotated[float, Field(ge=0, le=1)]


class Traditional(FrozenModel):
    """Random flip, rotation, zoom, shift, brightness and contrast of each image."""

    OPERATIONS: ClassVar = ("flip", "rotation", "zoom", "shift", "brightness", "contrast")
    """What a step does to pixels, for comparison with corruptions."""

    name: Literal["traditional"] = "traditional"
    flip: Literal["none", "horizontal", "vertical", "both"] = "both"
    rotation: float = Field(0.5, ge=0, le=0.5)
    """The largest, in both directions, in turns. A cell on a slide has no upright position."""
    zoom: float = Field(0.1, ge=0, lt=1)
    shift: Share = 0.1
    brightness: Share = 0.1
    contrast: Share = 0.1


class RandAugment(FrozenModel):
    """A number of operations per image, drawn from ten (Cubuk 2019, arXiv:1909.13719)."""

    OPERATIONS: ClassVar = ("auto contrast", "equalize", "solarize", "color degeneration",
                            "contrast", "brightness", "shear", "shift")  # fmt: skip

    name: Literal["randaugment"] = "randaugment"
    operations: int = Field(3, ge=1, le=10)
    magnitude: Share = 0.5
    deviation: Share = 0.15
    rate: Share = 10 / 11
    """Probability that an operation is applied."""
    geometric: bool = True


class MixUp(FrozenModel):
    """Weighted means of two images and of their labels (Zhang 2017, arXiv:1710.09412)."""

    OPERATIONS: ClassVar = ("mixing",)

    name: Literal["mixup"] = "mixup"
    alpha: float = Field(0.2, gt=0, le=10)


class CutMix(FrozenModel):
    """A rectangle of another image, with its share of the label (Yun 2019, arXiv:1905.04899)."""

    OPERATIONS: ClassVar = ("cutting",)

    name: Literal["cutmix"] = "cutmix"
    alpha: float = Field(1.0, gt=0, le=10)


class GridMask(FrozenModel):
    """A rotated grid of black squares (Chen 2020, arXiv:2001.04086)."""

    OPERATIONS: ClassVar = ("masking",)

    name: Literal["gridmask"] = "gridmask"
    ratio: Share = 0.5
    """The largest ratio of a square's side to the grid's spacing."""
    rotation: float = Field(0.15, ge=0, le=0.5)


class CutOut(FrozenModel):
    """One black rectangle (DeVries 2017, arXiv:1708.04552)."""

    OPERATIONS: ClassVar = ("masking",)

    name: Literal["cutout"] = "cutout"
    size: Share = 0.5
    """The largest ratio of its sides to the image's."""


class AugMix(FrozenModel):
    """Chains of operations, averaged with the original (Hendrycks 2019, arXiv:1912.02781).

    As in keras-cv, the rotation is up to 30 x severity in radians, and only horizontal shifts are
    drawn.
    """

    OPERATIONS: ClassVar = ("auto contrast", "equalize", "posterize", "rotation", "solarize",
                            "shear", "shift")  # fmt: skip

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

    OPERATIONS: ClassVar = ("blur",)

    name: Literal["sharpness"] = "sharpness"
    factor: Share = 0.5


class Noise(FrozenModel):
    """Gaussian noise (report 002, which does not say how much)."""

    OPERATIONS: ClassVar = ("noise",)

    name: Literal["noise"] = "noise"
    deviation: float = Field(8.0, ge=0, le=128)
    """Grey levels, of 255."""


class SplitAndRotate(FrozenModel):
    """The image in parts x parts tiles, each rotated by its own number of quarter turns.

    Report 001 names it without a description; this is our interpretation.
    """

    OPERATIONS: ClassVar = ("rotation of parts",)

    name: Literal["split-and-rotate"] = "split-and-rotate"
    parts: int = Field(2, ge=2, le=8)


BasicStep = (
    Traditional | RandAugment | MixUp | CutMix | GridMask | CutOut | AugMix
    | Sharpness | Noise | SplitAndRotate
)  # fmt: skip


class Enlarged(FrozenModel):
    """One fixed set for all epochs: the original images, and a copy of them by each step.

    Report 001 enlarged its training set once, by these four.
    """

    name: Literal["enlarged"] = "enlarged"
    copies: tuple[Annotated[BasicStep, Field(discriminator="name")], ...] = (
        CutMix(),
        MixUp(),
        RandAugment(),
        SplitAndRotate(),
    )


Step = BasicStep | Enlarged
MIXING = ("mixup", "cutmix", "enlarged")
"""Steps that change labels."""

STEPS: dict[str, type[Step]] = {step.model_fields["name"].default: step for step in get_args(Step)}
NAMED_POLICIES: dict[str, tuple[Step, ...]] = {
    "none": (),
    "report-001": (Enlarged(),),
    "report-002": (RandAugment(magnitude=0.2), Sharpness(), GridMask(ratio=0.4), Noise()),
}
"""Policies that are not one step."""

NAMES = (*NAMED_POLICIES, *STEPS)


def parse(policy: Any) -> tuple[Step, ...]:
    """A policy as written in ``benchmark.toml`` or a record -> its steps.

    Raises ValueError naming the nearest policy, the nearest parameter or the range.
    """
    if not isinstance(policy, list | tuple):
        policy = [policy]
    steps = tuple(step for item in policy for step in _parse_item(item))
    if len(steps) > 1 and any(isinstance(step, Enlarged) for step in steps):
        raise ValueError("enlarged is a whole training set: it cannot be joined with other steps")
    return steps


def _parse_item(item: Any) -> tuple[Step, ...]:
    match item:
        case str():
            return tuple(step for name in item.split("+") for step in _named(name.strip()))
        case {"name": str(name)}:
            return (_with_parameters(name, {k: v for k, v in item.items() if k != "name"}),)
    if isinstance(item, Step):
        return (item,)
    raise ValueError(f"a step is a name or a table with a name, not {item!r}")


def _named(name: str) -> tuple[Step, ...]:
    if name in NAMED_POLICIES:
        return NAMED_POLICIES[name]
    if name in STEPS:
        return (STEPS[name](),)
    raise ValueError(f"unknown policy {name!r}{did_you_mean(name, NAMES)}")


def _with_parameters(name: str, parameters: dict[str, Any]) -> Step:
    if name not in STEPS:
        raise ValueError(f"unknown policy {name!r}{did_you_mean(name, STEPS)}")
    known = [field for field in STEPS[name].model_fields if field != "name"]
    for key in parameters:
        if key not in known:
            raise ValueError(f"{name} has no parameter {key!r}{did_you_mean(key, known)}")
    if isinstance(parameters.get("copies"), list | tuple):
        parameters["copies"] = parse(parameters["copies"])
    try:
        return STEPS[name].model_validate(parameters)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, (name, *first["loc"])))
        message = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
        raise ValueError(f"{field}: {message}, not {first['input']!r}") from None


Policy = Annotated[tuple[Step, ...], BeforeValidator(parse)]


class Augmentation(FrozenModel):
    """The augmentation of the training images: the same augmented epochs for every recipe."""

    NOT_CONFIGURABLE: ClassVar[tuple[str, ...]] = ("stream",)
    """Fields that only the program sets."""

    policy: Policy = ()
    provider: Literal["wbc-bench", "keras-cv"] = "wbc-bench"
    """Whose code applies the steps: ours, or keras-cv's layers, at a fraction of the rate."""
    only_copies: bool = added_field(False)
    """Augment only the repeats that oversampling adds; the images themselves stay as they are."""
    frozen_epochs: int = Field(5, ge=1, le=1000)
    """Different augmented epochs that the frozen phase cycles through; each is one pass."""
    validation_share: Share = added_field(0.0)
    """Fraction of the validation images that are augmented too, once (report 001: 0.7)."""
    validation_policy: Policy = added_field((RandAugment(),))
    stream: int = added_field(1, ge=1, le=MOST)
    """``STREAM`` when the run was planned: other pixels make another run."""

    @model_validator(mode="after")
    def _copies_are_single(self) -> Augmentation:
        if self.only_copies and any(isinstance(step, Enlarged) for step in self.policy):
            raise ValueError("only_copies: enlarged is a whole training set, with its own copies")
        return self

    @model_validator(mode="after")
    def _labels_stay_hard(self) -> Augmentation:
        for step in self.validation_policy:
            if step.name in MIXING:
                raise ValueError(
                    f"validation_policy: {step.name} mixes labels, and validation images are scored"
                )
        return self

    def with_current_stream(self) -> Augmentation:
        """The same augmentation by this version of the program, without options of no effect."""
        unused = []
        if not self.policy or self.stream_epoch(1) == 0:  # There is one epoch, or none.
            unused.append("frozen_epochs")
        if not self.policy:
            unused.append("only_copies")
        if not self.validation_share:
            unused.append("validation_policy")
        active = bool(self.policy or self.validation_share)
        if not active:
            unused.append("provider")
        chosen = self.with_defaults(*unused)
        return chosen.model_copy(update={"stream": STREAM[self.provider] if active else 1})

    def stream_epoch(self, epoch: int) -> int:
        """The augmented epoch that an epoch of training reads: a fixed set has only one."""
        return 0 if any(isinstance(step, Enlarged) for step in self.policy) else epoch

    def operations(self) -> frozenset[str]:
        """Names of everything that may happen to a pixel."""
        steps: list[Any] = []
        for step in self.policy:
            steps += step.copies if isinstance(step, Enlarged) else (step,)
        return frozenset(name for step in steps for name in step.OPERATIONS)


class EpochCacheSettings(FrozenModel):
    """Where this machine keeps augmented epochs, and the limit of their size."""

    folder: str
    limit_bytes: int
