"""What a backbone is, before it is built. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Preprocessing = Literal["caffe", "torch", "tf", "inside"]
"""From raw RGB pixels (0-255) to the network's input.

``caffe``: BGR, ImageNet mean subtracted. ``torch``: scaled to 0-1, then ImageNet mean and standard
deviation. ``tf``: scaled to -1..1. ``inside``: done by layers of the constructor's own network.
"""


@dataclass(frozen=True)
class KerasFile:
    """ImageNet weights without the top, as Keras publishes them.

    ``path`` is relative to Keras's public store. ``digest`` is the checksum that Keras pins,
    ``md5:...`` or ``sha256:...``; None where it pins none (MobileNet v1 and v2).
    """

    path: str
    digest: str | None

    @property
    def filename(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PackageFile:
    """ImageNet weights in a Python package: a torch state dict in ``module``'s folder."""

    package: str
    module: str
    filename: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One backbone of the zoo.

    ``constructor`` is ``module:callable``, imported when the network is built. Sizes are in pixels
    (square input). ``parameters`` and ``multiply_adds`` (of one image at 224 pixels) are those of
    the network without its top.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    constructor: str
    preprocessing: Preprocessing
    native_size: int = 224
    minimum_size: int = 32
    size_multiple: int = 1
    """Of which image sizes must be a multiple."""
    feature_width: int
    """At the native size; it depends on the size only where ``flattened``."""
    flattened: bool = False
    """Whether the last feature map is flattened, not pooled."""
    parameters: int
    multiply_adds: int
    imagenet: KerasFile | PackageFile | None
    """None for a joint network, whose branches have their own, and for a network without pretrained
    weights, which is always trained from scratch."""
    citation: str
    branches: tuple[Recipe, ...] = ()
    """Backbones whose features a joint network concatenates."""

    @property
    def pretrained(self) -> bool:
        """Whether there are ImageNet weights for it, or for a branch of it."""
        return self.imagenet is not None or any(branch.pretrained for branch in self.branches)

    def features_at(self, image_size: int) -> int:
        """The width of its features of images of this size."""
        if self.branches:
            return sum(branch.features_at(image_size) for branch in self.branches)
        scale = (image_size / self.native_size) ** 2 if self.flattened else 1
        return round(scale * self.feature_width)

    def size_problem(self, image_size: int) -> str:
        """Why it cannot take images of this size; empty where it can."""
        if image_size < self.minimum_size:
            return f"too small for {self.name}: its smallest input is {self.minimum_size} pixels"
        if image_size % self.size_multiple:
            near = max(round(image_size / self.size_multiple), 1) * self.size_multiple
            return (
                f"no size for {self.name}, which needs a multiple of {self.size_multiple}; "
                f"{near} is the nearest"
            )
        return ""
