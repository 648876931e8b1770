"""Figures: drawn when their plot changes, the same bytes, legible on white and on black."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.commands.verify import verify
from harness.errors import StoreError
from harness.reporting import figures, publish
from harness.reporting import plots as plotting
from harness.reporting.figure_cache import FigureCache, stored_digest
from harness.reporting.figures import BLUE, GREEN, INK, KINDS, SHADES, render
from harness.reporting.leaderboard import Board
from harness.reporting.plots import Against, Confusions, Plot, printable
from harness.reporting.publish import read_boards
from harness.schema.records import RunRecord
from harness.storage.records import Store
from tests.harness.conftest import made_record, save_finished
from tests.harness.reporting.test_html import HOSTILE, renamed
from tests.harness.reporting.test_markdown import boards

RECIPES = ("vgg16", "lite0", "efficientnetb0")

NAMES = ("f1-throughput", "f1-parameters", "forest", "curves", "confusion", "shifted",
         "reliability", "disagreement")  # fmt: skip


def board(*records: RunRecord) -> Board:
    (found,) = boards(list(records) or [made_record(name) for name in RECIPES])
    return found


def plots(shown: Board) -> tuple[Plot, ...]:
    return plotting.plots(shown, "a heading")


def stand_in(plot: Plot, drawing: bytes = b"<svg></svg>") -> dict[str, bytes]:
    """Figures without matplotlib."""
    mark = f"wbc-bench-data: {plot.digest} {hashlib.sha256(drawing).hexdigest()}".encode()
    png = f"wbc-bench-data\0{plot.digest}".encode()
    return {"svg": b"<!-- " + mark + b" -->\n" + drawing, "png": png}


def folder(path: Path) -> Path:
    for name in RECIPES:
        save_finished(Store(path), made_record(name))
    return path


# --- what is drawn ---------------------------------------------------------------------------


def test_a_board_has_every_figure() -> None:
    assert tuple(plot.name for plot in plots(board())) == NAMES


def test_a_single_network_has_no_disagreement() -> None:
    assert {plot.name for plot in plots(board(made_record()))} == set(NAMES) - {"disagreement"}


def test_the_digest_is_of_what_is_shown() -> None:
    first = {plot.name: plot.digest for plot in plots(board())}
    again = {plot.name: plot.digest for plot in plots(board())}
    assert first == again
    assert len(set(first.values())) == len(first)
    fewer = plots(board(made_record("vgg16"), made_record("lite0")))
    assert all(plot.digest != first[plot.name] for plot in fewer)


def test_counts_and_fronts_are_the_boards() -> None:
    shown = board()
    for plot in plots(shown):
        if isinstance(plot, Confusions):
            for panel, row in zip(plot.panels, shown.networks, strict=True):
                assert panel.counts == row.evaluations[0].test.confusion
        if isinstance(plot, Against):
            assert any(plot.fronts)
            assert [mark.f1 for mark in plot.marks] == [row.macro_f1 for row in shown.rows]


def test_what_fonts_and_xml_cannot_show_is_replaced() -> None:
    assert printable("a\nb\x00c\ud800") == "a b\N{REPLACEMENT CHARACTER}c\N{REPLACEMENT CHARACTER}"


# --- drawing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_figure_is_the_same_bytes_and_bears_its_digest(number: int, tmp_path: Path) -> None:
    plot = plots(board())[number]
    drawn = render(plot)
    assert drawn == render(plot)
    for extension, content in drawn.items():
        path = tmp_path / f"x.{extension}"
        path.write_bytes(content)
        assert stored_digest(path) == plot.digest
    image = Image.open(io.BytesIO(drawn["png"])).convert("RGBA")
    alpha = np.asarray(image)[..., 3]
    assert alpha[0, 0] == 0, "the background is not transparent"
    assert (alpha > 0).mean() > 0.005


def test_names_that_would_be_markup_or_formulas() -> None:
    names = ("<b>&amp;", "$x_1$ \\frac", "a\x07b")
    shown = board(*(renamed(made_record(name), names) for name in RECIPES))
    for plot in plots(shown):
        svg = render(plot)["svg"].decode()
        assert "<b>" not in svg
        if plot.name == "confusion":
            assert "&lt;b&gt;&amp;amp;" in svg
            assert "$x_1$ \\frac" in svg
    for plot in plots(board(*(renamed(made_record(name), HOSTILE) for name in RECIPES))):
        assert b"<script" not in render(plot)["svg"]


@pytest.mark.parametrize(
    "colour", sorted({INK, BLUE, GREEN, *(kind[1] for kind in KINDS.values())})
)
@pytest.mark.parametrize("page", ["#ffffff", "#0d1117"])
def test_colours_stand_out_on_both_pages(colour: str, page: str) -> None:
    """WCAG 2.1 requires 3 for graphics."""
    assert contrast(colour, page) >= 3


def test_numbers_stand_out_on_their_cells() -> None:
    for share in np.linspace(0, 1, 21):
        assert contrast(SHADES(share), figures._on(SHADES(share))) >= 4.5


def contrast(one: object, other: object) -> float:
    from matplotlib.colors import to_rgb

    def luminance(colour: object) -> float:
        c = np.array(to_rgb(colour))  # type: ignore[arg-type]
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05

    ends = sorted((luminance(one), luminance(other)))
    return ends[1] / ends[0]


# --- when ------------------------------------------------------------------------------------


def test_nothing_is_drawn_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def draw(plot: Plot) -> dict[str, bytes]:
        drawn.append(plot.name)
        return stand_in(plot)

    monkeypatch.setattr(figures, "render", draw)
    publish.write_tables(folder(tmp_path))
    assert sorted(drawn) == sorted(NAMES)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    publish.write_tables(tmp_path)
    assert len(drawn) == len(NAMES)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    (tmp_path / "figures" / "runs").mkdir()
    next(tmp_path.glob("figures/*/forest.png")).unlink()
    publish.write_tables(tmp_path)
    assert drawn[len(NAMES) :] == ["forest"]
    save_finished(Store(tmp_path), made_record("resnet50"))
    publish.write_tables(tmp_path)
    assert len(drawn) == 2 * len(NAMES) + 1


def test_verify_names_a_figure_that_is_not_the_records(tmp_path: Path) -> None:
    publish.write_tables(folder(tmp_path))
    assert verify(tmp_path) == []
    forest = next(tmp_path.glob("figures/*/forest.svg"))
    right = forest.read_text()
    digest = stored_digest(forest)
    forest.write_text(right.replace(digest, digest[::-1]))
    assert any("forest.svg" in line for line in verify(tmp_path))
    forest.write_text(right.replace("macro F1", "micro F1"))
    assert any("forest.svg" in line for line in verify(tmp_path))
    shown = FigureCache(tmp_path, read_boards(tmp_path)).pictures()
    assert not any(b"micro F1" in svg for pictures in shown.values() for _, svg in pictures)
    forest.write_text(right)
    other = tmp_path / "figures" / "other-board" / "forest.svg"
    other.parent.mkdir()
    other.write_text(right)
    mine = other.with_name("mine.svg")
    mine.write_text("<svg></svg>")
    assert [line.split(":")[0] for line in verify(tmp_path)] == [str(other)]
    publish.write_tables(tmp_path)
    assert verify(tmp_path) == []
    assert mine.exists()
    assert not other.exists()
    page = tmp_path / "index.html"
    page.write_text(page.read_text() + " ")
    assert [line.split(":")[0] for line in verify(tmp_path)] == [str(page)]
    page.unlink()
    os.mkfifo(page)
    assert [line.split(":")[0] for line in verify(tmp_path)] == [str(page)], "nobody waits for it"


def test_figures_are_neither_written_nor_removed_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, victim = folder(tmp_path / "results"), tmp_path / "victim"
    (victim / "other").mkdir(parents=True)
    drawn = stand_in(plots(board())[0])
    (victim / "other" / "forest.svg").write_bytes(drawn["svg"])
    (results / "figures").symlink_to(victim)
    before = sorted(victim.rglob("*"))
    monkeypatch.setattr(figures, "render", stand_in)
    with pytest.raises(StoreError, match="figures: a symbolic link; nothing is written"):
        publish.write_tables(results)
    assert sorted(victim.rglob("*")) == before


def test_no_boards_have_no_figures(tmp_path: Path) -> None:
    figure_cache = FigureCache(tmp_path, ())
    assert figure_cache.refresh() == ()
    assert list(figure_cache.mismatches()) == []
