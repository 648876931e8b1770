"""What a backbone is, before anything is built. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Preprocessing = Literal["caffe", "torch", "tf", "inside"]
"""How raw RGB pixels (0-255) become what the network was trained on.

``caffe``: BGR, ImageNet mean subtracted. ``torch``: scaled to 0-1, ImageNet mean and standard
deviation. ``tf``: scaled to -1..1. ``inside``: the constructor's own network already does it.
"""


@dataclass(frozen=True)
class KerasFile:
    """ImageNet weights without the top, as Keras publishes them.

    ``path`` is relative to Keras's public store; ``digest`` is the checksum that Keras itself pins,
    ``md5:...`` or ``sha256:...``, or None where it pins none (MobileNet v1 and v2).
    """

    path: str
    digest: str | None

    @property
    def filename(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PackageFile:
    """ImageNet weights that install as a Python package: a torch state dict inside ``package``."""

    package: str
    module: str
    filename: str
    sha256: str


@dataclass(frozen=True)
class Recipe:
    """One backbone of the zoo.

    ``constructor`` is ``module:callable``, imported only when the network is built. Sizes are in
    pixels (square input), ``parameters`` and ``multiply_adds`` (of one image
    at 224 pixels) count the network without its top, to the last digit.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    constructor: str
    preprocessing: Preprocessing
    native_size: int
    minimum_size: int
    feature_width: int
    parameters: int
    multiply_adds: int
    imagenet: KerasFile | PackageFile | None
    """None for a joint network, whose branches have their own."""
    citation: str
    branches: tuple[Recipe, ...] = ()
    """Of a joint network: backbones side by side, their features concatenated."""
