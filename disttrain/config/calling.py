"""Settings from the arguments of a Python call, checked as those of a command."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from disttrain.config.explaining import explain
from disttrain.config.settings import Settings
from disttrain.errors import UsageError

S = TypeVar("S", bound=Settings)
F = TypeVar("F", bound=Callable[..., Any])


def checked(settings: type[S], values: Mapping[str, Any], caller: str) -> S:
    """Returns the settings that a call asks for; one word stands for a list of one, and paths for their texts.

    Raises:
        UsageError: for an option that does not exist, with the nearest one, and for a value that breaks a rule.
    """
    for name in values:
        if name not in settings.model_fields:
            close = difflib.get_close_matches(name, settings.model_fields, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"{caller}: there is no option {name}{hint}")
    try:
        return settings.model_validate({name: _as_given(value) for name, value in values.items()})
    except ValidationError as error:
        origins = {name: f"{caller}({name})" for name in values}
        raise UsageError("\n".join(explain(detail, origins, settings) for detail in error.errors())) from None


def _as_given(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [str(one) if isinstance(one, Path) else one for one in value]
    return value


def with_signature_of(settings: type[Settings], leaving_out: Sequence[str] = ()) -> Callable[[F], F]:
    """Returns a decorator that shows the options of a command among the keyword arguments of a function."""

    def decorate(function: F) -> F:
        own = list(inspect.signature(function).parameters.values())[:-1]  # without **options
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation)
            for name, field in settings.model_fields.items()
            if name not in (*leaving_out, *(parameter.name for parameter in own))
        ]
        function.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        return function

    return decorate
