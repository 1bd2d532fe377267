"""The numbers of a run in training: read on all workers into arrays, and put back on the same or another world size."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from disttrain.engine import Engine
from disttrain.world import Backend

Arrays = dict[str, npt.NDArray[Any]]


def capture_state(engine: Engine, backend: Backend, *, wanted: bool) -> Arrays:
    """What training has come to, between two compiled calls; all workers call it, and those get it who want it.

    Returns:
        `weights/N` and `optimizer/N`: the variables, the same on all workers. `worker/N`: the other variables (the
        statistics of batch normalization, the states of dropout), [world size, ...]. `totals/N`: what the metrics have
        seen in this epoch, float64 [world size, ...]; in the middle of a superbatch, up to where it began, and
        `partial/N` since. `random/N`: the state of Python's and NumPy's global random numbers, [world size, ...].
    """
    model = engine.model
    totals, partial = engine.capture_totals()
    own = {
        **_named("worker", [v.numpy() for v in model.non_trainable_variables]),
        **_named("totals", totals),
        **_named("partial", partial),
        **_named("random", _random_state()),
    }
    workers = backend.gather(own)
    if not wanted:
        return {}
    return {
        **_named("weights", [v.numpy() for v in model.trainable_variables]),
        **_named("optimizer", [v.numpy() for v in model.optimizer.variables]),
        **{name: np.stack([arrays[name] for arrays in workers]) for name in own},
    }


def restore_state(engine: Engine, backend: Backend, arrays: Mapping[str, npt.NDArray[Any]] | None) -> None:
    """Puts back what `capture_state` gave; all workers call it, and only rank 0 needs `arrays`.

    On another world size than before, each worker gets the mean of the workers' statistics, and rank 0's of what is
    not a floating-point number.
    """
    model = engine.model
    own = None
    if arrays is not None and backend.world.is_leader:
        for kind, variables in (("weights", model.trainable_variables), ("optimizer", model.optimizer.variables)):
            for variable, value in zip(variables, _listed(arrays, kind), strict=True):
                variable.assign(value)
        own = [_listed(arrays, kind) for kind in ("worker", "totals", "partial", "random")]
    engine.synchronize()
    shared = backend.gather(own)[0]
    if shared is None:
        return
    workers, totals, partial, randoms = shared
    for variable, values in zip(model.non_trainable_variables, workers, strict=True):
        variable.assign(_of_worker(values, backend))
    rank, size = backend.world.rank, backend.world.size
    if totals and len(totals[0]) != size:
        totals, partial = [_of_leader(total, backend) for total in _added(totals, partial)], []
    engine.restore_totals(*([_of_worker(values, backend) for values in kind] for kind in (totals, partial)))
    _set_random_state([values[rank if len(values) == size else 0] for values in randoms])


def describe_variables(variables: Sequence[Any]) -> list[list[Any]]:
    """[path, shape, dtype] of each variable."""
    return [[v.path, list(v.shape), str(v.dtype)] for v in variables]


def _named(kind: str, values: Sequence[npt.NDArray[Any]]) -> Arrays:
    return {f"{kind}/{number:05d}": np.array(value) for number, value in enumerate(values)}


def _listed(arrays: Mapping[str, npt.NDArray[Any]], kind: str) -> list[npt.NDArray[Any]]:
    return [arrays[name] for name in sorted(arrays) if name.startswith(f"{kind}/")]


def _of_worker(values: npt.NDArray[Any], backend: Backend) -> npt.NDArray[Any]:
    """This worker's part of `values`, [world size when captured, ...]."""
    if len(values) == backend.world.size:
        return np.asarray(values[backend.world.rank])
    if np.issubdtype(values.dtype, np.floating):
        return np.asarray(values.mean(axis=0, dtype=np.float64), values.dtype)
    return np.asarray(values[0])


def _added(totals: Sequence[npt.NDArray[Any]], partial: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    return [total + state for total, state in zip(totals, partial, strict=True)] if partial else list(totals)


def _of_leader(values: npt.NDArray[Any], backend: Backend) -> npt.NDArray[Any]:
    """For each worker of this run its part: the leader the sum of all parts there were, the others nothing."""
    parts = np.zeros((backend.world.size, *values.shape[1:]), values.dtype)
    parts[0] = values.sum(axis=0)
    return parts


def _random_state() -> list[npt.NDArray[Any]]:
    """Both generators' integers, and the normal number that each may have drawn ahead, or NaN."""
    _, python, python_ahead = random.getstate()
    _, keys, position, has_ahead, ahead = np.random.get_state(legacy=True)
    normals = [np.nan if python_ahead is None else python_ahead, ahead if has_ahead else np.nan]
    return [np.array(python, np.uint64), np.append(keys, position).astype(np.uint64), np.array(normals)]


def _set_random_state(state: Sequence[npt.NDArray[Any]]) -> None:
    python, numpys, (python_ahead, ahead) = state
    random.setstate((3, tuple(python.tolist()), None if np.isnan(python_ahead) else float(python_ahead)))
    drawn_ahead = (0, 0.0) if np.isnan(ahead) else (1, float(ahead))
    np.random.set_state(("MT19937", numpys[:-1].astype(np.uint32), int(numpys[-1]), *drawn_ahead))
