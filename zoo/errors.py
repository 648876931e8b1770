"""The zoo's user errors; harness.errors shows the whole tree."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """The user's input is wrong; the message says what, where, and the nearest valid choice."""


class UnknownName(UserError):
    """A name that is not among the known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, known)}")


class Offline(UserError):
    """A download is needed, and the network does not answer."""


class ImageSizeError(UserError):
    """Images of a size that a recipe cannot take."""


class WeightsError(UserError):
    """Weights that are missing, damaged, or do not fit the recipe."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or the choices when none is similar."""
    known = sorted(known)
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.55)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; choose from {', '.join(known)}" if known else ""
