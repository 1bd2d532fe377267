"""From a settings class to its flags, and from flags, environment and TOML file to checked settings."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from disttrain import __version__
from disttrain.config import Settings, from_home
from disttrain.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

S = TypeVar("S", bound=Settings)
ENVIRONMENT_PREFIX = "DISTTRAIN_"


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours, so that one place prints and exits."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see {self.prog} --help")


def build_parser(settings: type[Settings], prog: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser with one flag for every field of `settings`, in the fields' groups."""
    parser = _Parser(
        prog=prog, description=description, epilog=epilog, formatter_class=_help_formatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"disttrain {__version__}")
    parser.add_argument("--config", metavar="FILE", help="TOML file of options, under their names with underscores")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, field in settings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        if extra.get("positional"):
            parser.add_argument(name, metavar=name.upper(), help=field.description)
            continue
        title = str(extra["group"])
        group = groups.setdefault(title, parser.add_argument_group(title) if title not in groups else groups[title])
        group.add_argument(_flag(name), dest=name, default=argparse.SUPPRESS, **_presentation(name, field))
    return parser


def load(settings: type[S], parser: argparse.ArgumentParser, arguments: Sequence[str], environ: Mapping[str, str]) -> S:
    """The settings that flags, environment, TOML file and defaults give together, the first of these winning.

    Raises:
        UsageError: for an unknown flag or key and for every value that breaks a rule, naming where it came from.
    """
    flags = vars(parser.parse_args(list(arguments)))
    config_file = flags.pop("config") or environ.get(ENVIRONMENT_PREFIX + "CONFIG")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer, origin in (
        (_from_toml(settings, config_file), f"{{name}} in {config_file}"),
        (_from_environment(settings, environ), ENVIRONMENT_PREFIX + "{NAME}"),
        (flags, "--{flag}"),
    ):
        for name, value in layer.items():
            values[name] = value
            origins[name] = origin.format(name=name, NAME=name.upper(), flag=name.replace("_", "-"))
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(detail, origins) for detail in error.errors())) from None


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=110)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _presentation(name: str, field: FieldInfo) -> dict[str, Any]:
    """What argparse shows of a field; the values themselves are judged by pydantic."""
    text = (field.description or "").replace("%", "%%")
    if field.default is False:
        return {"action": "store_true", "help": text}
    default = field.default
    if isinstance(default, tuple):
        shown = ",".join(str(item) for item in default)
        text += f" [{shown}]" if shown else ""
        return {"metavar": "A,B,…", "help": text}
    if default is not None:
        text += f" [{default}]"
    choices = getattr(field.annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return {"choices": choices, "help": text}
    return {"metavar": name.upper(), "help": text}


def _from_environment(settings: type[Settings], environ: Mapping[str, str]) -> dict[str, str]:
    """Unknown `DISTTRAIN_*` names are left alone: Kubernetes makes some of its own for a service's name."""
    keys = {name: ENVIRONMENT_PREFIX + name.upper() for name in settings.model_fields}
    return {name: environ[key] for name, key in keys.items() if environ.get(key)}


def _from_toml(settings: type[Settings], path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values: dict[str, Any] = tomllib.loads(Path(from_home(path)).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: not a TOML file: {error}") from None
    for name in values:
        if name not in settings.model_fields:
            close = difflib.get_close_matches(name, settings.model_fields, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; the options are {', '.join(settings.model_fields)}"
            raise UsageError(f"{path}: unknown option {name!r}{hint}")
    return values


def _explain(detail: ErrorDetails, origins: Mapping[str, str]) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0])
    return f"{origins.get(name, name)}: {detail['input']!r} is not possible: {message[0].lower()}{message[1:]}"
