"""The structure of the code: imports run downward only, and starting is cheap."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.structure import FRAMEWORKS, HERE, LEVELS, ROOT, circles, depth, unit_of


def test_imports_run_downward() -> None:
    """Those of the modules that load a framework too."""
    assert HERE.upward() == []
    assert depth(HERE.units) == len(LEVELS) == 9


def test_nothing_imports_itself_by_a_detour() -> None:
    assert HERE.circles_of_units() == []
    assert HERE.circles_of_modules() == []


@pytest.mark.parametrize("module", HERE.product)
def test_every_module_has_its_level(module: str) -> None:
    assert HERE.level(unit_of(module))


@pytest.mark.parametrize("module", [m for m in HERE.product if not HERE.loads_framework(m)])
def test_only_child_processes_load_a_framework(module: str) -> None:
    """What loads one is imported by what loads one: the parent starts it as a process."""
    inside = [name for name in HERE.imports[module] if name in HERE.product]
    assert not [name for name in inside if HERE.loads_framework(name)]


def loaded(*modules: str) -> set[str]:
    """Top-level names of everything that importing these modules loads."""
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return {name.split(".")[0] for name in answer.stdout.split()}


def test_the_command_line_loads_nothing_heavy() -> None:
    """Neither a framework nor what only some subcommands need."""
    names = loaded("harness.cli")
    assert "click" in names
    heavy = {*FRAMEWORKS, "numpy", "pydantic", "rich", "sklearn", "matplotlib", "pandas"}
    assert not names & heavy


def test_the_subcommands_that_read_records_load_no_framework() -> None:
    assert not loaded("harness.commands.run", "harness.reporting.publish") & set(FRAMEWORKS)


def test_a_circle_is_found_and_counts_as_one_on_a_chain() -> None:
    graph = {"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": [], "e": ["d"]}
    assert circles(graph) == [("b", "c")]
    assert depth(graph) == 3
