"""Boards -> one self-contained HTML page. Pure: the same boards and figures, the same bytes.

The template escapes whatever it is given, and the page's policy lets nothing load and no script
run but the page's own: what a class is called cannot do harm.
"""

from __future__ import annotations

import base64
import hashlib
import html as entities
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from harness.reporting import ablation, columns, findings, markdown, provenance
from harness.reporting.columns import Cell, Table
from harness.reporting.leaderboard import Board, Row
from harness.reporting.plots import Plot, confusion, slug
from harness.schema.records import Epoch

ASSETS = Path(__file__).with_name("assets")
SOLID = 0.5
"""Share from which a cell is coloured fully, with white text on it."""
LINE = 24
"""Characters above which words may be broken into lines."""
CURVE = (300.0, 80.0)
"""Width and height of a learning curve, in its own units."""

Pictures = Mapping[str, Sequence[tuple[Plot, str]]]
"""By a board's slug: its plots, each with the SVG that was drawn of it."""


def html(boards: Sequence[Board], pictures: Pictures) -> str:
    """The whole index.html."""
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        studies=[_study(study) for study in ablation.studies(tuple(boards))],
        boards=[_board(board, pictures.get(slug(board), ())) for board in boards],
        style=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=digest,
        confusions=markdown.CONFUSIONS,
        confusions_legend=markdown.CONFUSIONS_LEGEND,
    )


@cache
def _template() -> Any:
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _board(board: Board, pictures: Sequence[tuple[Plot, str]]) -> dict[str, Any]:
    name = slug(board)
    notes = markdown.notes(board) if board.rows else []
    words = [*findings.significance(board), *findings.choices(board)]
    confused = markdown.confusion_table(board) if board.rows else None
    shifted = markdown.shift_table(board) if board.rows else None
    views = ablation.views_table(board) if board.rows else None
    return {
        "slug": name,
        "title": markdown.heading(board),
        "facts": [inline(line.removeprefix("- ")) for line in provenance.what_was_run(board)],
        "table": _table(markdown.main_table(board)) if board.rows else None,
        "kinds": sorted({row.kind for row in board.rows}),
        "notes": list(map(inline, [*notes, *words])),
        "confused": _table(confused) if confused else None,
        "shifted": _table(shifted) if shifted else None,
        "views": _table(views) if views else None,
        "pictures": [
            {"name": plot.name, "caption": plot.caption, "svg": inlined(svg, f"{name}-{plot.name}")}
            for plot, svg in pictures
        ],
        "rows": _details(board),
        "failed": _table(markdown.failed_table(board.failed)) if board.failed else None,
    }


def _study(study: ablation.Study) -> dict[str, Any]:
    tables = {where: ablation.table(study, part) for part, where in ablation.WHERE.items()}
    return {
        "title": ablation.title(study),
        "words": [ablation.introduction(study)],
        "tests": [
            (where, _table(written), inline(ablation.words(study, part)))
            for part, where in ablation.WHERE.items()
            if (written := tables[where])
        ],
    }


def _table(table: Table) -> dict[str, Any]:
    numeric = [side != "left" for side in table.alignments]
    return {
        "heads": list(zip(table.heads, table.alignments, strict=True)),
        "rows": [
            [
                _cell(cell, side, columns.value(cell) if number else None)
                for cell, side, number in zip(row, table.alignments, numeric, strict=True)
            ]
            for row in table.rows
        ],
        "legend": table.legend,
    }


def _cell(cell: str | Cell, side: str, value: float | None) -> dict[str, Any]:
    text = str(cell)
    return {
        "text": text,
        "side": side,
        "value": value,
        "names": isinstance(cell, Cell) and side == "left",
        "strong": isinstance(cell, Cell) and side != "left",
        "long": side == "left" and len(text) > LINE,
    }


# --- a row's details -----------------------------------------------------------------------------


def _details(board: Board) -> list[dict[str, Any]]:
    if not board.rows:
        return []
    tables = [
        markdown.main_table(board),
        markdown.full_table(board),
        markdown.calibration_table(board),
    ]
    analyses = {_kept(found.row): found for found in findings.memberships(board)}
    ensembles = markdown.ensemble_table(board)
    shares = iter(ensembles.rows)
    members = [
        _members(row, ensembles.heads, next(shares), analyses) if row.ensembles else None
        for row in board.rows
    ]
    told = [
        [list(zip(table.heads, map(str, row), strict=True)) for row in table.rows]
        for table in tables
    ]
    return [
        {
            "kind": row.kind,
            "title": row.title,
            "note": row.note,
            "suspect": suspect,
            "scores": [fact for fact in main if fact[0] != "Network"],
            "costs": full[1:],
            "calibration": calibrated[1:],
            "classes": _classes(row),
            "confusion": _confusion(row),
            "members": who,
            "curve": _curve(row.runs[0].history) if row.runs else None,
            "seed": row.seeds[0],
        }
        for row, suspect, who, main, full, calibrated in zip(
            board.rows, board.suspects, members, *told, strict=True
        )
    ]


def _classes(row: Row) -> list[list[str]]:
    """A class: its name, test images, precision, recall and F1 in percent, means over the seeds."""
    results = [result.test.per_class for result in row.evaluation]
    return [
        [
            first.name,
            f"{first.support:,}",
            *(
                f"{100 * fmean(getattr(classes[k], measure) for classes in results):.2f}"
                for measure in ("precision", "recall", "f1")
            ),
        ]
        for k, first in enumerate(results[0])
    ]


def _confusion(row: Row) -> list[list[tuple[int, str]]]:
    """Each cell's count and how it looks: nothing, or the opacity of its colour."""
    counts = confusion(row)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    return [
        [(count, _shade(share)) for count, share in zip(line, part, strict=True)]
        for line, part in zip(counts.tolist(), shares.tolist(), strict=True)
    ]


def _shade(share: float) -> str:
    """Faint below ``SOLID``, so that dark text stays legible; above it dark enough for white."""
    if share == 0:
        return ""
    return f"{0.1 + 0.5 * share:.2f}" if share < SOLID else f"{0.7 + 0.3 * share:.2f}"


def _members(
    row: Row,
    heads: Sequence[str],
    shares: Sequence[str | Cell],
    analyses: Mapping[frozenset[str], findings.Membership],
) -> dict[str, Any]:
    """An ensemble's shares and, of the vote of the same members, what each brings to it."""
    found = analyses.get(_kept(row))
    return {
        "facts": list(zip(heads[1:], map(str, shares[1:]), strict=True)),
        "vote": found.row.title if found else "",
        "words": inline(markdown.membership_words(found)) if found else "",
        "table": _table(markdown.membership_table(found)) if found else None,
    }


def _kept(row: Row) -> frozenset[str]:
    record = row.ensembles[0]
    shares = zip(record.ensemble.members, record.shares, strict=True)
    return frozenset(member for member, share in shares if share > 0)


def _curve(history: Sequence[Epoch]) -> dict[str, Any] | None:
    """Polylines of the losses and of the validation F1, and where a phase ends."""
    if len(history) < 2:
        return None
    top = max(max(e.train_loss, e.validation_loss) for e in history) or 1.0
    phases = [epoch.phase for epoch in history]
    width, height = CURVE
    return {
        "width": width,
        "height": height,
        "top": f"{top:.2f}",
        "epochs": len(history),
        "ends": [
            f"{width * (i - 0.5) / (len(history) - 1):.1f}"
            for i in range(1, len(phases))
            if phases[i] != phases[i - 1]
        ],
        "lines": [
            ("training loss", "a", _points([e.train_loss / top for e in history])),
            ("validation loss", "b", _points([e.validation_loss / top for e in history])),
            ("validation macro F1", "c", _points([e.validation_f1 for e in history])),
        ],
        "last": f"{history[-1].validation_f1:.3f}",
    }


def _points(shares: Sequence[float]) -> str:
    """Evenly spread over the width; 1 is the upper edge."""
    width, height = CURVE
    step = width / (len(shares) - 1)
    return " ".join(f"{i * step:.1f},{height * (1 - y):.1f}" for i, y in enumerate(shares))


# --- text and pictures ---------------------------------------------------------------------------


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("zero").enable(["emphasis", "backticks", "escape", "entity", "newline"])


def inline(text: str) -> Markup:
    """A sentence of the report as HTML: stress and code only, everything else is text."""
    return Markup(_markdown().renderInline(text))


def inlined(svg: str, prefix: str) -> Markup:
    """A figure's SVG to stand inside a page: no head, no size of its own, ids that are unique."""
    body = svg[max(0, svg.find("<svg")) :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", body, flags=re.S)
    body = re.sub(r'(<svg[^>]*?) width="([\d.]+)pt" height="[\d.]+pt"',
                  r'\1 style="max-width: \2pt" role="img"', body, count=1)  # fmt: skip
    used = set(re.findall(r'(?:href="|url\()#([\w-]+)', body))

    def renamed(found: re.Match[str]) -> str:
        return f' id="{prefix}-{found[1]}"' if entities.unescape(found[1]) in used else ""

    body = re.sub(r' id="([^"]*)"', renamed, body)
    body = re.sub(r'(href="|url\()#([\w-]+)', rf"\1#{prefix}-\2", body)
    return Markup(body.strip())
