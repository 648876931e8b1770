"""Downloads from a server that cuts off, stalls, refuses, lies and ignores what it is asked for."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import ChecksumError, NoAccess, Offline
from harness.storage import download as downloading
from harness.storage.download import Download, Stopped, fetch, remote_size
from harness.storage.file_lock import FileLock
from tests.harness.file_server import CUT, FileServer, serving

SIGNATURE = b"\x89HDF"
BODY = SIGNATURE + random.Random(0).randbytes(300_000)
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(BODY).hexdigest()}"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as state:
        state.files["/file"] = BODY
        yield state


@pytest.fixture
def file(server: FileServer, tmp_path: Path) -> Download:
    path = tmp_path / "folder" / "network.h5"
    return Download("vgg16", f"{server.url}/file", path, MD5, SIGNATURE)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client would have waited."""
    waits: list[float] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return self.is_set()

    monkeypatch.setattr("urllib3.util.retry.time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr(downloading, "threading", SimpleNamespace(Event=Event))
    return waits


def names(file: Download) -> list[str]:
    return sorted(path.name for path in file.path.parent.iterdir())


@pytest.mark.parametrize("digest", [MD5, SHA256, None])
def test_downloaded_once(file: Download, server: FileServer, digest: str | None) -> None:
    file, counts = replace(file, digest=digest), []
    assert fetch(file, counts.append).read_bytes() == BODY
    assert fetch(file) == file.path
    assert len(server.gets) == 1
    assert server.gets[0][1]["User-Agent"].startswith("wbc-bench")
    assert names(file) == ["network.h5"]
    assert counts[0] == 0
    assert counts[-1] == len(BODY)
    assert counts == sorted(counts)


def test_a_damaged_file_is_fetched_again(file: Download, server: FileServer) -> None:
    file.path.parent.mkdir()
    file.path.write_bytes(BODY[:1000])
    assert fetch(file).read_bytes() == BODY


@pytest.mark.parametrize("trouble", ["break", "stall"])
def test_what_breaks_off_or_stalls_is_resumed(
    file: Download,
    server: FileServer,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    monkeypatch.setattr(downloading, "STALL_SECONDS", 0.3)
    server.troubles["/file"] = [trouble, trouble]
    assert fetch(file).read_bytes() == BODY
    assert server.ranges() == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]
    assert waits == [1, 1], "what brings something new is no failure in a row"


@pytest.mark.parametrize("left", [123_456, len(BODY)])
def test_what_an_earlier_process_left_is_resumed(
    file: Download, server: FileServer, left: int
) -> None:
    file.path.parent.mkdir()
    file.part.write_bytes(BODY[:left])
    counts: list[int] = []
    assert fetch(file, counts.append).read_bytes() == BODY
    assert server.ranges() == [f"bytes={left}-"]
    assert min(counts, default=left) == left


@pytest.mark.parametrize("left", [random.Random(1).randbytes(123_456), BODY + b"more"])
def test_a_partial_file_of_something_else_starts_anew(
    file: Download, server: FileServer, left: bytes
) -> None:
    file.path.parent.mkdir()
    file.part.write_bytes(left)
    assert fetch(file).read_bytes() == BODY
    assert server.ranges() == [f"bytes={len(left)}-", None]


def test_without_a_checksum_nothing_that_was_left_is_believed(
    file: Download, server: FileServer
) -> None:
    file.path.parent.mkdir()
    file.part.write_bytes(random.Random(1).randbytes(123_456))
    server.troubles["/file"] = ["break", "break"]
    server.etags["/file"] = '"first"'
    assert fetch(replace(file, digest=None)).read_bytes() == BODY
    assert server.ranges() == [None, f"bytes={CUT}-", f"bytes={2 * CUT}-"]
    assert server.gets[1][1]["If-Range"] == '"first"'


def test_a_file_that_changes_on_its_server_starts_anew(
    file: Download, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/file"], server.etags["/file"] = BODY[::-1], '"old"'
    server.troubles["/file"] = ["break"]

    def change(count: int) -> None:
        if count == CUT:
            server.files["/file"], server.etags["/file"] = BODY, '"new"'

    assert fetch(replace(file, digest=None), change).read_bytes() == BODY


@pytest.mark.parametrize("trouble", ["whole", "other range"])
def test_a_server_that_ignores_the_range(file: Download, server: FileServer, trouble: str) -> None:
    server.troubles["/file"] = ["break", trouble]
    assert fetch(file).read_bytes() == BODY


def test_tries_in_vain_are_limited(file: Download, server: FileServer, waits: list[float]) -> None:
    file = replace(file, digest=None)  # And no ETag: each try begins at the start.
    server.troubles["/file"] = ["break"] * 100
    with pytest.raises(Offline, match=r"vgg16: cannot download http.*broke off.*put it at .*h5"):
        fetch(file)
    assert len(server.gets) == 1 + (downloading.TRIES - 1)
    assert waits == [1, 2, 4, 8]
    assert file.part.stat().st_size == CUT, "the same command goes on from here"


def test_a_busy_server_is_asked_again_when_it_says(
    file: Download, server: FileServer, waits: list[float]
) -> None:
    server.troubles["/file"] = ["429", "503"]
    assert fetch(file).read_bytes() == BODY
    assert waits == [7, 7]
    file.path.unlink()
    server.troubles["/file"] = ["503"] * 100
    server.retry_after = "3600"
    with pytest.raises(Offline, match="the server answered 503"):
        fetch(file)
    assert waits[2:] == [downloading.LONGEST_WAIT] * (downloading.TRIES - 1)


def test_a_missing_file_is_said_at_once(file: Download, server: FileServer) -> None:
    server.files.clear()
    with pytest.raises(Offline) as caught:
        fetch(file)
    assert str(caught.value) == (
        f"vgg16: cannot download {file.url} (the server answered 404); "
        f"fetch it elsewhere and put it at {file.path}"
    )
    assert len(server.gets) == 1
    assert names(file) == []


def test_wrong_bytes_are_rejected_and_deleted(file: Download, server: FileServer) -> None:
    server.files["/file"] = BODY[::-1]
    with pytest.raises(ChecksumError) as caught:
        fetch(file)
    assert f"vgg16: the download from {file.url} does not have the checksum {MD5}" in str(
        caught.value
    )
    assert f"put the file at {file.path}" in str(caught.value)
    assert names(file) == []
    server.files["/file"] = b"<html>please log in</html>"
    with pytest.raises(ChecksumError, match="does not have the expected format"):
        fetch(replace(file, digest=None))
    assert names(file) == []


def test_nobody_listens(file: Download) -> None:
    file = replace(file, url="http://127.0.0.1:9/file")
    for ask in (remote_size, fetch):
        with pytest.raises(Offline, match="Connection refused"):
            ask(file)


def test_the_size_is_asked_for(file: Download, server: FileServer) -> None:
    assert remote_size(file) == len(BODY)
    server.head = 405
    assert remote_size(replace(file, size=7)) == 7
    server.head = 403
    with pytest.raises(Offline, match="the server answered 403"):
        remote_size(file)
    assert server.gets == []


def test_what_another_process_downloads_is_waited_for(
    file: Download, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.path.parent.mkdir()
    lock, counts = FileLock(file.part), []
    lock.acquire()
    file.part.write_bytes(BODY[:1000])

    def look(count: int) -> None:
        counts.append(count)
        file.part.write_bytes(BODY)
        file.part.replace(file.path)
        lock.release()

    assert fetch(file, look).read_bytes() == BODY
    assert counts == [1000]
    assert server.gets == []
    assert names(file) == ["network.h5"]


def test_a_stopped_download_keeps_what_has_arrived(file: Download, server: FileServer) -> None:
    stopped = threading.Event()
    with pytest.raises(Stopped):
        fetch(file, lambda count: stopped.set() if count else None, stopped)
    assert file.part.read_bytes() == BODY[: downloading.BLOCK]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(file: Download) -> None:
    file.path.parent.mkdir(mode=0o500)
    with pytest.raises(NoAccess, match="Permission denied"):
        fetch(file)
