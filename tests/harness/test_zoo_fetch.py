"""``zoo fetch``, and runs whose weights are still on their way, against a real web server."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.storage.records import Store
from tests.harness.conftest import StandIn
from tests.harness.file_server import FileServer, path_of, publish, serving
from tests.harness.test_cli import Cli, make_set, trainer, wbc

__all__ = ["trainer", "wbc"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with serving() as state:
        publish(state, monkeypatch, "vgg16", "resnet50", "mobilenet")
        yield state


def test_fetched_on_a_login_node_and_found_without_a_network(
    wbc: Cli, tmp_path: Path, server: FileServer, trainer: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    code, out, err = wbc("zoo", "fetch", "vgg16+r50", "mn1", "l0", "basic",
                         "--weights-dir", str(shared))  # fmt: skip
    assert (code, err) == (0, "")
    assert f"weights: 3 files, 600.0 kB, to be downloaded to {shared}\n" in out
    assert "basic: has no pretrained weights; it is trained from scratch\n" in out
    assert out.endswith(f"4 of 4 recipes have their weights; downloaded ones lie in {shared}\n")
    assert len(list(shared.iterdir())) == 3
    monkeypatch.setattr("zoo.weights.KERAS_STORE", "http://127.0.0.1:9/")
    monkeypatch.setenv("WBC_BENCH_WEIGHTS", str(shared))
    assert wbc("zoo", "fetch", "vgg16", "r50", "mn1")[0] == 0
    data = str(make_set(tmp_path / "set.npz"))
    code, out, err = wbc("run", "vgg16", "mn1", "--data", data, "--profile", "full")
    assert (code, err) == (0, "")
    assert sorted(trainer.launched) == ["mobilenet", "vgg16"]
    sources = {record.run.weights.source for record in Store(tmp_path / "results").records()}
    assert sources == {"imagenet"}


def test_what_cannot_be_fetched_is_a_line_each(
    wbc: Cli, tmp_path: Path, server: FileServer
) -> None:
    server.files[path_of("resnet50")] = b"<html>please log in</html>"
    code, out, err = wbc("zoo", "fetch", "vgg16", "vgg19", "r50")
    assert code == 2
    lines = err.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"wbc-bench: vgg19: cannot download http.*404.*put it at .*", lines[0])
    assert lines[1].startswith("wbc-bench: resnet50: the download from http")
    assert "1 of 3 recipes have their weights" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("vgg61",), "unknown recipe 'vgg61'; did you mean 'vgg16'?"),
        ((), "name recipes, or say --all; 'wbc-bench zoo' lists them"),
        (("vgg16", "--weights-dir", "file"), "file: is a file; --weights-dir names a folder"),
        (("vgg16", "--weights-dir", "file/below"), "file: is a file, where a folder is needed"),
    ],
)
def test_bad_input(
    wbc: Cli, tmp_path: Path, server: FileServer, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = wbc("zoo", "fetch", *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert server.gets == []


def test_without_a_network_one_line_is_enough(
    wbc: Cli, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.weights.KERAS_STORE", "http://127.0.0.1:9/")
    code, _, err = wbc("zoo", "fetch", "--all")
    assert (code, err.count("\n")) == (2, 1)
    assert "vgg16: cannot download http://127.0.0.1:9/" in err
    assert "Connection refused" in err


def test_a_mistyped_subcommand_of_the_zoo(wbc: Cli) -> None:
    assert wbc("zoo", "fecth")[2] == (
        "wbc-bench: unknown subcommand 'fecth'; did you mean 'fetch'?\n"
    )


def test_a_run_begins_when_its_own_weights_are_there(
    wbc: Cli, tmp_path: Path, server: FileServer, trainer: StandIn
) -> None:
    """ResNet50's do not come before MobileNet has been trained."""
    server.held = {path_of("resnet50")}

    def open_gates() -> None:
        while "mobilenet" not in trainer.launched:
            time.sleep(0.01)
        server.open_gates.set()

    threading.Thread(target=open_gates, daemon=True).start()
    data = str(make_set(tmp_path / "set.npz"))
    code, out, err = wbc("run", "r50", "mn1", "--data", data, "--profile", "full")
    assert (code, err) == (0, "")
    assert trainer.launched == ["mobilenet", "resnet50"]
    assert "weights: 1 file, 200.0 kB, to be downloaded to" in out


def test_a_run_whose_weights_cannot_be_had_ends_alone(
    wbc: Cli, tmp_path: Path, server: FileServer, trainer: StandIn
) -> None:
    server.files[path_of("resnet50")] = b"<html>please log in</html>"
    data = str(make_set(tmp_path / "set.npz"))
    code, out, err = wbc("run", "r50", "vgg16", "--data", data)
    assert code == 2
    assert trainer.launched == ["vgg16"]
    assert "resnet50: its weights could not be downloaded" in out
    assert re.fullmatch(r"wbc-bench: resnet50: the download from http.* put the file at .*\n", err)
    (record,) = Store(tmp_path / "results").records()
    assert record.finished


def test_plan_says_how_much_is_to_come(wbc: Cli, tmp_path: Path, server: FileServer) -> None:
    data = str(make_set(tmp_path / "set.npz"))
    code, out, _ = wbc("plan", "r50", "vgg16", "--data", data, "--weights-dir", "shared")
    assert code == 0
    assert "about 153.2 MB of weights to be downloaded to shared\n" in out
    assert server.gets == []
    assert not (tmp_path / "shared").exists()
