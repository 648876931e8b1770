"""The parts of docs/ that the code itself says: ``python -m tests.reference`` writes them again.

Between ``<!-- NAME: written by ... -->`` and ``<!-- end -->`` a page holds generated text: the
options of every subcommand, the fields of every record, the packages and their levels, every
setting.
``docs/structure.svg`` shows which package imports which.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from html import escape
from pathlib import Path
from textwrap import dedent
from typing import Any

import click
from pydantic import BaseModel

from tests import structure

DOCS = structure.ROOT / "docs"
BLOCK = re.compile(
    r"(<!-- (\w+): written by `python -m tests\.reference` -->\n).*?(<!-- end -->)", re.S
)


def pages() -> dict[Path, str]:
    """Path -> content of every page and figure that holds generated parts, as it should be."""
    found = {DOCS / "structure.svg": figure()}
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if BLOCK.search(text):
            found[path] = BLOCK.sub(_generated, text)
    return found


def _generated(match: re.Match[str]) -> str:
    return f"{match[1]}\n{BLOCKS[match[2]]().strip()}\n\n{match[3]}"


# --- subcommands ---------------------------------------------------------------------------------


def commands() -> str:
    """Usage, sentence and options of every subcommand, as ``--help`` prints them."""
    from harness.cli import cli

    return "\n\n".join(map(_command, subcommands(click.Context(cli, info_name="wbc-bench"))))


def subcommands(context: click.Context) -> Iterator[click.Context]:
    """A context for every subcommand below one; groups that do nothing themselves are left out."""
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, parent=context, info_name=name)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield inner
        if isinstance(command, click.Group):
            yield from subcommands(inner)


def _command(context: click.Context) -> str:
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    records = [p.get_help_record(context) for p in command.get_params(context)]
    options = [(name, " ".join(text.split())) for name, text in filter(None, records)]
    rows = [
        f"| `{name.replace('|', '/')}` | {_plain(_code(text))} |"
        for name, text in options
        if text and "--help" not in name
    ]
    table = ["| option | meaning |", "|---|---|", *rows] if rows else []
    text = " ".join(dedent(command.help or "").split())
    title = context.command_path.removeprefix("wbc-bench ")
    return "\n".join([f"### {title}", "", f"`{usage}`", "", _code(text), "", *table]).rstrip()


def _code(text: str) -> str:
    """With options and settings in backticks."""
    return re.sub(r"(?<!\w)(--[a-z-]+|[a-z_]+ = \w+)", r"`\1`", text)


# --- records -------------------------------------------------------------------------------------


def records() -> str:
    """Every field of the three kinds of records, model by model, each model once."""
    from harness.schema.records import EnsembleRecord, ExternalRecord, RunRecord

    models: dict[str, type[BaseModel]] = {}
    for model in (RunRecord, EnsembleRecord, ExternalRecord):
        _collect(model, models)
    return "\n\n".join(_model_table(model, models) for model in models.values())


def _collect(model: type[BaseModel], models: dict[str, type[BaseModel]]) -> None:
    if model.__name__ in models:
        return
    models[model.__name__] = model
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            _collect(inner, models)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


def _model_table(model: type[BaseModel], models: dict[str, type[BaseModel]]) -> str:
    texts = attribute_docs(model)
    late = {name for name, field in model.model_fields.items() if field.exclude_if}
    properties = model.model_json_schema()["properties"].items()
    rows = [
        f"| `{key}`{' *' if name in late else ''} | {_kind(part, models)} | "
        f"{_plain(texts.get(name, ''))} |"
        for name, (key, part) in zip(model.model_fields, properties, strict=True)
    ]
    own = vars(model).get("__doc__") or ""
    heading = [f"### {model.__name__}", "", *([_plain(own), ""] if own else [])]
    return "\n".join([*heading, "| field | type | meaning |", "|---|---|---|", *rows])


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "`").replace("|", r"\|").split())


def _kind(part: dict[str, Any], models: dict[str, type[BaseModel]]) -> str:
    """A property of a JSON schema in words, with links to the models of this page."""
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})" if name in models else name
    if "const" in part:
        return f"`{part['const']}`"
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    choices = part.get("anyOf") or part.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_kind(choice, models) for choice in choices))
    match part.get("type"):
        case "array" if "prefixItems" in part:
            inner = dict.fromkeys(_kind(item, models) for item in part["prefixItems"])
            return f"{len(part['prefixItems'])} × {' or '.join(inner)}"
        case "array":
            return f"list of {_kind(part['items'], models)}"
        case None:
            return "any"
        case kind:
            return str(kind)


@cache
def attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the string below it in the source, inherited ones included."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        tree = ast.parse(dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str(text))
                ):
                    found[name] = text
    return found


# --- columns -------------------------------------------------------------------------------------

MEANINGS = {
    "data": "name of the data set",
    "fingerprint": "hash of its pixels, labels and class names",
    "profile": "`quick` or `full`",
    "split": "how the images came into their parts; empty where another program drew them",
    "options": "the options of the protocol, in words",
    "kind": "`network`, `ensemble`, `imported` or `baseline`",
    "may_be_best": "whether the row is in the 95 % model confidence set",
    "suspect": "why a network is suspect; such a row has no rank",
    "recipe": "name of the recipe or of the import; of an ensemble its rule and members",
    "title": "a network, the rule and members of an ensemble, or an import",
    "weights": "what the backbone started from: `imagenet`, `file` (your own) or `random`",
    "seed": "of the run",
    "run": "id of the run, ensemble or import",
    "status": "`finished` or `failed`",
    "reason": "why a run failed",
    "macro_f1": "the plain mean of the F1 of all classes on the test images; with several seeds "
    "mean ± standard deviation",
    "macro_f1_low": "lower end of the 95 % interval",
    "macro_f1_high": "upper end of the 95 % interval",
    "accuracy": "share of the test images that are classified correctly",
    "accuracy_low": "lower end of the 95 % interval",
    "accuracy_high": "upper end of the 95 % interval",
    "balanced_accuracy": "the mean of the recall of the classes that have test images",
    "macro_precision": "the mean of the precision of all classes",
    "macro_recall": "the mean of the recall of all classes",
    "worst_recall_low": "lower end of the 95 % interval of the lowest true recall",
    "worst_recall_high": "upper end of it",
    "calibration_error_by_chance": "of a perfectly calibrated network with these confidences",
    "calibrated_error_by_chance": "the same, with the temperature applied",
    "auc": "area under the ROC curve, one class against the rest, mean over the classes",
    "log_loss": "mean negative logarithm of the probability of the true class",
    "brier": "mean squared error of the probabilities, 0 to 2",
    "calibrated_log_loss": "with the temperature applied",
    "calibrated_brier": "with the temperature applied",
    "errors_caught": "of all errors, how many are among the 2 % of the test images with the lowest "
    "confidence",
    "validation_macro_f1": "macro F1 on the validation images",
    "shifted_worst_corruption": "the corruption with the lowest macro F1, if significantly so",
    "trainable_parameters": "that learnt in the last phase",
    "weight_bytes": "size of the weights on disk",
    "images_per_second_p5": "5th percentile over batches",
    "images_per_second_p95": "95th percentile over batches",
    "best_batch_size": "the batch size with the best rate",
    "images_per_second_measured": "false: computed from the members' rates",
    "device": "where it was measured",
    "training_seconds": "all phases, computing features included",
    "total_seconds": "from the start of the process to the end of the evaluation",
    "peak_memory_mb": "largest resident size of the run's process",
    "micro_batches": "into which a batch was cut because memory was too small; 1: none",
    "feature_rows_learnt": "rows of stored features in the gradient steps of the head",
    "energy_exclusive": "whether the device was the run's own",
    "preparing_seconds": "of compiling ahead of training, while other runs could train",
    "waiting_seconds": "of waiting for the device or another process; in no other time",
    "programs_compiled": "programs that XLA compiled for the run",
    "programs_cached": "programs that it found in the cache of compiled programs",
    "xla": "whether XLA compiled the steps, of all seeds; empty: not recorded",
    "note": "what a reader of the row must know",
}
"""Of the columns without an explanation of their own."""


def columns() -> str:
    """Every column that a table shows: where, and what it means."""
    from harness.reporting.columns import COLUMNS, DETAILS

    titles = {"first": "first table", **DETAILS}
    rows = [
        f"| {column.heading} | {', '.join(titles[t] for t in titles if t in column.shown)} "
        f"| {meaning(column)} |"
        for column in COLUMNS
        if column.shown
    ]
    return "\n".join(["| column | shown in | meaning |", "|---|---|---|", *rows])


def csv_columns() -> str:
    """Every column of the CSV and of the DataFrame."""
    from harness.reporting.columns import COLUMNS

    rows = [f"| `{column.key}` | {meaning(column)} |" for column in COLUMNS]
    return "\n".join(["| column | meaning |", "|---|---|", *rows])


def meaning(column: Any) -> str:
    """Its explanation, or that of this page. Raises KeyError where there is none."""
    return _plain(MEANINGS.get(column.key) or column.explanation or MEANINGS[column.key])


# --- structure -----------------------------------------------------------------------------------


def packages() -> str:
    """Every package with its level and its sentence, from the top."""
    rows = []
    for place, units in reversed(list(enumerate(structure.LEVELS, start=1))):
        for unit in units:
            if unit not in structure.HERE.product or unit == "harness":
                continue
            path = structure.HERE.product[unit]
            name = path.relative_to(structure.ROOT).as_posix().removesuffix("__init__.py")
            rows.append(f"| {place} | `{name}` | {_sentence(path)} |")
    return "\n".join(["| level | package | what it is |", "|---:|---|---|", *rows])


def _sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return _plain(text.partition("\n\n")[0])


def reduced(arrows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The arrows that do not follow from others: a -> c goes where a -> b -> c is there."""
    graph: dict[str, set[str]] = {}
    for start, end in arrows:
        graph.setdefault(start, set()).add(end)

    @cache
    def reachable(node: str) -> frozenset[str]:
        below = graph.get(node, set())
        return frozenset(below).union(*map(reachable, below))

    return sorted(
        (start, end)
        for start, ends in graph.items()
        for end in ends
        if not any(end in reachable(other) for other in ends - {end})
    )


WIDTH, ROW, BOX, HEIGHT = 900, 74, 112, 34


def figure() -> str:
    """docs/structure.svg: packages on their levels, and who imports whom, without what follows."""
    arrows = [
        (start, end)
        for start, end in reduced(structure.HERE.arrows())
        if "harness" not in (start, end)  # The version number, which everybody may read.
    ]
    at = _positions(arrows)
    body = [_arrow(at[start], at[end]) for start, end in arrows]
    body += [_box(name, *place) for name, place in at.items()]
    levels = len(structure.LEVELS)
    body += [
        f'<text x="14" y="{(levels - level) * ROW + 52}" class="level">{level}</text>'
        for level in range(1, levels + 1)
    ]
    return SVG.format(width=WIDTH, height=levels * ROW + 24, body="\n".join(body))


SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"
 font-family="system-ui, sans-serif" font-size="14">
<title>Packages by level; an arrow points to what is imported</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"
 orient="auto"><path d="M0 0 8 4 0 8z" fill="#8a7fb0"/></marker></defs>
<style>
 .box {{ fill: #ede7f6; stroke: #5e35b1 }} .name {{ fill: #1f1140; text-anchor: middle }}
 .arrow {{ fill: none; stroke: #8a7fb0; stroke-width: 1.4; marker-end: url(#tip) }}
 .level {{ fill: #6b6480; font-size: 13px }}
</style>
<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>
{body}
</svg>
"""


def _positions(arrows: list[tuple[str, str]]) -> dict[str, tuple[float, float]]:
    """The centre of every box; on its level a package stands near those that it imports."""
    known = {unit for arrow in arrows for unit in arrow}
    at: dict[str, tuple[float, float]] = {}
    for place, units in enumerate(structure.LEVELS, start=1):
        y = (len(structure.LEVELS) - place) * ROW + 48

        def wish(unit: str) -> float:
            below = [at[end][0] for start, end in arrows if start == unit and end in at]
            return sum(below) / len(below) if below else WIDTH / 2

        row = sorted((unit for unit in units if unit in known), key=lambda u: (wish(u), u))
        step = (WIDTH - 60) / max(1, len(row))
        for i, unit in enumerate(row):
            # Every other level is shifted, so that arrows pass beside the boxes between.
            at[unit] = (50 + step * (i + 0.5) + (30 if place % 2 else -30), y)
    return at


def _box(name: str, x: float, y: float) -> str:
    shown = escape(name.removeprefix("harness."))
    return (
        f'<rect x="{x - BOX / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{BOX}" height="{HEIGHT}" '
        f'rx="6" class="box"/><text x="{x:.0f}" y="{y + 5:.0f}" class="name">{shown}</text>'
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x, y), (to, down) = start, end
    if y == down:  # Over whatever stands between.
        edge, top = (20 if to > x else -20), y - HEIGHT / 2
        path = f"M{x + edge:.0f} {top:.0f}C{x + edge:.0f} {top - 26:.0f}"
        path += f" {to - edge:.0f} {top - 26:.0f} {to - edge:.0f} {top:.0f}"
        return f'<path d="{path}" class="arrow"/>'
    y, down = y + HEIGHT / 2, down - HEIGHT / 2
    bend = (down - y) / 2
    path = f"M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {to:.0f} {down - bend:.0f} {to:.0f} {down:.0f}"
    return f'<path d="{path}" class="arrow"/>'


# --- augmentation --------------------------------------------------------------------------------


def policies() -> str:
    """Every augmentation policy: what it does, its parameters and their defaults."""
    from harness.schema.augmentation import NAMED_POLICIES, STEPS

    rows = []
    for name, steps in NAMED_POLICIES.items():
        what = " + ".join(f"`{step.name}`" for step in steps) or "nothing"
        rows.append(f"| `{name}` | {what} | |")
    for name, step in STEPS.items():
        defaults = step().model_dump(mode="json", exclude={"name"})
        listed = ", ".join(
            f"`{key}`" if key == "copies" else f"`{key} = {_toml(value)}`"
            for key, value in defaults.items()
        )
        rows.append(f"| `{name}` | {_first_sentence(step)} | {listed} |")
    return "\n".join(
        ["| policy | what it does | parameters and defaults |", "|---|---|---|", *rows]
    )


def _toml(value: Any) -> str:
    rounded = float(f"{value:.3g}") if isinstance(value, float) else value
    return json.dumps(rounded)


def _first_sentence(kind: type) -> str:
    return _plain((inspect.getdoc(kind) or "").partition("\n\n")[0]).removesuffix(".")


# --- audit ---------------------------------------------------------------------------------------


def findings() -> str:
    """Every kind of finding of an audit, and what removes it."""
    from harness.audit.findings import KINDS, REMOVABLE, REMOVED
    from harness.audit.report import DESCRIPTIONS, TITLES

    rows = []
    for kind in KINDS:
        option = f"`--remove {kind}`" if kind in REMOVABLE else "nothing"
        removed = "`--clean`" if kind in REMOVED else option
        rows.append(f"| `{kind}` | {TITLES[kind]} | {_plain(DESCRIPTIONS[kind])} | {removed} |")
    return "\n".join(["| kind | finding | what it is | removed by |", "|---|---|---|---|", *rows])


# --- settings ------------------------------------------------------------------------------------


def settings() -> str:
    """The commented defaults, which ``wbc-bench init`` writes."""
    text = (structure.ROOT / "harness" / "benchmark.toml").read_text(encoding="utf-8")
    return f"```toml\n{text.strip()}\n```"


BLOCKS: dict[str, Callable[[], str]] = {
    "columns": columns,
    "csv_columns": csv_columns,
    "findings": findings,
    "commands": commands,
    "records": records,
    "packages": packages,
    "policies": policies,
    "settings": settings,
}


def main() -> None:
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(structure.ROOT))


if __name__ == "__main__":
    sys.exit(main())
