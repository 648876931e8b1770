"""Boards -> LEADERBOARD.md. Pure: the same boards, the same bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.reporting.ablation import studies
from harness.reporting.leaderboard import Board
from harness.reporting.overview import overviews
from harness.reporting.provenance import headings
from harness.reporting.templates import environment


def markdown(boards: Sequence[Board]) -> str:
    """The whole LEADERBOARD.md."""
    every = tuple(boards)
    text = (
        environment()
        .get_template("leaderboard.md.j2")
        .render(
            boards=every,
            headings=headings(every),
            overviews=overviews(every),
            studies=studies(every),
        )
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
