"""Calls the user's own functions, which options name as `package.module:function`."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from disttrain.errors import UsageError

GIVEN_MODEL = "disttrain.run.given:model"  # that of a Python program, which no other one can ask for


def takes_argument(option: str, target: str, name: str) -> bool:
    """Returns whether the function has a parameter of that name; raises what `call_user_function` raises."""
    return name in inspect.signature(user_function(option, target)).parameters


def call_user_function(option: str, target: str, **values: Any) -> Any:
    """Calls the function with those of `values` that its parameters name, and returns its result.

    An error that the function itself raises is passed on unchanged, so that its traceback shows where it came from.

    Raises:
        UsageError: if the module cannot be imported, has no such function, or the function requires another argument.
    """
    function = user_function(option, target)
    signature = inspect.signature(function)
    accepted = _accepted(signature, values)
    try:
        signature.bind(**accepted)
    except TypeError as error:
        raise UsageError(f"{option} {target}: {error}; it may take {' and '.join(values)}") from error
    return function(**accepted)


def user_function(option: str, target: str) -> Callable[..., Any]:
    """Imports the function; raises what `call_user_function` raises."""
    module_name, function_name = target.split(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does, so that the installed command finds the same modules
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(f"{option} {target}: {module_name} cannot be imported: {_where_and_what(error)}") from error
    function: Any = getattr(module, function_name, None)
    if not callable(function):
        there = sorted(name for name, value in vars(module).items() if inspect.isfunction(value))
        raise UsageError(
            f"{option} {target}: {module_name} has no function {function_name}; it has {', '.join(there) or 'none'}"
        )
    return cast(Callable[..., Any], function)


def _accepted(signature: inspect.Signature, values: dict[str, Any]) -> dict[str, Any]:
    parameters = signature.parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return values
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in values.items() if name in names}


def _where_and_what(error: Exception) -> str:
    """Shortens a traceback to one line: the line of the user's file that failed, and the error."""
    what = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {what}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, ImportError) and frame.filename.startswith("<frozen importlib"):
        return what
    return f"{frame.filename}, line {frame.lineno}: {what}"
