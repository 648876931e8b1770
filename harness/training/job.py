"""Executes a Job: opens its data, trains, writes the artefacts, and accounts for the outcome."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import keras
import numpy as np

from harness import __version__
from harness.augmentation.epoch_cache import EpochCache
from harness.augmentation.worker import EpochPrefetcher
from harness.data.image_cache import open_dataset
from harness.data.shifted_test import open_shifted
from harness.data.splitting import split_indices
from harness.execution import devices
from harness.execution.child import Emit, step_reporter
from harness.execution.locks import DeviceLock
from harness.execution.monitor import ResourceMonitor
from harness.schema.dataset import Dataset
from harness.schema.events import EpochEvent, MessageEvent, PhaseEvent, WarningEvent
from harness.schema.ledger import Ledger
from harness.schema.records import Environment, Outcome, Timings
from harness.schema.run import Job
from harness.schema.tuning import TrialOutcome
from harness.storage.files import open_new, sync_file, write_arrays
from harness.storage.predictions import write_predictions
from harness.storage.records import BACKBONE_WEIGHTS, FEATURES, HEAD_WEIGHTS, PREDICTIONS
from harness.storage.unrecorded import write_or_keep, write_outcome
from harness.training.checkpoint import CheckpointManager
from harness.training.compilation import count_programs
from harness.training.context import Callbacks, RunContext, TrainOptions
from harness.training.device_memory import device_memory
from harness.training.model import backend_version, jit, make_deterministic
from harness.training.trainer import TrainingResult, build_context, train, train_trial


def execute(
    job: Job, device_lock: DeviceLock, monitor: ResourceMonitor, emit: Emit, start: float
) -> Outcome:
    """Train and predict a run, and write its artefacts.

    ``emit`` sends an event to the parent; ``start``: of the process, by the clock of its waits.
    """
    make_deterministic(keras.backend.backend())
    if job.device.id != "cpu":
        monitor.device_memory = _device_memory_mb
    programs, clock = count_programs(), device_lock.waits.clock
    start_seconds = clock() - start
    checkpoints = _checkpoints(job, emit)
    with _context(job, device_lock, checkpoints, emit) as context:
        result = train(context)
    emit(PhaseEvent(name="writing", steps=1))
    monitor.energy.sample()
    resumed = checkpoints.resumed
    ledger = Ledger(
        **result.counts,
        device_seconds=_device_seconds(device_lock, result, start_seconds),
        energy_joules=None if resumed else monitor.energy.joules,
        energy_exclusive=not (job.device.shared or job.device.preparing),
        preparing_seconds=result.preparing_seconds,
        waiting_seconds=device_lock.waits.seconds,
        programs_compiled=programs.compiled if programs else None,
        programs_cached=programs.cached if programs else None,
        xla=jit(),
    )
    outcome = Outcome(
        cost=result.cost,
        history=result.history,
        timings=Timings(
            start=start_seconds,
            total=clock() - start + result.seconds_before,
            **result.seconds,
        ),
        environment=_environment(),
        micro_batches=result.phases[-1].micro_batches,
        resumed=resumed,
        notes=result.notes,
        ledger=ledger,
    )
    with device_lock.shared():  # Copying weights keeps a core busy for a second.
        write_or_keep(job, partial(_write, result=result, outcome=outcome))
    return outcome


def execute_trial(job: Job, device_lock: DeviceLock, emit: Emit) -> TrialOutcome:
    """Train a run and score it on the validation images; no test image is predicted.

    The features of training and validation images are written where the backbone stayed frozen.
    """
    make_deterministic(keras.backend.backend())
    with _context(job, device_lock, _checkpoints(job, emit), emit) as context:
        score, features = train_trial(context)
    write_arrays(Path(job.output) / FEATURES, features)
    return score


@contextmanager
def _context(
    job: Job, device_lock: DeviceLock, checkpoints: CheckpointManager, emit: Emit
) -> Iterator[RunContext]:
    weights = tuple(Path(file) if file else None for file in job.weights)
    data = open_dataset(Path(job.data))
    prefetch = EpochPrefetcher(job, lambda text: emit(MessageEvent(text=text)))
    callbacks = Callbacks(
        on_phase_begin=lambda name, steps: emit(PhaseEvent(name=name, steps=steps)),
        on_batch_end=step_reporter(emit),
        on_epoch_end=lambda epoch: emit(EpochEvent(epoch=epoch)),
    )
    try:
        options = _options(job, data, checkpoints, prefetch, emit)
        yield build_context(job.run, data, weights, device_lock, callbacks, options)
    finally:
        prefetch.close()


def _device_memory_mb() -> float | None:
    memory = device_memory()
    return None if memory is None else memory.in_use / 1024**2


def _options(
    job: Job, data: Dataset, checkpoints: CheckpointManager, prefetch: EpochPrefetcher, emit: Emit
) -> TrainOptions:
    shifted = cache = None
    if job.shifted:
        test = split_indices(job.run.split, data).test
        shifted = open_shifted(Path(job.shifted), data, test, job.run.split)
    if job.epochs is not None:
        folder, limit = Path(job.epochs.folder), job.epochs.limit_bytes
        cache = EpochCache(folder, limit, warn=lambda text: emit(MessageEvent(text=text)))
    return TrainOptions(
        device_name=job.device.name,
        shifted=shifted,
        checkpoints=checkpoints,
        micro_batches=job.micro_batches,
        epoch_cache=cache,
        prefetch=prefetch,
    )


def _checkpoints(job: Job, emit: Emit) -> CheckpointManager:
    """Checkpoints that only the same program on the same backend resumes from."""

    def warn(line: str) -> None:
        print(f"warning: {line}", file=sys.stderr, flush=True)
        emit(WarningEvent(text=line))

    environment = _environment()
    signature = {
        "run": job.run.id,
        "wbc_bench": environment.wbc_bench,
        "keras": environment.keras,
        "backend": environment.backend,
    }
    return CheckpointManager(Path(job.output), signature, job.checkpoint_seconds, warn)


def _environment() -> Environment:
    return Environment(
        wbc_bench=__version__,
        python=platform.python_version(),
        keras=keras.__version__,
        backend=backend_version(),
        numpy=np.__version__,
        platform=f"{platform.system()} {platform.machine()}",
        cores=devices.cores(),
    )


def _device_seconds(device_lock: DeviceLock, result: TrainingResult, start: float) -> float:
    """Steps on a GPU of the run's own outlast its lock: there all of its time counts."""
    if device_lock.own and device_lock.turn.count:
        return device_lock.turn.seconds + sum(phase.seconds_before for phase in result.phases)
    if device_lock.own:
        return start + sum(result.seconds[step] for step in ("build", "training", "evaluation"))
    return device_lock.seconds + result.seconds_before


def _write(output: Path, result: TrainingResult, outcome: Outcome) -> None:
    """The artefacts and the outcome, from which the parent writes the record."""
    output.mkdir(parents=True, exist_ok=True)
    parts = result.predictions.items()
    features = {name: part.features for name, part in parts if part.features is not None}
    write_arrays(output / FEATURES, features)
    write_predictions(output / PREDICTIONS, result.predictions)
    _save_weights(result.head, output / HEAD_WEIGHTS)
    if any(line.phase != "frozen" for line in result.history):
        _save_weights(result.network, output / BACKBONE_WEIGHTS)
    write_outcome(output, outcome)


def _save_weights(model: keras.Model, path: Path) -> None:
    """Write to a temporary file, sync, then rename: a killed HDF5 write leaves a torn file."""
    temporary = path.with_name(f"tmp-{path.name}")
    open_new(temporary).close()  # In place of a link of this name.
    model.save_weights(temporary)
    sync_file(temporary)
    temporary.replace(path)
