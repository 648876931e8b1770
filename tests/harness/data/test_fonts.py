"""Class names in any script are legible in figures, or the figure says that they are not."""

from __future__ import annotations

import io

import pytest
from matplotlib.figure import Figure

from harness.data import fonts
from harness.data.fonts import NOTE, legible


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
