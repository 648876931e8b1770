"""The structure of the code by its imports, in figures.

``python -m tests.structure`` prints this checkout; ``python -m tests.structure OLD NEW`` prints the
checkouts in these folders side by side.

A unit is a package of ``harness``, a module at its top, or the zoo. Imports inside functions and
those for type checkers count like all others.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).parents[1]
LEVELS: tuple[tuple[str, ...], ...] = (
    ("zoo",),
    ("harness", "harness.errors", "harness.schema"),
    ("harness.config", "harness.storage"),
    ("harness.data", "harness.execution"),
    ("harness.augmentation", "harness.evaluation", "harness.reports"),
    ("harness.sweep", "harness.training"),
    ("harness.audit", "harness.ensembling", "harness.reporting", "harness.tuning"),
    ("harness.commands",),
    ("benchmarks", "harness.cli"),
)
"""From the bottom. A unit imports from levels below its own alone."""
FRAMEWORKS = ("jax", "keras", "keras_cv", "tensorflow", "torch")


@dataclass(frozen=True)
class Structure:
    """The modules of one checkout, and what they import."""

    root: Path
    levels: tuple[tuple[str, ...], ...] = ()
    """Those that the checkout promises, from the bottom; none: no arrow is upward."""

    def modules(self, *folders: str) -> dict[str, Path]:
        """Name -> file of every module under these folders of the repository."""
        found = {}
        for folder in folders:
            for path in sorted((self.root / folder).rglob("*.py")):
                name = ".".join(path.relative_to(self.root).with_suffix("").parts)
                found[name.removesuffix(".__init__")] = path
        return found

    @cached_property
    def product(self) -> dict[str, Path]:
        return self.modules("zoo", "harness")

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        return {name: ast.parse(path.read_text("utf-8")) for name, path in self.product.items()}

    @cached_property
    def imports(self) -> dict[str, frozenset[str]]:
        """Module -> every module that it imports, at its top or inside a function."""
        return {module: self._imports(module) for module in self.product}

    def _imports(self, module: str) -> frozenset[str]:
        found: set[str] = set()
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.Import):
                found |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {f"{node.module}.{name.name}" for name in node.names}
        return frozenset(map(self._module_of, found)) - {module}

    def _module_of(self, name: str) -> str:
        """``harness.schema.run.Run`` -> ``harness.schema.run``; foreign names stay as they are."""
        known = name
        while known not in self.product and "." in known:
            known = known.rpartition(".")[0]
        return known if known in self.product else name

    def level(self, unit: str) -> int:
        """1 for the lowest. Raises StopIteration for a unit without one."""
        return next(i for i, units in enumerate(self.levels, start=1) if unit in units)

    def loads_framework(self, module: str) -> bool:
        """Whether a module imports one of the frameworks itself, anywhere in its text."""
        return any(name.split(".")[0] in FRAMEWORKS for name in self.imports[module])

    @cached_property
    def units(self) -> dict[str, frozenset[str]]:
        """Unit -> the other units that it imports."""
        found: dict[str, set[str]] = {unit_of(module): set() for module in self.product}
        for module, targets in self.imports.items():
            found[unit_of(module)] |= {unit_of(one) for one in targets if one in self.product}
        return {unit: frozenset(targets - {unit}) for unit, targets in found.items()}

    def arrows(self) -> list[tuple[str, str]]:
        """(from, to) of every pair of units, one of which imports the other."""
        return sorted((unit, target) for unit, targets in self.units.items() for target in targets)

    def upward(self) -> list[tuple[str, str]]:
        """Arrows from a unit to one of a level above its own."""
        if not self.levels:
            return []
        return [(unit, to) for unit, to in self.arrows() if self.level(to) > self.level(unit)]

    def circles_of_modules(self) -> list[tuple[str, ...]]:
        return circles({name: found & self.product.keys() for name, found in self.imports.items()})

    def circles_of_units(self) -> list[tuple[str, ...]]:
        return circles(self.units)

    def longest(self, kind: type[ast.AST]) -> tuple[int, str]:
        """(lines, name) of the longest function or class of the product."""
        return max(
            ((node.end_lineno or 0) - node.lineno + 1, f"{module}.{node.name}")
            for module, tree in self.trees.items()
            for node in ast.walk(tree)
            if isinstance(node, kind) and isinstance(node, ast.FunctionDef | ast.ClassDef)
        )

    def figures(self) -> dict[str, str]:
        """What the structure comes to, ready to be printed."""
        files = [(lines([path]), module) for module, path in self.product.items()]
        promised = bool(self.levels)
        return {
            "units": str(len(self.units)),
            "modules": str(len(self.product)),
            "levels": str(len(self.levels)) if promised else "none promised",
            "longest chain of units": str(depth(self.units)),
            "arrows between units": str(len(self.arrows())),
            "arrows upward": str(len(self.upward())) if promised else "-",
            "circles of units": str(len(self.circles_of_units())),
            "circles of modules": str(len(self.circles_of_modules())),
            "product lines": f"{lines(self.product.values()):,}",
            "test lines": f"{lines(self.modules('tests').values()):,}",
            "files over 400 lines": str(sum(count > 400 for count, _ in files)),
            "longest file": "{} {}".format(*max(files)),
            "longest function": "{} {}".format(*self.longest(ast.FunctionDef)),
            "longest class": "{} {}".format(*self.longest(ast.ClassDef)),
        }


def unit_of(module: str) -> str:
    """The package, or the module at the top of ``harness``, that a module belongs to."""
    return module.split(".")[0] if module.startswith("zoo") else ".".join(module.split(".")[:2])


def lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def reachable(graph: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Node -> every node that a chain of arrows leads to (Warshall's closure)."""
    found = {node: set(graph[node]) for node in graph}
    for middle in graph:
        for node in graph:
            if middle in found[node]:
                found[node] |= found[middle]
    return found


def circles(graph: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Sets of nodes that reach each other, each sorted."""
    reached = reachable(graph)
    return sorted(
        {
            tuple(sorted(other for other in reached[node] if node in reached[other]))
            for node in graph
            if node in reached[node]
        }
    )


def depth(graph: Mapping[str, Iterable[str]]) -> int:
    """Nodes on the longest chain of arrows; those of a circle count as one."""
    reached = reachable(graph)
    below = {node: reached[node] - _circle(node, reached) for node in graph}
    length: dict[str, int] = {}
    for node in sorted(graph, key=lambda one: len(reached[one] | {one})):
        length[node] = 1 + max((length[other] for other in below[node]), default=0)
    return max(length.values())


def _circle(node: str, reached: Mapping[str, set[str]]) -> set[str]:
    return {other for other in reached[node] if node in reached[other]}


def promised_levels(root: Path) -> tuple[tuple[str, ...], ...]:
    """LEVELS of the checkout in a folder, read without running it; empty where it has none."""
    path = root / "tests" / "structure.py"
    for node in ast.parse(path.read_text("utf-8")).body if path.exists() else ():
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "LEVELS" and node.value:
            levels: tuple[tuple[str, ...], ...] = ast.literal_eval(node.value)
            return levels
    return ()


HERE = Structure(ROOT, LEVELS)


def columns(roots: Iterable[Path]) -> Iterator[list[str]]:
    """A row of the printed table for each figure, a column for each checkout."""
    found = [Structure(root, promised_levels(root)).figures() for root in roots]
    for name in found[0]:
        yield [name, *(figures[name] for figures in found)]


def main(*folders: str) -> None:
    roots = [Path(folder).resolve() for folder in folders] or [ROOT]
    heads = ["", *(root.name for root in roots)]
    print(tabulate(columns(roots), heads, disable_numparse=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
