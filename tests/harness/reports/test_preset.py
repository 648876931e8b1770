"""The presets of the five reports, and how strictly a preset is read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from harness.config import load
from harness.errors import ConfigError, UnknownName
from harness.reports.preset import (
    find_report,
    find_rows,
    packaged,
    read_preset,
    rows_by_signature,
    rows_of,
    signature,
)
from zoo.registry import find

PRESET = """
title = "Mine"
images = 100
[tables.one]
title = "One"
rows = [{ label = "A", recipe = "vgg16", reported = { macro_f1 = 90 } }]
"""


def test_every_reported_row_is_there() -> None:
    counts = {
        (number, table): len(shown.rows)
        for number, report in packaged().items()
        for table, shown in report.tables.items()
    }
    assert counts == {
        ("000", "balance"): 2, ("000", "extractors"): 9, ("000", "ensemble"): 1,
        ("000", "augmentation"): 4, ("000", "unfrozen"): 2, ("000", "dense"): 2,
        ("001", "table1"): 3, ("002", "table1"): 5, ("003", "table1"): 12, ("003", "unet"): 1,
        ("003", "selected"): 1, ("004", "table3"): 5,
    }  # fmt: skip


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_every_row_has_settings_that_its_recipe_can_take(profile: str) -> None:
    for number, report in packaged().items():
        for row in rows_of(number, report):
            benchmark = load(None, profile, preset=row.preset(profile))  # type: ignore[arg-type]
            recipe = find(row.row.recipe)
            assert not recipe.size_problem(benchmark.protocol.image_size), row.name
            assert (benchmark.split.subset is not None) == (profile == "quick")
            assert benchmark.protocol.loss.oversampling in (
                (False, True, 1500) if profile == "full" else (False, True)
            )
            assert benchmark.protocol.from_scratch or recipe.pretrained
            assert row.row.reported


def test_runs_are_shared_between_rows_and_tables() -> None:
    rows = [row for number, report in packaged().items() for row in rows_of(number, report)]
    known = rows_by_signature(rows)
    shared = [{row.name for row, _ in pairs} for pairs in known.values()]
    assert {"000/unfrozen/80 % + 5e-4", "000/dense/128"} in shared
    assert {"000/balance/Class weights", "000/extractors/EfficientNetV2M"} in shared
    frozen = {"003/table1/VGG16, transfer learning", "003/table1/VGG16, 10 layers fine-tuned"}
    assert Counter(names == frozen for names in shared)[True] == 2
    assert all(len({(r.name, p) for r, p in pairs}) == len(pairs) for pairs in known.values())


def test_a_run_of_another_precision_or_version_is_the_same_row() -> None:
    (row,) = find_rows("002/table1/basic")
    benchmark = load(None, "full", gpu=True, preset=row.preset("full"))
    protocol = benchmark.protocol.model_copy(update={"version": 9})
    known = rows_by_signature([row])
    assert signature("basic", protocol, benchmark.split) in known
    assert signature("unet", protocol, benchmark.split) not in known


@pytest.mark.parametrize("name", ["003", "Machine", "machinedumbening"])
def test_a_report_is_found_by_number_and_alias(name: str) -> None:
    assert find_report(name)[0] == "003"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("0003", "unknown report '0003'; did you mean '003'?"),
        ("003/tabel1", "unknown table of report 003 'tabel1'; did you mean 'table1'?"),
        ("002/table1/unet", "unknown recipe of 002/table1 'unet'"),
    ],
)
def test_what_is_unknown_gets_the_nearest_name(target: str, message: str) -> None:
    with pytest.raises(UnknownName) as caught:
        find_rows(target)
    assert message in str(caught.value)


def test_a_preset_of_the_users(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(PRESET)
    (row,) = find_rows(f"{path}/one/vgg16")
    assert row.name == "mine/one/A"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("images =", "image =", "unknown key 'image'; did you mean 'images'?"),
        ("recipe =", "recepie =", "'tables.one.rows.1.recepie'; did you mean 'recipe'?"),
        ('"vgg16"', '"resnet59"', "A: unknown recipe 'resnet59'; did you mean 'resnet50'?"),
        ("macro_f1", "makro_f1", "unknown score 'makro_f1'; did you mean 'macro_f1'?"),
        ("[tables.one]", "[settings.protocol]\nimage_sizes = 9\n[tables.one]",
         "unknown key 'settings.protocol.image_sizes'; did you mean 'image_size'?"),
        ("rows = [{", 'rows = ["A", {', "tables.one.rows must be a list of tables"),
    ],
)  # fmt: skip
def test_a_mistyped_preset_is_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(PRESET.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_preset(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
