"""What a process waits for: counted, and who holds it reported in one line after some seconds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

REPORT_SECONDS = 5.0
"""Of waiting, before it is reported."""
ARTEFACTS_LOCK = "artefacts.lock"

COUNTED_SECONDS = 0.1
"""Of waiting since the last report that is reported to the parent, though without a line."""


@dataclass
class Waits:
    """The waiting of a process for others, which is no part of the times that it records."""

    report: Callable[[str, float], object] = lambda reason, seconds: None
    """Receives who is waited for, and for how many seconds this process has waited in all; an
    empty text when it goes on."""
    seconds: float = 0.0
    """Waited so far."""
    _reported: float = 0.0

    def clock(self) -> float:
        """``time.perf_counter``, but it stands still while the process waits."""
        return time.perf_counter() - self.seconds

    @contextmanager
    def waiting(self, what: str, path: Path, seconds: float = REPORT_SECONDS) -> Iterator[None]:
        """Around waiting for the lock in a file: after ``seconds`` report who holds it."""
        ended, was_reported = threading.Event(), threading.Event()

        def report_holder() -> None:
            if not ended.wait(seconds):
                was_reported.set()
                holder = describe_holder(path)
                self.report(f"waiting for {what}, held by {holder}", self.seconds + seconds)

        start, thread = time.perf_counter(), threading.Thread(target=report_holder, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.seconds += time.perf_counter() - start
            if was_reported.is_set() or self.seconds - self._reported >= COUNTED_SECONDS:
                self._reported = self.seconds
                self.report("", self.seconds)


def describe_holder(path: Path) -> str:
    """The processes that hold the lock in a file, as far as the system says.

    A stopped process is called so, with the command that ends it where its sweep is dead.
    """
    holders = [pid for pid in _holders(path) if pid != os.getpid()]
    return "; ".join(map(_describe, holders[:3])) or "another process"


def _holders(path: Path) -> list[int]:
    """Linux lists every lock with the process that took it and the inode of the file."""
    pids: dict[int, None] = {}
    with suppress(OSError, ValueError, IndexError):
        inode = path.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] != "->" and int(words[5].rpartition(":")[2]) == inode:
                pids[int(words[4])] = None
    return [pid for pid in pids if pid > 0]


def _describe(pid: int) -> str:
    text, state, parent = f"pid {pid}", "", 0
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        state, parent = fields[0], int(fields[1])
    if parent == os.getppid():
        text = f"another run of this sweep ({text})"
    elif folder := _results_folder(pid):
        text += f" (sweep in {folder})"
    if state not in ("T", "t"):
        return text
    text += ", which is stopped"
    if _adopts_orphans(parent):
        return f"{text} and whose sweep is dead: kill -9 {pid} ends it"
    return f"{text}: kill -CONT {pid} lets it go on"


def _results_folder(pid: int) -> Path | None:
    """The results folder of a worker: it has the lock of its artefacts open."""
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                file = descriptor.readlink()
                if file.name == ARTEFACTS_LOCK and file.parents[1].name == "artefacts":
                    return file.parents[2]
    return None


def _adopts_orphans(pid: int) -> bool:
    with suppress(OSError):
        return pid == 1 or Path(f"/proc/{pid}/comm").read_text().startswith("systemd")
    return True
