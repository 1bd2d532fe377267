"""Says what is wrong with a value of an option, in our words."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic_core import ErrorDetails

from disttrain.config.settings import Settings

# pydantic's names for what is wrong with a value, and our words for what was expected.
BOUNDS = {
    "greater_than": "greater than",
    "greater_than_equal": "greater than or equal to",
    "less_than": "less than",
    "less_than_equal": "less than or equal to",
}
KINDS = {
    "int_parsing": "expected an integer",
    "int_type": "expected an integer",
    "int_from_float": "expected an integer",
    "int_parsing_size": "expected a smaller number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "string_type": "expected a text",
    "tuple_type": "expected a list, such as a,b",
    "path_type": "expected a path",
}


def flag_of(name: str) -> str:
    """Returns the flag of an option."""
    return "--" + name.rstrip("_").replace("_", "-")


def explain(detail: ErrorDetails, origins: Mapping[str, str], settings: type[Settings]) -> str:
    """Returns what is wrong with a value, and where it came from."""
    if not detail["loc"]:
        return detail["msg"].removeprefix("Value error, ")
    name = str(detail["loc"][0])
    if detail["type"] == "missing":
        field = settings.model_fields[name]
        extra = field.json_schema_extra
        metavar = extra.get("positional") if isinstance(extra, dict) else None
        return f"{metavar or flag_of(name)} is required: {field.description}"
    return f"{origins.get(name, name)}: {detail['input']!r} is not possible: {_expected(detail)}"


def _expected(detail: ErrorDetails) -> str:
    """Returns what a value should have been, in our words."""
    bounds, kind = detail.get("ctx", {}), detail["type"]
    if kind in BOUNDS:
        return f"expected a number {BOUNDS[kind]} {next(iter(bounds.values())):,.20g}"
    if kind == "literal_error":
        return f"expected {bounds['expected']}"
    message = KINDS.get(kind) or detail["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}"
