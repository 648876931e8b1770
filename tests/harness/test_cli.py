"""What a user types, what a user gets: one line, an exit code, and nothing lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness.launch
from harness.cli import cli, main
from harness.store import Store
from zoo.table import RECIPES

from .conftest import StandIn, made_record

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def wbc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Types a command in an empty folder; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WBC_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("COLUMNS", "200")

    def type_in(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["wbc-bench", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return type_in


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No download succeeds, whatever the machine's network."""
    from harness.errors import Offline

    def refuse(recipe: Any) -> Path:
        raise Offline(f"cannot download the weights of {recipe.name}")

    def at_hand(recipe: Any) -> Path | None:
        return real(recipe) if recipe.name == "lite0" else None

    real = harness.plan.shelf.at_hand
    monkeypatch.setattr("harness.plan.shelf.imagenet_file", refuse)
    monkeypatch.setattr("harness.plan.shelf.at_hand", at_hand)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The main job with a stand-in for the worker process."""
    stand_in = StandIn()
    monkeypatch.setattr(harness.launch, "WorkerProcess", lambda timeout: stand_in)
    return stand_in


def make_set(path: Path, **changes: Any) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.integers(0, 256, (120, 16, 16, 3), dtype=np.uint8),
        "labels": np.arange(120) % 3,
        **changes,
    }
    np.savez(path, **arrays)
    return path


SETTINGS = '[profile.quick.split]\nsubset = false\n[profile.quick.weights]\nsource = "random"\n'


# --- the main job --------------------------------------------------------------------------------


def test_run_all_fills_the_leaderboard_and_runs_nothing_twice(
    wbc: Cli, tmp_path: Path, trainer: StandIn, offline: None
) -> None:
    (tmp_path / "benchmark.toml").write_text('[data]\nsource = "set.npz"\n' + SETTINGS)
    make_set(tmp_path / "set.npz")
    code, out, _ = wbc("run", "--all")
    assert code == 0
    assert "results/LEADERBOARD.md" in out
    page = (tmp_path / "results" / "LEADERBOARD.md").read_text()
    assert all(f"**{recipe.title}**" in page for recipe in RECIPES)
    assert len(trainer.launched) == len(RECIPES) == 16
    assert len(list((tmp_path / "results" / "figures").glob("*.png"))) == 32
    code, out, _ = wbc("run", "--all")
    assert code == 0
    assert "0 runs pending, 16 done" in out
    assert len(trainer.launched) == 16
    assert page == (tmp_path / "results" / "LEADERBOARD.md").read_text()


def test_a_failed_run_is_exit_code_1_and_can_be_tried_again(
    wbc: Cli, tmp_path: Path, trainer: StandIn, offline: None
) -> None:
    from harness.launch import Ended
    from harness.nouns import Failed

    data = str(make_set(tmp_path / "set.npz"))
    (tmp_path / "benchmark.toml").write_text(SETTINGS)
    failed = Ended("failed", failed=Failed(reason="killed (signal 9)"))
    trainer.fails = {"mobilenet": failed}
    command = ("run", "mobilenet", "mn2", "--data", data, "--results", "out")
    code, _, _ = wbc(*command)
    assert code == 1
    assert "killed (signal 9)" in (tmp_path / "out" / "LEADERBOARD.md").read_text()
    trainer.fails = {}
    assert wbc(*command)[0] == 1
    assert wbc(*command, "--retry-failed")[0] == 0
    assert "killed" not in (tmp_path / "out" / "LEADERBOARD.md").read_text()


def test_an_interrupt_is_130_and_the_tables_are_written(
    wbc: Cli, tmp_path: Path, trainer: StandIn, offline: None
) -> None:
    (tmp_path / "benchmark.toml").write_text(SETTINGS + "[sweep]\ncpu_slots = 1\n")
    data = str(make_set(tmp_path / "set.npz"))
    trainer.fails = {"mobilenetv2": KeyboardInterrupt()}
    code, _, err = wbc("run", "vgg16", "mn2", "--data", data)
    assert code == 130
    assert "the same command goes on" in err
    assert "**VGG16**" in (tmp_path / "results" / "LEADERBOARD.md").read_text()


def test_quick_falls_back_to_random_weights_and_says_so(
    wbc: Cli, tmp_path: Path, trainer: StandIn, offline: None
) -> None:
    data = str(make_set(tmp_path / "set.npz"))
    (tmp_path / "benchmark.toml").write_text("[profile.quick.split]\nsubset = false\n")
    code, out, _ = wbc("run", "mn2", "lite0", "--data", data)
    assert code == 0
    assert "random weights" in out
    page = (tmp_path / "results" / "LEADERBOARD.md").read_text()
    assert "| random †" in page
    assert "| imagenet " in page
    assert "† Random weights" in page


def test_plan_tells_what_is_pending_and_downloads_nothing(
    wbc: Cli, tmp_path: Path, trainer: StandIn, offline: None
) -> None:
    (tmp_path / "benchmark.toml").write_text(SETTINGS)
    data = str(make_set(tmp_path / "set.npz"))
    wbc("run", "mn2", "--data", data)
    code, out, _ = wbc("plan", "--all", "--data", data)
    assert code == 0
    assert "1 done, 15 pending" in out
    assert "vgg16" in out
    assert not (tmp_path / "keras").exists()


# --- the other verbs -----------------------------------------------------------------------------


def test_zoo_lists_every_recipe(wbc: Cli) -> None:
    code, out, _ = wbc("zoo")
    assert code == 0
    for recipe in RECIPES:
        assert f"{recipe.parameters:,}" in out
        assert all(alias in out for alias in recipe.aliases)


def test_init_writes_the_defaults_once(wbc: Cli, tmp_path: Path) -> None:
    assert wbc("init")[0] == 0
    written = (tmp_path / "benchmark.toml").read_text()
    assert "[profile.quick" in written
    (tmp_path / "benchmark.toml").write_text("# mine")
    code, _, err = wbc("init")
    assert code == 2
    assert "--force" in err
    assert (tmp_path / "benchmark.toml").read_text() == "# mine"
    assert wbc("init", "--force")[0] == 0
    assert (tmp_path / "benchmark.toml").read_text() == written


def test_preview_draws_a_sheet(wbc: Cli, tmp_path: Path) -> None:
    from PIL import Image

    make_set(tmp_path / "set.npz")
    assert wbc("data", "preview", "set.npz", "--out", "sheet.png")[0] == 0
    assert min(Image.open(tmp_path / "sheet.png").size) > 100


def test_leaderboard_is_written_from_the_records_alone(wbc: Cli, tmp_path: Path) -> None:
    Store(tmp_path / "results").save(made_record())
    assert wbc("leaderboard")[0] == 0
    first = (tmp_path / "results" / "LEADERBOARD.md").read_bytes()
    assert wbc("leaderboard")[0] == 0
    assert (tmp_path / "results" / "LEADERBOARD.md").read_bytes() == first


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(wbc: Cli, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda *_: None)
    code, out, _ = wbc("completion", shell)
    assert code == 0
    assert "_WBC_BENCH_COMPLETE" in out


def test_recipes_are_completed() -> None:
    from click.shell_completion import ShellComplete

    complete = ShellComplete(cli, {}, "wbc-bench", "_WBC_BENCH_COMPLETE")
    found = {item.value for item in complete.get_completions(["run"], "v2")}
    assert found == {"v2s", "v2m", "v2l"}


# --- what bad input gets -------------------------------------------------------------------------


def bad_npz(tmp_path: Path, **changes: Any) -> Sequence[str]:
    return ("run", "mn2", "--data", str(make_set(tmp_path / "set.npz", **changes)))


def truncated(tmp_path: Path) -> Sequence[str]:
    path = make_set(tmp_path / "set.npz")
    path.write_bytes(path.read_bytes()[:-2000])
    return ("run", "mn2", "--data", str(path))


def unreadable_image(tmp_path: Path) -> Sequence[str]:
    for name in ("a", "b"):
        folder = tmp_path / "folder" / name
        folder.mkdir(parents=True)
        (folder / "broken.png").write_bytes(b"\x89PNG no more")
    return ("run", "mn2", "--data", str(tmp_path / "folder"))


def empty_folder(tmp_path: Path) -> Sequence[str]:
    (tmp_path / "folder").mkdir()
    return ("run", "mn2", "--data", str(tmp_path / "folder"))


def weights_file(tmp_path: Path, content: bytes | None) -> Sequence[str]:
    if content is not None:
        (tmp_path / "my.h5").write_bytes(content)
    (tmp_path / "benchmark.toml").write_text('[weights.files]\nmn2 = "my.h5"\n')
    return ("run", "mn2", "--data", str(make_set(tmp_path / "set.npz")))


def config(tmp_path: Path, text: str, *words: str) -> Sequence[str]:
    (tmp_path / "benchmark.toml").write_text(text)
    return words or ("run", "mn2", "--data", str(make_set(tmp_path / "set.npz")))


IMAGES = (
    np.zeros((120, 16, 16, 3), dtype=np.uint8) + np.arange(120, dtype=np.uint8)[:, None, None, None]
)

BAD: dict[str, tuple[Callable[[Path], Sequence[str]], str]] = {
    "unknown recipe": (lambda _: ("run", "vg16"), "did you mean 'vgg16'?"),
    "unknown verb": (lambda _: ("leaderbord",), "did you mean 'leaderboard'?"),
    "unknown option": (lambda _: ("run", "--al"), "--all"),
    "nothing named": (lambda _: ("run",), "--all"),
    "unknown key": (lambda t: config(t, "[protcol]\n"), "did you mean 'protocol'?"),
    "mistyped value": (lambda t: config(t, "[sweep]\nseeds = 'x'\n"), "sweep.seeds"),
    "no such config": (lambda _: ("run", "--all", "--config", "no.toml"), "no.toml"),
    "no such data": (lambda _: ("run", "mn2", "--data", "set.npy"), "set.npy"),
    "truncated zip": (truncated, "set.npz"),
    "object arrays": (
        lambda t: bad_npz(t, images=np.array([None] * 120, dtype=object)), "set.npz",
    ),
    "wrong shape": (lambda t: bad_npz(t, images=np.zeros((120, 16, 16, 7), np.uint8)), "images"),
    "floats 0 to 1": (lambda t: bad_npz(t, images=IMAGES / 255.0), "0-255"),
    "floats -1 to 1": (lambda t: bad_npz(t, images=IMAGES / 127.5 - 1), "0-255"),
    "NaN": (lambda t: bad_npz(t, images=np.full(IMAGES.shape, np.nan)), "set.npz"),
    "label out of range": (lambda t: bad_npz(t, labels=np.arange(120) - 1), "label"),
    "lengths differ": (lambda t: bad_npz(t, labels=np.arange(100) % 3), "120"),
    "too few of a class": (
        lambda t: bad_npz(t, labels=np.r_[np.arange(118) % 2, 2, 2]), "class_2",
    ),
    "empty folder": (empty_folder, "folder"),
    "unreadable image": (unreadable_image, "broken.png"),
    "too small": (
        lambda t: config(t, "[profile.quick.protocol]\nimage_size = 64\n", "run", "inc3"), "75",
    ),
    "weights missing": (lambda t: weights_file(t, None), "my.h5"),
    "weights of another kind": (lambda t: weights_file(t, b"hello"), "my.h5"),
    "class weights": (
        lambda t: config(t, "[protocol.loss]\nclass_weight = [1.0, 2.0]\n"), "class_weight",
    ),
    "offline in full": (
        lambda t: ("run", "mn2", "--profile", "full", "--data", str(make_set(t / "set.npz"))),
        "cannot download",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    name: str, wbc: Cli, tmp_path: Path, trainer: StandIn, offline: None
) -> None:
    make, says = BAD[name]
    kept = made_record()
    Store(tmp_path / "results").save(kept)
    code, _, err = wbc(*make(tmp_path))
    assert code == 2
    assert err.startswith("wbc-bench: ")
    assert err.count("\n") == 1, err
    assert says in err
    assert trainer.launched == []
    assert Store(tmp_path / "results").find(kept.run) == kept


def test_a_header_that_claims_more_than_the_file_holds(
    wbc: Cli, tmp_path: Path, trainer: StandIn, offline: None
) -> None:
    import io
    import zipfile

    header = io.BytesIO()
    shape = (10**9, 96, 96, 3)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    path = make_set(tmp_path / "set.npz")
    lying = tmp_path / "lying.npz"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(lying, "w") as target:
        target.writestr("labels.npy", source.read("labels.npy"))
        target.writestr("images.npy", header.getvalue() + b"\0" * 1000)
    code, _, err = wbc("run", "mn2", "--data", str(lying))
    assert code == 2
    assert err.count("\n") == 1
    assert "lying.npz" in err


def test_a_bug_keeps_its_traceback(wbc: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("harness.tables.write_tables", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        wbc("leaderboard")


def test_help_needs_no_writable_folder(wbc: Cli, tmp_path: Path) -> None:
    code, out, _ = wbc("--help")
    assert code == 0
    assert "leaderboard" in out
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert not list(tmp_path.iterdir())
