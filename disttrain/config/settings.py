"""What all commands' options have in common, and how one is declared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


def option(group: str, description: str, default: Any = ..., **rules: Any) -> Any:
    """Returns a field with its group in `--help`; the description itself tells what a default of `None` means."""
    return Field(default, description=description, json_schema_extra={"group": group}, **rules)


def positional(description: str, metavar: str = "FILE", **rules: Any) -> Any:
    """Returns a field that is given by its place, where `--help` shows `metavar`."""
    return Field(description=description, json_schema_extra={"positional": metavar}, **rules)


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """Returns `DISTTRAIN_CACHE_DIR`, else `XDG_CACHE_HOME/disttrain`, else `~/.cache/disttrain`."""
    if directory := environ.get("DISTTRAIN_CACHE_DIR"):
        return Path(directory).expanduser()
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "disttrain"


class Settings(BaseModel):
    """What all commands' options have in common: no unknown names, no change after the checks."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _switches_are_for_switches(cls, value: Any, info: ValidationInfo) -> Any:
        """Rejects true and false for a field that is not a bool; otherwise TOML's `true` would be the number 1."""
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("expected a value, not true or false")
        return value
