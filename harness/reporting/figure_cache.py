"""A results folder's figures, figures/BOARD/NAME.svg and .png: drawn when their plot changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from harness.reporting.leaderboard import Board
from harness.reporting.plots import Plot, plots, slug
from harness.storage.files import write_atomically

FORMATS = ("svg", "png")
DIGEST = re.compile(rb"wbc-bench-data(?:: |\0)([0-9a-f]{64})")
HEAD = 2048
"""Bytes of a file in which its digest stands."""


class FigureCache:
    """What the figures of some boards should be, and what lies in the folder."""

    def __init__(self, results: Path, boards: Sequence[Board]) -> None:
        self.folder = results / "figures"
        self.plots = {slug(board): plots(board) for board in boards}

    def path(self, board: str, plot: Plot, extension: str) -> Path:
        return self.folder / board / f"{plot.name}.{extension}"

    def refresh(self) -> tuple[Path, ...]:
        """Draw what is missing or not of its plot, remove what is of no plot; what was drawn."""
        stale = [
            (board, plot)
            for board, plot, digest in self._wanted()
            if any(found_digest(self.path(board, plot, ext)) != digest for ext in FORMATS)
        ]
        for path in self._left_over():
            path.unlink()
            with suppress(OSError):  # Something else lies there too.
                path.parent.rmdir()
        return tuple(path for board, plot in stale for path in self._draw(board, plot))

    def mismatches(self) -> Iterator[str]:
        """Each figure that is missing, not of its plot, or of no plot."""
        for board, plot, digest in self._wanted():
            for path in (self.path(board, plot, ext) for ext in FORMATS):
                if found_digest(path) != digest:
                    yield f"{path}: not what the records give; 'wbc-bench leaderboard' draws it"
        for path in self._left_over():
            yield f"{path}: of no board here; 'wbc-bench leaderboard' removes it"

    def pictures(self, board: str) -> tuple[tuple[Plot, str], ...]:
        """A board's plots with the SVG of each, where there is one."""
        found = []
        for plot in self.plots[board]:
            with suppress(OSError):
                text = self.path(board, plot, "svg").read_text(encoding="utf-8", errors="replace")
                found.append((plot, text))
        return tuple(found)

    def _draw(self, board: str, plot: Plot) -> Iterator[Path]:
        from harness.reporting.figures import render

        for extension, content in render(plot).items():
            path = self.path(board, plot, extension)
            write_atomically(path, content)
            yield path

    def _wanted(self) -> Iterator[tuple[str, Plot, str]]:
        for board, shown in self.plots.items():
            for plot in shown:
                yield board, plot, plot.digest

    def _left_over(self) -> list[Path]:
        """Files that bear a digest but are no figure of these boards."""
        known = {
            self.path(board, plot, ext) for board, plot, _ in self._wanted() for ext in FORMATS
        }
        return [
            path
            for path in sorted(self.folder.glob("*/*"))
            if path.suffix[1:] in FORMATS and path not in known and found_digest(path)
        ]


def found_digest(path: Path) -> str:
    """The digest of the plot that a figure was drawn of; empty where there is none to be read."""
    try:
        with path.open("rb") as file:
            found = DIGEST.search(file.read(HEAD))
    except OSError:
        return ""
    return found[1].decode() if found else ""
