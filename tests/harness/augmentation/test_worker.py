"""The process that makes epochs ahead, and the training that reads them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.augmentation.epoch_cache import EpochCache
from harness.augmentation.stream import Stream, make_in_memory
from harness.augmentation.training_images import training_stream
from harness.augmentation.worker import EpochPrefetcher, process_pool
from harness.data.image_cache import open_dataset
from harness.data.sources import prepare
from harness.execution import devices
from harness.execution.devices import Device
from harness.execution.processes import WorkerProcess
from harness.schema.augmentation import Augmentation, EpochCacheSettings, parse
from harness.schema.dataset import Split, Subset
from harness.schema.events import Event, MessageEvent
from harness.schema.protocol import Loss, Phase, Protocol
from harness.schema.run import Job, Run, Weights
from harness.storage.files import read_arrays
from harness.storage.predictions import read_predictions
from harness.storage.records import FEATURES, PREDICTIONS

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare("smear@400", 32, tmp_path_factory.mktemp("cache"))


def made_run(folder: Path, policy: str, **changes: Any) -> Run:
    short = Phase(epochs=3, batch_size=16)
    augmentation = Augmentation(policy=parse(policy), frozen_epochs=2)
    protocol = Protocol(
        image_size=32, inference_batch=16, frozen=short, augmentation=augmentation
    ).model_copy(update=changes)
    return Run(
        recipe="basic",
        weights=Weights(source="random"),
        protocol=protocol,
        data=open_dataset(folder).fingerprint,
        split=Split(subset=Subset(train=64, validation=16, test=40)),
        seed=3,
    )


def made_job(run: Run, folder: Path, tmp_path: Path, limit: int = 10**8) -> Job:
    return Job(
        run=run,
        data=str(folder),
        weights=(None,),
        output=str(tmp_path / "out"),
        device=Device("cpu", "Test CPU"),
        epochs=EpochCacheSettings(folder=str(tmp_path / "epochs"), limit_bytes=limit),
    )


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_epochs_are_made_ahead_and_not_further_than_requested(folder: Path, tmp_path: Path) -> None:
    run = made_run(folder, "randaugment+mixup")
    stream = training_stream(run, open_dataset(folder))
    cache, warnings = EpochCache(tmp_path / "epochs", 10**8), list[str]()
    damaged = tmp_path / "epochs" / stream.key / "epoch-0000" / "images.npy"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"x")
    prefetch = EpochPrefetcher(made_job(run, folder, tmp_path), warnings.append)
    try:
        prefetch(0, 2)
        wait_for(lambda: cache.find(stream, 1) is not None)
        assert cache.find(stream, 2) is None
        prefetch(2, 100)
        wait_for(lambda: cache.find(stream, 5) is not None)
        for k in range(6):
            found = cache.find(stream, k)
            assert found is not None
            np.testing.assert_array_equal(found.images, make_in_memory(stream, k).images)
    finally:
        prefetch.close()
    assert cache.find(stream, 6) is None
    (warning,) = warnings
    assert warning == f"{damaged.parent}: manifest.json is missing; it is created again"


def test_processes_make_the_same_epoch_as_threads(folder: Path, tmp_path: Path) -> None:
    data = open_dataset(folder)
    ids = np.tile(np.arange(len(data)), 6)
    targets = np.eye(8, dtype=np.float32)[data.labels[ids]]
    policy = Augmentation(policy=parse("randaugment+cutmix"))
    stream = Stream(data.images, ids, targets, policy, 1, data.fingerprint)
    expected = make_in_memory(stream, 2)
    cache = EpochCache(tmp_path, 10**9)
    with process_pool() as processes:
        made = cache.get_or_make(stream, 2, processes=processes)
    for epoch in (made, cache.find(stream, 2)):
        assert epoch is not None
        np.testing.assert_array_equal(epoch.images, expected.images)
        np.testing.assert_array_equal(epoch.targets, expected.targets)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_helpers_of_a_dead_maker_end(folder: Path, tmp_path: Path) -> None:
    run = made_run(folder, "augmix").model_copy(
        update={"split": Split(subset=Subset(train=300, validation=16, test=40))}
    )
    loss = Loss(oversampling=300)  # 8 x 300 images: enough for processes.
    run = run.model_copy(update={"protocol": run.protocol.model_copy(update={"loss": loss})})
    prefetch = EpochPrefetcher(made_job(run, folder, tmp_path))
    prefetch(0, 1000)
    assert prefetch._process is not None
    children = Path(f"/proc/{prefetch._process.pid}/task/{prefetch._process.pid}/children")
    wait_for(lambda: any(map(helps, children.read_text().split())))
    helpers = [child for child in children.read_text().split() if helps(child)]
    prefetch.close()
    wait_for(lambda: not any(map(helps, helpers)))


def helps(process: str) -> bool:
    """Whether it lives and is a helper; a zombie has no command line."""
    with suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


def test_a_dead_maker_does_not_stop_the_training(folder: Path, tmp_path: Path) -> None:
    prefetch = EpochPrefetcher(made_job(made_run(folder, "mixup"), folder, tmp_path))
    prefetch(0, 1)
    assert prefetch._process is not None
    prefetch._process.kill()
    prefetch._process.wait()
    prefetch(1, 2)
    prefetch.close()


def trained(run: Run, folder: Path, cache: EpochCache | None, tmp_path: Path) -> Any:
    from harness.execution.locks import DeviceLock
    from harness.training import trainer
    from harness.training.context import Callbacks, TrainOptions

    lock, options = DeviceLock("cpu", tmp_path), TrainOptions(epoch_cache=cache)
    data = open_dataset(folder)
    return trainer.train(trainer.build_context(run, data, None, lock, Callbacks(), options))


def probabilities(result: Any, part: str = "test") -> np.ndarray:
    return np.asarray(result.predictions[part].probabilities)


def test_disk_or_memory_gives_the_same_predictions(folder: Path, tmp_path: Path) -> None:
    run = made_run(folder, "traditional+mixup")
    cache = EpochCache(tmp_path / "epochs", 10**8)
    from_disk = trained(run, folder, cache, tmp_path)
    assert len(list((tmp_path / "epochs").glob("*/epoch-*"))) == 2  # frozen_epochs
    from_memory = trained(run, folder, None, tmp_path)
    np.testing.assert_array_equal(probabilities(from_disk), probabilities(from_memory))
    plain = trained(made_run(folder, "none"), folder, None, tmp_path)
    assert (probabilities(plain) != probabilities(from_memory)).any()
    for part in ("train", "validation", "test"):  # Features and ids are those of plain images.
        ours, theirs = from_disk.predictions[part], plain.predictions[part]
        np.testing.assert_array_equal(ours.features, theirs.features)
        np.testing.assert_array_equal(ours.ids, theirs.ids)


@pytest.mark.parametrize("policy", ["cutmix", "report-001"])
def test_from_scratch_learns_from_soft_labels(folder: Path, tmp_path: Path, policy: str) -> None:
    phase = Phase(epochs=2, batch_size=16)
    run = made_run(
        folder, policy, from_scratch=phase, loss=Loss(class_weight="balanced", label_smoothing=0.1)
    )
    cache = EpochCache(tmp_path / "epochs", 10**8)
    result = trained(run, folder, cache, tmp_path)
    assert np.isfinite(probabilities(result)).all()
    count = 1 if policy == "report-001" else 2
    assert len(list((tmp_path / "epochs").glob("*/epoch-*"))) == count


def test_validation_is_augmented_only_on_request(folder: Path, tmp_path: Path) -> None:
    plain = trained(made_run(folder, "none"), folder, None, tmp_path)
    half = Augmentation(policy=(), validation_share=0.5)
    changed = trained(made_run(folder, "none", augmentation=half), folder, None, tmp_path)
    before, after = (x.predictions["validation"].features for x in (plain, changed))
    assert (before != after).any(axis=1).sum() == 8
    for part in ("train", "test"):
        ours, theirs = changed.predictions[part], plain.predictions[part]
        np.testing.assert_array_equal(ours.features, theirs.features)


def test_a_worker_trains_on_its_epochs_and_reports_what_it_could_not_keep(
    folder: Path, tmp_path: Path
) -> None:
    run = made_run(folder, "mixup", from_scratch=Phase(epochs=3, batch_size=16))
    one = 64 * (3 * 32**2 + 4 * 8)
    job = made_job(run, folder, tmp_path, limit=2 * one + 3000)
    events: list[Event] = []
    variables = devices.environment(job.device)
    ended = WorkerProcess()(job, variables, events.append)
    assert ended.status == "finished", ended
    assert any("no room" in event.text for event in events if isinstance(event, MessageEvent))
    assert len(list((tmp_path / "epochs").glob("*/epoch-*"))) == 2
    roomy = made_job(run, folder, tmp_path / "roomy")
    assert WorkerProcess()(roomy, variables, lambda _: None).status == "finished"
    assert len(list((tmp_path / "roomy" / "epochs").glob("*/epoch-*"))) == 3
    one_way, other_way = (
        read_predictions(Path(x.output) / PREDICTIONS)["test"].probabilities for x in (job, roomy)
    )
    np.testing.assert_array_equal(one_way, other_way)
    assert set(read_arrays(Path(job.output) / FEATURES)) == {"train", "validation", "test"}


def test_keras_cv_as_the_provider(folder: Path, tmp_path: Path) -> None:
    by_layers = Augmentation(policy=parse("randaugment"), provider="keras-cv", frozen_epochs=1)
    result = trained(made_run(folder, "none", augmentation=by_layers), folder, None, tmp_path)
    ours = trained(made_run(folder, "randaugment"), folder, None, tmp_path)
    assert (probabilities(result) != probabilities(ours)).any()
