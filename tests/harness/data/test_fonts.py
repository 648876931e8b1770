"""Class names in any script are legible in figures, or the figure says that they are not."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import ImageDraw

from harness.data import fonts
from harness.data.contact_sheet import Row, Tile, draw
from harness.data.fonts import BOXES, NOTE, font_file, legible


def texts_while_drawn(title: str) -> list[str]:
    figure = Figure()
    figure.suptitle(title)
    with legible(figure):
        shown = [text.get_text() for text in figure.texts]
        figure.savefig(io.BytesIO(), format="png")
    assert NOTE not in [text.get_text() for text in figure.texts]
    return shown


@pytest.mark.parametrize("title", ["Größe µm → α", "嗜碱性粒细胞", "\U0001f9ec"])
def test_a_figure_says_what_no_font_can_show(monkeypatch: pytest.MonkeyPatch, title: str) -> None:
    monkeypatch.setattr(fonts, "_family_with", lambda letters: None)
    assert (NOTE in texts_while_drawn(title)) == (not title.startswith("G"))


def test_an_installed_font_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_letters", lambda family: frozenset("x"))
    assert fonts._family_with(frozenset("ab")) is not None
    assert NOTE not in texts_while_drawn("ab")


def test_a_font_of_placeholders_is_no_font() -> None:
    """Matplotlib brings "Last Resort", which claims every letter and draws boxes."""
    assert font_file("\U000f1234") is None
    assert font_file("Größe, базофил") == font_file("")


@pytest.mark.parametrize(
    ("name", "boxes"), [("basophil", False), ("базофил", False), ("\U000f1234", True)]
)
def test_a_contact_sheet_says_what_no_font_can_show(
    monkeypatch: pytest.MonkeyPatch, name: str, boxes: bool
) -> None:
    drawn: list[str] = []
    text = ImageDraw.ImageDraw.text

    def record(self: Any, at: Any, written: str, *options: Any, **more: Any) -> None:
        drawn.append(written)
        text(self, at, written, *options, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    tile = Tile(np.zeros((64, 64, 3), np.uint8), ("cell 1",))
    draw([Row([tile], name)], 64, title="cells", subtitle="1 image")
    assert name in drawn
    assert (f"1 image; {BOXES}" in drawn) == boxes
