"""Boards -> one self-contained HTML page. Pure: the same boards and figures, the same bytes.

The template escapes what it is given, and the page's policy lets nothing load and no script run
but the page's own: a class name cannot inject markup.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from harness.reporting import columns, findings, reproduction_table
from harness.reporting.leaderboard import Board
from harness.reporting.overview import first_rows
from harness.reporting.plots import Plot, confusion, slug
from harness.reporting.reproduction import Reproduction
from harness.reporting.rows import Row
from harness.reporting.table import Cell, Column
from harness.reporting.templates import ASSETS, render
from harness.schema.records import Epoch

SOLID = 0.5
"""Share from which a cell of a confusion matrix is dark, with white text."""
CURVE = (300.0, 80.0)
"""Width and height of a learning curve, in its own units."""

Pictures = Mapping[str, Sequence[tuple[Plot, bytes]]]
"""By a board's slug: its plots, each with its SVG."""


def html(
    boards: Sequence[Board], pictures: Pictures, reproduced: Sequence[Reproduction] = ()
) -> str:
    """The whole index.html."""
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render(
        "page.html",
        boards,
        pictures={board: pictures.get(slug(board), ()) for board in boards},
        reproduced=[(found, pictures.get(found.slug, ())) for found in reproduced],
        reproduction=reproduction_table,
        slug=slug,
        row_id=row_id,
        first_rows=first_rows,
        data_url=data_url,
        facts=facts,
        shaded_confusion=shaded_confusion,
        membership_of=membership_of,
        learning_curve=learning_curve,
        style=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=digest,
    )


def data_url(svg: bytes) -> str:
    """Of an image, in which browsers run no script and load nothing."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


# --- a row's details -----------------------------------------------------------------------------


def row_id(row: Row) -> str:
    """The id of the element that holds a row's details; the same while other rows come and go."""
    return f"row-{row.records[0].subject.id}"


def facts(row: Row, *tables: str) -> list[tuple[Column[Row], Cell]]:
    """The columns of some tables, each once, with the row's cell; the title is left out."""
    shown = dict.fromkeys(c for name in tables for c in columns.shown_in(name) if c.key != "title")
    return [(column, column.cell(row)) for column in shown]


def shaded_confusion(row: Row) -> list[list[tuple[int, str]]]:
    """Each cell's count, and the opacity of its colour, empty for a share of 0.

    Faint below ``SOLID``, so that dark text stays legible; above it dark enough for white text.
    """
    counts = confusion(row)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)

    def shade(share: float) -> str:
        if share == 0:
            return ""
        return f"{0.1 + 0.5 * share:.2f}" if share < SOLID else f"{0.7 + 0.3 * share:.2f}"

    return [
        [(count, shade(share)) for count, share in zip(line, part, strict=True)]
        for line, part in zip(counts.tolist(), shares.tolist(), strict=True)
    ]


def membership_of(board: Board, row: Row) -> findings.Membership | None:
    """What each member adds to the soft vote of an ensemble's members, if there is that vote."""
    members = row.ensembles[0].used.keys()
    votes = findings.memberships(board)
    return next((vote for vote in votes if vote.row.ensembles[0].used.keys() == members), None)


def learning_curve(history: Sequence[Epoch]) -> dict[str, Any] | None:
    """Polylines of the losses and of the validation F1, and where a phase ends."""
    if len(history) < 2:
        return None
    top = max(max(e.train_loss, e.validation_loss) for e in history) or 1.0
    width, height = CURVE
    step = width / (len(history) - 1)

    def points(shares: Sequence[float]) -> str:
        return " ".join(f"{i * step:.1f},{height * (1 - y):.1f}" for i, y in enumerate(shares))

    phases = [epoch.phase for epoch in history]
    ends = [i for i in range(1, len(phases)) if phases[i] != phases[i - 1]]
    return {
        "width": width,
        "height": height,
        "top": f"{top:.2f}",
        "epochs": len(history),
        "ends": [f"{step * (i - 0.5):.1f}" for i in ends],
        "lines": [
            ("training loss", "a", points([e.train_loss / top for e in history])),
            ("validation loss", "b", points([e.validation_loss / top for e in history])),
            ("validation macro F1", "c", points([e.validation_f1 for e in history])),
        ],
        "last": f"{history[-1].validation_f1:.3f}",
    }
