"""The zoo's user errors; harness.errors shows the whole tree."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What moves a terminal's cursor, changes its colours, or turns the direction of a text."""

MOST_LISTED = 30
"""Choices that one line names."""


def printable(text: str) -> str:
    """A text on one line, without characters that a terminal would obey."""
    if CONTROL.search(text) is None:
        return text
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))


class UserError(Exception):
    """The user's input is wrong; the message says what, where, and the nearest valid choice.

    It is one line, whatever the file names and contents in it are.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class UnknownName(UserError):
    """A name that is not among the known ones; ``listed`` is said where these are too many."""

    def __init__(self, kind: str, name: str, known: Iterable[str], listed: str = "") -> None:
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, known) or listed}")


class Offline(UserError):
    """A download is needed, and the network does not answer."""


class ImageSizeError(UserError):
    """Images of a size that a recipe cannot take."""


class WeightsError(UserError):
    """Weights that are missing, damaged, or do not fit the recipe."""


def home_expanded(path: str | Path) -> Path:
    """A path as the user gave it, with ``~`` as a home folder. Raises UserError."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no such user") from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or the choices when none is similar and they are few."""
    known = sorted(known)
    near = get_close_matches(name.lower(), known, cutoff=0.55)
    if near:
        nearest = max(near, key=lambda other: sorted(other) == sorted(name.lower()))
        return f"; did you mean {nearest!r}?"
    return f"; choose from {', '.join(known)}" if 0 < len(known) <= MOST_LISTED else ""
