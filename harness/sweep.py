"""Run what is pending, and write a record for each run that ends."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness import metrics
from harness.devices import Device
from harness.launch import Ended, Event
from harness.nouns import DataSummary, Failed, Finished, Job, RunRecord
from harness.plan import Planned
from harness.store import PREDICTIONS, Store, read_predictions


class Launcher(Protocol):
    """Runs a job to its end somewhere; a stand-in makes a whole sweep testable in milliseconds."""

    def stop(self) -> None:
        """End whatever is running, now; calls in progress return ``stopped``."""

    def __call__(
        self, job: Job, environment: Mapping[str, str], report: Callable[[Event], None]
    ) -> Ended: ...


class Watcher(Protocol):
    """Whoever looks on: a live view, a log, or nobody."""

    def event(self, planned: Planned, event: Event) -> None: ...
    def ended(self, planned: Planned, record: RunRecord | None, message: str) -> None: ...


@dataclass(frozen=True)
class Setting:
    """What all runs of a sweep share."""

    store: Store
    data_folder: Path
    data: DataSummary
    profile: str
    slots: Sequence[Device]
    """One entry a run at a time; a device may be there several times."""
    shifted: Path | None = None
    """The shifted copy of the test images, one for all runs."""


@dataclass
class Summary:
    finished: int = 0
    failed: list[RunRecord] = field(default_factory=list)
    wrong_input: list[str] = field(default_factory=list)


def sweep(
    pending: Sequence[Planned], setting: Setting, launch: Launcher, watcher: Watcher
) -> Summary:
    """Execute every pending run, in order, on the first slot that is free.

    Records are written here, one after the other, as runs end. A KeyboardInterrupt ends the
    children and passes through; what had finished by then is on disk.
    """
    slots: queue.SimpleQueue[Device] = queue.SimpleQueue()
    for device in setting.slots:
        slots.put(device)
    summary = Summary()

    def supervise(planned: Planned) -> Ended:
        device = slots.get()
        try:
            job = _job(planned, setting, device)
            return launch(job, device.environment, lambda event: watcher.event(planned, event))
        finally:
            slots.put(device)

    with ThreadPoolExecutor(max_workers=len(setting.slots)) as pool:
        running: dict[Future[Ended], Planned] = {pool.submit(supervise, p): p for p in pending}
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    planned = running.pop(future)
                    _conclude(planned, future.result(), setting, summary, watcher)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            launch.stop()
            pool.shutdown(wait=True)
            for future, planned in running.items():
                if not future.cancelled() and future.exception() is None:
                    _conclude(planned, future.result(), setting, summary, watcher)
            raise
    return summary


def _job(planned: Planned, setting: Setting, device: Device) -> Job:
    return Job(
        run=planned.run,
        data=str(setting.data_folder.resolve()),
        weights=tuple(str(file.resolve()) if file else None for file in planned.weights_files),
        output=str(setting.store.artefacts(planned.run).resolve()),
        device=device.id,
        device_name=device.name,
        shifted=str(setting.shifted.resolve()) if setting.shifted else None,
    )


def _conclude(
    planned: Planned, ended: Ended, setting: Setting, summary: Summary, watcher: Watcher
) -> None:
    if ended.how == "stopped":
        watcher.ended(planned, None, "stopped")
        return
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
        summary.finished += 1
        watcher.ended(planned, record, "finished")


def _record(planned: Planned, ended: Ended, setting: Setting) -> RunRecord:
    """Predictions -> metrics -> record. The predictions are on disk before the record is."""
    return RunRecord(
        run=planned.run,
        profile=setting.profile,
        data=setting.data,
        note=planned.note,
        result=ended.failed if ended.failed is not None else _finished(planned, ended, setting),
    )


def _finished(planned: Planned, ended: Ended, setting: Setting) -> Finished:
    assert ended.outcome is not None
    store, run = setting.store, planned.run
    parts = read_predictions(store.artefacts(run) / PREDICTIONS)
    judged = {name: part for name, part in parts.items() if name != "train"}
    store.save_predictions(run, judged)
    return Finished(**dict(ended.outcome), **dict(metrics.judge(judged, setting.data.class_names)))
