"""The house: imports run downward only, and the front door stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS: tuple[tuple[str, ...], ...] = (
    ("zoo.recipe", "harness.errors", "harness", "harness.noun"),
    ("harness.policies", "harness.ledger", "harness.scores"),
    ("zoo.table", "harness.nouns", "zoo.weights", "zoo.torch_file", "zoo"),
    ("harness.statistics", "harness.records"),
    ("harness.config", "harness.store", "harness.metrics", "harness.pace", "harness.quiet",
     "harness.claims", "harness.checkpoint", "harness.devices", "harness.data",
     "harness.calibration", "harness.views", "harness.augment", "harness.energy"),
    ("harness.plan", "harness.leaderboard", "harness.launch", "harness.status", "harness.learn",
     "harness.head", "harness.ensembles", "harness.committee", "harness.findings",
     "harness.baseline", "harness.judge", "harness.robustness", "harness.looks",
     "harness.standing", "harness.pulse"),
    ("harness.rates", "harness.cells", "harness.accounts", "harness.plots",
     "harness.provenance", "harness.labels",
     "harness.ablation", "harness.report", "harness.spreadsheet", "harness.sweep",
     "harness.progress", "harness.inspection", "harness.audit_figures", "harness.audit_page",
     "harness.curves"),
    ("harness.figures", "harness.page", "harness.gallery"),
    ("harness.tables", "harness.comparison", "harness.outside", "harness.cluster"),
    ("harness.experiment",),
    ("harness.survey",),
    ("harness.cli",),
)  # fmt: skip
CELLAR = (
    "harness.features",
    "harness.pieces",
    "harness.relay",
    "harness.resident",
    "harness.steps",
    "harness.train",
    "harness.throughput",
    "harness.worker",
    "zoo.build",
    "zoo.inference",
    "zoo.lite0",
    "harness.image_learner",
    "harness.augment.kerascv",
    "harness.augment.maker",
)
HEAVY = ("keras", "tensorflow", "keras_cv", "jax", "torch")

MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for folder in ("zoo", "harness")
    for path in (ROOT / folder).rglob("*.py")
)


def imports(module: str) -> set[str]:
    """Every module that ``module`` imports, at its top or inside a function."""
    path = ROOT / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return {known(name) for name in found}


def known(name: str) -> str:
    """``harness.nouns.Run`` -> ``harness.nouns``; names from outside stay as they are."""
    while name not in MODULES and "." in name and name.split(".")[0] in ("zoo", "harness"):
        name = name.rpartition(".")[0]
    return name


def floor(module: str) -> int:
    for package in ("harness.data", "harness.augment"):
        if module.startswith(package):
            module = package
    return next(i for i, names in enumerate(FLOORS) if module in names)


@pytest.mark.parametrize("module", [m for m in MODULES if m not in CELLAR])
def test_imports_run_downward(module: str) -> None:
    for name in imports(module):
        if name.split(".")[0] not in ("zoo", "harness"):
            continue
        assert name not in CELLAR, f"{module} reaches into the cellar: {name}"
        assert floor(name) <= floor(module), f"{module} imports {name} from a floor above"


@pytest.mark.parametrize("module", [m for m in MODULES if m not in CELLAR])
def test_only_the_cellar_imports_a_framework(module: str) -> None:
    assert not {name.split(".")[0] for name in imports(module)} & set(HEAVY)


@pytest.mark.parametrize("module", MODULES)
def test_no_file_grows_past_reading(module: str) -> None:
    path = ROOT / Path(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert len(file.read_text().splitlines()) <= 450


def test_the_command_line_loads_nothing_heavy() -> None:
    """Neither a framework nor what only some verbs need."""
    program = "import sys, harness.cli; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.split(".")[0] for name in answer.stdout.split()}
    assert "click" in loaded
    assert not loaded & {*HEAVY, "numpy", "pydantic", "rich", "sklearn", "matplotlib", "pandas"}


def test_the_verbs_that_read_records_load_no_framework() -> None:
    program = "import sys, harness.experiment, harness.tables; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not {name.split(".")[0] for name in answer.stdout.split()} & set(HEAVY)
