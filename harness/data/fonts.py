"""Fonts of figures that are drawn as pixels: class names may be in a script that ours lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOXES = "Boxes are letters that no installed font has"
NOTE = f"{BOXES}; the table has the names."


@contextmanager
def legible(figure: Figure) -> Iterator[None]:
    """While it lasts, a figure is drawn with installed fonts for letters that ours lacks.

    Where there is no such font, the figure says so.
    """
    import matplotlib
    from matplotlib.text import Text

    own = matplotlib.rcParams["font.sans-serif"]
    shown = {letter for text in figure.findobj(Text) for letter in text.get_text()}
    missing = frozenset(shown - _letters("DejaVu Sans") - {"\n"})
    if not missing:
        yield
        return
    family = _family_with(missing)
    note = None if family else figure.text(0.01, 0.01, NOTE, fontsize=7, color="#b04a00")
    try:
        with matplotlib.rc_context(
            {"font.sans-serif": [*own[:1], *([family] if family else own[1:])]}
        ):
            yield
    finally:
        if note is not None:
            note.remove()


def font_file(text: str) -> str | None:
    """The file of a font with all letters of a text, ours or an installed one; None without one."""
    from matplotlib.font_manager import FontProperties, findfont

    missing = frozenset(text) - _letters("DejaVu Sans")
    family = _family_with(missing | frozenset(text)) if missing else "DejaVu Sans"
    return findfont(FontProperties([family])) if family else None


@cache
def _letters(family: str) -> frozenset[str]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(map(chr, get_font(findfont(FontProperties([family]))).get_charmap()))


@cache
def _family_with(letters: frozenset[str]) -> str | None:
    """An installed font that has all these letters, the first by name."""
    from matplotlib.font_manager import fontManager, get_font

    for entry in sorted(fontManager.ttflist, key=lambda entry: (entry.name, entry.fname)):
        if entry.name.startswith("Last Resort"):  # It has a box for every letter.
            continue
        try:
            known = get_font(entry.fname).get_charmap()
        except (OSError, RuntimeError):
            continue
        if all(ord(letter) in known for letter in letters):
            return entry.name
    return None
