"""Captures the state of Keras callbacks as JSON and arrays for a checkpoint, and restores it.

A callback's state is its attributes that are plain data: numbers, strings, None, arrays, and lists, tuples and dicts of
those. The arguments of its Keras constructor (patience, monitor, a file name) are not state: a resumed run uses its
own. A callback of your own can define its state with two methods, `get_state() -> dict` and `set_state(dict)`.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np
import numpy.typing as npt
from keras.callbacks import Callback, CallbackList

from disttrain.errors import UsageError

Arrays = dict[str, npt.NDArray[Any]]

REMEDY = "define get_state and set_state to keep it"
# Plain data that belongs to the process, or follows from options and files, and must not come from a checkpoint.
_NOT_STATE: dict[type, frozenset[str]] = {
    Callback: frozenset({"params", "_model"}),
    keras.callbacks.CSVLogger: frozenset({"sep", "keys", "append_header"}),
    keras.callbacks.TensorBoard: frozenset(
        {"_log_write_dir", "_train_dir", "_val_dir", "_writers", "_prev_summary_state", "_should_write_train_graph"}
        | {"_start_batch", "_stop_batch", "_should_trace", "_is_tracing", "_profiler_started", "_batch_trace_context"}
        | {"_batch_start_time", "_epoch_start_time", "_train_accumulated_time", "_previous_epoch_iterations"}
        | {"_summary_module"}
    ),
}
_CONTAINERS = (dict, list, tuple, set, frozenset, deque, bytes, bytearray, np.ndarray, np.random.Generator)


@runtime_checkable
class Stateful(Protocol):
    """A callback that defines its own state."""

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` needs, as plain data."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned in another process; is called after `on_train_begin`."""


class _NotPlain(Exception):
    """A value that JSON and arrays cannot hold."""


def capture_callbacks(callbacks: CallbackList) -> tuple[list[dict[str, Any]], Arrays]:
    """Returns the state of all callbacks: an entry for each, for JSON, and copies of their arrays by name.

    Raises:
        UsageError: if a callback's own `get_state` returns anything but a dict of plain data.
    """
    arrays: Arrays = {}
    return [_capture(number, item, arrays) for number, item in enumerate(callbacks.callbacks)], arrays


def restore_callbacks(
    callbacks: CallbackList, kept: Sequence[Mapping[str, Any]], arrays: Mapping[str, npt.NDArray[Any]]
) -> list[str]:
    """Restores the state of callbacks; call it after `on_train_begin`, which resets many of them.

    The first callback of a class gets the state of the first of that class in the checkpoint, and so on. Returns a
    message for each callback that has state but no counterpart, and for each attribute that could not be kept.
    """
    now: dict[tuple[str, int], Callback] = dict(_numbered(callbacks.callbacks, [_name(c) for c in callbacks.callbacks]))
    then: dict[tuple[str, int], Mapping[str, Any]] = dict(_numbered(kept, [entry["class"] for entry in kept]))
    messages = []
    for key, entry in then.items():
        if key in now:
            messages += _restore(now[key], entry, arrays)
        elif entry["state"]:
            messages.append(f"{key[0]}: is in the checkpoint, but not among this run's callbacks")
    for key, callback in now.items():
        if key not in then and _capture(0, callback, {})["state"]:
            messages.append(f"{key[0]}: is not in the checkpoint, so it starts over")
    return messages


def _capture(number: int, callback: Callback, arrays: Arrays) -> dict[str, Any]:
    name = _name(callback)
    entry = {"class": name, "own": isinstance(callback, Stateful), "monitor": getattr(callback, "monitor", None)}
    if not isinstance(entry["monitor"], str):
        entry["monitor"] = None
    writer = _Encoder(f"{number:03d}-{name}", arrays)
    if isinstance(callback, Stateful):
        return {**entry, "state": writer.own(name, callback.get_state()), "left_out": []}
    state, left_out = {}, []
    skipped = _not_state(type(callback))
    for attribute, value in sorted(vars(callback).items()):
        if attribute in skipped:
            continue
        try:
            state[attribute] = writer.encode(value)
        except _NotPlain:
            if isinstance(value, _CONTAINERS):
                left_out.append(f"{attribute} ({type(value).__name__})")
    return {**entry, "state": state, "left_out": left_out}


def _restore(callback: Callback, entry: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> list[str]:
    name = _name(callback)
    monitor = getattr(callback, "monitor", None)
    if entry["own"] != isinstance(callback, Stateful):
        return [f"{name}: has get_state and set_state only in the checkpoint or only in this run, so it starts over"]
    if entry["monitor"] is not None and entry["monitor"] != monitor:
        return [f"{name}: watched {entry['monitor']} in the checkpoint, {monitor} in this run, so it starts over"]
    state = {attribute: _decode(value, arrays) for attribute, value in entry["state"].items()}
    if isinstance(callback, Stateful):
        callback.set_state(state)
    else:
        vars(callback).update(state)
    return [f"{name}.{what}: is not kept in checkpoints, so it starts over; {REMEDY}" for what in entry["left_out"]]


def _name(callback: Callback) -> str:
    return type(callback).__name__


def _numbered(items: Sequence[Any], names: Sequence[str]) -> list[tuple[tuple[str, int], Any]]:
    """Returns each item with its name and how many items of that name come before it."""
    seen: Counter[str] = Counter()
    found = []
    for item, name in zip(items, names, strict=True):
        found.append(((name, seen[name]), item))
        seen[name] += 1
    return found


def _not_state(kind: type) -> set[str]:
    """Returns a callback class's attributes that are not state: Keras's constructor arguments, and _NOT_STATE's."""
    found: set[str] = set()
    for base in kind.__mro__:
        found |= _NOT_STATE.get(base, frozenset())
        if base.__module__.split(".")[0] == "keras":
            found |= set(inspect.signature(base.__init__).parameters)  # type: ignore[misc]
    return found


class _Encoder:
    """Encodes plain data as JSON and collects its arrays; a type that JSON lacks becomes `{"is": kind, "of": …}`."""

    def __init__(self, prefix: str, arrays: Arrays) -> None:
        self._prefix = prefix
        self._arrays = arrays
        self._num_arrays = 0

    def own(self, name: str, state: object) -> dict[str, Any]:
        """Encodes what a callback's `get_state` returned."""
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise UsageError(f"--callbacks: {name}.get_state() returned {type(state).__name__}, expected a dict of str")
        encoded = {}
        for key, value in state.items():
            try:
                encoded[key] = self.encode(value)
            except _NotPlain as error:
                raise UsageError(
                    f"--callbacks: {name}.get_state()[{key!r}] holds {error}, expected numbers, strings, None, arrays, "
                    "and lists, tuples and dicts of those"
                ) from None
        return encoded

    def encode(self, value: Any) -> Any:
        """Encodes a value; if JSON and arrays cannot hold it, raises _NotPlain with its type, and collects nothing."""
        pending: list[npt.NDArray[Any]] = []
        try:
            encoded = self._encode(value, pending)
        except RecursionError:
            raise _NotPlain("itself") from None
        self._arrays.update({self._array_name(number): array for number, array in enumerate(pending)})
        self._num_arrays += len(pending)
        return encoded

    def _encode(self, value: Any, pending: list[npt.NDArray[Any]]) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
            return value
        if kind is float:
            return {"is": "float", "of": str(value)}
        if kind is list:
            return [self._encode(item, pending) for item in value]
        if kind is tuple:
            return {"is": "tuple", "of": [self._encode(item, pending) for item in value]}
        if kind is dict:
            pairs = [[self._encode(key, pending), self._encode(item, pending)] for key, item in value.items()]
            return {"is": "dict", "of": pairs}
        if isinstance(value, np.generic) or kind is np.ndarray:
            if value.dtype.kind in "OT" or (value.dtype.kind == "V" and value.dtype.isbuiltin != 2):
                raise _NotPlain(f"an array of {value.dtype}")
            pending.append(np.array(value))
            return {"is": "array" if kind is np.ndarray else "scalar", "of": self._array_name(len(pending) - 1)}
        raise _NotPlain(kind.__name__)

    def _array_name(self, number: int) -> str:
        return f"{self._prefix}/{self._num_arrays + number:04d}"


def _decode(encoded: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    if isinstance(encoded, list):
        return [_decode(item, arrays) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    kind, of = encoded["is"], encoded["of"]
    if kind == "float":
        return float(of)
    if kind == "tuple":
        return tuple(_decode(item, arrays) for item in of)
    if kind == "dict":
        return {_decode(key, arrays): _decode(item, arrays) for key, item in of}
    return arrays[of] if kind == "array" else arrays[of][()]
