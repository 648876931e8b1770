"""Trains one Run and predicts its parts: ``train`` is the story from top to bottom.

``train_trial`` is the same of a search for hyperparameters: it predicts validation images alone.

Everything random is derived from the run's seed and the epoch, never from global state that an
earlier step could have changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from harness.evaluation import metrics
from harness.execution.locks import DeviceLock
from harness.execution.processes import peak_resident_mb
from harness.schema.dataset import Dataset
from harness.schema.predictions import Predictions
from harness.schema.records import Cost, Epoch
from harness.schema.run import Run
from harness.schema.tuning import TrialOutcome
from harness.training.context import Callbacks, RunContext, TrainOptions
from harness.training.device_memory import device_memory
from harness.training.evaluate import (
    extract_features,
    predict_frozen,
    predict_parts,
    predict_validation,
)
from harness.training.model import seed_everything
from harness.training.phases import PhaseResult, fine_tune, train_from_scratch, train_head
from harness.training.throughput import Meter, multiply_adds
from zoo.factory import WeightsFiles, build
from zoo.registry import find


@dataclass(frozen=True)
class TrainingResult:
    """The trained backbone, its phases of training, the predictions, and the cost."""

    network: keras.Model
    phases: tuple[PhaseResult, ...]
    predictions: dict[str, Predictions]
    cost: Cost
    seconds: dict[str, float]
    """Keys: ``build``, ``training``, ``evaluation``, and ``compile``, which is part of the last
    two. Waiting for others is in none."""
    preparing_seconds: float | None
    """Of ``compile``: ahead of training, without a turn on the device; None: nothing was."""

    @property
    def head(self) -> keras.Model:
        return self.phases[-1].head

    @property
    def history(self) -> tuple[Epoch, ...]:
        return tuple(line for phase in self.phases for line in phase.history)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(note for phase in self.phases for note in phase.notes)

    @property
    def seconds_before(self) -> float:
        """Of the epochs that a process before this one has trained."""
        return sum(phase.seconds_before for phase in self.phases)

    @property
    def counts(self) -> dict[str, int]:
        """What was trained on, by the fields of the Ledger."""
        on_features = [line for line in self.history if line.phase == "frozen"]
        on_images = [line for line in self.history if line.phase != "frozen"]
        return {
            "epochs_on_features": len(on_features),
            "feature_rows_learnt": sum(line.samples for line in on_features),
            "images_embedded": sum(phase.images_embedded for phase in self.phases),
            "epochs_on_images": len(on_images),
            "images_learnt": sum(line.samples for line in on_images),
        }


def build_context(
    run: Run,
    data: Dataset,
    weights: WeightsFiles,
    device_lock: DeviceLock,
    callbacks: Callbacks,
    options: TrainOptions,
) -> RunContext:
    """A run with its backbone, to be trained.

    ``weights``: files as ``zoo.factory.build`` takes them, None where the weights are random.
    Raises WeightsError, ConfigError or DataError where the user's input does not fit.
    """
    start = device_lock.waits.clock()
    seed_everything(run.seed)
    keras.config.set_dtype_policy(run.protocol.precision)
    callbacks.on_phase_begin("build", 1)
    with device_lock.preparing():
        network = build(find(run.recipe), run.protocol.image_size, weights)
        context = RunContext(run, data, network, device_lock, callbacks, options)
    context.build_seconds = device_lock.waits.clock() - start
    return context


def train(context: RunContext) -> TrainingResult:
    """Train a run and predict its three parts, and the shifted copy of its test images.

    Raises ConfigError or DataError where the user's input does not fit.
    """
    clock = context.device_lock.waits.clock
    start = clock()
    frozen: dict[str, Predictions] = {}
    phases, features = train_phases(
        context, lambda head: frozen.update(predict_frozen(context, head))
    )
    trained, training_memory = clock(), _peak_memory_mb()

    # Predict every part, and measure the throughput meanwhile.
    meter = Meter(context.run.protocol.test_views, further_sizes=context.further_sizes)
    predictions = predict_parts(context, phases[-1].head, features, meter) | frozen
    context.device_lock.turn.give_back()
    seconds = {
        "build": context.build_seconds,
        "training": trained - start + sum(phase.seconds_before for phase in phases),
        "evaluation": clock() - trained,
        "compile": context.compile_timer.seconds,
    }
    cost = _cost(context, phases[-1], meter, training_memory)
    return TrainingResult(
        context.network, phases, predictions, cost, seconds, context.preparing_seconds
    )


def train_trial(context: RunContext) -> tuple[TrialOutcome, dict[str, np.ndarray]]:
    """Train a run, and score it on validation images in the first view; its features by part.

    There are features where the backbone stayed frozen. Errors are those of ``train``.
    """
    phases, features = train_phases(context)
    probabilities = predict_validation(context, phases[-1].head, features)
    context.device_lock.turn.give_back()
    return metrics.trial_outcome(context.validation_targets, probabilities), features


def train_phases(
    context: RunContext, on_frozen_phase_end: Callable[[keras.Model], object] = lambda _: None
) -> tuple[tuple[PhaseResult, ...], dict[str, np.ndarray]]:
    """Train all layers from scratch; or the head on frozen features, then the last layers too.

    Returns the phases, and the features of training and validation images where the backbone stayed
    frozen. ``on_frozen_phase_end``: receives the head before the fine-tuning.
    """
    protocol = context.run.protocol
    if scratch := context.run.from_scratch:
        return (train_from_scratch(context, scratch),), {}
    features = extract_features(context, ("train", "validation"))
    frozen = train_head(context, features, protocol.frozen)
    if protocol.fine_tuning is None:
        return (frozen,), features
    on_frozen_phase_end(frozen.head)
    return (frozen, fine_tune(context, frozen.head, protocol.fine_tuning)), {}


def _peak_memory_mb() -> float:
    """Of the GPU so far, else of this process, MiB."""
    memory = device_memory()
    return peak_resident_mb() if memory is None else memory.peak / 1024**2


def _cost(context: RunContext, last: PhaseResult, meter: Meter, training_memory_mb: float) -> Cost:
    networks, memory = (context.network, last.head), device_memory()
    precision, device = context.run.protocol.precision, context.options.device_name
    return Cost(
        parameters=sum(network.count_params() for network in networks),
        trainable_parameters=last.trainable_parameters,
        multiply_adds=sum(map(multiply_adds, networks)),
        **dict(meter.rates(context.extractor.batch_size, precision, device)),
        training_memory_mb=training_memory_mb,
        peak_memory_mb=peak_resident_mb(),
        peak_device_memory_mb=None if memory is None else memory.peak / 1024**2,
    )
