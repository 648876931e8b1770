"""The same sweep on a Dask cluster of local workers, with one of them killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.execution.devices import Device
from harness.execution.processes import ProcessResult, WorkerProcess
from harness.schema.records import Failed
from harness.storage.records import FEATURES, PREDICTIONS, Store
from harness.sweep.scheduler import SweepContext, sweep
from tests.harness.conftest import SUMMARY, Recorder, StandIn, made_planned
from tests.harness.sweep.sweeper import Slow
from tests.harness.sweep.sweeper import planned_runs as many

pytest.importorskip("distributed")

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A scheduler and two workers, each a process of its own with one thread."""
    from distributed import LocalCluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as local:
        yield local
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir()
    (folder / "meta.json").write_text("{}")
    (folder / "images.npy").write_bytes(b"pixels" * 1000)
    return folder


def made_context(results: Path, slots: Callable[[], Sequence[Device]]) -> SweepContext:
    return SweepContext(Store(results), results, SUMMARY, "quick", slots)


def records(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (results / "records").iterdir()}


def kill_when_it_works(journal: Path, pid: int) -> None:
    """On a busy machine the other worker might have executed all runs before."""
    while not (journal.exists() and str(pid) in journal.read_text().split()):
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)


def test_the_engine_does_not_change_the_result(
    cluster: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, in threads, and on two workers of which one is killed on the way."""
    from distributed import Future

    from harness.sweep.cluster import Cluster, connect

    late, result = set[str](), Future.result

    def result_on_a_busy_machine(future: Any, timeout: float) -> Any:
        if future.key in late:
            return result(future, timeout)
        late.add(future.key)
        raise UnboundLocalError("as Dask's sync raises it")

    monkeypatch.setattr(Future, "result", result_on_a_busy_machine)
    planned, cpu = many(6, 3), (Device("cpu", "Test CPU"),)
    alone, threads, spread = (tmp_path / name for name in ("alone", "threads", "spread"))
    sweep(planned, made_context(alone, lambda: cpu), StandIn())
    sweep(planned, made_context(threads, lambda: cpu * 4), StandIn())

    spread.mkdir()
    there = Cluster(connect(cluster.scheduler_address), images, partial(Slow, spread, 0.3))
    pids = there.client.run(os.getpid)
    killer = threading.Thread(
        target=kill_when_it_works, args=(spread / "journal", next(iter(pids.values()))), daemon=True
    )
    assert len(there.slots()) == 2
    killer.start()
    summary = sweep(planned, made_context(spread, there.slots), there)
    killer.join(timeout=1)
    there.close()
    assert len(late) == len(planned)
    assert not killer.is_alive(), "the worker to kill has executed no run"
    assert summary.finished == len(planned), summary.failed
    journal = (spread / "journal").read_text().split()
    assert len(set(journal[2::3])) >= 2, "both workers must have worked"
    assert set(pids.values()) & {int(pid) for pid in journal[2::3]}
    assert records(alone) == records(threads) == records(spread)
    for each in planned:
        assert (Store(spread).artefacts(each.run) / PREDICTIONS).exists()


def test_a_worker_that_joins_later_gets_its_share(
    cluster: Any, images: Path, tmp_path: Path
) -> None:
    from distributed import LocalCluster

    from harness.sweep.cluster import Cluster, connect

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
    ) as growing:
        there = Cluster(connect(growing.scheduler_address), images, partial(Slow, tmp_path, 0.5))
        assert len(there.slots()) == 1
        joining = threading.Timer(0.5, growing.scale, (3,))
        joining.start()
        planned = many(6, 3)
        summary = sweep(planned, made_context(tmp_path, there.slots), there)
        joining.join()
        there.close()
    assert summary.finished == len(planned)
    assert len(set((tmp_path / "journal").read_text().split()[2::3])) == 3


def test_images_travel_once_to_each_worker(cluster: Any, images: Path, tmp_path: Path) -> None:
    from harness.sweep.cluster import Cluster, connect

    there = Cluster(connect(cluster.scheduler_address), images, StandIn)
    copies = there.client.run(image_files, images.name)
    assert len(copies) == 2
    assert {tuple(sorted(content.items())) for content in copies.values()} == {
        tuple(sorted((path.name, path.read_bytes()) for path in images.iterdir()))
    }
    there.close()
    own = connect(cluster.scheduler_address)
    own.run(flip_a_byte, images.name)
    there = Cluster(connect(cluster.scheduler_address), images, StandIn)
    assert there.client.run(image_files, images.name) == copies, "mended by the next sweep"
    there.close()
    own.close()


def flip_a_byte(name: str, dask_worker: Any) -> None:
    path = Path(dask_worker.local_directory) / f"wbc-bench-{name}" / "images.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def image_files(name: str, dask_worker: Any) -> dict[str, bytes]:
    folder = Path(dask_worker.local_directory) / f"wbc-bench-{name}"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


ENDLESS = (
    "import json, os, sys, time\n"
    "job = json.loads(sys.stdin.readline())\n"
    "print(json.dumps({'event': 'phase', 'name': str(os.getpid()), 'steps': 1}), flush=True)\n"
    "time.sleep(600)\n"
)
BROKEN = "import sys; print('last words', file=sys.stderr); sys.exit(3)"


def test_a_stopped_sweep_ends_its_children_on_the_workers(
    cluster: Any, images: Path, tmp_path: Path
) -> None:
    from harness.sweep.cluster import Cluster, connect
    from tests.harness.sweep.test_faults import gone

    make = partial(WorkerProcess, command=(sys.executable, "-c", ENDLESS))
    there = Cluster(connect(cluster.scheduler_address), images, make)
    recorder = Recorder()

    def stop() -> None:
        deadline = time.monotonic() + 30
        while not recorder.events and time.monotonic() < deadline:
            time.sleep(0.05)
        there.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    sweep([made_planned()], made_context(tmp_path, there.slots), there, [recorder])
    stopper.join()
    assert Store(tmp_path).records() == ()
    (child,) = recorder.phase_names()
    assert gone(int(child))
    there.close()


def test_a_failure_on_a_worker_is_a_record_with_its_log(
    cluster: Any, images: Path, tmp_path: Path
) -> None:
    from harness.sweep.cluster import Cluster, connect

    make = partial(WorkerProcess, command=(sys.executable, "-c", BROKEN))
    there = Cluster(connect(cluster.scheduler_address), images, make)
    sweep([made_planned()], made_context(tmp_path, there.slots), there)
    there.close()
    (record,) = Store(tmp_path).records()
    assert record.result == Failed(reason="ended with exit code 3", log_tail=("last words",))
    assert (Store(tmp_path).artefacts(record.run) / "log.txt").read_text() == "last words\n"


SMALL = """
[protocol]
image_size = 32
[protocol.frozen]
epochs = 3
[weights]
when_offline = "random"
[ensembles]
members = []
search = false
[profile.quick.split.subset]
train = 40
validation = 16
test = 24
[profile.quick.protocol.fine_tuning]
epochs = 1
unfreeze = 3
"""


def test_the_real_worker_brings_home_the_same_from_a_cluster(cluster: Any, tmp_path: Path) -> None:
    """Pretrained weights and corrupted images go there, trained weights come back."""
    (tmp_path / "small.toml").write_text(SMALL)
    predictions = {}
    for where in ([], ["--cluster", cluster.scheduler_address]):
        results = tmp_path / ("there" if where else "here")
        command = [
            sys.executable, "-m", "harness.cli", "run", "lite0", "--data", "smear@100",
            "--profile", "quick", "--config", str(tmp_path / "small.toml"),
            "--results", str(results), *where,
        ]  # fmt: skip
        answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        (record,) = Store(results).records()
        assert record.run.weights.source == "imagenet"
        parts = set(Store(results).predictions(record.run))
        assert parts == {"validation", "test", "shifted", "frozen"}
        left = {path.name for path in Store(results).artefacts(record.run).iterdir()}
        assert left >= {"head.weights.h5", "backbone.weights.h5", FEATURES, PREDICTIONS, "log.txt"}
        predictions[results.name] = Store(results).predictions_path(record.run).read_bytes()
    assert predictions["here"] == predictions["there"]


class Full(StandIn):
    """A worker's disk has no room for one of the runs."""

    def __init__(self) -> None:
        reason = "OSError: [Errno 28] No space left on device"
        super().__init__({"resnet50": ProcessResult("no room", failed=Failed(reason=reason))})


def test_a_full_disk_on_a_worker_is_one_runs_failure(
    cluster: Any, images: Path, tmp_path: Path
) -> None:
    from harness.sweep.cluster import Cluster, connect

    there = Cluster(connect(cluster.scheduler_address), images, Full)
    planned = [made_planned(name) for name in ("vgg16", "resnet50", "lite0")]
    summary = sweep(planned, made_context(tmp_path, there.slots), there)
    there.close()
    assert summary.finished == 2
    (failed,) = summary.failed
    assert "No space left" in failed.result.reason  # type: ignore[union-attr]


def test_what_goes_wrong_in_a_task_is_one_runs_failure(
    cluster: Any, images: Path, tmp_path: Path
) -> None:
    from harness.sweep.cluster import Cluster, connect

    there = Cluster(connect(cluster.scheduler_address), images, no_launcher)
    sweep([made_planned()], made_context(tmp_path, there.slots), there)
    there.close()
    (record,) = Store(tmp_path).records()
    assert record.result == Failed(reason="on its worker: RuntimeError: no such launcher here")


def test_a_worker_of_another_version_is_said_once_and_fails_no_run(
    cluster: Any, images: Path, tmp_path: Path
) -> None:
    from harness import __version__
    from harness.sweep.cluster import Cluster, connect

    there, recorder = Cluster(connect(cluster.scheduler_address), images, StandIn), Recorder()
    there.client.run(set_version, "9.9")  # As if they had joined since.
    try:
        summary = sweep(many(3, 1), made_context(tmp_path, there.slots), there, [recorder])
        reason = f"--cluster: a worker has wbc-bench 9.9, this machine {__version__}"
        assert set(summary.wrong_input) == {reason}
        assert sorted(recorder.messages.values()) == [reason, *2 * ["left pending, as said above"]]
        assert Store(tmp_path).records() == ()
        with pytest.raises(UserError, match=reason):
            Cluster(connect(cluster.scheduler_address), images, StandIn)
    finally:
        there.client.run(set_version, __version__)
        there.close()


def set_version(version: str) -> None:
    from harness.sweep import cluster_images

    cluster_images.__version__ = version  # type: ignore[attr-defined]


FROZEN = """
from distributed import LocalCluster
with LocalCluster(n_workers=1, threads_per_worker=1, processes=False,
    dashboard_address=None, protocol="tcp") as one:
    print(one.scheduler_address, flush=True)
    input()
"""


def test_a_frozen_scheduler_obeys_the_first_ctrl_c(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.sweep import cluster as module

    monkeypatch.setattr(module, "STOP_SECONDS", 1.0)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # Ignored after `&`.
    host = subprocess.Popen(
        [sys.executable, "-c", FROZEN], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert host.stdout is not None
    address = host.stdout.readline().strip()
    there = module.Cluster(module.connect(address), images, partial(Slow, tmp_path, 0.3))

    def freeze_and_interrupt() -> None:
        deadline = time.monotonic() + 60
        while not Store(tmp_path).records() and time.monotonic() < deadline:
            time.sleep(0.05)
        host.send_signal(signal.SIGSTOP)
        time.sleep(2 * module.POLL_SECONDS)  # The sweep asks for its workers meanwhile.
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=freeze_and_interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            sweep(many(6, 3), made_context(tmp_path, there.slots), there)
        start = time.monotonic()
        there.close()
        assert time.monotonic() - start < 5, "a scheduler that hangs is asked once"
    finally:
        signal.signal(signal.SIGINT, handler)
        thread.join()
        host.kill()
        host.wait()
    assert 0 < len(Store(tmp_path).records()) < 18


def no_launcher() -> Any:
    raise RuntimeError("no such launcher here")


def test_a_scheduler_that_goes_ends_the_sweep_in_one_line(images: Path, tmp_path: Path) -> None:
    from distributed import LocalCluster

    from harness.sweep.cluster import Cluster, connect

    local = LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None)
    there = Cluster(connect(local.scheduler_address), images, partial(Slow, tmp_path, 0.3))

    def close_after_the_first_record() -> None:
        deadline = time.monotonic() + 60
        while not Store(tmp_path).records() and time.monotonic() < deadline:
            time.sleep(0.05)
        local.close()

    closing = threading.Thread(target=close_after_the_first_record)
    closing.start()
    with pytest.raises(UserError, match="the scheduler is gone; the same command goes on"):
        sweep(many(6, 3), made_context(tmp_path, there.slots), there)
    closing.join()
    there.close()
    records = Store(tmp_path).records()
    assert 0 < len(records) < 18
    assert all(record.finished for record in records)


def test_two_sweeps_may_bring_the_same_images(cluster: Any, images: Path, tmp_path: Path) -> None:
    """The first to leave does not take them from the other's workers."""
    from harness.sweep.cluster import Cluster, connect

    one, other = (Cluster(connect(cluster.scheduler_address), images, StandIn) for _ in range(2))
    one.close()
    cluster.scale(3)
    other.client.wait_for_workers(3)
    assert len(other.client.run(image_files, images.name)) == 3
    other.close()
    cluster.scale(2)


def test_no_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.sweep import cluster as module

    monkeypatch.setattr(module, "CONNECT_SECONDS", 1)
    with pytest.raises(UserError, match=r"--cluster tcp://127\.0\.0\.1:9: no scheduler answers"):
        module.connect("tcp://127.0.0.1:9")
