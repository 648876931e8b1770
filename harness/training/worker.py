"""The child process that executes one Run: ``python -m harness.training.worker``.

The job comes as one line of JSON on stdin; events go out as lines of JSON on stdout. Everything
that a library prints goes to the log. When stdin closes, the parent is gone, and so are we.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.execution.child import serve, throttled

if TYPE_CHECKING:
    from harness.execution.locks import DeviceLock
    from harness.execution.monitor import ResourceMonitor
    from harness.schema.run import Job


BEGAN = time.perf_counter()


def main() -> int:
    return serve(_execute)


def _execute(job_text: str, emit: Any) -> dict[str, Any]:
    from harness.execution import energy
    from harness.execution.locks import DeviceLock, artefacts_lock
    from harness.execution.monitor import ResourceMonitor
    from harness.schema.run import Job

    job = Job.model_validate_json(job_text)

    def tell(resident_mb: float | None, device_mb: float | None) -> None:
        emit("memory", resident_mb=resident_mb, device_mb=device_mb)

    with artefacts_lock(Path(job.output)), ResourceMonitor(energy.of(job.device), tell) as pulse:
        return _train(job, DeviceLock(job.device, own=job.own_device), pulse, emit)


def _train(job: Job, device_lock: DeviceLock, pulse: ResourceMonitor, emit: Any) -> dict[str, Any]:
    emit("phase", name="start", steps=1)
    with device_lock.shared():  # Loading a framework keeps a core busy for seconds.
        import keras

        from harness.training import throughput, trainer
        from harness.training.context import Events, TrainOptions
        from harness.training.model import make_deterministic

    make_deterministic(keras.backend.backend())
    if job.device != "cpu":
        pulse.device_memory = partial(throughput.device_memory_mb, "current")
    from harness.augmentation.worker import EpochPrefetcher
    from harness.data.image_cache import open_dataset
    from harness.data.shifted_test import open_shifted
    from harness.data.splitting import split_indices
    from harness.schema.ledger import Ledger

    events = Events(
        phase=lambda name, steps: emit("phase", name=name, steps=steps),
        step=throttled(lambda done, of: emit("step", done=done, of=of)),
        epoch=lambda epoch: emit("epoch", line=epoch.model_dump(mode="json")),
        device_lock=device_lock,
        device=job.device_name,
        keeper=_keeper(job, emit),
        parts=job.micro_batches,
    )
    start = time.perf_counter() - BEGAN
    weights = tuple(Path(file) if file else None for file in job.weights)
    data, shifted = open_dataset(Path(job.data)), None
    if job.shifted:
        test = split_indices(job.run.split, data).test
        shifted = open_shifted(Path(job.shifted), data, test, job.run.split)
    prefetcher = EpochPrefetcher(job)
    try:
        beside = TrainOptions(shifted, _epoch_cache(job, emit), prefetcher)
        trained = trainer.train(job.run, data, weights, events, beside)
    finally:
        prefetcher.close()
    emit("phase", name="writing", steps=1)
    _write(Path(job.output), trained)
    assert events.keeper is not None
    told = _outcome(trained, start)
    resumed = events.keeper.resumed
    pulse.energy.look()
    ledger = Ledger(
        **_learnt(trained),
        device_seconds=_device_seconds(device_lock, trained, start),
        energy_joules=None if resumed else pulse.energy.joules,
        energy_exclusive=not job.device_shared,
    )
    told = told.model_copy(
        update={"micro_batches": trained.parts, "resumed": resumed, "ledger": ledger}
    )
    return told.model_dump(mode="json")


def _device_seconds(device_lock: DeviceLock, trained: Any, start: float) -> float:
    """Steps on a GPU of the run's own go on after their turns: there all of its time counts."""
    if device_lock.own:
        return start + sum(trained.seconds[part] for part in ("build", "training", "evaluation"))
    return device_lock.seconds + float(trained.seconds["before"])


def _learnt(trained: Any) -> dict[str, int]:
    """What a training learnt from, by the fields of the ledger."""
    on_features = [line for line in trained.history if line.phase == "frozen"]
    on_images = [line for line in trained.history if line.phase != "frozen"]
    return {
        "epochs_on_features": len(on_features),
        "feature_rows_learnt": sum(line.samples for line in on_features),
        "images_embedded": trained.embedded,
        "epochs_on_images": len(on_images),
        "images_learnt": sum(line.samples for line in on_images),
    }


def _epoch_cache(job: Any, emit: Any) -> Any:
    from harness.augmentation.epoch_cache import EpochCache

    if job.epochs is None:
        return None
    folder, limit = Path(job.epochs.folder), job.epochs.limit_bytes
    return EpochCache(folder, limit, warn=lambda text: emit("message", text=text))


def _keeper(job: Job, emit: Any) -> Any:
    """Checkpoints that only the same program on the same backend goes on from."""
    import keras

    from harness import __version__
    from harness.training.checkpoint import CheckpointManager

    def tell(line: str) -> None:
        print(f"warning: {line}", file=sys.stderr, flush=True)
        emit("warning", line=line)

    signature = {
        "run": job.run.id,
        "wbc_bench": __version__,
        "keras": keras.__version__,
        "backend": f"{keras.backend.backend()} {_backend_version()}",
    }
    return CheckpointManager(Path(job.output), signature, every=job.checkpoint_seconds, tell=tell)


def _write(output: Path, trained: Any) -> None:
    """Artefacts first to last; the parent reads them, then writes the record."""
    from harness.storage.files import write_arrays
    from harness.storage.predictions import write_predictions
    from harness.storage.records import FEATURES, PREDICTIONS

    output.mkdir(parents=True, exist_ok=True)
    write_arrays(
        output / FEATURES,
        {
            name: part.features
            for name, part in trained.predictions.items()
            if part.features is not None
        },
    )
    write_predictions(output / PREDICTIONS, trained.predictions)
    _save_weights(trained.head, output / "head.weights.h5")
    if any(line.phase != "frozen" for line in trained.history):
        _save_weights(trained.network, output / "backbone.weights.h5")


def _save_weights(model: Any, path: Path) -> None:
    """Beside, then rename: a killed HDF5 write leaves a torn file."""
    temporary = path.with_name(f"tmp-{path.name}")
    model.save_weights(temporary)
    temporary.replace(path)


def _outcome(trained: Any, start: float) -> Any:
    import platform

    import keras
    import numpy as np

    from harness import __version__
    from harness.execution import devices
    from harness.schema.records import Environment, Outcome, Timings

    return Outcome(
        cost=trained.cost,
        history=trained.history,
        timings=Timings(
            start=start,
            build=trained.seconds["build"],
            training=trained.seconds["training"],
            evaluation=trained.seconds["evaluation"],
            total=time.perf_counter() - BEGAN,
            compile=trained.seconds["compile"],
        ),
        environment=Environment(
            wbc_bench=__version__,
            python=platform.python_version(),
            keras=keras.__version__,
            backend=f"{keras.backend.backend()} {_backend_version()}",
            numpy=np.__version__,
            platform=f"{platform.system()} {platform.machine()}",
            cores=devices.cores(),
        ),
    )


def _backend_version() -> str:
    import keras

    name = keras.backend.backend()
    return str(sys.modules[name].__version__) if name in sys.modules else "?"


if __name__ == "__main__":
    sys.exit(main())
