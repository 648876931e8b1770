"""A killed run is resumed exactly; one in micro-batches learns the same."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data.image_cache import open_dataset
from harness.data.shifted_test import get_or_corrupt
from harness.data.splitting import split_indices
from harness.errors import WeightsError
from harness.execution import devices
from harness.execution.devices import Device
from harness.execution.processes import ProcessResult, WorkerProcess
from harness.schema.dataset import Dataset
from harness.schema.events import EpochEvent, Event
from harness.schema.protocol import Head, Optimizer, Phase, Protocol, Schedule
from harness.schema.run import Job, Run, Weights
from harness.storage.files import read_arrays
from harness.storage.predictions import read_predictions
from harness.storage.records import BACKBONE_WEIGHTS, FEATURES, HEAD_WEIGHTS, PREDICTIONS
from harness.training.model import equal_micro_batches
from tests.harness.training.test_trainer import IMAGENET, SMALL, made_run, protocol, smear, train
from zoo.registry import find
from zoo.weights import imagenet_file

__all__ = ["smear"]

PLATEAU = Schedule(name="plateau", factor=0.3, patience=1)
TUNED = protocol(
    fine_tuning=Phase(
        epochs=9, batch_size=16, unfreeze=0.5, patience=3, schedule=PLATEAU,
        optimizer=Optimizer(learning_rate=3e-3),
    ),
    test_views=2,
)  # fmt: skip
SCRATCH = protocol(
    from_scratch=Phase(
        epochs=5, batch_size=16, patience=3, schedule=PLATEAU,
        optimizer=Optimizer(name="nadam", learning_rate=3e-3),
    )
)  # fmt: skip


def job_of(
    folder: Path,
    output: Path,
    recipe: str,
    weights: Weights,
    chosen: Protocol,
    shifted: bool = False,
) -> Job:
    data = open_dataset(folder)
    file = imagenet_file(find(recipe)) if weights.source == "imagenet" else None
    test = split_indices(SMALL, data).test
    return Job(
        run=made_run(data, recipe, weights, chosen),
        data=str(folder),
        weights=(str(file) if file else None,),
        output=str(output),
        device=Device("cpu", "Test CPU"),
        checkpoint_seconds=0,
        shifted=str(get_or_corrupt(folder, data, test, SMALL, "full")) if shifted else None,
    )


def execute(job: Job, kill_at: int = 0) -> ProcessResult:
    """The real worker; killed when it reports this epoch on images."""
    launcher = WorkerProcess()

    def on_event(event: Event) -> None:
        if not isinstance(event, EpochEvent) or event.epoch.phase == "frozen":
            return
        if event.epoch.epoch == kill_at:
            (child,) = launcher.living
            os.kill(child.pid, signal.SIGKILL)

    return launcher(job, devices.environment(Device("cpu", "Test CPU")), on_event)


def outcome_of(ended: ProcessResult, output: Path) -> dict[str, Any]:
    """Everything that must be the same, however often the run was resumed."""
    assert ended.outcome is not None, ended.failed
    parts = read_predictions(output / PREDICTIONS)
    assert ended.outcome.ledger is not None
    not_counted = {"device_seconds", "energy_joules", "waiting_seconds"}
    return {
        "weights": weights_hash(output),
        "ledger": ended.outcome.ledger.model_dump(exclude=not_counted),
        "features": {name: rows.tobytes() for name, rows in read_arrays(output / FEATURES).items()},
        "history": tuple(
            line.model_copy(update={"seconds": 0.0}) for line in ended.outcome.history
        ),
        "predictions": {name: part.probabilities.tobytes() for name, part in parts.items()},
        "trainable": ended.outcome.cost.trainable_parameters,
    }


def weights_hash(output: Path) -> str:
    """Of the numbers, not of the file: HDF5 writes the time into it."""
    import h5py

    sha = hashlib.sha256()

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            sha.update(name.encode() + np.asarray(item).tobytes())

    for name in ("backbone.weights.h5", "head.weights.h5"):
        with h5py.File(output / name) as file:
            file.visititems(add)
    return sha.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "weights", "chosen", "kills"),
    [
        pytest.param("lite0", IMAGENET, TUNED, (2, 4), id="fine-tuning"),
        pytest.param("mobilenet", Weights(source="random"), SCRATCH, (3,), id="from scratch"),
    ],
)
def test_a_killed_run_is_resumed_exactly(
    smear: Path,
    tmp_path: Path,
    recipe: str,
    weights: Weights,
    chosen: Protocol,
    kills: tuple[int, ...],
) -> None:
    """Killed while it writes a checkpoint or just after, with plateau and early stopping.

    So two processes agree bit for bit, and the ledger accounts for what was before.
    """
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shifted = chosen is TUNED
    at_once = execute(job_of(smear, whole, recipe, weights, chosen, shifted))
    expected = outcome_of(at_once, whole)
    job = job_of(smear, killed, recipe, weights, chosen, shifted)
    for epoch in kills:
        ended = execute(job, kill_at=epoch)
        assert ended.failed is not None
        assert ended.failed.reason == "killed (signal 9)"
        assert list(killed.glob("checkpoint*"))
    ended = execute(job)
    assert outcome_of(ended, killed) == expected
    assert ended.outcome is not None
    assert ended.outcome.resumed >= 2
    timings = ended.outcome.timings
    assert timings.total >= timings.start + timings.build + timings.training + timings.evaluation
    curve = [line for line in ended.outcome.history if line.phase != "frozen"]
    assert len(curve) > 4
    _check_ledgers(at_once, ended)
    if chosen is TUNED:
        assert len({line.learning_rate for line in curve}) > 1, (
            "the learning rate must have been reduced"
        )
        parts = {"shifted", "every-shift", "plain-test", "plain-shifted"}
        assert parts < set(expected["predictions"])
        _check_saved_weights(job.run, killed, open_dataset(smear))


def _check_ledgers(whole: ProcessResult, resumed: ProcessResult) -> None:
    """Every epoch is counted once; the energy of a killed process is not claimed."""
    for ended in (whole, resumed):
        outcome = ended.outcome
        assert outcome is not None
        assert outcome.ledger is not None
        on_images = [line for line in outcome.history if line.phase != "frozen"]
        assert outcome.ledger.images_learnt == 64 * len(on_images)
        before = sum(line.seconds for line in on_images[: outcome.resumed])
        assert 0 < outcome.ledger.device_seconds < outcome.timings.total + before
    assert whole.outcome is not None
    assert whole.outcome.ledger is not None
    assert whole.outcome.ledger.energy_exclusive
    assert resumed.outcome is not None
    assert resumed.outcome.ledger is not None
    assert resumed.outcome.ledger.energy_joules is None


def _check_saved_weights(run: Run, artefacts: Path, data: Dataset) -> None:
    """They give the network that has predicted: Standardise, fine-tuned layers and all."""
    from harness.training.explanation import TrainedNetwork
    from harness.training.trained_network import load

    network, head = load(TrainedNetwork(run=run, artefacts=str(artefacts), remedy=""), 8)
    stored = read_predictions(artefacts / PREDICTIONS)["plain-test"]
    predicted = np.asarray(head(network(data.images[stored.ids], training=False)))
    np.testing.assert_allclose(predicted, stored.probabilities, atol=1e-4)
    (artefacts / HEAD_WEIGHTS).write_bytes((artefacts / BACKBONE_WEIGHTS).read_bytes())
    with pytest.raises(WeightsError, match=r"head: weights .* do not fit: the file holds"):
        load(TrainedNetwork(run=run, artefacts=str(artefacts), remedy=""), 8)


@pytest.mark.slow
def test_micro_batches_learn_what_the_whole_batch_learns(smear: Path, tmp_path: Path) -> None:
    """Without dropout and BatchNorm, which a micro-batch changes: to the rounding of a sum."""
    short = Phase(epochs=2, batch_size=16, optimizer=Optimizer(learning_rate=1e-4))
    chosen = protocol(from_scratch=short, head=Head(units=(16,), dropout=0))
    random = Weights(source="random")
    whole, split = (
        train(smear, "vgg16", random, chosen, tmp_path, micro_batches=n) for n in (1, 4)
    )
    for one, other in zip(whole.history, split.history, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-3)
        assert other.validation_loss == pytest.approx(one.validation_loss, rel=1e-3)
    for name, part in whole.predictions.items():
        np.testing.assert_allclose(
            part.probabilities, split.predictions[name].probabilities, atol=2e-3
        )
    assert whole.cost.throughput.batch_size == 16
    assert split.cost.throughput.batch_size == 4


@pytest.mark.parametrize(
    ("batch_size", "at_least", "count"), [(32, 1, 1), (32, 2, 2), (30, 4, 5), (7, 2, 7), (4, 8, 4)]
)
def test_micro_batches_are_equal(batch_size: int, at_least: int, count: int) -> None:
    assert equal_micro_batches(batch_size, at_least) == count
