"""Boards -> LEADERBOARD.md. Pure: the same boards, the same bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.reporting.leaderboard import Board
from harness.reporting.templates import render


def markdown(boards: Sequence[Board]) -> str:
    """The whole LEADERBOARD.md."""
    text = render("leaderboard.md.j2", boards)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
