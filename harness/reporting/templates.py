"""The templates that write LEADERBOARD.md and the page, and what they can call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from harness.evaluation import robustness
from harness.reporting import ablation, columns, findings, provenance, settings_table, tables
from harness.reporting.leaderboard import Board
from harness.reporting.overview import MOST_NETWORKS, overviews
from harness.reporting.table import escape, p_equals

ASSETS = Path(__file__).with_name("assets")


def render(template: str, boards: Sequence[Board], **variables: Any) -> str:
    """A template with the boards of a folder, their headings, and what compares them."""
    boards = tuple(boards)
    return (
        environment()
        .get_template(template)
        .render(
            boards=boards,
            headings=provenance.headings(boards),
            overviews=overviews(boards),
            studies=ablation.studies(boards),
            joined=settings_table.joined_boards(boards),
            **variables,
        )
    )


@cache
def environment() -> Environment:
    """Templates of HTML escape what they are given; those of Markdown use the filter ``md``."""
    made = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=lambda name: (name or "").endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {
        "ablation": ablation,
        "columns": columns,
        "findings": findings,
        "most_networks": MOST_NETWORKS,
        "overlap": robustness.overlap,
        "provenance": provenance,
        "settings_table": settings_table,
        "tables": tables,
    }
    made.filters |= {
        "md": escape,
        "p_equals": p_equals,
        "paragraphs": paragraphs,
        "prose": prose,
        "rate_mark": columns.rate_mark,
    }
    made.tests["is_split"] = lambda row: columns.micro_batches(row) > 1
    return made


def paragraphs(text: str) -> str:
    """Each paragraph on one line."""
    found = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return "\n\n".join(filter(None, found))


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("zero").enable(["emphasis", "backticks", "escape", "entity"])


def prose(text: str) -> Markup:
    """Paragraphs of inline Markdown as HTML: emphasis and code only, everything else is text."""
    return Markup(_markdown().render(paragraphs(text)))
