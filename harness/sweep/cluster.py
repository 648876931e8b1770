"""The launcher of a Dask cluster: each run goes to a worker, which starts the same child process.

It uses Dask itself instead of joblib's Dask backend: joblib fixes the number of slots when it
starts and takes tasks ahead of time, while workers come and go here and a run is locked when its
slot is free. It could neither cancel a single task nor pass on the events of one.

No shared file system is needed: every sweep sends the decoded images to each worker, stored there
by their fingerprint, and a run's files come back as values. Records are written here. A task that
the scheduler has dropped, because its sweep was stopped or has died, ends its child. What goes
wrong on a worker fails that run alone; without a scheduler the sweep ends, and the same command
resumes it.
"""

from __future__ import annotations

import logging
import pickle
import random
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast
from uuid import uuid4

from distributed import Client, Future, get_worker
from distributed.scheduler import KilledWorker

from harness.errors import UserError
from harness.execution import devices
from harness.execution.devices import Device
from harness.execution.locks import acquire_gpu
from harness.execution.processes import LOG, ProcessResult, worker_environment
from harness.schema.events import Event, read_event, write_event
from harness.schema.records import Failed
from harness.schema.run import Backend, Job
from harness.storage.files import write_atomically
from harness.storage.records import BACKBONE_WEIGHTS, FEATURES, HEAD_WEIGHTS, PREDICTIONS
from harness.storage.unrecorded import OUTCOME, write_or_keep
from harness.sweep.cluster_images import ImagesPlugin, check_version, images_folder
from harness.sweep.scheduler import Launcher

GPU = {"GPU": 1.0}
POLL_SECONDS = 0.5
"""Between two looks at the workers, at whether the scheduler knows a task, or at GPUs in use."""
RETURNED_FILES = (PREDICTIONS, FEATURES, LOG, HEAD_WEIGHTS, BACKBONE_WEIGHTS, OUTCOME)
CONNECT_SECONDS = 15.0
STOP_SECONDS = 5.0
"""For which a scheduler may take to stop; then the sweep ends without it."""
ADDRESS = re.compile(r"(tcp|tls)://([\w.-]+|\[[0-9a-fA-F:.%]+\]):\d{1,5}")
T = TypeVar("T")


class _Client(Client):  # type: ignore[misc]
    def __del__(self) -> None:
        """It is closed, or goes with the process; Dask would wait, and complain, if it never met
        its scheduler."""


def connect(address: str) -> Client:
    """A client of the scheduler at ``tcp://host:port`` or ``tls://host:port``. Raises UserError.

    TLS takes its certificates from Dask's own configuration (``distributed.comm.tls``).
    """
    # Dask warns that the weights of a network travel with its task.
    warnings.filterwarnings("ignore", "Sending large graph")
    if not ADDRESS.fullmatch(address):
        raise UserError(
            f"--cluster {address}: no address; write tcp://HOST:PORT or tls://HOST:PORT"
        )
    try:
        connecting = partial(_Client, address, timeout=CONNECT_SECONDS, set_as_default=False)
        return within(CONNECT_SECONDS, connecting)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--cluster {address}: no scheduler answers there ({reason})") from None


def within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns or raises; TimeoutError where it lasts longer, as Dask's own may."""
    outcome: futures.Future[T] = futures.Future()

    def execute() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=execute, daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        raise TimeoutError(f"no answer in {seconds:g} s") from None


@dataclass(frozen=True)
class ClusterTask:
    """A run as it travels to a worker."""

    job: Job
    images: str
    """Name of the folder that ImagesPlugin has filled there."""
    backend: Backend
    make_launcher: Callable[[], Launcher]
    topic: str
    """On which the worker reports events."""


@dataclass(frozen=True)
class TaskResult:
    """How a run ended on a worker, and the files that it left."""

    result: ProcessResult
    files: Mapping[str, bytes]

    def write(self, folder: Path) -> None:
        for name, content in self.files.items():
            write_atomically(folder / name, content)


@dataclass
class Cluster:
    """A launcher whose children live on other machines."""

    client: Client
    data_folder: Path
    make_launcher: Callable[[], Launcher]
    """Makes the launcher on a worker; it is pickled by name with its arguments."""
    shifted: Path | None = None
    stopped: bool = False
    _resources: dict[str, float] | None = None
    _workers: Mapping[str, Any] | None = None
    """As the scheduler listed them last; None where it is gone."""
    _answers: bool = True
    """Whether the scheduler has answered in time so far."""
    _closed: threading.Event = field(default_factory=threading.Event)
    _tasks: set[Future] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._option = f"--cluster {self.client.scheduler.address}"
        self._refresh()
        threading.Thread(target=self._refresh_regularly, daemon=True).start()
        if not self.slots():
            raise UserError(f"{self._option}: it has no workers yet")
        self._images = ImagesPlugin(self.data_folder, self.shifted)
        try:
            self.client.register_plugin(self._images)
        except UserError:
            raise
        except Exception as error:  # Whatever a worker without wbc-bench raises.
            raise UserError(
                f"{self._option}: its workers cannot take the images: {_one_line(error)}"
            ) from error

    def _refresh(self) -> None:
        self._workers = self.client.scheduler_info(n_workers=-1).get("workers")

    def _refresh_regularly(self) -> None:
        """In its own thread: a scheduler that hangs must not block the sweep."""
        while not self._closed.wait(POLL_SECONDS):
            with suppress(Exception):
                self._refresh()

    def slots(self) -> tuple[Device, ...]:
        """One entry for each simultaneous run: a GPU where workers declare any, else a thread.

        It counts the present workers: others may join, and those that are lost may come back.
        """
        if (workers := self._workers) is None:
            raise self._scheduler_is_gone()
        gpus = sum(int(worker["resources"].get("GPU", 0)) for worker in workers.values())
        count = gpus or sum(int(worker["nthreads"]) for worker in workers.values())
        if gpus:
            self._resources = GPU
        return (Device("cpu", "cluster"),) * count

    def _scheduler_is_gone(self) -> UserError:
        return UserError(
            f"{self._option}: the scheduler is gone; the same command goes on from here "
            "when there is one again"
        )

    def close(self) -> None:
        """Remove the images from the scheduler, if there is one still, and disconnect."""
        self._closed.set()
        self._ask(partial(self.client.unregister_worker_plugin, self._images.name))
        self._ask(self.client.close)

    def _ask(self, call: Callable[[], object]) -> None:
        """Something that ends the work on the cluster; a scheduler that hangs is asked once."""
        try:
            if self._answers:
                within(STOP_SECONDS, call)
        except TimeoutError:
            self._answers = False
        except (OSError, RuntimeError, ValueError):
            pass

    def stop(self) -> None:
        with self._lock:
            self.stopped = True
            tasks = list(self._tasks)
        self._ask(partial(self.client.cancel, tasks, force=True))

    def __call__(
        self, job: Job, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> ProcessResult:
        """Execute a job on a worker and store its files here.

        Whatever ends the job is a result; raises UserError when the scheduler is gone.
        """
        topic = f"wbc-bench-{job.run.id}-{uuid4().hex[:8]}"
        backend = cast(Backend, environment["KERAS_BACKEND"])
        task = ClusterTask(job, self._images.place, backend, self.make_launcher, topic)
        weights = tuple(Path(file).read_bytes() if file else None for file in job.weights)
        arguments = (self._images.version, pickle.dumps(task), weights)
        self.client.subscribe_topic(topic, lambda entry: report(read_event(entry[1])))
        with self._lock:
            if self.stopped:
                return ProcessResult("stopped")
            future = self.client.submit(
                execute_task, *arguments, key=topic, pure=False, resources=self._resources
            )
            self._tasks.add(future)
        try:
            ended = self._wait(future)
        except futures.CancelledError:
            if self.stopped:
                return ProcessResult("stopped")
            raise self._scheduler_is_gone() from None
        except KilledWorker as error:
            return _failed(
                f"its workers were lost one after the other: {error.last_worker.address}"
            )
        except Exception as error:  # Of the task itself, as a full disk there.
            return _failed(f"on its worker: {_one_line(error)}")
        finally:
            with suppress(OSError, RuntimeError):
                self.client.unsubscribe_topic(topic)
            with self._lock:
                self._tasks.discard(future)
        write_or_keep(job, ended.write)
        if ended.result.status == "no room":  # On the worker's disk, not on ours.
            return replace(ended.result, status="failed")
        return ended.result

    def _wait(self, future: Future) -> TaskResult:
        """What a task returns. Raises CancelledError where the sweep is stopped meanwhile."""
        while True:
            try:
                ended: TaskResult = future.result(timeout=POLL_SECONDS)
                return ended
            except (TimeoutError, UnboundLocalError):  # Dask's sync raises either when it is late.
                if future.status == "error":
                    raise  # By the task itself.
                if self.stopped and not future.done():
                    raise futures.CancelledError from None


def _failed(reason: str) -> ProcessResult:
    return ProcessResult("failed", failed=Failed(reason=reason))


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


# --- on the worker -------------------------------------------------------------------------------


def execute_task(version: str, pickled: bytes, weights: Sequence[bytes | None]) -> TaskResult:
    """Execute a run in a child process of the worker, and collect the files that it leaves.

    ``pickled``: a ClusterTask, which another ``version`` of this program may not be able to load.
    """
    worker = get_worker()
    try:
        check_version(version)
    except UserError as error:
        failed = Failed(reason=str(error))
        return TaskResult(ProcessResult("wrong input", failed=failed), {})
    task: ClusterTask = pickle.loads(pickled)
    with (
        _device(worker) as device,
        TemporaryDirectory(dir=worker.local_directory, prefix="wbc-bench-run-") as folder,
    ):
        output = Path(folder).resolve()
        data, shifted = images_folder(worker, task.images).resolve(), task.job.shifted
        job = task.job.model_copy(
            update={
                "data": str(data),
                "shifted": str(data / Path(shifted).name) if shifted else None,
                "weights": tuple(
                    _write_weights(output / f"pretrained-{branch}.weights.h5", content)
                    for branch, content in enumerate(weights)
                ),
                "output": str(output),
                "kept": None,
                "device": device,
            }
        )
        compiled = Path(worker.local_directory) / "wbc-bench-compiled"
        environment = worker_environment(device, task.backend, compiled)
        launcher = task.make_launcher()
        with _stopped_when_dropped(worker, launcher):
            result = launcher(
                job, environment, lambda event: worker.log_event(task.topic, write_event(event))
            )
        paths = [output / name for name in RETURNED_FILES]
        return TaskResult(result, {path.name: path.read_bytes() for path in paths if path.exists()})


def _write_weights(path: Path, content: bytes | None) -> str | None:
    if content is None:
        return None
    path.write_bytes(content)
    return str(path)


@contextmanager
def _device(worker: Any) -> Iterator[Device]:
    """The device of a task: a GPU that no other run has to itself, or the CPU.

    A worker sees its GPUs through CUDA_VISIBLE_DEVICES, and declares how many runs they take. The
    CPU counts as shared: other users of the machine are not known.
    """
    declared, gpus = worker.state.total_resources, devices.visible()
    if gpus[0].id == "cpu" or (declared and not declared.get("GPU")):
        yield Device("cpu", devices.cpu_name(), shared=True)
        return
    runs = declared.get("GPU", worker.state.nthreads)
    gpus = tuple(replace(gpu, shared=runs > len(gpus)) for gpu in gpus)
    while True:
        for gpu in random.sample(gpus, len(gpus)):
            if lock := acquire_gpu(gpu):
                try:
                    yield gpu
                finally:
                    lock.release()
                return
        time.sleep(POLL_SECONDS)


@contextmanager
def _stopped_when_dropped(worker: Any, launcher: Launcher) -> Iterator[None]:
    """Stop the launcher when the scheduler has dropped the current task."""
    key, done = worker.get_current_task(), threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            task = worker.state.tasks.get(key)
            if task is None or task.state != "executing":
                logging.getLogger("distributed.worker").info("%s was dropped", key)
                launcher.stop()
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
