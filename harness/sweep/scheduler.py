"""Run what is pending, and write a record for each run that ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from harness.errors import NoRoom, StoreError, is_no_room
from harness.evaluation import metrics
from harness.execution.devices import Device
from harness.execution.locks import FileLock, RunLock, acquire_gpu
from harness.execution.processes import Event, ProcessResult
from harness.schema.augmentation import EpochCacheSettings
from harness.schema.dataset import DataSummary
from harness.schema.records import Failed, Finished, RunRecord
from harness.schema.run import Backend, Job
from harness.storage.predictions import read_predictions
from harness.storage.records import PREDICTIONS, Store
from harness.sweep.planner import PlannedRun
from harness.sweep.status import StatusWriter

POLL_SECONDS = 0.5
"""Between two looks at runs that another sweep has claimed."""
MOST_MICRO_BATCHES = 8
"""Into which a batch is cut when memory is too small, before the run is given up."""


class Launcher(Protocol):
    """Runs a job to its end somewhere; a stand-in makes a whole sweep testable in milliseconds."""

    def stop(self) -> None:
        """End whatever is running, now; calls in progress return ``stopped``."""

    def close(self) -> None:
        """Nothing more will be asked of it."""

    def __call__(
        self, job: Job, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> ProcessResult: ...


class ProgressCallback(Protocol):
    """Whoever looks on: a live view, a log, or nobody."""

    def event(self, planned: PlannedRun, event: Event) -> None: ...
    def ended(self, planned: PlannedRun, record: RunRecord | None, message: str) -> None: ...


@dataclass(frozen=True)
class SweepContext:
    """What all runs of a sweep share."""

    store: Store
    data_folder: Path
    data: DataSummary
    profile: str
    slots: Callable[[], Sequence[Device]]
    """One entry a run at a time; a device may be there several times. A cluster's come and go."""
    shifted: Path | None = None
    """The shifted copy of the test images, one for all runs."""
    backend: Backend = "tensorflow"
    checkpoint_seconds: float = 30.0
    epochs: EpochCacheSettings | None = None


@dataclass
class Summary:
    finished: int = 0
    failed: list[RunRecord] = field(default_factory=list)
    wrong_input: list[str] = field(default_factory=list)
    elsewhere: int = 0
    """Runs that another sweep in the same folder has concluded meanwhile."""


def sweep(
    pending: Sequence[PlannedRun],
    setting: SweepContext,
    launch: Launcher,
    watcher: ProgressCallback,
) -> Summary:
    """Execute every pending run, in order, on the first slot that is free.

    A run that another sweep is at work on is left to it, and taken over should it die. Records
    are written here, one after the other, as runs end. A KeyboardInterrupt ends the children and
    passes through; what had finished by then is on disk. Raises NoRoom when a disk is full, after
    the runs under way have ended.
    """
    return _Sweep(setting, launch, watcher, pending).run()


@dataclass
class _Sweep:
    """A sweep under way: what waits, what runs, and the claims on it."""

    setting: SweepContext
    launch: Launcher
    watcher: ProgressCallback
    pending: Sequence[PlannedRun]
    summary: Summary = field(default_factory=Summary)
    running: dict[Future[ProcessResult], tuple[PlannedRun, Device, tuple[FileLock, ...]]] = field(
        default_factory=dict
    )
    full: NoRoom | None = None

    def run(self) -> Summary:
        self.waiting = list(self.pending)
        with ThreadPoolExecutor(max_workers=max(1, len(self.waiting))) as pool:
            try:
                while self.waiting or self.running:
                    self._start_what_can(pool)
                    self._await_an_end()
            except BaseException:
                self._stop(pool)
                raise
        if self.full is not None:
            raise self.full
        return self.summary

    def _start_what_can(self, pool: ThreadPoolExecutor) -> None:
        free = self._free() if self.waiting else []
        for planned in tuple(self.waiting):
            if not free or self.full:
                return
            if self._done_elsewhere(planned):
                continue
            claim = self._claim(planned)
            if claim is None:
                continue
            if self._done_elsewhere(planned):  # It ended between the two looks.
                claim.release()
                continue
            place = self._place(free)
            if place is None:
                claim.release()
                return
            self.waiting.remove(planned)
            device, hold = place
            future = pool.submit(self._supervise, planned, device)
            self.running[future] = planned, device, (claim, *hold)

    def _free(self) -> list[Device]:
        left = list(self.setting.slots())
        for _, device, _ in self.running.values():
            if device in left:
                left.remove(device)
        return left

    def _place(self, free: list[Device]) -> tuple[Device, tuple[FileLock, ...]] | None:
        """The next free slot, and the hold on its GPU; those that another sweep is on are not."""
        while free:
            device = free.pop(0)
            if device.id == "cpu":  # There runs take turns, whoever's they are.
                return device, ()
            if hold := acquire_gpu(device):
                return device, (hold,)
        return None

    def _claim(self, planned: PlannedRun) -> RunLock | None:
        lock = RunLock(self.setting.store.artefacts(planned.run))
        try:
            return lock if lock.acquire_for(planned.recipe.name, planned.run.seed) else None
        except OSError as error:
            self._disk_full(error)
            return None

    def _disk_full(self, error: Exception) -> None:
        """Begin no run any more; those under way may still find room at their end."""
        if not (isinstance(error, NoRoom) or is_no_room(error)):
            raise error
        self.full = error if isinstance(error, NoRoom) else NoRoom.at(self.setting.store.root)
        self.waiting.clear()

    def _done_elsewhere(self, planned: PlannedRun) -> bool:
        trace = self.setting.store.record_version(planned.run)
        if trace is None or trace == planned.seen:
            return False
        self.waiting.remove(planned)
        self.summary.elsewhere += 1
        self.watcher.ended(planned, self.setting.store.find(planned.run), "concluded elsewhere")
        return True

    def _await_an_end(self) -> None:
        if not self.running:
            if self.waiting:  # All of them are another sweep's.
                time.sleep(POLL_SECONDS)
            return
        patience = POLL_SECONDS if self.waiting else None
        done, _ = wait(self.running, timeout=patience, return_when=FIRST_COMPLETED)
        for future in done:
            self._conclude(future)

    def _supervise(self, planned: PlannedRun, device: Device) -> ProcessResult:
        """One run to its end; in smaller and smaller parts, if memory is too small for it."""
        environment = {**device.environment, "KERAS_BACKEND": self.setting.backend}
        job = _job(planned, self.setting, device)
        folder = self.setting.store.artefacts(planned.run)
        trail = StatusWriter(folder, partial(self.watcher.event, planned))
        while True:
            ended = self.launch(job, environment, trail)
            if ended.how != "out of memory":
                return ended
            if job.micro_batches >= MOST_MICRO_BATCHES:
                assert ended.failed is not None
                reason = f"out of memory: {ended.failed.reason.removeprefix('out of memory: ')}"
                return ProcessResult(
                    "failed", failed=ended.failed.model_copy(update={"reason": reason})
                )
            job = job.model_copy(update={"micro_batches": 2 * job.micro_batches})

    def _conclude(self, future: Future[ProcessResult]) -> None:
        planned, _, held = self.running[future]
        try:
            _conclude(planned, future.result(), self.setting, self.summary, self.watcher)
        except (NoRoom, OSError) as error:
            self._disk_full(error)
            self.watcher.ended(planned, None, "the disk is full")
        del self.running[future]
        for claim in held:
            claim.release()

    def _stop(self, pool: ThreadPoolExecutor) -> None:
        """End the children, and keep what ended well."""
        pool.shutdown(wait=False, cancel_futures=True)
        self.launch.stop()
        pool.shutdown(wait=True)
        for future, (_, _, held) in tuple(self.running.items()):
            if not future.cancelled() and future.exception() is None:
                self._conclude(future)
            for claim in held:
                claim.release()


def _job(planned: PlannedRun, setting: SweepContext, device: Device) -> Job:
    return Job(
        run=planned.run,
        data=str(setting.data_folder.resolve()),
        weights=tuple(str(file.resolve()) if file else None for file in planned.weights_files),
        output=str(setting.store.artefacts(planned.run).resolve()),
        device=device.id,
        device_name=device.name,
        device_shared=device.shared,
        shifted=str(setting.shifted.resolve()) if setting.shifted else None,
        checkpoint_seconds=setting.checkpoint_seconds,
        epochs=setting.epochs if planned.run.protocol.augmentation.policy else None,
    )


def _conclude(
    planned: PlannedRun,
    ended: ProcessResult,
    setting: SweepContext,
    summary: Summary,
    watcher: ProgressCallback,
) -> None:
    if ended.how == "stopped":
        watcher.ended(planned, None, "stopped")
        return
    if ended.how == "no room":
        assert ended.failed is not None
        raise NoRoom.at(setting.store.root, ended.failed.reason)
    if ended.how == "wrong input":
        assert ended.failed is not None
        summary.wrong_input.append(ended.failed.reason)
        watcher.ended(planned, None, ended.failed.reason)
        return
    record = _record(planned, ended, setting)
    setting.store.save(record)
    if isinstance(record.result, Failed):
        summary.failed.append(record)
        watcher.ended(planned, record, record.result.reason)
    else:
        setting.store.drop_checkpoints(planned.run)
        summary.finished += 1
        watcher.ended(planned, record, "finished")


def _record(planned: PlannedRun, ended: ProcessResult, setting: SweepContext) -> RunRecord:
    """Predictions -> metrics -> record. The predictions are on disk before the record is."""
    result: Finished | Failed
    if ended.failed is not None:
        result = ended.failed
    else:
        try:
            result = _finished(planned, ended, setting)
        except StoreError as error:  # What the worker wrote did not last until now.
            result = Failed(reason=str(error))
        except (ArithmeticError, LookupError, ValueError) as error:
            reason = f"its predictions cannot be scored: {type(error).__name__}: {error}"
            result = Failed(reason=reason)
    return RunRecord(
        run=planned.run,
        profile=setting.profile,
        data=setting.data,
        note=planned.note,
        result=result,
    )


def _finished(planned: PlannedRun, ended: ProcessResult, setting: SweepContext) -> Finished:
    assert ended.outcome is not None
    store, run = setting.store, planned.run
    parts = read_predictions(store.artefacts(run) / PREDICTIONS)
    evaluation = {name: part for name, part in parts.items() if name != "train"}
    store.save_predictions(run, evaluation)
    return Finished(
        **dict(ended.outcome), **dict(metrics.evaluate(evaluation, setting.data.class_names))
    )
