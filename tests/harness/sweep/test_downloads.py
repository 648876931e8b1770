"""Weights that arrive while runs are trained: several at once, each shown, none silently lost."""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from harness.config import WeightSettings
from harness.errors import ChecksumError, NoRoom, Offline
from harness.storage.download import Download
from harness.sweep import downloads as module
from harness.sweep.downloads import Downloads, find_sizes
from harness.sweep.weights import OFFLINE_NOTE, resolve_weights
from tests.harness.file_server import FileServer, path_of, publish, serving
from zoo.registry import find


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as state:
        yield state


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def make_files(server: FileServer, folder: Path, *sizes: int) -> list[Download]:
    files = []
    for size in sizes:
        body = bytes([size % 251]) * size
        digest = f"md5:{hashlib.md5(body).hexdigest()}"
        server.files[f"/{size}"] = body
        path = folder / f"{size}.h5"
        files.append(Download(f"net{size}", f"{server.url}/{size}", path, digest, size=size))
    return files


def wait_for(downloads: Downloads, path: Path) -> None:
    deadline = time.monotonic() + 20
    while not downloads.ready([path]):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_file_is_ready_while_others_are_on_their_way(
    server: FileServer, tmp_path: Path, console: Console
) -> None:
    files = make_files(server, tmp_path, 500_000, 1_000_000, 250_000)
    server.held = {"/1000000"}
    with Downloads(files, console) as downloads:
        wait_for(downloads, files[0].path)
        wait_for(downloads, files[2].path)
        assert downloads.ready([None, files[0].path, tmp_path / "of_a_user.h5"])
        assert not downloads.ready([files[0].path, files[1].path])
        assert "2 of 3 files" in draw(downloads, 80)
        server.open_gates.set()
        assert downloads.wait() == {}
        assert list(downloads.renderables()) == []
    lines = printed(console).splitlines()
    assert lines[0] == f"weights: 3 files, 1.8 MB, to be downloaded to {tmp_path}"
    assert [line for line in lines if re.match(r"weights: net250000, 250.0 kB, [12] of 3", line)]
    assert re.fullmatch(r"weights: 3 files, 1.8 MB, downloaded in 0:00:\d\d", lines[-1])


def test_what_is_there_already_is_not_announced_as_to_come(
    server: FileServer, tmp_path: Path, console: Console
) -> None:
    (file,) = make_files(server, tmp_path, 500_000)
    file.part.write_bytes(server.files["/500000"][:200_000])
    with Downloads([file], console) as downloads:
        assert downloads.wait() == {}
    assert "1 file, 500.0 kB (200.0 kB of it is there already), to be" in printed(console)
    assert [headers["Range"] for _, headers in server.gets] == ["bytes=200000-"]


def test_four_at_once_and_no_more(server: FileServer, tmp_path: Path, console: Console) -> None:
    files = make_files(server, tmp_path, *range(1000, 7000, 1000))
    server.held = set(server.files)
    with Downloads(files, console) as downloads:
        while len(server.gets) < module.AT_ONCE:
            time.sleep(0.01)
        time.sleep(0.2)
        begun = {path for path, _ in server.gets}
        server.open_gates.set()
        assert downloads.wait() == {}
    assert begun == {"/1000", "/2000", "/3000", "/4000"}, "the smallest first"


def test_a_file_that_fails_fails_alone(
    server: FileServer, tmp_path: Path, console: Console
) -> None:
    lost, wrong, good = make_files(server, tmp_path, 1000, 2000, 3000)
    del server.files["/1000"]
    server.files["/2000"] = b"<html>"
    with Downloads([lost, wrong, good], console) as downloads:
        errors = downloads.wait()
        assert isinstance(errors["net1000"], Offline)
        assert isinstance(errors["net2000"], ChecksumError)
        assert downloads.ready([good.path])
        with pytest.raises(Offline, match=r"net1000: cannot download .*404"):
            downloads.ready([good.path, lost.path])
    assert "1 file, 3.0 kB, downloaded" in printed(console)
    assert "; 2 failed" in printed(console)


def test_too_little_room_is_said_before_anything_is_downloaded(
    server: FileServer, tmp_path: Path, console: Console
) -> None:
    (file,) = make_files(server, tmp_path, 1000)
    huge = Download(file.name, file.url, file.path, file.digest, size=10**18)
    with pytest.raises(NoRoom, match=r"1\.0 EB to download"), Downloads([huge], console):
        pass
    assert server.gets == []


def test_nobody_is_asked_once_nobody_answers(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = module.remote_size
    monkeypatch.setattr(module, "remote_size", lambda file: (asked.append(file), real(file))[1])
    files = [
        Download(f"net{i}", f"http://127.0.0.1:9/{i}", tmp_path / str(i), None) for i in range(40)
    ]
    found, errors = find_sizes(files, console)
    assert found == {}
    assert len(errors) == 40
    assert all(f"net{i}: " in str(errors[f"net{i}"]) for i in range(40)), "each names its own"
    assert len(asked) <= 2 * module.AT_ONCE


def draw(downloads: Downloads, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    for renderable in downloads.renderables():
        console.print(renderable)
    return printed(console)


@pytest.mark.parametrize("width", [80, 120])
def test_the_bars_fit_the_terminal(server: FileServer, tmp_path: Path, width: int) -> None:
    files = make_files(server, tmp_path, 500_000)
    (file,) = (Download("mobilenetv3large", f.url, f.path, f.digest, size=f.size) for f in files)
    server.troubles["/500000"] = ["stall"]
    with Downloads([file], Console(file=io.StringIO(), force_terminal=True)) as downloads:
        while "131.1/500.0 kB" not in (drawn := draw(downloads, width)):
            time.sleep(0.01)
        server.open_gates.set()
        server.troubles.clear()
    rows = drawn.splitlines()
    assert [row.split("  ")[0].split(" ━")[0].strip() for row in rows] == [
        "0 of 1 file",
        "mobilenetv3large",
    ]
    assert all(len(row) <= width for row in rows)


# --- which weights a recipe starts from ----------------------------------------------------------


def test_what_has_a_checksum_may_come_later(
    server: FileServer, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, monkeypatch, "vgg16", "mobilenet", "resnet50")
    recipes = [find(name) for name in ("vgg16", "mobilenet", "lite0", "basic", "vgg16+mobilenet")]
    planned = resolve_weights(WeightSettings(), recipes, tmp_path)
    assert (server.gets, list(tmp_path.iterdir())) == ([], [])
    assert planned["vgg16"].note == "ImageNet weights to be downloaded"
    assert planned["vgg16"].missing[0].size == 4 * find("vgg16").parameters
    found = resolve_weights(WeightSettings(), recipes, tmp_path, console)
    assert [path for path, _ in server.gets] == [path_of("mobilenet")], "its id is its content's"
    assert found["mobilenet"].missing == ()
    assert str(found["mobilenet"].weights.digest).startswith("sha256:")
    assert found["vgg16"].weights == planned["vgg16"].weights
    assert found["vgg16"].note == ""
    assert found["vgg16"].missing[0].size == len(server.files[path_of("vgg16")])
    assert found["vgg16+mobilenet"].missing == found["vgg16"].missing
    assert found["lite0"].missing == found["basic"].missing == ()


def test_a_damaged_file_is_missing(
    server: FileServer, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, monkeypatch, "vgg16", "mobilenet")
    recipes = [find("vgg16"), find("mobilenet")]
    for name in ("vgg16", "mobilenet"):
        (tmp_path / path_of(name).rsplit("/", 1)[-1]).write_bytes(b"<html>")
    found = resolve_weights(WeightSettings(), recipes, tmp_path, console)
    assert [file.name for file in found["vgg16"].missing] == ["vgg16"]
    (mobilenet,) = found["mobilenet"].files
    assert mobilenet is not None
    assert mobilenet.read_bytes() == server.files[path_of("mobilenet")]


def test_where_nothing_can_be_downloaded(
    server: FileServer, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, monkeypatch, "vgg16", "mobilenet")
    recipes = [find("vgg16"), find("mobilenet"), find("vgg19"), find("lite0")]
    random = WeightSettings(when_offline="random")
    found = resolve_weights(random, recipes, tmp_path, console)
    assert found["vgg19"].weights.source == "random", "404"
    assert found["vgg19"].note == OFFLINE_NOTE
    assert {found[name].weights.source for name in ("vgg16", "mobilenet", "lite0")} == {"imagenet"}
    with pytest.raises(Offline, match=r"vgg19: cannot download .*404"):
        resolve_weights(WeightSettings(), recipes, tmp_path, console)
    server.files[path_of("mobilenet")] = b"<html>"
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(ChecksumError, match="mobilenet: the download from"):
        resolve_weights(random, recipes, tmp_path, console)
