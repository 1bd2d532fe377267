"""Makes what options name: losses, metrics, optimizers and schedules of Keras, with arguments, or the user's own."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import keras

from disttrain.config.option_types import Named
from disttrain.errors import UsageError
from disttrain.training.user_code import call_user_function, user_function


def loss_of(text: str) -> Any:
    """Returns a loss as Keras's `compile` takes it: a name alone stays one; raises what `_made` raises."""
    return _evaluated("--loss", text, keras.losses, keras.losses.Loss, "mae, mse, binary_crossentropy")


def metrics_of(texts: Sequence[str]) -> list[Any]:
    """Returns metrics as Keras's `compile` takes them; raises what `_made` raises."""
    examples = "mae, mse, accuracy, AUC"
    return [_evaluated("--metrics", text, keras.metrics, keras.metrics.Metric, examples) for text in texts]


def optimizer_of(text: str, learning_rate: Any, *, is_given: bool) -> keras.Optimizer:
    """Returns an optimizer.

    Args:
        text: its name with arguments, or the user's own function.
        learning_rate: a number or a schedule.
        is_given: whether the user asked for it; else another optimizer than Adam has its own.

    Raises:
        UsageError: as `_made` does, and if the function returns something else.
    """
    named = Named.parse(text)
    if named.is_own:
        made = call_user_function("--optimizer", text, learning_rate=learning_rate)
        return _checked("--optimizer", text, made, keras.Optimizer)
    if is_given and "learning_rate" in named.arguments:
        raise UsageError(f"--optimizer {text}: leave learning_rate out, which --learning-rate gives")
    sets_rate = is_given or named.name.lower() == "adam" or not isinstance(learning_rate, float)
    rate = {"learning_rate": learning_rate} if sets_rate and "learning_rate" not in named.arguments else {}
    made = _made("--optimizer", text, keras.optimizers, keras.Optimizer, "adam, adamw, sgd", rate)
    return _checked("--optimizer", text, made, keras.Optimizer)


def schedule_of(text: str, *, epochs: int, steps_per_epoch: int) -> Any:
    """Returns a learning rate's schedule, or the number that the user's function returns; raises as `optimizer_of`."""
    schedules = keras.optimizers.schedules
    if Named.parse(text).is_own:
        made = call_user_function("--learning-rate", text, epochs=epochs, steps_per_epoch=steps_per_epoch)
        return made if isinstance(made, int | float) else _checked("--learning-rate", text, made, _Schedule)
    return _made("--learning-rate", text, schedules, _Schedule, "0.001, CosineDecay, ExponentialDecay")


_Schedule = keras.optimizers.schedules.LearningRateSchedule


def name_of(text: str) -> str:
    """Returns the name alone, or nothing for the user's own."""
    named = Named.parse(text)
    return "" if named.is_own else named.name


def _evaluated(option: str, text: str, module: ModuleType, base: type, examples: str) -> Any:
    named = Named.parse(text)
    if named.is_own:
        own = user_function(option, text)
        return own() if inspect.isclass(own) and issubclass(own, base) else own
    if named.arguments:
        return _made(option, text, module, base, examples)
    try:
        module.get(text)
    except TypeError as error:
        raise UsageError(
            f"{option} {text}: cannot be made from its name alone: give its arguments, as in name:argument=value "
            f"({_reason(error)})"
        ) from None
    except ValueError:
        raise _unknown(option, text, module, base, examples) from None
    return text


def _made(
    option: str, text: str, module: ModuleType, base: type, examples: str, more: Mapping[str, Any] | None = None
) -> Any:
    """Returns an object of the class of a module that a text names, in any spelling that Keras knows.

    Raises:
        UsageError: for a name or an argument that Keras does not know, or a value that it refuses.
    """
    named = Named.parse(text)
    made = _class(named.name, module, base)
    if made is None:
        raise _unknown(option, named.name, module, base, examples)
    known = [name for name in inspect.signature(made).parameters if name not in _NO_ARGUMENTS]
    for name in named.arguments:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}"
            raise UsageError(f"{option} {text}: {made.__name__} has no argument {name}; {hint}")
    try:
        return made(**named.arguments, **(more or {}))
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{option} {text}: {_reason(error)}") from None


def _class(name: str, module: ModuleType, base: type) -> Callable[..., Any] | None:
    """Returns the class of a name (`AdamW`, `adamw`, `mean_squared_error`) or of a function's short one (`mse`)."""
    classes = {_plain(key): one for key, one in vars(module).items() if inspect.isclass(one) and issubclass(one, base)}
    found = classes.get(_plain(name))
    if found is not None or not hasattr(module, "get"):
        return found
    try:
        function = module.get(name)
    except (TypeError, ValueError):
        function = vars(module).get(name)
        if not inspect.isfunction(function):
            return None
    made = classes.get(_plain(getattr(function, "__name__", "")))
    return made or (_metric_of(function) if base is keras.metrics.Metric else None)


def _metric_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns what makes a metric of a function of targets and outputs, the mean over the rows."""

    @functools.wraps(function)
    def made(name: str | None = None, **arguments: Any) -> Any:
        return keras.metrics.MeanMetricWrapper(function, name=name or function.__name__, **arguments)

    return made


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _unknown(option: str, name: str, module: ModuleType, base: type, examples: str) -> UsageError:
    classes = [key for key, one in vars(module).items() if inspect.isclass(one) and issubclass(one, base)]
    functions = [key for key, one in vars(module).items() if inspect.isfunction(one) and key not in _NO_NAMES]
    known = {key.lower(): key for key in (*classes, *functions, "accuracy", "mae", "mse")}
    close = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {known[close[0]]}?" if close else f"examples are {examples}"
    return UsageError(f"{option} {name}: Keras knows no such name; {hint} (your own: package.module:function)")


_NO_ARGUMENTS = ("kwargs", "args", "y_true", "y_pred")
_NO_NAMES = ("get", "serialize", "deserialize")


def _checked(option: str, text: str, made: Any, base: type) -> Any:
    if not isinstance(made, base):
        raise UsageError(f"{option} {text}: returned {type(made).__name__}, expected a keras {base.__name__}")
    return made


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
