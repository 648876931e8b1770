"""The subcommands: what they print, their exit codes, and that no result is lost."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness.execution.processes
from harness.cli import cli, main
from harness.commands.options import Duration
from harness.ensembling.builder import RULES
from harness.storage.files import write_arrays
from harness.storage.predictions import write_predictions
from harness.storage.records import FEATURES, PREDICTIONS, Store
from tests.harness.conftest import StandIn, made_predictions, made_record, made_run, save_finished
from zoo.recipe import KerasFile
from zoo.registry import RECIPES, REPORT_RECIPES

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def wbc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Types a command in an empty folder; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WBC_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("WBC_BENCH_WEIGHTS", raising=False)
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
    """No download succeeds, on any machine: nobody listens there."""
    monkeypatch.setattr("zoo.weights.KERAS_STORE", "http://127.0.0.1:9/")


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The main job with a stand-in for the worker process."""
    stand_in = StandIn()
    monkeypatch.setattr(harness.execution.processes, "WorkerProcess", lambda **limits: stand_in)
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
    assert len(trainer.launched) == len(RECIPES)
    assert len(list((tmp_path / "results" / "figures" / "runs").glob("*.png"))) == 2 * len(RECIPES)
    code, out, _ = wbc("run", "--all")
    assert code == 0
    assert f"{len(RECIPES)} done, 0 pending" in out
    assert len(trainer.launched) == len(RECIPES)
    assert page == (tmp_path / "results" / "LEADERBOARD.md").read_text()
    pretrained = SETTINGS.replace('source = "random"', "")
    (tmp_path / "benchmark.toml").write_text('[data]\nsource = "set.npz"\n' + pretrained)
    downloaded = [recipe for recipe in RECIPES if isinstance(recipe.imagenet, KerasFile)]
    out = wbc("plan", "--all")[1]
    assert f"(without a network: {len(downloaded)} of these done, with random weights)" in out


def test_a_command_without_a_subcommand_prints_its_help(wbc: Cli) -> None:
    code, out, err = wbc("data")
    assert (code, out) == (2, "")
    assert "\n  audit " in err


def test_variants_are_one_sweep_and_one_study(
    wbc: Cli, tmp_path: Path, trainer: StandIn, offline: None
) -> None:
    variants = """
    [variants.mixed]
    augmentation = { policy = "mixup" }
    [variants.rare]
    loss = { oversampling = 60 }
    """
    (tmp_path / "benchmark.toml").write_text(SETTINGS + variants)
    data = str(make_set(tmp_path / "set.npz"))
    command = ("run", "mobilenet", "mn2", "--data", data)
    code, _, err = wbc(*command, "--variant", "mixt")
    assert (code, err) == (2, "wbc-bench: unknown variant 'mixt'; did you mean 'mixed'?\n")
    code, out, _ = wbc(*command, "--variant", "mixed")
    assert code == 0
    assert "mobilenet (mixed)" in out
    assert len(trainer.launched) == 4
    assert wbc(*command, "--variant", "all")[0] == 0
    assert len(trainer.launched) == 6, "what is done is done"
    page = (tmp_path / "results" / "LEADERBOARD.md").read_text()
    assert "what the options change" in page
    assert "rare classes oversampled up to 60 images" in page
    assert "*Raw pixels*" in page
    externals = Store(tmp_path / "results").external_records()
    assert [record.baseline for record in externals] == [True] * 3, "one for each protocol"


def test_a_failed_run_is_exit_code_1_and_can_be_tried_again(
    wbc: Cli, tmp_path: Path, trainer: StandIn, offline: None
) -> None:
    from harness.execution.processes import ProcessResult
    from harness.schema.records import Failed

    data = str(make_set(tmp_path / "set.npz"))
    (tmp_path / "benchmark.toml").write_text(SETTINGS)
    failed = ProcessResult("failed", failed=Failed(reason="killed (signal 9)"))
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
    assert re.search(r"\*\*MobileNetV2\*\*\s†", page)
    assert "**EfficientNet-Lite0**" in page
    assert not re.search(r"\*\*EfficientNet-Lite0\*\*\s†", page)
    assert "† Random weights" in page


def test_plan_says_what_is_pending_and_downloads_nothing(
    wbc: Cli, tmp_path: Path, trainer: StandIn, offline: None
) -> None:
    (tmp_path / "benchmark.toml").write_text(SETTINGS)
    data = str(make_set(tmp_path / "set.npz"))
    wbc("run", "mn2", "--data", data)
    code, out, _ = wbc("plan", "--all", "--data", data)
    assert code == 0
    assert f"1 done, {len(RECIPES) - 1} pending" in out
    assert "vgg16" in out
    assert not (tmp_path / "keras").exists()
    code, out, err = wbc("plan", "mn2", "--data", data, "--results", "x[/y]/res")
    assert (code, err) == (0, ""), "brackets are no markup"
    (tmp_path / "taken").touch()
    for words in (
        ("plan", "mn2", "--data", data, "--results", "taken"),
        ("run", "mn2", "--data", data, "--results", "taken/res"),
        ("export", "mn2", "--out", "taken"),
        ("data", "split", data, "--out", "taken/s.csv"),
    ):
        code, _, err = wbc(*words)
        assert (code, err.count("\n")) == (2, 1), words
        assert "taken" in err


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert Duration()(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "m2h", "1.5h", "2 hours"])
def test_what_is_no_duration_is_rejected(wbc: Cli, text: str) -> None:
    code, _, err = wbc("plan", "--all", "--budget", text)
    assert code == 2
    assert f"{text!r} is no duration; write 2h" in err


# --- the other subcommands -----------------------------------------------------------------------


def test_zoo_lists_every_recipe(wbc: Cli) -> None:
    code, out, _ = wbc("zoo")
    assert code == 0
    for recipe in (*RECIPES, *REPORT_RECIPES):
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
    save_finished(Store(tmp_path / "results"), made_record())
    assert wbc("leaderboard")[0] == 0
    first = (tmp_path / "results" / "LEADERBOARD.md").read_bytes()
    assert wbc("leaderboard")[0] == 0
    assert (tmp_path / "results" / "LEADERBOARD.md").read_bytes() == first


def test_verify_finds_every_change(wbc: Cli, tmp_path: Path) -> None:
    store, record = Store(tmp_path / "results"), made_record()
    save_finished(store, record)
    save_finished(store, made_record("lite0"))
    wbc("leaderboard")
    assert wbc("verify")[0] == 0
    table = tmp_path / "results" / "LEADERBOARD.md"
    true_page, path = table.read_text(), store.record_path(record.run)
    table.write_text(true_page.replace("VGG16", "VGG61"))
    code, _, err = wbc("verify")
    assert code == 1
    assert "LEADERBOARD.md" in err
    table.write_text(true_page)
    true_record = path.read_text()
    content = json.loads(true_record)
    content["result"]["test"]["per_class"][0]["recall"] += 1e-6
    path.write_text(json.dumps(content))
    code, _, err = wbc("verify")
    assert code == 1
    assert "test.per_class" in err
    path.write_text(true_record)
    assert wbc("verify")[0] == 0
    save_finished(store, made_record("vgg19"))
    other_predictions = store.predictions_path(made_record("vgg19").run)
    store.predictions_path(record.run).write_bytes(other_predictions.read_bytes())
    code, _, err = wbc("verify")
    assert code == 1
    assert "not those of this record" in err
    store.predictions_path(record.run).write_bytes(b"torn")
    code, _, err = wbc("verify")
    assert code == 2
    assert "cannot be read" in err


@pytest.mark.parametrize(("widths", "ok"), [(0.02, True), (0.1, False)])
def test_verify_allows_an_interval_what_other_resamples_give(
    wbc: Cli, tmp_path: Path, widths: float, ok: bool
) -> None:
    store, record = Store(tmp_path / "results"), made_record()
    save_finished(store, record)
    path = store.record_path(record.run)
    content = json.loads(path.read_text())
    test = content["result"]["test"]
    low, high = test["macro_f1_interval"]
    test["macro_f1_interval"] = [low - widths * (high - low), high]
    path.write_text(json.dumps(content))
    wbc("leaderboard")
    code, _, err = wbc("verify")
    assert code == (0 if ok else 1)
    assert ok or "test.macro_f1_interval.0" in err


def test_compare_says_what_is_significant(wbc: Cli, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    for name in ("vgg16", "lite0"):
        save_finished(store, made_record(name))
    code, out, _ = wbc("compare", "vgg16", "l0")
    assert code == 0
    assert "no significant difference" in out
    assert "exact McNemar" in out
    mirrored = wbc("compare", "l0", "vgg16")[1]
    assert ("+" in out.split("difference ")[1][:3]) != ("+" in mirrored.split("difference ")[1][:3])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("vgg16", "vgg16"), "same row"),
        (("vgg16", "vgg19"), "wbc-bench run vgg19"),
        (("vgg16", "vgg17"), "did you mean"),
    ],
)
def test_compare_rejects_in_one_line(
    wbc: Cli, tmp_path: Path, names: tuple[str, str], says: str
) -> None:
    save_finished(Store(tmp_path / "results"), made_record("vgg16"))
    code, _, err = wbc("compare", *names)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1


def make_members(wbc: Cli, tmp_path: Path, *names: str) -> Store:
    """Finished runs with the features that concatenation needs."""
    store = Store(tmp_path / "results")
    for name in names:
        record = made_record(name)
        save_finished(store, record)
        parts = made_predictions(record.run)
        folder = store.artefacts(record.run)
        write_predictions(folder / PREDICTIONS, parts)
        write_arrays(folder / FEATURES, {k: p.probabilities for k, p in parts.items()})
    return store


def test_an_ensemble_by_every_rule_stands_in_the_table(wbc: Cli, tmp_path: Path) -> None:
    store = make_members(wbc, tmp_path, "vgg16", "lite0", "efficientnetb0")
    code, out, _ = wbc("ensemble", "vgg16", "l0", "b0")
    assert code == 0
    rules = {record.ensemble.rule for record in store.ensembles()}
    assert rules == {"soft vote", "weighted vote", "greedy", "stacking", "concatenation"}
    assert all(f"{rule}: " in out for rule in rules)
    page = (tmp_path / "results" / "LEADERBOARD.md").read_text()
    assert "*Soft vote: VGG16 + EfficientNet-Lite0 + EfficientNetB0*" in page
    soft = next(r for r in store.ensembles() if r.ensemble.rule == "soft vote")
    members = [store.predictions(made_record(n).run)["test"] for n in ("vgg16", "lite0")]
    members.append(store.predictions(made_record("efficientnetb0").run)["test"])
    mean = np.mean([m.probabilities for m in members], axis=0)
    found = store.predictions(soft.ensemble)["test"].probabilities
    np.testing.assert_allclose(found, mean, rtol=1e-5)
    assert soft.cost.parameters == 3 * 14_780_000
    assert soft.cost.images_per_second == pytest.approx(25 / 3)
    assert wbc("verify")[0] == 0
    before = page
    assert wbc("ensemble", "vgg16", "l0", "b0")[0] == 0
    assert len(store.ensembles()) == 5
    assert rows_of(before) == rows_of((tmp_path / "results" / "LEADERBOARD.md").read_text())


def rows_of(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("|") and "(s)" not in line][:10]


def test_a_search_takes_all_that_have_finished(wbc: Cli, tmp_path: Path) -> None:
    store = make_members(wbc, tmp_path, "vgg16", "lite0", "efficientnetb0")
    assert wbc("ensemble", "--search")[0] == 0
    assert {r.ensemble.rule for r in store.ensembles()} == {"greedy", "best subset"}
    assert all(set(r.recipes) == {"vgg16", "lite0", "efficientnetb0"} for r in store.ensembles())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--search"),
        (("vgg16",), "at least two"),
        (("vgg16", "v16"), "at least two"),
        (("vgg16", "vgg19"), "wbc-bench run vgg19"),
        (("vgg16", "vgg17"), "did you mean"),
        (("vgg16", "mobilenet"), "no common images"),
        (("vgg16", "lite0", "--rule", "concatenation"), "features.npz is missing"),
        (("vgg16", "lite0", "--rule", "soft-votes"), "did you mean 'soft vote'"),
        (("vgg16", "--joint"), "at least two different branches"),
        (("vgg16", "vgg16", "--joint"), "at least two different branches"),
        (("vgg16", "lite0", "--joint", "--search"), "--search and --rule"),
        (("vgg16", "lite0", "--data", "smear"), "--data belongs to --joint"),
        (("vgg16", "@elsewhere"), "nothing was imported as 'elsewhere'"),
    ],
)
def test_an_invalid_ensemble_is_rejected(
    wbc: Cli, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    store = Store(tmp_path / "results")
    for name in ("vgg16", "lite0"):
        save_finished(store, made_record(name))
    elsewhere = made_record("mobilenet")
    other = elsewhere.run.model_copy(update={"data": "fedcba9876543210"})
    save_finished(store, elsewhere.model_copy(update={"run": other}))
    code, _, err = wbc("ensemble", *words)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1


def test_a_rule_without_what_it_needs_is_left_out_and_the_others_are_made(
    wbc: Cli, tmp_path: Path
) -> None:
    store = make_members(wbc, tmp_path, "vgg16", "lite0")
    (store.artefacts(made_record("lite0").run) / FEATURES).unlink()
    code, out, err = wbc("ensemble", "vgg16", "lite0")
    assert code == 0
    assert "soft vote: " in out
    assert "concatenation: left out: " in err
    assert "'wbc-bench run lite0'" in err
    assert {r.ensemble.rule for r in store.ensembles()} == set(RULES) - {"concatenation"}


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_damaged_features_are_named_with_what_helps(wbc: Cli, tmp_path: Path, keep: float) -> None:
    store = make_members(wbc, tmp_path, "vgg16", "lite0")
    run = made_record("lite0").run
    path = store.artefacts(run) / FEATURES
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    code, _, err = wbc("ensemble", "vgg16", "lite0", "--rule", "concatenation")
    assert code == 2
    message = (
        f"features.npz is damaged; delete {store.record_path(run)}, then 'wbc-bench run lite0'"
    )
    assert " ".join(message.split()).split("results/")[-1] in err


def test_one_rule_can_be_requested(wbc: Cli, tmp_path: Path) -> None:
    store = make_members(wbc, tmp_path, "vgg16", "lite0")
    assert wbc("ensemble", "vgg16", "lite0", "--rule", "soft-vote")[0] == 0
    assert [r.ensemble.rule for r in store.ensembles()] == ["soft vote"]


def test_a_joint_network_is_a_run(wbc: Cli, tmp_path: Path, trainer: StandIn) -> None:
    source = str(make_set(tmp_path / "set.npz"))
    words = (
        "--joint",
        "--profile",
        "quick",
        "--data",
        source,
        "--config",
        str(tmp_path / "b.toml"),
    )
    (tmp_path / "b.toml").write_text(
        '[weights]\nsource = "random"\n[profile.quick.split.subset]\ntrain = 60\n'
        "validation = 20\ntest = 20\n"
    )
    code, _, err = wbc("ensemble", "mn2", "l0", *words)
    assert (code, err) == (0, "")
    assert trainer.launched == ["mobilenetv2+lite0"]
    page = (tmp_path / "results" / "LEADERBOARD.md").read_text()
    assert "**Joint MobileNetV2 + EfficientNet-Lite0**" in page
    assert wbc("verify")[0] == 0
    assert wbc("ensemble", "mn2", "l0", *words)[0] == 0
    assert trainer.launched == ["mobilenetv2+lite0"]


def test_torn_predictions_come_back_from_the_artefacts_or_are_named(
    wbc: Cli, tmp_path: Path
) -> None:
    store, run = make_members(wbc, tmp_path, "vgg16", "lite0"), made_record("lite0").run
    path, true = store.predictions_path(run), store.predictions_path(run).read_bytes()
    for damage in (b"torn", true[:-1], true[:-4] + bytes(4), b""):
        path.write_bytes(damage)
        assert wbc("ensemble", "vgg16", "lite0")[0] == 0
        assert path.read_bytes() == true
    (store.artefacts(run) / PREDICTIONS).unlink()
    for damage in (b"torn", true[:-1], true[:-4] + bytes(4)):
        path.write_bytes(damage)
        for subcommand in (("ensemble", "vgg16", "lite0"), ("leaderboard",)):
            code, _, err = wbc(*subcommand)
            assert code == 2
            assert run.id in err
            assert err.count("\n") == 1


def test_verify_finds_a_vote_that_is_not_its_members_vote(wbc: Cli, tmp_path: Path) -> None:
    store = make_members(wbc, tmp_path, "vgg16", "lite0")
    wbc("ensemble", "vgg16", "lite0", "--rule", "weighted vote")
    (record,) = store.ensembles()
    changed = record.model_copy(
        update={"shares": (0.9, 0.1) if record.shares[0] < 0.5 else (0.1, 0.9)}
    )
    store.save(changed)
    wbc("leaderboard")
    code, _, err = wbc("verify")
    assert code == 1
    assert "its shares are [(0." in err


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


# --- audit and cleaning ---------------------------------------------------------------------------


def test_classes_before_and_after_balancing(wbc: Cli, tmp_path: Path) -> None:
    make_set(tmp_path / "set.npz", labels=np.repeat([0, 1, 2], [20, 30, 70]))
    settings = '[data]\nsource = "set.npz"\nkeep = [0, 100]\n' + SETTINGS
    (tmp_path / "benchmark.toml").write_text(settings + "[protocol.loss]\noversampling = true\n")
    code, out, err = wbc("data", "classes")
    assert code == 0, err
    _, _, *rows, total, path = (line.split() for line in out.splitlines())
    assert [row[1:] for row in rows] == [
        ["20", "14", "35", "1.6667", "1.6667"],
        ["30", "21", "35", "1.1111", "1.1111"],
        ["50", "35", "35", "0.6667", "0.6667"],
    ]
    assert total == ["all", "100", "70", "105"]
    assert (tmp_path / path[0]).read_bytes().startswith(b"\x89PNG")
    for keep, message in (("[5, 5]", "keeps no image"), ("[0, 121]", "set has 120 images; keep")):
        (tmp_path / "benchmark.toml").write_text(settings.replace("[0, 100]", keep))
        code, _, err = wbc("data", "classes")
        assert (code, message in err) == (2, True), err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network", "vgg61"), "did you mean 'vgg1"),
        (("--network", "basic"), "an audit needs one network with its weights"),
        (("--network", "vgg16"), "vgg16: cannot download"),
        (("--size", "17"), "--size 17 is "),
        (("--similarity", "2"), "2.0 is not in the range"),
    ],
)
def test_what_an_audit_cannot_compare_with(
    wbc: Cli, offline: None, words: Any, message: str
) -> None:
    code, _, err = wbc("data", "audit", "smear@80", *words)
    assert (code, message in err) == (2, True), err


@pytest.mark.slow
def test_the_layers_of_a_network(wbc: Cli) -> None:
    code, out, err = wbc("zoo", "show", "basic", "--size", "32")
    assert code == 0, err
    assert "Conv2D" in out
    assert "32 x 32 x 32" in out
    assert wbc("zoo", "show", "vgg16", "--size", "17")[0] == 2
    assert "did you mean 'vgg1" in wbc("zoo", "show", "vgg61")[2]


@pytest.mark.slow
def test_audit_then_clean_data(wbc: Cli, tmp_path: Path, offline: None) -> None:
    """With the real network: a page, a manifest, and the data without what it lists."""
    from harness.commands.data import prepare
    from harness.commands.settings import DataOptions, load_settings

    code, out, err = wbc("data", "audit", "smear@400")
    assert code == 0, err
    assert "400 images: 8 to remove, 392 kept" in out
    assert out.splitlines()[-1] == "audit/smear@400/AUDIT.md"
    assert len((tmp_path / "audit" / "smear@400" / "manifest.csv").read_text().splitlines()) == 9
    assert wbc("data", "preview", "smear@400", "--clean")[0] == 0
    by_audit = prepare(load_settings(DataOptions("smear@400", clean=True))).dataset
    assert len(by_audit) == 392
    # A manifest of the user's own, relative to the settings: the same images, the same data.
    manifest = "audit/smear@400/manifest.csv"
    clean = f'[data]\nsource = "smear@400"\nclean = true\nmanifest = "{manifest}"\n'
    (tmp_path / "benchmark.toml").write_text(clean)
    by_manifest = prepare(load_settings(DataOptions())).dataset
    assert by_manifest.fingerprint == by_audit.fingerprint


def test_a_run_on_cleaned_data(wbc: Cli, tmp_path: Path, trainer: StandIn, offline: None) -> None:
    """One image less, under a name that says so; another manifest is another run."""
    digest = hashlib.sha256(np.load(make_set(tmp_path / "set.npz"))["images"][7].data).hexdigest()
    hidden_manifest(tmp_path, f"7,{digest},not-a-cell,x")
    code, out, err = wbc("run", "vgg16")
    assert code == 0, err
    assert "set, cleaned" in out
    (record,) = Store(tmp_path / "results").records()
    assert record.data.images == 119
    assert "1 done, 0 pending" in wbc("run", "vgg16")[1]
    (tmp_path / "benchmark.toml").write_text('[data]\nsource = "set.npz"\n' + SETTINGS)
    assert "0 done, 1 pending" in wbc("run", "vgg16")[1]


def hidden_manifest(tmp_path: Path, line: str) -> Path:
    path = tmp_path / "manifest.csv"
    path.write_text(f"index,sha256,kind,reason\n{line}\n")
    (tmp_path / "benchmark.toml").write_text(
        '[data]\nsource = "set.npz"\nclean = true\nmanifest = "manifest.csv"\n' + SETTINGS
    )
    make_set(tmp_path / "set.npz")
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"7,{'0' * 64},not-a-cell,x", "manifest.csv does not fit set: image 7 is not the one"),
        (f"120,{'0' * 64},not-a-cell,x", "it removes image 120, but there are 120"),
        ("seven", "manifest.csv: line 2 has 1 columns, line 1 has 4"),
    ],
)
def test_a_manifest_that_does_not_fit(
    wbc: Cli, tmp_path: Path, trainer: StandIn, line: str, message: str
) -> None:
    hidden_manifest(tmp_path, line)
    code, _, err = wbc("run", "vgg16")
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert trainer.launched == []


def test_a_manifest_without_clean_is_rejected(wbc: Cli, tmp_path: Path) -> None:
    (tmp_path / "benchmark.toml").write_text('[data]\nmanifest = "manifest.csv"\n')
    code, _, err = wbc("plan", "--all")
    assert code == 2
    assert "set clean = true" in err


def test_an_unknown_kind_of_finding_names_the_nearest(wbc: Cli) -> None:
    code, _, err = wbc("data", "audit", "smear@80", "--remove", "near-copy")
    assert code == 2
    assert "unknown kind of finding 'near-copy'; did you mean 'near-copies'?" in err
    assert wbc("data", "audit", "smear@80", "--remove", "isolated")[0] == 2


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
    "unknown subcommand": (lambda _: ("leaderbord",), "did you mean 'leaderboard'?"),
    "unknown option": (lambda _: ("run", "--al"), "--all"),
    "unknown recipe with all": (lambda _: ("run", "--all", "vgg61"), "did you mean 'vgg16'?"),
    "one branch": (lambda _: ("run", "mn1+mobilenet"), "at least two different branches"),
    "no variants": (lambda _: ("run", "mn2", "--variant", "all"), "no table [variants.NAME]"),
    "no number": (lambda _: ("run", "mn2", "--seeds", "x"), "'x' is not a valid integer."),
    "two previews": (
        lambda _: ("data", "preview", "smear@80", "--shift", "--policy", "mixup"), "one of them",
    ),
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
    record = made_record()
    save_finished(Store(tmp_path / "results"), record)
    code, _, err = wbc(*make(tmp_path))
    assert code == 2
    assert err.startswith("wbc-bench: ")
    assert err.count("\n") == 1, err
    assert says in err
    assert trainer.launched == []
    assert Store(tmp_path / "results").find(record.run) == record


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


def test_a_bug_keeps_its_traceback(
    wbc: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    (tmp_path / "results" / "records").mkdir(parents=True)
    monkeypatch.setattr("harness.reporting.publish.write_tables", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        wbc("leaderboard")


READERS = (("leaderboard",), ("verify",), ("status",), ("compare", "v16", "r50"),
           ("export", "v16"), ("ensemble", "v16", "r50", "--rule", "greedy"))  # fmt: skip


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_a_mistyped_results_folder_is_no_empty_board(
    wbc: Cli, tmp_path: Path, words: tuple[str, ...]
) -> None:
    save_finished(Store(tmp_path / "results"), made_record())
    code, _, err = wbc(*words, "--results", "resluts")
    assert (code, err.count("\n")) == (2, 1)
    assert "resluts: no such results folder; did you mean 'results'?" in err
    assert not (tmp_path / "resluts").exists()
    (tmp_path / "file").touch()
    assert "file: is a file" in wbc(*words, "--results", "file")[2]


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_what_is_no_record_is_named_once_and_ignored(
    wbc: Cli, tmp_path: Path, words: tuple[str, ...]
) -> None:
    store = Store(tmp_path / "results")
    for name in ("vgg16", "resnet50"):
        save_finished(store, made_record(name))
    path = store.record_path(made_run())
    wbc("leaderboard")
    before = wbc(*words)[1]
    copied = path.read_bytes()
    (path.parent / "vgg16 (conflicted copy).json").write_bytes(copied)
    (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    (path.parent / "vgg16-0123456789abcdef.json").write_bytes(copied)
    code, out, err = wbc(*words)
    assert (code, out) == (0, before)
    assert err.count("\n") == 1
    assert all(name in err for name in ("._vgg16", "conflicted copy", "0123456789abcdef"))


def test_help_needs_no_writable_folder(wbc: Cli, tmp_path: Path) -> None:
    code, out, _ = wbc("--help")
    assert code == 0
    assert "leaderboard" in out
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert not list(tmp_path.iterdir())
