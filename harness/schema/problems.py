"""The problem that pydantic found in settings, as a line for their author."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
"""Pydantic's words for a number beyond its bounds."""
PYDANTIC_WORDS = {
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "tuple_type": "should be a list",
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_from_float": "should be a whole number",
    "int_parsing_size": "is too large",
    "missing": "is missing",
}
"""Its words for what TOML calls otherwise."""


def describe(error: ValidationError) -> str:
    """The first problem. Of a key with several forms, that of the forms which got farthest.

    A number beyond its bounds got farther than what is no number.
    """
    errors = error.errors()
    key = _key(errors[0]["loc"])
    of_key = [e for e in errors if _key(e["loc"])[: len(key)] == key]
    depth = max((len(e["loc"]), e["type"] in BOUNDS) for e in of_key)
    farthest = [e for e in of_key if (len(e["loc"]), e["type"] in BOUNDS) == depth]
    first = farthest[0]
    if isinstance(first["input"], str):  # Meant as one of the words, not as a list.
        farthest = [e for e in farthest if e["type"] != "tuple_type"] or farthest
    words = ".".join(str(part) for part in first["loc"] if not _is_form(part))
    message = " or ".join(dict.fromkeys(map(_message, farthest))).replace(" or should be", ", or")
    value = first.get("input")
    is_said = isinstance(value, dict) or first["type"] == "missing" or repr(value) in message
    given = "" if is_said else f", not {shortened(value)}"
    return f"{words}: {message}{given}" if words else f"{message}{given}"


def _message(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "too_short":
        return f"should have {problem['ctx']['min_length']} entries or more"
    own = PYDANTIC_WORDS.get(problem["type"])
    return own or problem["msg"].removeprefix("Value error, ").replace("Input should", "should")


def shortened(value: Any) -> str:
    text = "a huge number" if isinstance(value, int) and abs(value) > 10**30 else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _key(loc: Sequence[Any]) -> list[Any]:
    """Where a problem is, without the form of the value that was tried."""
    return list(loc[: next((i for i, part in enumerate(loc) if _is_form(part)), len(loc))])


def _is_form(part: Any) -> bool:
    """Whether a part of a problem's place is pydantic's word for a type."""
    words, forms = ("literal[", "tuple[", "constrained-", "function-"), "bool int float [key]"
    return isinstance(part, str) and (part.startswith(words) or part in forms.split())
