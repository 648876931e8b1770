"""README and docs/ are true: commands parse, settings load, paths exist, generated text is new."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from harness.cli import cli
from harness.config import load
from tests import reference
from tests.structure import HERE, ROOT
from zoo.registry import find

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
LOCAL = ("results/artefacts", "results/figures/runs", "site/")
"""Begins of paths that a command makes, and that no commit holds."""
TAKES_RECIPES = ("run", "plan", "ensemble", "compare", "explain", "export", "fetch")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def fences(*languages: str) -> Iterator[tuple[Path, str]]:
    """(page, content) of every fenced block in these languages; "" for none."""
    for page in PAGES:
        for language, content in FENCE.findall(text_of(page)):
            if language in languages:
                yield page, content


def prose(page: Path) -> str:
    return FENCE.sub("", text_of(page))


# --- commands ------------------------------------------------------------------------------------


def command_lines() -> list[tuple[str, str]]:
    """(page, arguments) of every ``wbc-bench ...`` that a reader may type."""
    found = []
    for page, content in fences("", "bash"):
        for line in content.splitlines():
            found += [(named(page), rest) for rest in re.findall(r"^(?:\$ )?wbc-bench (.+)", line)]
            found += inner_commands(page, line)
    for page in PAGES:
        for span in SPAN.findall(prose(page)):
            if match := re.match(r"wbc-bench ([a-z].*)", span):
                found.append((named(page), match[1]))
            found += inner_commands(page, span)
    return sorted(set(found))


def inner_commands(page: Path, line: str) -> list[tuple[str, str]]:
    return [(named(page), rest) for rest in re.findall(r"\$\(wbc-bench ([^)]+)\)", line)]


def words(arguments: str) -> list[str]:
    """Up to the end of the command: a comment, a pipe, a semicolon, an ampersand."""
    lexer = shlex.shlex(arguments, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[str] = []
    for word in lexer:
        if set(word) <= set("|&;<>()"):
            break
        found.append(word)
    return found


def parsed(arguments: list[str]) -> click.Context:
    """The context that the real command line makes of these words; nothing is run."""
    context, command, name = click.Context(cli), cli, ""
    while isinstance(command, click.Group) and (arguments or not command.invoke_without_command):
        name, command, arguments = command.resolve_command(context, arguments)  # type: ignore
        context = click.Context(command, parent=context, info_name=name)
    return command.make_context(name, arguments, parent=context.parent)


@pytest.mark.parametrize(("page", "arguments"), command_lines())
def test_every_command_parses(page: str, arguments: str) -> None:
    if "COMMAND" in arguments or "[OPTIONS]" in arguments:
        return
    context = parsed(words(arguments))
    if context.command.name in TAKES_RECIPES:
        names = [
            name for key in ("recipes", "members", "rows") for name in context.params.get(key) or ()
        ]
        names += filter(None, (context.params.get(key) for key in ("first", "second", "name")))
        for name in names:
            if name.islower() or any(c.isdigit() for c in name):
                find(name)


def test_there_are_commands_to_parse() -> None:
    """The patterns above still find them."""
    assert len(command_lines()) > 40


def test_make_targets_and_modules_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z]+)", text_of(page), re.M):
            assert target in targets, f"{named(page)}: make {target}"
        for module in re.findall(r"python -m ([a-z_][\w.]*)", text_of(page)):
            assert find_spec(module), f"{named(page)}: python -m {module}"


# --- settings and programs -----------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_every_settings_snippet_loads(profile: str, tmp_path: Path) -> None:
    snippets = list(fences("toml"))
    assert snippets
    for page, content in snippets:
        path = tmp_path / "benchmark.toml"
        path.write_text(content, encoding="utf-8")
        try:
            load(path, profile)  # type: ignore[arg-type]
        except Exception as error:
            raise AssertionError(f"{named(page)}: {error}\n{content}") from error


def test_every_program_on_the_python_page_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for page, content in fences("python"):
        if page.name == "python.md":
            exec(compile(content, named(page), "exec"), {})
        else:
            compile(content, named(page), "exec")
    assert capsys.readouterr().out


# --- links and paths -----------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("https:", "http:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_path_exists(page: Path) -> None:
    """And the test or function after ``::``."""
    roots = ("harness/", "zoo/", "tests/", "benchmarks/", "docs/", "results/")
    for span in SPAN.findall(prose(page)):
        path, _, function = span.split()[0].partition("::")
        placeholder = re.search(r"\b(ID|NAME|MODULE|RECIPE|RULE)\b", path) or "*" in path
        if path.startswith(roots) and not path.startswith(LOCAL) and not placeholder:
            assert (ROOT / path).exists(), path
            assert not function or f"def {function}(" in text_of(ROOT / path), span


# --- single pages --------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150


@pytest.mark.parametrize("path", list(reference.pages()), ids=named)
def test_generated_parts_are_fresh(path: Path) -> None:
    """``make docs`` writes them again."""
    assert text_of(path) == reference.pages()[path]


def test_the_glossary_has_each_term_once_and_in_order() -> None:
    rows = re.findall(
        r"^\| \**([^|*]+?)\** \| .+ \|$", text_of(ROOT / "docs" / "glossary.md"), re.M
    )
    terms = [row for row in rows if row not in ("term", "---")]
    assert len(terms) == len(set(terms))
    assert terms == sorted(terms, key=str.lower)
    required = {
        "recipe", "protocol", "board", "shifted test", "pixel baseline", "variant", "profile",
        "run", "record", "ensemble rule", "micro-batch", "ledger", "corruption", "outlier",
    }  # fmt: skip
    assert required <= set(terms)


def test_the_schema_page_names_every_column_of_the_csv() -> None:
    page = text_of(ROOT / "docs" / "results-schema.md")
    with (ROOT / "results" / "leaderboard.csv").open(encoding="utf-8") as file:
        columns = next(csv.reader(file))
    assert not [column for column in columns if f"`{column}`" not in page]


def test_every_page_is_in_the_navigation() -> None:
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}" in settings


def test_the_site_loads_nothing_from_other_servers(tmp_path: Path) -> None:
    """Built strictly: a page, a link or an anchor that is wrong is an error."""
    mkdocs = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        tmp_path,
    ]
    done = subprocess.run(
        list(map(str, mkdocs)), cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert pages
    for page in pages:
        text = page.read_text("utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]+src=\"?https?:", text), page
        assert not re.findall(r"<link[^>]+stylesheet[^>]+href=\"?https?:", text), page
    for style in tmp_path.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*[\"']?https?:", style.read_text("utf-8")), style


def product_text() -> str:
    """The source of the product with strings that are broken over lines joined."""
    text = "\n".join(path.read_text("utf-8") for path in HERE.product.values())
    return re.sub(r"\"\s*\n\s*f?\"", "", text)


def fragments(message: str) -> list[str]:
    """What of a quoted message does not vary: between names, numbers and dots."""
    found = re.split(r"'[^']*'|\d[\d,.-]*|\.\.\.|[()]", message)
    return [part.strip(" ;:") for part in found if len(part.strip(" ;:")) > 6]


def test_the_messages_on_the_troubleshooting_page_are_those_of_the_program() -> None:
    page, source = text_of(ROOT / "docs" / "troubleshooting.md"), product_text()
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    assert len(messages) > 20
    assert not [m for m in messages if not all(part in source for part in fragments(m))]
