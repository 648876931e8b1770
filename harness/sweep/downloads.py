"""Weight files on their way while runs are trained: several at once, in one display."""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from joblib import Parallel, delayed
from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from harness.errors import NoRoom, Offline, UserError
from harness.storage.download import BLOCK, Download, Stopped, fetch, remote_size

AT_ONCE = 4
"""Files that are downloaded side by side."""
BAR_WIDTH = 24
LINES = 10
"""Of progress at most, where the output is no terminal."""


def find_sizes(
    files: Sequence[Download], console: Console
) -> tuple[dict[str, Download], dict[str, UserError]]:
    """Name -> the download with the size that its server says, and name -> why there is none.

    After one server did not answer no other is tried: without a network each takes seconds to fail.
    """
    silent: list[Exception] = []

    def ask(download: Download) -> Download | Offline:
        if silent:
            return download.offline(silent[0])
        try:
            return replace(download, size=remote_size(download))
        except Offline as error:
            cause = error.__cause__
            if isinstance(cause, Exception) and getattr(cause, "response", None) is None:
                silent.append(cause)
            return error

    names = [file.name for file in files]
    with console.status("looking for ImageNet weights"):
        answers = Parallel(n_jobs=AT_ONCE, backend="threading", batch_size=1)(
            delayed(ask)(file) for file in files
        )
    by_name = dict(zip(names, answers, strict=True))
    return (
        {name: answer for name, answer in by_name.items() if isinstance(answer, Download)},
        {name: answer for name, answer in by_name.items() if isinstance(answer, UserError)},
    )


class Downloads:
    """Files that arrive in the background, smallest first, so that the first run begins early.

    As a context manager it begins, and stops what has not arrived at the end. In a terminal
    ``renderables`` shows bytes, rate and time to go; elsewhere there are lines.
    """

    def __init__(self, files: Iterable[Download], console: Console) -> None:
        unique = {file.path: file for file in files}
        self.files = tuple(sorted(unique.values(), key=lambda file: file.size))
        self.total = sum(file.size for file in self.files)
        self._console = console
        self._queue = deque(self.files)
        self._received = dict.fromkeys(unique, 0)
        self._arrived: dict[Path, Exception | None] = {}
        """Of files that have come to an end; with the error of those that failed."""
        self._start = time.monotonic()
        self._next_line = 1
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(BAR_WIDTH),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._sum = self._progress.add_task(self._count(), total=self.total)

    def renderables(self) -> Iterable[RenderableType]:
        """A row for all files and one for each on its way; nothing when all have ended."""
        return self._progress.get_renderables() if len(self._arrived) < len(self.files) else ()

    def __enter__(self) -> Downloads:
        """Say how much is to come, and begin. Raises NoRoom where it does not fit."""
        if not self.files:
            return self
        folder, count = self.files[0].path.parent, _files(len(self.files))
        parts = [file.part for file in self.files if file.digest and file.part.exists()]
        left = sum(part.stat().st_size for part in parts)
        _check_room(folder, self.total - left)
        there = f" ({decimal(left)} of it is there already)" if left else ""
        self._print(f"weights: {count}, {decimal(self.total)}{there}, to be downloaded to {folder}")
        for _ in range(min(AT_ONCE, len(self.files))):
            # Daemons, because a stalled connection must not keep the program from ending.
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def ready(self, paths: Iterable[Path | None]) -> bool:
        """Whether all of these are there. Raises the error of one that could not be downloaded."""
        with self._lock:
            awaited = [path for path in paths if path in self._received]
            for error in filter(None, map(self._arrived.get, awaited)):
                raise error
            return all(path in self._arrived for path in awaited)

    def wait(self) -> dict[str, UserError]:
        """Show the progress until every file has arrived or failed; name -> error."""
        with self._progress if self.files else nullcontext():
            for thread in self._threads:
                thread.join()
        errors = {file.name: self._arrived.get(file.path) for file in self.files}
        for error in errors.values():
            if error is not None and not isinstance(error, UserError):
                raise error
        return {name: error for name, error in errors.items() if isinstance(error, UserError)}

    def _work(self) -> None:
        """Download one file after the other."""
        while not self._stopped.is_set():
            with self._lock:
                if not self._queue:
                    return
                file = self._queue.popleft()
            size, error = 0, None
            row = self._progress.add_task(file.name, total=file.size or None)
            try:
                fetch(file, partial(self._report, file, row), self._stopped)
                size = file.path.stat().st_size
            except Stopped:
                return
            except Exception as caught:  # Raised again by ``ready``.
                error = caught
            self._end(file, row, size, error)

    def _report(self, file: Download, row: TaskID, count: int) -> None:
        """Note how much of a file has arrived, and show it."""
        with self._lock:
            before, self._received[file.path] = self._received[file.path], count
            received = sum(self._received.values())
        for task, completed in ((row, count), (self._sum, received)):
            if not before and count > BLOCK:  # What was there already says nothing on the rate.
                self._progress.reset(task, completed=completed)
            else:
                self._progress.update(task, completed=completed)
        self._print_share(received)

    def _print_share(self, received: int) -> None:
        """A line for each tenth, where there are no bars."""
        with self._lock:
            tenth = LINES * received // max(self.total, 1)
            if self._console.is_terminal or not self._next_line <= tenth < LINES:
                return
            self._next_line = tenth + 1
            task = next(task for task in self._progress.tasks if task.id == self._sum)
        rate = f", {decimal(int(task.speed))}/s" if task.speed else ""
        left = f", {timedelta(seconds=task.time_remaining)} to go" if task.time_remaining else ""
        self._print(f"weights: {decimal(received)} of {decimal(self.total)}{rate}{left}")

    def _end(self, file: Download, row: TaskID, size: int, error: Exception | None) -> None:
        """A file has arrived, or has failed and counts no longer."""
        with self._lock:
            self.total += size - file.size
            self._received[file.path] = size
            self._arrived[file.path] = error
            ended, failed = len(self._arrived), sum(map(bool, self._arrived.values()))
        self._progress.remove_task(row)
        self._progress.update(
            self._sum,
            total=self.total,
            completed=sum(self._received.values()),
            description=self._count(),
        )
        if not self._console.is_terminal and not error:
            self._print(f"weights: {file.name}, {decimal(size)}, {self._count()}")
        if ended == len(self.files):
            seconds = timedelta(seconds=round(time.monotonic() - self._start))
            what = f"{_files(ended - failed)}, {decimal(self.total)}, downloaded in {seconds}"
            self._print(f"weights: {what}" + (f"; {failed} failed" if failed else ""))

    def _count(self) -> str:
        return f"{len(self._arrived)} of {_files(len(self.files))}"

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)


def _check_room(folder: Path, size: int) -> None:
    """Raise NoRoom where so many bytes do not fit."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise NoRoom.at(folder, f"{decimal(size)} to download, {decimal(free)} free")


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"
