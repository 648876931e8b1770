"""Execute pending runs, and write a record for each that ends.

The runs are executed by joblib's threading backend: each of its tasks is a thread that takes one
run after the other, because joblib takes tasks ahead of time while a run must be locked at the
moment when a slot becomes free. The thread starts a child process, here or on a cluster, and waits.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from joblib import Parallel, delayed

from harness.errors import NoAccess, NoRoom, StoreError, UserError, unwritable
from harness.evaluation import metrics
from harness.execution.devices import Device
from harness.execution.locks import RunLock, acquire_gpu
from harness.execution.processes import ProcessResult, worker_environment
from harness.schema.augmentation import EpochCacheSettings
from harness.schema.dataset import DataSummary
from harness.schema.events import Event
from harness.schema.records import Failed, Finished, RunRecord
from harness.schema.run import Backend, Job
from harness.storage import unrecorded
from harness.storage.file_lock import FileLock
from harness.storage.predictions import read_predictions
from harness.storage.records import PREDICTIONS, Store
from harness.sweep.callbacks import CallbackList, ProgressCallback
from harness.sweep.planner import PlannedRun
from harness.sweep.status import StatusCallback

POLL_SECONDS = 0.5
"""Between two looks at runs that another sweep has locked."""
MOST_MICRO_BATCHES = 8
"""Into which a batch is split when memory is too small, before the run is given up."""
MOST_RUNS = 256
"""At the same time, however many slots a cluster has."""


class Launcher(Protocol):
    """Executes a job somewhere; a stand-in makes a whole sweep testable in milliseconds."""

    def stop(self) -> None:
        """End whatever is running, now; calls in progress return "stopped"."""

    def close(self) -> None:
        """Free what the launcher holds, after its last call."""

    def __call__(
        self, job: Job, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> ProcessResult: ...


@dataclass(frozen=True)
class SweepContext:
    """What all runs of a sweep share."""

    store: Store
    data_folder: Path
    data: DataSummary
    profile: str
    slots: Callable[[], Sequence[Device]]
    """One entry for each simultaneous run; those of a cluster come and go."""
    shifted: Path | None = None
    """The corrupted copy of the test images, one for all runs."""
    backend: Backend = "tensorflow"
    checkpoint_seconds: float = 30.0
    epochs: EpochCacheSettings | None = None
    compile_cache: Path | None = None
    """Folder of compiled programs; None: every run compiles its own."""
    has_weights: Callable[[PlannedRun], bool] = lambda _: True
    """Whether a run's weights have been downloaded; raises UserError where they cannot be."""
    unrecorded: Path | None = None
    """Folder for the results of runs that end while the results folder cannot be written."""

    def kept(self, planned: PlannedRun) -> Path | None:
        """The folder for the results of a run, of this results folder, in ``unrecorded``."""
        root = str(self.store.root.resolve())
        name = f"{planned.run.id}-{hashlib.sha256(root.encode()).hexdigest()[:8]}"
        return self.unrecorded / name if self.unrecorded is not None else None

    def job(self, planned: PlannedRun, device: Device, order: int = 0) -> Job:
        """The job of a run on a device; ``order``: its place in the plan."""
        kept = self.kept(planned)
        return Job(
            run=planned.run,
            data=str(self.data_folder.resolve()),
            weights=tuple(str(file.resolve()) if file else None for file in planned.weights_files),
            output=str(self.store.artefacts(planned.run).resolve()),
            kept=str(kept.resolve()) if kept else None,
            device=device,
            order=order,
            shifted=str(self.shifted.resolve()) if self.shifted else None,
            checkpoint_seconds=self.checkpoint_seconds,
            epochs=self.epochs if planned.run.protocol.augmentation.policy else None,
        )

    def environment(self, device: Device) -> dict[str, str]:
        """Environment variables of a worker on a device."""
        return worker_environment(device, self.backend, self.compile_cache)


@dataclass
class Summary:
    finished: int = 0
    failed: list[RunRecord] = field(default_factory=list)
    wrong_input: list[str] = field(default_factory=list)
    elsewhere: int = 0
    """Runs that another sweep in the same folder has recorded meanwhile."""


def sweep(
    pending: Sequence[PlannedRun],
    context: SweepContext,
    launcher: Launcher,
    callbacks: Sequence[ProgressCallback] = (),
) -> Summary:
    """Execute every pending run, in order, on the first slot that is free.

    A run that another sweep has locked is left to it, and taken over should that sweep die. Records
    are written here, one at a time, as runs end. A KeyboardInterrupt ends the children and is
    raised again; what had finished by then is on disk. Raises NoRoom when a disk is full, after
    the runs under way have ended.
    """
    callback = CallbackList([StatusCallback(context.store), *callbacks])
    callback.on_sweep_begin()
    try:
        return _Sweep(context, launcher, callback, tuple(pending), list(pending)).execute()
    finally:
        callback.on_sweep_end()


@dataclass(eq=False)
class _Assignment:
    """A run on a slot, with the locks that it holds until it has ended."""

    planned: PlannedRun
    device: Device
    locks: tuple[FileLock, ...]


@dataclass
class _Sweep:
    """A sweep under way: the runs that wait, and those that are executed."""

    context: SweepContext
    launcher: Launcher
    callback: ProgressCallback
    pending: tuple[PlannedRun, ...]
    waiting: list[PlannedRun]
    running: list[_Assignment] = field(default_factory=list)
    summary: Summary = field(default_factory=Summary)
    error: BaseException | None = None
    unwritable: NoRoom | NoAccess | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)
    """Guards all of the above; notified when a run has ended."""
    polling: threading.Lock = field(default_factory=threading.Lock)
    """Held by the one idle thread that looks for a run to execute."""

    def execute(self) -> Summary:
        count = min(len(self.waiting), MOST_RUNS)
        try:
            # With a single job, joblib would execute it in this thread, which Ctrl-C interrupts.
            Parallel(n_jobs=count + 1, backend="threading", batch_size=1, pre_dispatch="all")(
                delayed(self._work)() for _ in range(count)
            )
        except BaseException as error:
            self._stop(error)
            with self.changed:  # The threads record what has finished.
                self.changed.wait_for(lambda: not self.running)
        if self.error is not None:
            raise self.error
        if self.unwritable is not None:
            raise self.unwritable
        return self.summary

    def _work(self) -> None:
        """Execute runs until none is left."""
        try:
            while assignment := self._next():
                self._execute(assignment)
        except BaseException as error:
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        """End the sweep with the first error; the runs under way end as "stopped"."""
        with self.changed:
            is_first, self.error = self.error is None, self.error or error
            self.waiting.clear()
        if is_first:
            self.launcher.stop()

    # Before a run

    def _next(self) -> _Assignment | None:
        """The next run on a free slot, as soon as there is one; None when no run is left."""
        with self.polling, self.changed:
            while self.waiting:
                if assignment := self._assign():
                    self.running.append(assignment)
                    return assignment
                self.changed.wait(POLL_SECONDS)
        return None

    def _assign(self) -> _Assignment | None:
        """Lock the first waiting run that can be executed now, and the slot for it."""
        free = self._free_slots()
        for planned in tuple(self.waiting):
            if not free:
                break
            if self._recorded_elsewhere(planned) or not self._has_weights(planned):
                continue
            lock = RunLock(self.context.store.artefacts(planned.run))
            try:
                if not lock.acquire_for(planned.recipe.name, planned.run.seed):
                    continue
            except OSError as error:
                self._handle_unwritable(error)
                break
            # Another sweep may have recorded it between the first look and the lock.
            place = None if self._recorded_elsewhere(planned) else _lock_slot(free)
            if place is not None:
                self.waiting.remove(planned)
                return _Assignment(planned, place[0], (lock, *place[1]))
            lock.release()
        return None

    def _free_slots(self) -> list[Device]:
        free = list(self.context.slots())
        for assignment in self.running:
            if assignment.device in free:
                free.remove(assignment.device)
        return free

    def _recorded_elsewhere(self, planned: PlannedRun) -> bool:
        version = self.context.store.record_version(planned.run)
        if version in (None, planned.previous_version):
            return False
        self.waiting.remove(planned)
        self.summary.elsewhere += 1
        record = self.context.store.find(planned.run)
        self.callback.on_run_end(planned, record, "concluded elsewhere")
        return True

    def _has_weights(self, planned: PlannedRun) -> bool:
        """Whether they are there; a run whose weights never will be ends here."""
        try:
            return self.context.has_weights(planned)
        except UserError as error:
            self.waiting.remove(planned)
            self.summary.wrong_input.append(str(error))
            self.callback.on_run_end(planned, None, "its weights could not be downloaded")
            return False

    # A run and its end

    def _execute(self, assignment: _Assignment) -> None:
        planned = assignment.planned
        try:
            try:
                result = self._supervise(assignment)
                with self.changed:
                    record, message = self._record(planned, result)
            except (NoRoom, NoAccess, OSError) as error:
                record, message = None, str(self._handle_unwritable(error))
            with self.changed:
                self.callback.on_run_end(planned, record, message)
        finally:
            with self.changed:
                self.running.remove(assignment)
                for lock in assignment.locks:
                    lock.release()
                self.changed.notify_all()

    def _supervise(self, assignment: _Assignment) -> ProcessResult:
        """Execute a run; where memory is too small, again with twice as many micro-batches.

        One that has finished before, but could not be recorded, is not executed.
        """
        if outcome := unrecorded.find_outcome(*self._folders(assignment.planned)):
            return ProcessResult("finished", outcome=outcome)
        environment = self.context.environment(assignment.device)
        order = self.pending.index(assignment.planned)
        job = self.context.job(assignment.planned, assignment.device, order)
        report = partial(self.callback.on_event, assignment.planned)
        while True:
            result = self.launcher(job, environment, report)
            if result.status != "out of memory":
                return result
            if job.micro_batches >= MOST_MICRO_BATCHES:
                assert result.failed is not None
                reason = f"out of memory: {result.failed.reason.removeprefix('out of memory: ')}"
                failed = result.failed.model_copy(update={"reason": reason})
                return ProcessResult("failed", failed=failed)
            job = job.model_copy(update={"micro_batches": 2 * job.micro_batches})

    def _record(self, planned: PlannedRun, result: ProcessResult) -> tuple[RunRecord | None, str]:
        """Write the record of a run, where there is to be one, and say how the run ended."""
        reason = result.failed.reason if result.failed else ""
        if result.status == "stopped":
            return None, "stopped"
        if result.status == "no room":
            raise NoRoom.at(self.context.store.root, reason)
        if result.status == "no access":
            raise NoAccess.at(self.context.store.root, reason)
        if result.status == "wrong input":
            is_new = reason not in self.summary.wrong_input
            self.summary.wrong_input.append(reason)
            return None, reason if is_new else "left pending, as said above"
        output, *kept = self._folders(planned)
        for folder in kept:
            unrecorded.restore_kept(folder, output)
        record = _run_record(planned, result, self.context)
        self.context.store.save(record)
        unrecorded.discard(output, *kept)
        if isinstance(record.result, Failed):
            self.summary.failed.append(record)
            return record, record.result.reason
        self.context.store.drop_checkpoints(planned.run)
        self.summary.finished += 1
        return record, "finished"

    def _folders(self, planned: PlannedRun) -> list[Path]:
        """Where the results of a run may be: among its artefacts, or kept in the cache."""
        kept = self.context.kept(planned)
        return [self.context.store.artefacts(planned.run), *([kept] if kept else [])]

    def _handle_unwritable(self, error: Exception) -> UserError:
        """Start no more runs; those under way may still be recorded when they end."""
        problem = unwritable(error, self.context.store.root)
        if problem is None:
            raise error
        with self.changed:
            self.unwritable = problem
            self.waiting.clear()
        return problem


def _lock_slot(free: list[Device]) -> tuple[Device, tuple[FileLock, ...]] | None:
    """The first slot whose GPU no other sweep uses, with the lock of that GPU."""
    while free:
        device = free.pop(0)
        if device.id == "cpu":  # Its runs take turns, whatever sweep they are of.
            return device, ()
        if lock := acquire_gpu(device):
            return device, (lock,)
    return None


def _run_record(planned: PlannedRun, result: ProcessResult, context: SweepContext) -> RunRecord:
    """The record of a finished or failed run, whose predictions are on disk before it is."""
    outcome: Finished | Failed
    if result.failed is not None:
        outcome = result.failed
    else:
        try:
            outcome = _evaluate(planned, result, context)
        except StoreError as error:  # The worker's predictions have been damaged since.
            outcome = Failed(reason=str(error))
        except (ArithmeticError, LookupError, ValueError) as error:
            reason = f"its predictions cannot be scored: {type(error).__name__}: {error}"
            outcome = Failed(reason=reason)
    return RunRecord(
        run=planned.run,
        profile=context.profile,
        data=context.data,
        note=planned.note,
        variant=planned.variant,
        result=outcome,
    )


def _evaluate(planned: PlannedRun, result: ProcessResult, context: SweepContext) -> Finished:
    """Score the worker's predictions and store those of evaluated parts."""
    assert result.outcome is not None
    predictions = read_predictions(context.store.artefacts(planned.run) / PREDICTIONS)
    evaluated = {part: value for part, value in predictions.items() if part != "train"}
    context.store.save_predictions(planned.run, evaluated)
    evaluation = metrics.evaluate(evaluated, context.data.class_names)
    return Finished(**dict(result.outcome), **dict(evaluation))
