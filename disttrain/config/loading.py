"""Makes flags from a settings class, and checked settings from flags, environment and TOML file."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from disttrain import __version__
from disttrain.config import Settings
from disttrain.config.explaining import explain, flag_of
from disttrain.config.option_types import from_home, split_lines
from disttrain.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

S = TypeVar("S", bound=Settings)
ENVIRONMENT_PREFIX = "DISTTRAIN_"
# What other programs call some options.
OTHER_NAMES = {
    "lr": "learning_rate",
    "label": "targets",
    "labels": "targets",
    "y": "targets",
    "x": "features",
    "csv": "data",
    "file": "data",
    "gpus": "devices",
    "num_gpus": "devices",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "o": "output",
    "out": "output",
    "output_dir": "output",
    "sep": "delimiter",
    "validation": "validation_data",
    "val_data": "validation_data",
    "layers": "hidden",
    "units": "hidden",
    "bs": "batch_size",
    "workers": "num_shards",
}


@dataclass(frozen=True)
class Command(Generic[S]):
    """A subcommand: its options, the texts around them in its help, and the function that runs it.

    `run` is called with the checked options and the environment as the process was given it.
    """

    prog: str
    settings: type[S]
    description: str
    run: Callable[[S, Mapping[str, str]], None]
    epilog: str = ""


def load_command(command: Command[S], arguments: Sequence[str], environ: Mapping[str, str]) -> S:
    """Returns a subcommand's options; see `load`."""
    parser = build_parser(command.settings, command.prog, command.description, command.epilog)
    return load(command.settings, parser, arguments, environ)


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises our errors, so that printing and exiting happen in one place."""

    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see {self.prog} --help")


def build_parser(settings: type[Settings], prog: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """Builds a parser with one flag for every field of `settings`, in the fields' groups."""
    parser = _Parser(
        prog=prog, description=description, epilog=epilog, formatter_class=_help_formatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"disttrain {__version__}")
    parser.add_argument("--config", metavar="FILE", help="TOML file of options, under their names with underscores")
    groups: dict[str, argparse._ArgumentGroup] = {}
    fields = settings.model_fields.items()
    for name, field in sorted(fields, key=lambda one: _is_last(one[1])):
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        if extra.get("positional"):
            several = _takes_places(field)
            parser.add_argument(
                name,
                metavar=str(extra["positional"]),
                nargs="*" if several else "?",
                default=argparse.SUPPRESS,
                help=field.description,
            )
            parser.add_argument(  # as the same files are named to other commands
                flag_of(name), nargs="+" if several else None, default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )
            continue
        title = str(extra["group"])
        group = groups.setdefault(title, parser.add_argument_group(title) if title not in groups else groups[title])
        group.add_argument(flag_of(name), dest=name, default=argparse.SUPPRESS, **_presentation(name, field))
    return parser


def load(settings: type[S], parser: argparse.ArgumentParser, arguments: Sequence[str], environ: Mapping[str, str]) -> S:
    """Returns the settings from flags, environment, TOML file and defaults; the first that gives a value wins.

    Raises:
        UsageError: for an unknown flag or key and for every value that breaks a rule, naming where it came from.
    """
    found, unknown = parser.parse_known_intermixed_args(list(arguments))  # files may come after options
    if unknown:
        hint = _hint(settings, unknown)
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{f'; did you mean {hint}?' if hint else ''}")
    flags = vars(found)
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
        told = [explain(detail, origins, settings) for detail in error.errors()]
        missing = any(detail["type"] == "missing" for detail in error.errors())
        raise UsageError("\n".join(told) + (f"; see {parser.prog} --help" if missing else "")) from None


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=110)


def _presentation(name: str, field: FieldInfo) -> dict[str, Any]:
    """Returns what argparse shows of a field; pydantic checks the values themselves."""
    text = (field.description or "").replace("%", "%%")
    if field.default is False:
        return {"action": "store_true", "help": text}
    default = None if field.is_required() else field.default
    if _takes_places(field):
        return {"metavar": "FILE", "help": text, "nargs": "+", "action": "extend"}
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


def _is_last(field: FieldInfo) -> bool:
    """Returns whether an option is given by its place and takes all words that are left."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and "positional" in extra and _takes_places(field)


def _takes_places(field: FieldInfo) -> bool:
    """Returns whether an option takes several words, as a shell makes them of a pattern."""
    return any(getattr(rule, "func", None) is split_lines for rule in field.metadata)


def _from_environment(settings: type[Settings], environ: Mapping[str, str]) -> dict[str, str]:
    """Reads the options' variables; ignores other `DISTTRAIN_*` names, some of which Kubernetes makes for a service."""
    keys = {name: ENVIRONMENT_PREFIX + name.rstrip("_").upper() for name in settings.model_fields}
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


def _hint(settings: type[Settings], unknown: Sequence[str]) -> str:
    """Returns the option or remedy meant by the first unknown argument; empty if that cannot be guessed."""
    word = unknown[0].partition("=")[0]
    if not word.startswith("-"):
        is_path = "data" in settings.model_fields and ("." in word or "/" in word)
        return f"--data {' '.join(unknown)}" if is_path else ""
    name = word.lstrip("-").replace("-", "_")
    close = OTHER_NAMES.get(name) or next(iter(difflib.get_close_matches(name, settings.model_fields, n=1)), None)
    return flag_of(close) if close in settings.model_fields else ""
