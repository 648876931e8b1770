"""The three phases of training: a head on frozen features, fine-tuning, and from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import keras
import numpy as np

from harness.schema.protocol import Phase
from harness.schema.records import Epoch
from harness.training.context import RunContext
from harness.training.head import HeadLearner, Standardizer
from harness.training.loop import PhaseName, fit
from harness.training.model import build_head, unfreeze
from harness.training.network_learner import NetworkLearner
from zoo.factory import branches


@dataclass(frozen=True)
class PhaseResult:
    """What a phase leaves besides the weights of the backbone."""

    head: keras.Model
    history: tuple[Epoch, ...]
    trainable_parameters: int
    micro_batches: int
    images_embedded: int = 0
    """Training images that the frozen backbone turned into features, in every pass."""
    seconds_before: float = 0.0
    """Of the epochs that a process before this one has trained."""
    notes: tuple[str, ...] = ()
    """As in FitResult."""


def train_head(context: RunContext, features: dict[str, np.ndarray], phase: Phase) -> PhaseResult:
    """Phase 1: the head alone, on features of a frozen backbone, each computed once."""
    protocol, stream, seed = context.run.protocol, context.stream, context.run.seed
    rows = np.searchsorted(context.ids("train"), stream.ids)
    learner = HeadLearner(
        (protocol.head, protocol.loss, phase.optimizer),
        (features["train"][rows], stream.targets),
        features["validation"],
        seed,
        [branch.output.shape[-1] for branch in branches(context.network)],
    )
    embedded, augmentation = len(features["train"]), protocol.augmentation
    if augmentation.policy:
        epochs = augmentation.stream_epoch(min(augmentation.frozen_epochs, phase.epochs) - 1) + 1
        learner.set_epochs(_augmented_features(context, epochs))
        embedded += epochs * stream.rows
    context.callbacks.on_phase_begin("frozen", phase.epochs)
    targets, on_epoch_end = context.validation_targets, context.callbacks.on_epoch_end
    with context.device_lock.shared():
        fitted = fit(learner, "frozen", phase, targets, seed, on_epoch_end)
        head = _build_head(context, learner.standardizer)
        head.set_weights(learner.keras_weights())
    return PhaseResult(
        head,
        fitted.history,
        learner.parameters,
        context.options.micro_batches,
        embedded,
        notes=fitted.notes,
    )


def fine_tune(context: RunContext, head: keras.Model, phase: Phase) -> PhaseResult:
    """Phase 2: the last layers of the backbone together with the trained head."""
    pretrained = context.run.weights.source != "random"
    unfreeze(context.network, phase.unfreeze, pretrained, phase.frozen_layers)
    return _train_network(context, "fine-tuning", phase, head)


def train_from_scratch(context: RunContext, phase: Phase) -> PhaseResult:
    """The only phase of random weights: all layers are trained."""
    with context.device_lock.preparing():
        head = _build_head(context, None)
        unfreeze(context.network, 1.0, pretrained=False)
    return _train_network(context, "from scratch", phase, head)


def _train_network(
    context: RunContext, name: PhaseName, phase: Phase, head: keras.Model
) -> PhaseResult:
    with context.device_lock.preparing():
        learner = NetworkLearner(context, head, phase)
    context.prepare(learner.programs)
    context.callbacks.on_phase_begin(name, phase.epochs)
    targets, on_epoch_end = context.validation_targets, context.callbacks.on_epoch_end
    checkpoints = context.options.checkpoints
    with checkpoints.saves_on_sigterm() if checkpoints is not None else nullcontext():
        fitted = fit(learner, name, phase, targets, context.run.seed, on_epoch_end)
    resumed = checkpoints.resumed if checkpoints is not None else 0
    return PhaseResult(
        head,
        fitted.history,
        learner.trainable_parameters,
        learner.micro_batches,
        seconds_before=sum(line.seconds for line in fitted.history[:resumed]),
        notes=fitted.notes,
    )


def _augmented_features(
    context: RunContext, epochs: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features and soft targets of the augmented epochs that the frozen phase repeats."""
    total = epochs * context.stream.rows
    context.callbacks.on_phase_begin("features", total)
    on_batch_end = context.callbacks.counter(total)
    for epoch in range(epochs):
        images, rows, targets = context.training_epoch(epoch, epochs)
        features = context.extractor.extract(images.take, rows, on_batch_end)
        del images  # Frees its memory before the next epoch is transferred.
        yield features, targets


def _build_head(context: RunContext, standardizer: Standardizer | None) -> keras.Model:
    classes = len(context.data.class_names)
    return build_head(context.run.protocol.head, context.extractor.width, classes, standardizer)
