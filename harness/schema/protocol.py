"""The protocol: the fixed hyperparameters, the same for every recipe."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from harness.schema.augmentation import Augmentation
from harness.schema.base import MOST, FrozenModel, added_field

Fraction = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(ge=0, le=1e9)]
Positive = Annotated[int, Field(ge=1, le=MOST)]


class Optimizer(FrozenModel):
    name: Literal["adam", "adamw", "nadam", "lion", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0, le=10)
    weight_decay: Factor = 0.0
    momentum: Fraction = 0.9
    """For SGD (Nesterov); the others ignore it."""

    def without_unused(self) -> Optimizer:
        return self if self.name == "sgd" else self.with_defaults("momentum")


class Schedule(FrozenModel):
    """The learning rate schedule. Steps are epochs; ``period`` doubles after each restart."""

    name: Literal["constant", "plateau", "cosine_restarts"] = "constant"
    factor: float = Field(0.3, gt=0, lt=1)
    patience: Positive = 3
    period: Positive = 10
    minimum: Fraction = 1e-6

    UNUSED: ClassVar = {
        "constant": ("factor", "patience", "period", "minimum"),
        "plateau": ("period",),
        "cosine_restarts": ("factor", "patience"),
    }

    def without_unused(self) -> Schedule:
        return self.with_defaults(*self.UNUSED[self.name])


class Phase(FrozenModel):
    """A training phase of at most ``epochs``, with early stopping on the validation loss."""

    epochs: Positive = 50
    batch_size: Positive = 32
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    patience: Positive = 8
    """Epochs without a better validation loss before stopping; the best weights are restored."""
    unfreeze: Annotated[float, Field(gt=0, le=1)] | Positive = 0.4
    """In fine-tuning: the last layers of the backbone, as a fraction of all of them, or the number
    of those that have weights to learn."""
    frozen_layers: Positive | None = added_field(None)
    """Instead of ``unfreeze``: the first layers of the backbone that stay frozen, as Keras lists
    them, with input and preprocessing layers and without pooling."""

    def without_unused(self, *, unfreezes: bool) -> Phase:
        unused = [] if unfreezes else ["unfreeze", "frozen_layers"]
        phase = self.with_defaults(*(["unfreeze"] if self.frozen_layers else []), *unused)
        parts = {
            "optimizer": phase.optimizer.without_unused(),
            "schedule": phase.schedule.without_unused(),
        }
        return phase.model_copy(update=parts)


class HeadLayer(NamedTuple):
    """A hidden layer of a head: dense, BatchNorm, activation, dropout."""

    units: int
    batch_norm: bool
    dropout: float


class Head(FrozenModel):
    """The classifier on the pooled features: dense layers, then softmax."""

    units: tuple[Positive, ...] = (128,)
    dropout: Fraction | tuple[Fraction, ...] = 0.3
    """After each hidden layer: one rate for all of them, or one a layer."""
    batch_norm: bool | tuple[bool, ...] = False
    """After each dense layer and before its activation: for all of them, or one a layer."""
    activation: Literal["relu", "hard-swish"] = added_field("relu")
    """Of the hidden layers; hard-swish: x min(max(x + 3, 0), 6) / 6 (report 002)."""
    input_batch_norm: bool = added_field(False)
    """BatchNorm of the features, before the first dense layer (report 004)."""
    input_dropout: Fraction = added_field(0.0)
    """Dropout of the features, before the first dense layer (report 004)."""
    l1: Factor = 0.0
    l2: Factor = 1e-4
    standardise: bool = True
    """Standardise each feature by its training mean and deviation before the first layer."""
    damping: Factor = added_field(0.0)
    """Multiple of the mean variance of all features that is added to the variance of each, so that
    standardising does not amplify features that hardly vary."""

    @model_validator(mode="after")
    def _one_value_a_layer(self) -> Head:
        for name in ("dropout", "batch_norm"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(self.units):
                raise ValueError(
                    f"{name} has {len(value)} values, but units has {len(self.units)} layers"
                )
        return self

    @property
    def layers(self) -> tuple[HeadLayer, ...]:
        """The hidden layers, first to last."""
        count = len(self.units)
        norms = (
            self.batch_norm if isinstance(self.batch_norm, tuple) else (self.batch_norm,) * count
        )
        rates = self.dropout if isinstance(self.dropout, tuple) else (self.dropout,) * count
        return tuple(map(HeadLayer, self.units, norms, rates))

    @property
    def has_batch_norm(self) -> bool:
        return self.input_batch_norm or any(layer.batch_norm for layer in self.layers)

    def without_unused(self) -> Head:
        unused = [] if self.units else ["dropout", "batch_norm", "activation"]
        return self.with_defaults(*unused, *([] if self.standardise else ["damping"]))


class Loss(FrozenModel):
    label_smoothing: Fraction = 0.0
    class_weight: Literal["none", "balanced"] | tuple[Factor, ...] = "none"
    oversampling: bool | Positive = added_field(False)
    """Repeat training images of rare classes until all classes are as large as the largest, or have
    this number of images (report 003: 1,500). With an augmentation, no repeat is the same."""


VERSION = 2
"""Of training. From 2 on: a BatchNorm that is trained predicts with statistics that are estimated
anew before each validation; fine-tuning keeps the weights that it began with where no epoch has a
lower validation loss, and a number of layers counts those with weights; the head is computed in
float32 at every precision. Training on frozen features in float32 is as in 1."""


class Protocol(FrozenModel):
    """The fixed hyperparameters. ``version`` is raised by hand when training changes."""

    version: Positive = 1
    image_size: int = Field(96, ge=16, le=1024)
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    inference_batch: int = Field(32, ge=1, le=4096)
    """Batch size of feature extraction and of the throughput measurement."""
    head: Head = Head()
    loss: Loss = Loss()
    augmentation: Augmentation = added_field(Augmentation())
    frozen: Phase = Phase()
    fine_tuning: Phase | None = None
    from_scratch: Phase | None = None
    """Replaces both phases where the weights are random; without it the backbone stays frozen."""
    test_views: int = added_field(1, ge=1, le=8)
    """Test-time augmentation: the number of flips and quarter turns that are averaged."""

    @model_validator(mode="after")
    def _there_are_copies(self) -> Protocol:
        augmentation = self.augmentation
        if augmentation.only_copies and augmentation.policy and not self.loss.oversampling:
            raise ValueError(
                "augmentation.only_copies: there are no copies without loss.oversampling"
            )
        return self

    def with_current_version(self) -> Protocol:
        """The protocol as this version of the program trains it.

        Options that cannot have an effect with the others get their defaults, so that they do not
        move the run's id.
        """
        head = self.head.without_unused()
        fine_tuning, from_scratch = self.fine_tuning, self.from_scratch
        same = self.precision == "float32" and not (
            fine_tuning or from_scratch or head.has_batch_norm
        )
        changes = {
            "version": self.version if same else max(self.version, VERSION),
            "head": head,
            "augmentation": self.augmentation.with_current_stream(),
            "frozen": self.frozen.without_unused(unfreezes=False),
            "fine_tuning": fine_tuning and fine_tuning.without_unused(unfreezes=True),
            "from_scratch": from_scratch and from_scratch.without_unused(unfreezes=False),
        }
        return self.model_copy(update=changes)
