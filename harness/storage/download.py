"""Downloads: resumed where they were cut off, and published by a rename once they are checked."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ChecksumError, NoAccess, Offline, is_no_access, path_error
from harness.storage.file_lock import FileLock
from zoo.weights import is_intact

if TYPE_CHECKING:  # Takes a tenth of a second, and is rarely needed.
    import requests

USER_AGENT = "wbc-bench/0.1"
"""Zenodo throttles clients without a name."""
BUSY = (429, 500, 502, 503, 504)
"""HTTP statuses after which a request is repeated."""
NO_HEAD = (405, 501)
"""HTTP statuses of servers that know no HEAD."""
TRIES = 5
"""In a row that bring nothing new, before a download is given up."""
CONNECT_SECONDS, STALL_SECONDS = 5, 30
LONGEST_WAIT = 60
"""Seconds before the next try, whatever the server asks for."""
BLOCK = 1 << 16
"""Bytes written at once, which a broken connection may lose."""
OTHER_PROCESS_SECONDS = 0.5
"""Between two looks at a file that another process downloads."""


class Stopped(Exception):
    """A download has ended early because its caller said so; what arrived is kept."""


@dataclass(frozen=True)
class Download:
    """A file to be had: from where, to where, and how it is known to be the right one."""

    name: str
    """What it belongs to, for messages."""
    url: str
    path: Path
    digest: str | None
    """``md5:…`` or ``sha256:…``; None where no checksum is known."""
    signature: bytes = b""
    """What its content begins with."""
    size: int = 0
    """Bytes, as expected; 0 where nothing is known."""

    @property
    def part(self) -> Path:
        """The file in the same folder in which what has arrived is kept."""
        return self.path.with_name(f"{self.path.name}.part")

    def matches(self, path: Path) -> bool:
        """Whether a file is there and has the checksum, or at least the signature."""
        return is_intact(path, self.digest, self.signature)

    def offline(self, error: Exception) -> Offline:
        return Offline(
            f"{self.name}: cannot download {self.url} ({_reason(error)}); "
            f"fetch it elsewhere and put it at {self.path}"
        )


def _reason(error: Exception) -> str:
    import requests

    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    # Of a chain of nested messages the last says why.
    cause = getattr(error.args[0], "reason", error.args[0]) if error.args else error
    return str(cause).rsplit(": ", 1)[-1].rstrip(".") or type(error).__name__


def remote_size(download: Download) -> int:
    """Bytes of the file as its server says, else as expected; the body is not fetched.

    Raises Offline where the server does not answer, or has no such file.
    """
    import requests

    try:
        with _session() as session:
            answer = session.head(download.url, allow_redirects=True, timeout=_timeout())
            if answer.status_code not in NO_HEAD:
                answer.raise_for_status()
                return int(answer.headers.get("Content-Length") or download.size)
    except requests.RequestException as error:
        raise download.offline(error) from error
    return download.size


def fetch(
    download: Download,
    report: Callable[[int], object] = lambda _: None,
    stopped: threading.Event | None = None,
) -> Path:
    """The file, downloaded unless it is there; ``report`` gets the bytes that have arrived so far.

    What another process downloads is waited for. Raises Offline after so many tries, ChecksumError
    for other bytes than those published, NoRoom, NoAccess, and Stopped.
    """
    import requests

    stopped = stopped or threading.Event()
    try:
        if not download.matches(download.path):
            download.path.parent.mkdir(parents=True, exist_ok=True)
            _fetch_locked(download, report, stopped)
    except requests.RequestException as error:  # These are OSErrors too.
        raise download.offline(error) from None
    except OSError as error:
        if is_no_access(error):
            raise NoAccess.at(error.filename or download.path, error.strerror) from None
        raise path_error(error, download.path) from None
    return download.path


def _fetch_locked(
    download: Download, report: Callable[[int], object], stopped: threading.Event
) -> None:
    """Download while no other process does; it may have finished the file meanwhile."""
    lock, part = FileLock(download.part), download.part
    while not lock.acquire(blocking=False):
        if part.exists():
            report(part.stat().st_size)
        if stopped.wait(OTHER_PROCESS_SECONDS):
            raise Stopped
    try:
        if not download.matches(download.path):
            _complete(download, report, stopped)
            part.replace(download.path)
    finally:
        if part.exists() and not part.stat().st_size:
            part.unlink()
        lock.release()


def _complete(
    download: Download, report: Callable[[int], object], stopped: threading.Event
) -> None:
    """Fill the partial file. What an earlier process left in it is believed only if it fits."""
    part = download.part
    if download.digest is None:
        part.write_bytes(b"")
    while True:
        resumed = part.stat().st_size > 0
        _transfer(download, report, stopped)
        if download.matches(part):
            return
        part.write_bytes(b"")
        if not resumed:
            break
    what = f"the checksum {download.digest}" if download.digest else "the expected format"
    raise ChecksumError(
        f"{download.name}: the download from {download.url} does not have {what}; something "
        f"in between changed it: try another network, or put the file at {download.path}"
    )


def _transfer(
    download: Download, report: Callable[[int], object], stopped: threading.Event
) -> None:
    """Append what is missing; a connection that breaks off or stalls is tried again."""
    import requests

    most, failures, etag = download.part.stat().st_size, 0, ""
    with _session() as session:
        while True:
            try:
                with _request(session, download, etag) as answer:
                    strong = answer.headers.get("ETag", "")
                    etag = "" if strong.startswith("W/") else strong
                    return _append(answer, download.part, report, stopped)
            except requests.HTTPError:
                raise
            except requests.RequestException:
                size = download.part.stat().st_size
                failures = 1 if size > most else failures + 1
                most = max(most, size)
                if failures == TRIES:
                    raise
                if stopped.wait(2 ** (failures - 1)):
                    raise Stopped from None


def _request(session: requests.Session, download: Download, etag: str) -> requests.Response:
    """Ask for what is missing; for all of it where nothing would show that the file has changed."""
    size = download.part.stat().st_size
    headers = {"Range": f"bytes={size}-"} if size and (etag or download.digest) else {}
    if headers and etag:
        headers["If-Range"] = etag
    return session.get(download.url, headers=headers, stream=True, timeout=_timeout())


def _append(
    answer: requests.Response,
    part: Path,
    report: Callable[[int], object],
    stopped: threading.Event,
) -> None:
    import requests

    if answer.status_code == 416:  # All of it is there, which its checksum shows, or too much.
        return
    answer.raise_for_status()
    size = part.stat().st_size
    start = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    resumes = answer.status_code == 206 and (start is None or int(start[1]) == size)
    if answer.status_code == 206 and not resumes:
        part.write_bytes(b"")
        raise requests.ConnectionError("the server sent another part of the file")
    with part.open("ab" if resumes else "wb") as file:
        received = size if resumes else 0
        report(received)
        for block in answer.iter_content(BLOCK):
            if stopped.is_set():
                raise Stopped
            file.write(block)
            received += len(block)
            report(received)


def _timeout() -> tuple[float, float]:
    return CONNECT_SECONDS, STALL_SECONDS


def _session() -> requests.Session:
    """A session that asks a busy server again when it says, and takes bytes as they are."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3 import Retry

    retry = Retry(
        total=TRIES - 1,
        connect=0,
        read=0,
        status_forcelist=BUSY,
        backoff_factor=1,
        retry_after_max=LONGEST_WAIT,
        raise_on_status=False,
    )
    session = requests.Session()
    session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session
