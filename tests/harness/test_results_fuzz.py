"""Results folders from elsewhere, changed at random: one line or an answer, and nothing else.

Records, predictions, figures, links and names of a valid folder are mutated, and every subcommand
that reads one is typed: it ends with 0, 1 or 2, shows no traceback, leaves every file outside the
folder as it was, and sends no control character to the terminal.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cli import main
from harness.ensembling.builder import fit_ensembles
from harness.ensembling.members import group_members
from harness.execution import processes
from harness.reporting import figures
from harness.reporting.external import import_predictions
from harness.reporting.publish import write_tables
from harness.storage.files import write_arrays
from harness.storage.records import Store
from tests.harness.conftest import StandIn, made_predictions, made_record, save_finished
from tests.harness.reporting.test_figure_cache import stand_in
from zoo.errors import CONTROL

MARKUP = "<script>fetch('http://127.0.0.1:9/')</script><img src=http://127.0.0.1:9/x>"
HOSTILE: list[Any] = [
    None, True, "", "x", "../../victim", "/etc/passwd", "x/../../victim/", MARKUP, "\x1b[2J\x07",
    "=1+1", "\u202e", "a" * 5000, 0, -1, 1, 10**30, 2**53 + 1, 0.0, -0.5, 1e308, 1e-308, [], {},
    [[]], [None], {"a": {"b": 1}}, "NaN", float("nan"), float("inf"), "9" * 40, "0" * 16,
]  # fmt: skip
MOST_SECONDS = 300
"""Far more than a command takes: one that waits for a pipe waits for ever."""
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("leaderboard",),
    ("verify",),
    ("status",),
    ("compare", "vgg16", "lite0"),
    ("ensemble", "vgg16", "lite0", "--rule", "soft-vote", "--rule", "stacking"),
    ("plan", "vgg16", "lite0", "resnet50", "--config", "../benchmark.toml"),
)
SETTINGS = """
[data]
source = "set.npz"
[profile.quick.split]
subset = false
[weights]
source = "random"
[sweep]
shift = "mixed"
"""


@dataclass
class Answer:
    code: int
    output: str


def hangs(*_: object) -> None:
    raise AssertionError(f"no end in {MOST_SECONDS} s")


def type_in(*words: str) -> Answer:
    """A command, as in a terminal: an exception that is no exit fails the test, as a hang does."""
    out = io.StringIO()
    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(MOST_SECONDS)
    with (
        redirect_stdout(out),
        redirect_stderr(out),
        patch("sys.argv", ["wbc-bench", *words]),
        warnings.catch_warnings(),
    ):
        try:
            main()
        except SystemExit as ended:
            return Answer(int(ended.code or 0), out.getvalue())
        finally:
            signal.alarm(0)
    raise AssertionError("main() ends with an exit code")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a valid results folder, its data, and somebody's own files."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "work").mkdir()
    rng, victim = np.random.default_rng(0), folder / "victim"
    images = rng.integers(0, 256, (120, 16, 16, 3), dtype=np.uint8)
    np.savez(folder / "set.npz", images=images, labels=np.arange(120) % 3)
    (folder / "benchmark.toml").write_text(SETTINGS)
    victim.mkdir()
    for name in ("mine.txt", "x.json", "checkpoint"):
        (victim / name).write_text("mine")
    environment = {
        "WBC_BENCH_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": "-1", "COLUMNS": "200",
    }  # fmt: skip
    with (
        patch.dict(os.environ, environment),
        patch.object(figures, "render", stand_in),
        patch.object(processes, "WorkerProcess", lambda **_: StandIn()),
        chdir(folder / "work"),
    ):
        answer = type_in("run", "vgg16", "lite0", "--config", "../benchmark.toml")
        assert answer.code == 0, answer.output
        results = Path("results")
        store = Store(results)
        for recipe in ("vgg16", "lite0", "densenet121"):  # A second board, of other images.
            save_finished(store, made_record(recipe))
        for group in group_members(store, ("vgg16", "lite0")):
            fit_ensembles(group, ("soft vote", "weighted vote", "greedy", "stacking"))
        parts = made_predictions(made_record("resnet50").run)
        test = parts["test"]
        write_arrays(
            Path("other.npz"), {"probabilities": test.probabilities, "labels": test.labels}
        )
        import_predictions(Path("other.npz"), "other", results)
        write_tables(results)
        for words in COMMANDS:
            answer = type_in(*words, "--results", "results")
            assert answer.code == 0, answer.output
        yield folder


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file under a folder, links as what they point to."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif path.is_file():
            found[str(path)] = path.read_bytes()
        else:
            found[str(path)] = stat.filemode(path.lstat().st_mode)
    return found


# --- mutations -----------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:3])
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def mutate_record(data: st.DataObject, path: Path, victim: Path) -> None:
    content = json.loads(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3), "how many")):
        keys = data.draw(st.sampled_from(list(places(content))), "where")
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        how = data.draw(st.sampled_from(["value", "number", "delete", "add", "copy"]), "how")
        if how == "value":
            inner[keys[-1]] = data.draw(st.sampled_from(HOSTILE), "value")
        elif how == "number" and isinstance(inner[keys[-1]], int | float):
            inner[keys[-1]] *= data.draw(st.sampled_from([-1, 0, 2, 1e9, 1e-9, 1e300]), "factor")
        elif how == "delete":
            del inner[keys[-1]]
        elif how == "add" and isinstance(inner, dict):
            inner[data.draw(st.text(max_size=4), "key")] = 1
        elif isinstance(inner, list):
            inner.append(inner[keys[-1]])
    path.write_text(json.dumps(content))


def mutate_bytes(data: st.DataObject, path: Path, victim: Path) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4), "how many")):
        position = data.draw(st.integers(0, max(0, len(content) - 1)), "position")
        if content:
            content[position] = data.draw(st.integers(0, 255), "byte")
    start = data.draw(st.integers(0, len(content)), "start")
    content[start : start + data.draw(st.sampled_from([0, 1, 90, 10**6]), "cut")] = data.draw(
        st.sampled_from([b"", b"\0", MARKUP.encode(), b"[" * 3000, b"\x1b[2J"]), "put in"
    )
    path.write_bytes(bytes(content))


def replace_by_link(data: st.DataObject, path: Path, victim: Path) -> None:
    """Of a file, or of the folder that it is in."""
    path = data.draw(st.sampled_from([path, path, path.parent]), "what")
    targets = [victim, victim / "mine.txt", victim / "new", path.name, "/dev/zero"]
    _remove(path)
    path.symlink_to(data.draw(st.sampled_from(targets), "target"))


def replace_by_other(data: st.DataObject, path: Path, victim: Path) -> None:
    _remove(path)
    kind = data.draw(st.sampled_from(["fifo", "folder", "nothing", "nobody's"]), "kind")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "nobody's":
        path.touch(0)


def rename(data: st.DataObject, path: Path, victim: Path) -> None:
    names = [
        f"{path.stem} (copy){path.suffix}", f"._{path.name}", f"\x1b[2J{path.name}",
        f"..-{'0' * 16}{path.suffix}", f"vgg16-{'0' * 16}{path.suffix}", f"{'a' * 200}.json",
    ]  # fmt: skip
    new = path.with_name(data.draw(st.sampled_from(names), "name"))
    if data.draw(st.booleans(), "copy"):
        shutil.copy(path, new)
    else:
        path.rename(new)


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)


Mutation = Callable[[st.DataObject, Path, Path], None]
MUTATIONS: dict[str, Mutation] = {
    "record": mutate_record,
    "bytes": mutate_bytes,
    "link": replace_by_link,
    "other": replace_by_other,
    "name": rename,
}


def plain_files(results: Path) -> list[Path]:
    return [p for p in sorted(results.rglob("*")) if p.is_file() and not p.is_symlink()]


def mutate(data: st.DataObject, results: Path, victim: Path) -> None:
    how = data.draw(st.sampled_from(["record", "record", *MUTATIONS]), "mutation")
    files = plain_files(results)
    if how == "record":
        files = [path for path in files if path.suffix == ".json" and path.stat().st_size > 500]
    if files:
        MUTATIONS[how](data, data.draw(st.sampled_from(files), "file"), victim)


# --- the tests -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_results_folder_is_an_answer_or_a_line(place: Path, data: st.DataObject) -> None:
    with TemporaryDirectory(dir=place) as temporary:
        results, victim = Path(temporary) / "results", place / "victim"
        shutil.copytree(place / "work" / "results", results, symlinks=True)
        for _ in range(data.draw(st.integers(1, 2), "mutations")):
            mutate(data, results, victim)
        outside = contents(victim), contents(place / "work")
        # In any order: `leaderboard` and `ensemble` write what the others read.
        for words in data.draw(st.permutations(COMMANDS), "order"):
            answer = type_in(*words, "--results", str(results))
            assert answer.code in (0, 1, 2), answer.output
            assert "Traceback" not in answer.output
            assert CONTROL.search(answer.output.replace("\n", "").replace("\t", "")) is None
            if answer.code == 2:
                assert len(answer.output.splitlines()) < 12, answer.output
        assert (contents(victim), contents(place / "work")) == outside
        assert sorted(p.name for p in Path(temporary).iterdir()) == ["results"]
