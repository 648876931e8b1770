"""index.html: what stands in it, whatever a class is called, and the same bytes each time."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.reporting import html, tables
from harness.reporting import markdown as report
from harness.reporting.figure_cache import FigureCache
from harness.reporting.leaderboard import Board
from harness.reporting.plots import plots, slug
from harness.reporting.publish import read_boards
from harness.reporting.templates import prose
from harness.schema.records import Finished, RunRecord
from tests.harness.conftest import failed_record, made_record
from tests.harness.reporting.test_markdown import boards

RESULTS = Path(__file__).parents[3] / "results"
EMPTY = {"area", "br", "hr", "img", "input", "link", "meta", "path", "polyline", "use", "stop"}
HOSTILE = ("<script>alert(1)</script>", '" onclick="alert(2)', "*a* `b` ![x](http://evil.test/x)")


class Elements(HTMLParser):
    """Every element with its attributes; complains where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def real() -> tuple[Board, ...]:
    return read_boards(RESULTS)


@pytest.fixture(scope="module")
def written(real: tuple[Board, ...]) -> str:
    return html.html(real, FigureCache(RESULTS, real).pictures())


def test_every_row_leads_to_its_details(real: tuple[Board, ...], written: str) -> None:
    found = Elements(written)
    articles = {a["id"] for a in found.all("article")}
    assert len(articles) == sum(len(board.rows) for board in real)
    links = {(a["href"] or "")[1:] for a in found.all("a")}
    assert articles <= links
    assert {row["data-row"] for row in found.all("tr") if "data-row" in row} == articles


def test_ids_are_unique_and_what_is_referred_to_exists(written: str) -> None:
    ids = [attributes["id"] for _, attributes in Elements(written).found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', written)) <= set(ids)


def test_the_figures_stand_in_it(real: tuple[Board, ...], written: str) -> None:
    shown = sum(len(plots(board, "a heading")) for board in real)
    curves = Elements(written).all("svg")
    assert len(Elements(written).all("img")) == shown > 0
    assert len(curves) == sum(len(board.networks) for board in real)


def test_it_says_what_the_markdown_says(real: tuple[Board, ...], written: str) -> None:
    """Heads and cells of one description: the two cannot drift apart."""
    text = " ".join(" ".join(Elements(written).texts).split())
    markdown = report.markdown(real)
    for board in real:
        table = tables.first_table(board)
        for heading in (column.heading for column in table.columns):
            assert heading in text
            assert heading in markdown
        for cell in (cell for row in table.cells for cell in row):
            assert str(cell) in text
            assert cell.markdown in markdown


def test_it_needs_nothing_from_outside(written: str) -> None:
    found = Elements(written)
    for _, attributes in found.found:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    (policy,) = [m["content"] for m in found.all("meta") if "http-equiv" in m]
    assert "default-src 'none'" in (policy or "")
    (script,) = re.findall(r"<script>(.*?)</script>", written, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in (policy or "")


def renamed(record: RunRecord, names: tuple[str, ...]) -> RunRecord:
    assert isinstance(record.result, Finished)
    test = record.result.test
    per_class = tuple(
        c.model_copy(update={"name": n}) for c, n in zip(test.per_class, names, strict=True)
    )
    result = record.result.model_copy(
        update={"test": test.model_copy(update={"per_class": per_class})}
    )
    data = record.data.model_copy(update={"name": names[0], "class_names": names})
    return record.model_copy(update={"result": result, "data": data, "note": names[2]})


def test_names_cannot_break_out() -> None:
    records = [renamed(made_record(name), HOSTILE) for name in ("vgg16", "lite0")]
    made = boards([*records, failed_record(reason=HOSTILE[0])])
    plain = boards([made_record(name) for name in ("vgg16", "lite0")])
    found, harmless = Elements(html.html(made, {})), Elements(html.html(plain, {}))
    assert len(found.all("script")) == len(harmless.all("script")) == 1
    assert not found.all("img")
    assert not [a for _, a in found.found if any(name.startswith("on") for name in a)]
    assert all("evil" not in (a.get("href") or "") for a in found.all("a"))
    text = " ".join(found.texts)
    for name in HOSTILE[:2]:
        assert name in text


def test_sentences_may_hold_emphasis_and_code_only() -> None:
    assert prose("**a** *b* `c` &lt;d> \\| 2 < 3") == (
        "<p><strong>a</strong> <em>b</em> <code>c</code> &lt;d&gt; | 2 &lt; 3</p>\n"
    )
    assert "<a" not in prose("[x](javascript:alert(1)) <http://evil.test>")


def test_the_same_bytes_whatever_the_order() -> None:
    records = [made_record("vgg16"), made_record("lite0"), made_record("vgg16", seed=1)]
    assert html.html(boards(records), {}) == html.html(boards(records[::-1]), {})


def test_an_empty_folder_says_what_to_type() -> None:
    assert "wbc-bench run --all" in html.html((), {})


def test_numbers_sort_as_numbers() -> None:
    (board,) = boards([made_record("vgg16"), made_record("vgg16", seed=1)])
    table = tables.first_table(board)
    cells = {c.key: cell for c, cell in zip(table.columns, table.cells[0], strict=True)}
    assert cells["macro_f1"].sort_value == board.rows[0].macro_f1
    assert "±" in str(cells["macro_f1"])
    assert cells["title"].sort_value is None
    assert f'data-value="{board.rows[0].macro_f1}"' in html.html([board], {})


def test_a_boards_address_keeps_while_rows_come() -> None:
    (one,) = boards([made_record("vgg16")])
    (two,) = boards([made_record("vgg16"), made_record("lite0")])
    assert slug(one) == slug(two)
    assert re.fullmatch(r"[a-z0-9-]+", slug(one))
