"""The launcher of a Dask cluster: a run goes to a worker somewhere, which starts the same child.

The engine is Dask's own (``distributed``): it queues, it respects ``resources``, and it gives the
run of a worker that is lost to another one. No shared file system is needed: every sweep sends the
decoded images to each worker, kept by their fingerprint; what a run leaves comes back as values.
Records are written here, by the same sweep as of local runs.

A task watches whether it is still wanted: when the sweep is stopped or dies, the scheduler drops
its tasks, and each ends its child. What goes wrong on one worker is that run's alone; a scheduler
that is gone ends the sweep, and the same command goes on when there is one again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from distributed import Client, Future, WorkerPlugin, get_worker
from distributed.scheduler import KilledWorker

from harness import __version__
from harness.errors import UserError
from harness.execution import devices
from harness.execution.devices import Device
from harness.execution.locks import acquire_gpu
from harness.execution.processes import LOG, Event, How, ProcessResult
from harness.schema.records import Failed, Outcome
from harness.schema.run import Job
from harness.storage.files import write_atomically
from harness.storage.records import FEATURES, PREDICTIONS
from harness.sweep.scheduler import Launcher

GPU = {"GPU": 1.0}
WANTED_SECONDS = 0.5
"""Between two looks of a task at whether it is still wanted."""
BACK = (PREDICTIONS, FEATURES, LOG, "head.weights.h5", "backbone.weights.h5")
CONNECT_SECONDS = 15


def connect(address: str) -> Client:
    """A client of the scheduler at ``tcp://host:port`` or ``tls://host:port``. Raises UserError.

    TLS takes its certificates from Dask's own configuration (``distributed.comm.tls``).
    """
    # A network's weights travel with its run; Dask would rather have them elsewhere.
    warnings.filterwarnings("ignore", "Sending large graph")
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--cluster {address}: no scheduler answers there ({reason})") from None


class ImagesPlugin(WorkerPlugin):  # type: ignore[misc]
    """Brings a folder of decoded images to every worker, those that join later too."""

    idempotent = True

    def __init__(self, folder: Path, shifted: Path | None = None) -> None:
        """``shifted``: file of the shifted copy of the test images, if it is needed."""
        self.place = f"wbc-bench-{folder.name}" + (f"-{shifted.parent.name}" if shifted else "")
        self.name = f"{self.place}-{uuid4().hex[:8]}"  # Another sweep may bring the same images.
        paths = [*folder.iterdir(), *([shifted] if shifted else [])]
        self.files = {path.name: path.read_bytes() for path in paths}

    def setup(self, worker: Any) -> None:
        folder = images_folder(worker, self.place)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            if not (folder / name).exists():
                write_atomically(folder / name, content)


def images_folder(worker: Any, name: str) -> Path:
    return Path(worker.local_directory) / name


@dataclass(frozen=True)
class ClusterTask:
    """What a worker is told of one run."""

    job: Job
    images: str
    weights: tuple[bytes | None, ...]
    backend: str
    make: Callable[[], Launcher]
    topic: str
    version: str = __version__


@dataclass
class Cluster:
    """A launcher whose children live on other machines."""

    client: Client
    data_folder: Path
    make: Callable[[], Launcher]
    """Makes the launcher over there; it travels by name, so its limits are its arguments."""
    shifted: Path | None = None
    stopped: bool = False
    _resources: dict[str, float] | None = None
    _tasks: set[Future] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if not self.slots():
            raise UserError(f"--cluster {self.client.scheduler.address}: it has no workers yet")
        self._images = ImagesPlugin(self.data_folder, self.shifted)
        try:
            self.client.register_plugin(self._images)
        except Exception as error:  # Whatever a worker without wbc-bench makes of it.
            raise UserError(
                f"--cluster {self.client.scheduler.address}: its workers cannot take the images: "
                f"{_in_a_line(error)}"
            ) from error

    def slots(self) -> tuple[Device, ...]:
        """One entry a run at a time: a GPU where workers declare any, else a thread.

        Of the workers that there are now: others may join, and those that are lost come back.
        """
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        gpus = sum(int(worker["resources"].get("GPU", 0)) for worker in workers)
        count = gpus or sum(int(worker["nthreads"]) for worker in workers)
        if gpus:
            self._resources = GPU
        return (Device("cpu", "cluster"),) * count

    def close(self) -> None:
        """Take the images off the scheduler, if there is one still, and leave."""
        with suppress(OSError, RuntimeError, TimeoutError, ValueError):
            self.client.unregister_worker_plugin(self._images.name)
        self.client.close()

    def stop(self) -> None:
        with self._lock:
            self.stopped = True
            tasks = list(self._tasks)
        self.client.cancel(tasks, force=True)

    def __call__(
        self, job: Job, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> ProcessResult:
        """Run one job on some worker and bring home what it leaves.

        Never raises for its end. Raises UserError when the scheduler is gone.
        """
        topic = f"wbc-bench-{job.run.id}-{uuid4().hex[:8]}"
        order = ClusterTask(
            job=job,
            images=self._images.place,
            weights=tuple(Path(file).read_bytes() if file else None for file in job.weights),
            backend=environment["KERAS_BACKEND"],
            make=self.make,
            topic=topic,
        )
        self.client.subscribe_topic(topic, lambda event: report(event[1]))
        with self._lock:
            if self.stopped:
                return ProcessResult("stopped")
            task = self.client.submit(
                run_task, order, key=topic, pure=False, resources=self._resources
            )
            self._tasks.add(task)
        try:
            told = task.result()
        except CancelledError:
            if self.stopped:
                return ProcessResult("stopped")
            address = self.client.scheduler.address
            raise UserError(
                f"--cluster {address}: the scheduler is gone; the same command goes on from here "
                "when there is one again"
            ) from None
        except KilledWorker as error:
            reason = f"its workers were lost one after the other: {error.last_worker.address}"
            return ProcessResult("failed", failed=Failed(reason=reason))
        except Exception as error:  # Of the task itself: a full disk there, another version.
            return ProcessResult(
                "failed", failed=Failed(reason=f"on its worker: {_in_a_line(error)}")
            )
        finally:
            with suppress(OSError, RuntimeError):
                self.client.unsubscribe_topic(topic)
            with self._lock:
                self._tasks.discard(task)
        return _home(told, Path(job.output))


def _in_a_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _home(told: dict[str, Any], output: Path) -> ProcessResult:
    for name, content in told["files"].items():
        write_atomically(output / name, content)
    how: How = told["how"]
    if how == "no room":
        how = "failed"  # Of that worker's disk, not ours.
    return ProcessResult(
        how,
        outcome=Outcome.model_validate(told["outcome"]) if told["outcome"] else None,
        failed=Failed.model_validate(told["failed"]) if told["failed"] else None,
    )


# --- on the worker -------------------------------------------------------------------------------


def run_task(order: ClusterTask) -> dict[str, Any]:
    """The task: one child process from its start to its end, and the files that it leaves."""
    worker = get_worker()
    if order.version != __version__:
        reason = f"worker {worker.address} has wbc-bench {__version__}, the sweep {order.version}"
        return _told(ProcessResult("failed", failed=Failed(reason=reason)), {})
    with (
        _device(worker) as device,
        TemporaryDirectory(dir=worker.local_directory, prefix="wbc-bench-run-") as folder,
    ):
        output = Path(folder)
        data, shifted = images_folder(worker, order.images).resolve(), order.job.shifted
        job = order.job.model_copy(
            update={
                "data": str(data),
                "shifted": str(data / Path(shifted).name) if shifted else None,
                "weights": tuple(_lay(output, i, held) for i, held in enumerate(order.weights)),
                "output": str(output.resolve()),
                "device": device.id,
                "device_name": device.name,
                "device_shared": device.shared,
            }
        )
        environment = {**device.environment, "KERAS_BACKEND": order.backend}
        launcher = order.make()
        with _WhileWanted(worker, launcher):
            ended = launcher(job, environment, lambda event: worker.log_event(order.topic, event))
        files = {name: (output / name).read_bytes() for name in BACK if (output / name).exists()}
    return _told(ended, files)


def _lay(output: Path, branch: int, content: bytes | None) -> str | None:
    """Pretrained weights where the child finds them; None for random ones."""
    if content is None:
        return None
    path = output.resolve() / f"pretrained-{branch}.weights.h5"
    path.write_bytes(content)
    return str(path)


def _told(ended: ProcessResult, files: dict[str, bytes]) -> dict[str, Any]:
    return {
        "how": ended.how,
        "outcome": ended.outcome.model_dump(mode="json") if ended.outcome else None,
        "failed": ended.failed.model_dump(mode="json") if ended.failed else None,
        "files": files,
    }


@contextmanager
def _device(worker: Any) -> Iterator[Device]:
    """What the task computes on: a GPU that no other run has to itself, or the CPU.

    A worker sees its GPUs through CUDA_VISIBLE_DEVICES, and declares how many runs they take.
    Who else is on a machine's CPU, nobody can tell.
    """
    declared, gpus = worker.state.total_resources, devices.visible()
    if gpus[0].id == "cpu" or (declared and not declared.get("GPU")):
        yield Device("cpu", devices.cpu_name(), shared=True)
        return
    runs = declared.get("GPU", worker.state.nthreads)
    gpus = tuple(replace(gpu, shared=runs > len(gpus)) for gpu in gpus)
    while True:
        for gpu in random.sample(gpus, len(gpus)):
            if hold := acquire_gpu(gpu):
                try:
                    yield gpu
                finally:
                    hold.release()
                return
        time.sleep(WANTED_SECONDS)


@dataclass
class _WhileWanted:
    """Ends the children of a task that the scheduler has dropped."""

    worker: Any
    launcher: Launcher

    def __enter__(self) -> None:
        self._key = self.worker.get_current_task()
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(WANTED_SECONDS):
            task = self.worker.state.tasks.get(self._key)
            if task is None or task.state != "executing":
                logging.getLogger("distributed.worker").info("%s is not wanted", self._key)
                self.launcher.stop()
                return
