"""The locks of runs and of devices, on harness.storage.file_lock."""

from __future__ import annotations

import getpass
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from harness.errors import StoreError, UserError
from harness.execution.devices import Device
from harness.execution.lock_holders import ARTEFACTS_LOCK, Waits
from harness.schema.base import Amount, Count, Name
from harness.storage.file_lock import FileLock
from harness.storage.files import open_plain

RUN_LOCK = "run.lock"
MOST_OWNER = 4096
"""Characters of what an owner writes about itself."""
TURN_SECONDS = 0.05
"""Between two looks at whether a device is free."""
ALONE_SECONDS = 60.0
"""For which a measurement waits to be alone on its device; then it goes on with others there."""
COMPILING_SECONDS = 1.0
"""For which a measurement waits for runs that compile on its GPU; then it goes on meanwhile."""


# --- runs ----------------------------------------------------------------------------------------


class LockOwner(BaseModel):
    """What the owner of a run lock wrote about itself."""

    model_config = ConfigDict(frozen=True)

    recipe: Name = "?"
    seed: Count = 0
    host: Name = "?"
    pid: Count = 0
    since: Amount | None = None
    """Seconds of the epoch at which the lock was taken."""


class RunLock(FileLock):
    """The exclusive right to execute the run whose artefacts are in ``folder``.

    A sweep holds it while a run is under way, so that several sweeps can share a results folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / RUN_LOCK)

    def acquire_for(self, recipe: str, seed: int) -> bool:
        """Take the lock without waiting and write down its owner; False if another has it."""
        folder = self.path.parent
        if folder.is_symlink():
            raise StoreError(f"{folder}: a symbolic link; nothing is written through it")
        if not self.acquire(blocking=False):
            return False
        owner = LockOwner(
            recipe=recipe, seed=seed, host=socket.gethostname(), pid=os.getpid(), since=time.time()
        )
        assert self._file is not None
        try:
            self._file.truncate(0)
            self._file.write(owner.model_dump_json() + "\n")
            self._file.flush()
        except OSError:  # A full disk.
            self.release()
            raise
        return True

    def owner(self) -> LockOwner | None:
        """The present owner; None where the lock is free."""
        try:  # NFS locks only what is open for writing, and another user's file cannot be.
            writable = os.access(self.path, os.W_OK)
            descriptor = open_plain(self.path, os.O_RDWR if writable else os.O_RDONLY)
            with os.fdopen(descriptor, "r+" if writable else "r", encoding="utf-8") as file:
                if self._lock(file, shared=True, blocking=False):
                    return None
                return LockOwner.model_validate_json(file.read(MOST_OWNER))
        except (FileNotFoundError, StoreError):  # A link or a FIFO is nobody's lock.
            return None
        except (PermissionError, ValueError):
            return LockOwner()  # Windows lets nobody read a locked file.


@contextmanager
def artefacts_lock(folder: Path, waits: Waits | None = None) -> Iterator[None]:
    """The lock of the process that writes the artefacts of a run, which may outlive its parent.

    It waits for the previous one: no two processes ever write to the same artefacts.
    """
    lock = FileLock(folder / ARTEFACTS_LOCK)
    with _waited_for(lock, "the artefacts of this run", waits or Waits()):
        yield


@contextmanager
def _waited_for(lock: FileLock, what: str, waits: Waits) -> Iterator[FileLock]:
    """Hold a lock; waiting for it is counted and reported."""
    try:
        if not lock.acquire(blocking=False):
            with waits.waiting(what, lock.path):
                lock.acquire()
        yield lock
    finally:
        lock.release()


# --- devices -------------------------------------------------------------------------------------


class DeviceLock:
    """The lock of one device, common to all sweeps of this user on this machine.

    Runs that share a device hold it shared for each batch, so that a throughput can be measured
    exclusively in between. Work that was handed to the device must be finished before the lock is
    released, unless the run has the device to itself (``own``).
    """

    def __init__(
        self,
        device: str,
        folder: Path | None = None,
        own: bool = False,
        turn: DeviceTurn | None = None,
        waits: Waits | None = None,
    ) -> None:
        self.own = own
        self.device = device
        self.waits = waits or Waits()
        """For the lock, and for the turn."""
        self._alone_seconds = ALONE_SECONDS
        self.turn = turn or DeviceTurn(device, 0)
        self.turn.waits = self.waits
        self.seconds = 0.0
        """For which the lock was held so far; the waiting for it is not in it."""
        self._path = _device_file(device, "device", folder)
        # Whoever waits for the exclusive lock holds the gate, so that new shared locks wait too.
        self._gate = _device_file(device, "gate", folder)
        self._compiling = _device_file(device, "compile", folder)
        self._counting = threading.Lock()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Work on the device together with others. Keep it short: a measurement may be waiting."""
        gate = FileLock(self._gate)
        with ExitStack() as stack:
            with _waited_for(gate, self.device, self.waits):
                device = FileLock(self._path, shared=True)
                stack.enter_context(_waited_for(device, self.device, self.waits))
            with self._timed():
                yield

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Work on the device alone; yields whether that could be ensured.

        Others are waited for only ALONE_SECONDS, once, and runs that compile COMPILING_SECONDS.
        """
        gate, device, compiling = map(FileLock, (self._gate, self._path, self._compiling))
        try:
            with self.waits.waiting(self.device, self._path):
                alone = _acquire_within(gate, self._alone_seconds) and _acquire_within(
                    device, self._alone_seconds
                )
                if not alone:
                    self._alone_seconds = 0.0
                alone = alone and _acquire_within(compiling, COMPILING_SECONDS)
            with self._timed():
                yield device.enforced and alone
        finally:
            for lock in (compiling, device, gate):
                lock.release()

    @contextmanager
    def preparing(self, compiles: bool = False) -> Iterator[None]:
        """Load, build or compile while other runs train on a GPU; on a CPU it is work as any."""
        if self.turn.count == 0 or self.turn.device == "cpu":
            with self.shared():
                yield
        elif compiles:
            compiling = FileLock(self._compiling, shared=True)  # Autotuning runs on the GPU.
            with _waited_for(compiling, self.device, self.waits):
                yield
        else:
            yield

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._counting:
                self.seconds += time.perf_counter() - start


class DeviceTurn:
    """The right to train on a device, which ``count`` runs have at once; 0: they need none.

    The runs that are ready take it in the order of the plan. The kernel takes it from a process
    that dies.
    """

    def __init__(
        self,
        device: str,
        count: int,
        order: int = 0,
        folder: Path | None = None,
    ) -> None:
        self.waits = Waits()
        self.device, self.count, self._order, self._folder = device, count, order, folder
        self.seconds = 0.0
        """For which it was held so far."""
        self._held: tuple[FileLock, ...] = ()
        self._since = 0.0

    def take(self, on_wait: Callable[[], object] = lambda: None) -> None:
        """Wait for a turn, unless it is held already; ``on_wait``: called where it is not free."""
        if self.count == 0 or self._held:
            return
        ticket = FileLock(self._file(f"ready-{self._order:06}-{uuid4().hex[:12]}"))
        with ticket, self.waits.waiting(self.device, self._file("turn")):
            while not self._try(ticket.path):
                on_wait()
                on_wait = lambda: None  # noqa: E731
                time.sleep(TURN_SECONDS)
            with suppress(OSError):  # Windows deletes no open file; the next run does.
                ticket.path.unlink()
        self._since = time.perf_counter()

    def give_back(self) -> None:
        """Let the next run train; nothing happens where the turn is not held."""
        if self._held:
            self.seconds += time.perf_counter() - self._since
        held, self._held = self._held, ()
        for lock in held:
            lock.release()

    def _try(self, ticket: Path) -> bool:
        """Take a turn if one is free, and no run before this one in the plan is ready."""
        with FileLock(self._file("queue")):
            if any(path < ticket and _is_held(path) for path in self._tickets()):
                return False
            # Where another sweep lets more runs train at once, none of them is alone.
            together = FileLock(self._file("turn"), shared=self.count > 1)
            for i in range(self.count) if together.acquire(blocking=False) else ():
                lock = FileLock(self._file(f"turn-{i}"))
                if lock.acquire(blocking=False):
                    self._held = (lock, together)
                    return True
            together.release()
        return False

    def _tickets(self) -> list[Path]:
        pattern = self._file("ready-*")
        return sorted(pattern.parent.glob(pattern.name))

    def _file(self, kind: str) -> Path:
        return _device_file(self.device, kind, self._folder)


def _is_held(path: Path) -> bool:
    """Whether a living process holds a lock; the file of a dead one is removed."""
    lock = FileLock(path)
    try:
        if not lock.acquire(blocking=False):
            return True
        with suppress(OSError):
            path.unlink()
        return False
    finally:
        lock.release()


def _acquire_within(lock: FileLock, seconds: float) -> bool:
    if lock.acquire(blocking=False):
        return True
    start, pause = time.perf_counter(), 0.001
    while not lock.acquire(blocking=False):
        if time.perf_counter() - start >= seconds:
            return False
        time.sleep(pause)
        pause = min(2 * pause, TURN_SECONDS)
    return True


def acquire_gpu(device: Device) -> FileLock | None:
    """Hold a GPU of this machine for a whole run; None where the runs on it would not share it.

    GPUs that are shared, or on which runs take turns, are held together with others, others alone.
    """
    together = device.shared or device.turns > 0
    lock = FileLock(_device_file(device.id, "run"), shared=together)
    return lock if lock.acquire(blocking=False) else None


def _device_file(device: str, kind: str, folder: Path | None = None) -> Path:
    return (folder or lock_folder()) / f"{device.replace(':', '')}.{kind}.lock"


def lock_folder() -> Path:
    """The folder of this user's device locks, private to the user. Raises UserError if it is not.

    It is the same for every session of the user, as XDG_RUNTIME_DIR is not.
    """
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    folder = Path(tempfile.gettempdir()) / f"wbc-bench-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or (hasattr(os, "getuid") and status.st_uid != user):
        raise UserError(f"{folder}: belongs to another user; set TMPDIR to a folder of your own")
    if status.st_mode & 0o077 and os.name == "posix":
        folder.chmod(0o700)
    return folder
