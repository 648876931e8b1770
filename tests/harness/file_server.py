"""A web server on the loopback address that misbehaves as servers and networks do."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from zoo import registry
from zoo.recipe import KerasFile
from zoo.weights import HDF5_SIGNATURE

CUT = 131_072
"""Bytes that arrive before a connection breaks off or stalls."""


@dataclass
class FileServer:
    """Serves ``files``; of each path the ``troubles`` are played first, one a GET.

    A trouble is an HTTP status, ``break``, ``stall``, ``whole`` (it ignores the range) or
    ``other range``.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    troubles: dict[str, list[str]] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    retry_after: str = "7"
    head: int = 200
    """Status of answers to HEAD for files that are there."""
    gets: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Path and headers of every GET."""
    open_gates: threading.Event = field(default_factory=threading.Event)
    """Ends what stalls, and lets ``hold`` go on."""
    held: set[str] = field(default_factory=set)
    """Paths that are not answered before the gates are open."""

    def ranges(self, path: str = "/file") -> list[str | None]:
        """The Range of every GET of a path."""
        return [headers.get("Range") for asked, headers in self.gets if asked == path]


class _Handler(BaseHTTPRequestHandler):
    state: FileServer

    def do_HEAD(self) -> None:
        body = self.state.files.get(self.path)
        self.send_response(404 if body is None else self.state.head)
        if body is not None and self.state.head == 200:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()

    def do_GET(self) -> None:
        state, path = self.state, self.path
        state.gets.append((path, dict(self.headers)))
        body, troubles = state.files.get(path), state.troubles.get(path, [])
        trouble = troubles.pop(0) if troubles else ""
        if path in state.held:
            state.open_gates.wait(20)
        if body is None or trouble.isdecimal():
            self.send_response(int(trouble or 404))
            self.send_header("Retry-After", state.retry_after)
            self.end_headers()
            return
        etag, condition = state.etags.get(path, ""), self.headers.get("If-Range", "")
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if trouble == "whole" or (condition and condition != etag):
            start = 0
        if trouble == "other range":
            start //= 2
        if start >= len(body) and start:
            self.send_response(416)
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(
            body[start : start + CUT] if trouble in ("break", "stall") else body[start:]
        )
        if trouble == "stall":
            self.wfile.flush()
            state.open_gates.wait(20)

    def log_message(self, *_: object) -> None:
        """Silent."""


def publish(state: FileServer, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make the server Keras's store of made-up weights of these recipes."""
    recipes = []
    for recipe in registry.RECIPES:
        source = recipe.imagenet
        if recipe.name in names and isinstance(source, KerasFile):
            body = HDF5_SIGNATURE + recipe.name.encode() * len(state.files) + bytes(200_000)
            state.files[f"/{source.path}"] = body
            digest = f"md5:{hashlib.md5(body).hexdigest()}" if source.digest else None
            recipe = replace(recipe, imagenet=replace(source, digest=digest))
        recipes.append(recipe)
    monkeypatch.setattr(registry, "RECIPES", tuple(recipes))
    monkeypatch.setattr("zoo.weights.KERAS_STORE", f"{state.url}/")


def path_of(name: str) -> str:
    """Where the store has a recipe's weights."""
    source = registry.find(name).imagenet
    assert isinstance(source, KerasFile)
    return f"/{source.path}"


@contextmanager
def serving() -> Iterator[FileServer]:
    state = FileServer()
    handler = type("Handler", (_Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        yield state
        state.open_gates.set()
        http.shutdown()
