"""The structure of the code by its imports: ``python -m tests.structure`` prints it in figures.

A unit is a package of ``harness``, a module at its top, or the zoo. Imports inside functions and
those for type checkers count like all others.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEVELS: tuple[tuple[str, ...], ...] = (
    ("zoo",),
    ("harness", "harness.errors", "harness.schema"),
    ("harness.config", "harness.data", "harness.execution", "harness.storage"),
    ("harness.augmentation", "harness.evaluation"),
    ("harness.sweep", "harness.training"),
    ("harness.audit", "harness.ensembling"),
    ("harness.reporting",),
    ("harness.commands",),
    ("benchmarks", "harness.cli"),
)
"""From the bottom. A unit imports from levels below its own, or from the same one."""
FRAMEWORKS = ("jax", "keras", "keras_cv", "tensorflow", "torch")


def modules(*folders: str) -> dict[str, Path]:
    """Name -> file of every module under these folders of the repository."""
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


PRODUCT = modules("zoo", "harness")


@cache
def imports(module: str) -> frozenset[str]:
    """Every module that a module imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(_tree(PRODUCT[module])):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return frozenset(map(_module_of, found)) - {module}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _module_of(name: str) -> str:
    """``harness.schema.run.Run`` -> ``harness.schema.run``; foreign names stay as they are."""
    known = name
    while known not in PRODUCT and "." in known:
        known = known.rpartition(".")[0]
    return known if known in PRODUCT else name


def unit(module: str) -> str:
    """The package, or the module at the top of ``harness``, that a module belongs to."""
    return module.split(".")[0] if module.startswith("zoo") else ".".join(module.split(".")[:2])


def level(of: str) -> int:
    """1 for the lowest."""
    return next(i for i, units in enumerate(LEVELS, start=1) if of in units)


def loads_framework(module: str) -> bool:
    """Whether a module imports one of the frameworks itself, anywhere in its text at the top."""
    return any(
        (isinstance(node, ast.Import) and _framework(*(name.name for name in node.names)))
        or (isinstance(node, ast.ImportFrom) and _framework(node.module or ""))
        for node in ast.walk(_tree(PRODUCT[module]))
    )


def _framework(*names: str) -> bool:
    return any(name.split(".")[0] in FRAMEWORKS for name in names)


@cache
def arrows() -> frozenset[tuple[str, str]]:
    """(from, to) of every pair of units, one of which imports the other."""
    return frozenset(
        (unit(module), unit(target))
        for module in PRODUCT
        for target in imports(module)
        if target in PRODUCT and unit(module) != unit(target)
    )


def upward() -> list[tuple[str, str]]:
    """Arrows from a unit to one of a level above its own."""
    return sorted((one, other) for one, other in arrows() if level(other) > level(one))


def circles(graph: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Sets of nodes that reach each other, each sorted."""
    reached = {node: set(graph[node]) for node in graph}
    for middle in graph:  # Warshall's closure.
        for node in graph:
            if middle in reached[node]:
                reached[node] |= reached[middle]
    found = {
        tuple(sorted(other for other in graph if node in reached[other] and other in reached[node]))
        for node in graph
        if node in reached[node]
    }
    return sorted(found)


def circles_of_modules() -> list[tuple[str, ...]]:
    return circles({module: imports(module) & PRODUCT.keys() for module in PRODUCT})


def circles_of_units() -> list[tuple[str, ...]]:
    units = {unit(module) for module in PRODUCT}
    return circles({one: {b for a, b in arrows() if a == one} for one in units})


def depth() -> int:
    """Units on the longest chain of arrows; it passes several units of one level."""
    below: dict[str, int] = {}

    def of(one: str) -> int:
        if one not in below:
            below[one] = 1 + max((of(b) for a, b in arrows() if a == one), default=0)
        return below[one]

    return max(of(unit(module)) for module in PRODUCT)


def definitions(kind: type[ast.AST]) -> Iterator[tuple[int, str]]:
    """(lines, where) of every function or class of the product."""
    for module, path in PRODUCT.items():
        for node in ast.walk(_tree(path)):
            if isinstance(node, kind) and isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield (node.end_lineno or 0) - node.lineno + 1, f"{module}.{node.name}"


def lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def main() -> None:
    longest = max((lines([path]), module) for module, path in PRODUCT.items())
    figures = {
        "units": len({unit(module) for module in PRODUCT}),
        "modules": len(PRODUCT),
        "levels": len(LEVELS),
        "longest chain of units": depth(),
        "arrows between units": len(arrows()),
        "arrows upward": len(upward()),
        "circles of units": len(circles_of_units()),
        "circles of modules": len(circles_of_modules()),
        "product lines": lines(PRODUCT.values()),
        "test lines": lines(modules("tests").values()),
        "longest file": "{} {}".format(*longest),
        "longest function": "{} {}".format(*max(definitions(ast.FunctionDef))),
        "longest class": "{} {}".format(*max(definitions(ast.ClassDef))),
    }
    for name, figure in figures.items():
        print(f"{name:22} {figure}")


if __name__ == "__main__":
    sys.exit(main())
