"""A data set, and its split into training, validation and test images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from harness.schema.base import MOST, Count, FrozenModel, Name, Text, added_field


@dataclass(frozen=True)
class Dataset:
    """``images`` uint8 (N, H, W, 3) raw RGB; ``labels`` int64 (N,), 0..K-1; K class names.

    ``fingerprint`` is the hash of this content. ``given`` is the source's own split, (N,) of 0
    train, 1 validation, 2 test, or None.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    fingerprint: str
    groups: np.ndarray
    """(N,) int64: the index of the first image with the same pixels, or with these mirrored or in
    quarter turns; its own where it is unique."""
    given: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    """What was done to the pixels that a reader of the board must know."""
    near_groups: np.ndarray | None = None
    """(N,) int64: as ``groups``, with near copies; None where there are none."""

    def __len__(self) -> int:
        return len(self.labels)


Size = Annotated[int, Field(ge=1, le=MOST)]


class Subset(FrozenModel):
    """The largest number of images of each part, stratified, to fit a small machine."""

    train: Size
    validation: Size
    test: Size


SHIFT_VERSION = 2
"""Version of the shifted test: raised when a test image would get another corruption. From 2 on
severities are even within classes too."""

Ratios = tuple[float, float, float]


class Split(FrozenModel):
    """The rule by which images are train, validation or test, reproducible from the data alone."""

    NOT_CONFIGURABLE: ClassVar[tuple[str, ...]] = ("shift_version",)
    """Fields that only the program sets."""

    ratios: Ratios = (0.7, 0.1, 0.2)
    """Train, validation and test; also as a string of percents, "72/8/20"."""
    seed: int = Field(0, ge=0, le=MOST)
    use_given: bool = True
    """Keep the source's own split, if it has one."""
    subset: Subset | None = None
    counts: tuple[Size, Size, Size] | None = added_field(None)
    """Numbers of images instead of ratios; the remaining images are in no part."""
    balanced_test: bool = added_field(False)
    """Equally many test images of each class (report 000)."""
    folds: int = added_field(0, ge=0, le=100)
    """Number of folds, of which ``fold`` is the test part; the ratios divide the others."""
    fold: int = added_field(0, ge=0)
    group_near_copies: bool = added_field(False)
    """Keep near copies in one part, as exact ones are. False too where this changes nothing."""
    shift_version: int = added_field(1, ge=1, le=MOST)
    """``SHIFT_VERSION`` when the run was planned: other corruptions make another board."""

    def with_current_version(self) -> Split:
        """The same split, with the shifted test of this version of the program."""
        return self.model_copy(update={"shift_version": SHIFT_VERSION})

    @field_validator("ratios", mode="before")
    @classmethod
    def _from_percents(cls, value: Any) -> Any:
        """``"72/8/20"`` -> (0.72, 0.08, 0.2)."""
        if not isinstance(value, str):
            return value
        try:
            percents = [float(word) for word in value.split("/")]
        except ValueError:
            percents = []
        if len(percents) != 3:
            raise ValueError('ratios must be three numbers, or percents as in "72/8/20"')
        return tuple(percent / 100 for percent in percents)

    @model_validator(mode="after")
    def _check(self) -> Split:
        if min(self.ratios) <= 0 or abs(sum(self.ratios) - 1) > 1e-6:
            raise ValueError("ratios must be three positive numbers that sum to 1")
        if self.folds == 1 or self.fold >= max(self.folds, 1):
            raise ValueError("folds must be 2 or more, and fold one of 0 to folds - 1")
        if self.folds and (self.counts or self.balanced_test):
            raise ValueError("folds go with ratios alone, without counts or balanced_test")
        return self


@dataclass(frozen=True)
class Parts:
    """Sorted image ids (int64) of each part; no image is in two."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class ImageIdentities:
    """What identifies the images of a data set, in whatever order they come.

    ``sha256`` uint8 (N, 32): of each image's pixels in its source; zeros where it is unknown.
    ``files``: N names of files, relative to the source; empty where there are none.
    """

    sha256: np.ndarray = field(default_factory=lambda: np.empty((0, 32), np.uint8))
    files: tuple[str, ...] = ()

    def columns(self, ids: np.ndarray) -> dict[str, list[str]]:
        """``sha256``, hexadecimal, and ``file`` of these images, as far as all are known."""
        columns = {}
        last = int(ids.max(initial=-1))
        if last < len(self.sha256) and self.sha256[ids].any(axis=1).all():
            columns["sha256"] = [self.sha256[i].tobytes().hex() for i in ids]
        if last < len(self.files) and all(self.files[i] for i in ids):
            columns["file"] = [self.files[i] for i in ids]
        return columns


class DataSummary(FrozenModel):
    name: Name
    images: Size
    image_size: int = Field(ge=0, le=1024)
    """Side in pixels; 0 where it is unknown."""
    class_names: tuple[Name, ...] = Field(min_length=2)
    train: Count
    validation: Count
    test: Size
    notes: tuple[Text, ...] = added_field(())
    """Of the Dataset."""
    class_counts: tuple[Count, ...] = added_field(())
    """Images of each class in the whole data set; empty for runs made before they were kept."""

    @field_validator("class_names")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("two classes have the same name")
        return names
