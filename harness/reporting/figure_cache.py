"""The figures of a results folder, figures/BOARD/NAME.svg and .png, drawn when they change."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from harness.errors import StoreError
from harness.reporting.leaderboard import Board
from harness.reporting.plots import Plot, plots, slug
from harness.reporting.provenance import headings
from harness.storage.files import no_link_between, open_plain, read_plain, write_atomically

FORMATS = ("svg", "png")
PNG_DIGEST = re.compile(rb"wbc-bench-data\0([0-9a-f]{64})")
HEAD = 2048
"""The digest is within the first bytes of a PNG."""
SVG = re.compile(
    rb"[^&]{0,400}?<!-- wbc-bench-data: ([0-9a-f]{64}) ([0-9a-f]{64}) -->\n(<svg.*)", re.DOTALL
)
"""The digest of the plot, the checksum of the drawing, and the drawing."""
MOST_SVG_BYTES = 1 << 24


class FigureCache:
    """The figures that boards should have, and those that the folder has."""

    def __init__(
        self,
        results: Path,
        boards: Sequence[Board],
        others: Mapping[str, tuple[Plot, ...]] | None = None,
    ) -> None:
        """``others``: plots of no board, by the name of their folder."""
        self.folder = results / "figures"
        titles = headings(tuple(boards))
        self.plots = {slug(board): plots(board, titles[board]) for board in boards}
        self.plots |= others or {}
        self._expected = {
            self.path(board, plot, extension): plot
            for board, shown in self.plots.items()
            for plot in shown
            for extension in FORMATS
        }

    def path(self, board: str, plot: Plot, extension: str) -> Path:
        return self.folder / board / f"{plot.name}.{extension}"

    def refresh(self) -> tuple[Path, ...]:
        """Draw figures that are missing or outdated, remove those of no board; what was drawn."""
        for path in self._unexpected():
            no_link_between(self.folder.parent, path).unlink()
            with suppress(OSError):  # The folder holds something else.
                path.parent.rmdir()
        drawn = []
        for plot in dict.fromkeys(self._expected[path] for path in self._outdated()):
            from harness.reporting.figures import render

            contents = render(plot)
            for path in (path for path, expected in self._expected.items() if expected is plot):
                no_link_between(self.folder.parent, path)
                write_atomically(path, contents[path.suffix[1:]])
                drawn.append(path)
        return tuple(drawn)

    def mismatches(self) -> Iterator[str]:
        """A line for each figure that is missing, outdated or of no board."""
        for path in self._outdated():
            yield f"{path}: not what the records give; 'wbc-bench leaderboard' draws it"
        for path in self._unexpected():
            yield f"{path}: of no board here; 'wbc-bench leaderboard' removes it"

    def pictures(self) -> dict[str, list[tuple[Plot, bytes]]]:
        """By a board's slug its plots with their SVG, as far as it was drawn of them."""
        pictures: dict[str, list[tuple[Plot, bytes]]] = {board: [] for board in self.plots}
        for board, shown in self.plots.items():
            for plot in shown:
                digest, drawing = read_svg(self.path(board, plot, "svg"))
                if digest == plot.digest:
                    pictures[board].append((plot, drawing))
        return pictures

    def _outdated(self) -> list[Path]:
        return [path for path, plot in self._expected.items() if stored_digest(path) != plot.digest]

    def _unexpected(self) -> list[Path]:
        """Files that carry a digest but are no figure of these boards."""
        return [
            path
            for path in sorted(self.folder.glob("*/*"))
            if path.suffix[1:] in FORMATS and path not in self._expected and stored_digest(path)
        ]


def stored_digest(path: Path) -> str:
    """The digest of the plot that a figure was drawn from; empty where there is none."""
    if path.suffix == ".svg":
        return read_svg(path)[0]
    try:
        with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
            match = PNG_DIGEST.search(file.read(HEAD))
    except (OSError, StoreError):
        return ""
    return match[1].decode() if match else ""


def read_svg(path: Path) -> tuple[str, bytes]:
    """The digest of the plot of an SVG, and its drawing; empty where the checksum differs."""
    try:
        match = SVG.fullmatch(read_plain(path, MOST_SVG_BYTES))
    except (OSError, StoreError):
        return "", b""
    if match is None or hashlib.sha256(match[3]).hexdigest() != match[2].decode():
        return "", b""
    return match[1].decode(), match[3]
