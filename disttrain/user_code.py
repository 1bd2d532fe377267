"""Functions of the user's own that options name as `package.module:function`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from disttrain.errors import UsageError


def call_user_function(option: str, target: str, **values: Any) -> Any:
    """What the function returns, called with those of `values` that its parameters name.

    Raises:
        UsageError: if the module cannot be imported or has no such function.
    """
    module_name, function_name = target.split(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does, so that the installed command finds the same modules
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"{option} {target}: {module_name} cannot be imported: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        there = sorted(name for name, value in vars(module).items() if inspect.isfunction(value))
        raise UsageError(
            f"{option} {target}: {module_name} has no function {function_name}; it has {', '.join(there) or 'none'}"
        )
    return function(**_accepted(function, values))


def _accepted(function: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return values
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in values.items() if name in names}
