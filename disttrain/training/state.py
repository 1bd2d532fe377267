"""Captures a run's training state from all workers as arrays, and restores it on the same or another world size."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras.src.backend.common import global_state  # has no public name
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, global_seed_generator

from disttrain.distributed.backend import Backend, World
from disttrain.errors import UsageError
from disttrain.training.engine import Engine

Arrays = dict[str, npt.NDArray[Any]]


def capture_state(engine: Engine, backend: Backend, *, wanted: bool) -> Arrays:
    """Captures the training state between two supersteps; all workers call it, and `wanted` says who gets the arrays.

    Returns:
        `weights/N` and `optimizer/N`: the variables that are the same on all workers. `replica/N`: the other variables
        (batch normalization's statistics, dropout's states), [replicas, ...], or [1, ...] where all replicas have the
        same values, as in frozen layers. `totals/N`: this epoch's metric sums, float64 [world size, ...], up to the
        start of an unfinished superbatch; `partial/N`: the metrics' states since then, [replicas, ...]. `random/N`: the
        state of Python's, NumPy's and Keras's global random generators, [world size, ...]. Replicas are those of all
        workers, in the order of ranks.
    """
    model = engine.model
    totals, partial = engine.totals.capture()
    held = _named("replica", [backend.replicas.read(v) for v in model.non_trainable_variables])
    same = equal_everywhere(held, backend)
    own = {
        **{name: values for name, values in held.items() if name not in same},
        **_named("totals", [total[np.newaxis] for total in totals]),
        **_named("partial", partial),
        **_named("random", [numbers[np.newaxis] for numbers in _random_state()]),
    }
    workers = backend.gather(own)
    if not wanted:
        return {}
    return {
        **_named("weights", [v.numpy() for v in model.trainable_variables]),
        **_named("optimizer", [v.numpy() for v in model.optimizer.variables]),
        **{name: held[name][:1] for name in same},
        **{name: np.concatenate([arrays[name] for arrays in workers]) for name in own},
    }


def equal_everywhere(held: Mapping[str, npt.NDArray[Any]], backend: Backend) -> list[str]:
    """Returns the names whose arrays are equal on all replicas of all workers, bit for bit, and need not be sent.

    Args:
        held: arrays [this worker's replicas, ...], with the same names in the same order on all workers.
    """
    if backend.world.num_replicas == 1:
        return []
    digests = [{hashlib.blake2b(values.tobytes()).digest() for values in array} for array in held.values()]
    everyones = zip(*backend.gather(digests), strict=True)
    return [name for name, of_workers in zip(held, everyones, strict=True) if len(set.union(*of_workers)) == 1]


def restore_state(engine: Engine, backend: Backend, arrays: Mapping[str, npt.NDArray[Any]] | None) -> None:
    """Restores what `capture_state` returned; all workers call it, and only the leader needs `arrays`.

    If the number of replicas has changed, each gets the mean of the old replicas' statistics; of values that are not
    floating-point numbers it gets the first replica's.
    """
    model = engine.model
    own = None
    if arrays is not None and backend.world.is_leader:
        for kind, variables in (("weights", model.trainable_variables), ("optimizer", model.optimizer.variables)):
            for variable, value in zip(variables, _listed(arrays, kind), strict=True):
                variable.assign(value)
        own = [_listed(arrays, kind) for kind in ("replica", "totals", "partial", "random")]
    engine.synchronize()
    shared = backend.gather(own)[0]
    if shared is None:
        return
    statistics, totals, partial, randoms = shared
    world = backend.world
    for variable, values in zip(model.non_trainable_variables, statistics, strict=True):
        backend.replicas.write(variable, _of_replicas(values, world))
    if (totals and len(totals[0]) != world.size) or (partial and len(partial[0]) != world.num_replicas):
        totals, partial = [_of_leader(total, world) for total in _added(totals, partial)], []
    engine.totals.restore([total[world.rank] for total in totals], [_of_replicas(states, world) for states in partial])
    _set_random_state([values[world.rank if len(values) == world.size else 0] for values in randoms])


def assign_weights(model: keras.Model, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Gives a model alone the weights in what `capture_state` returned; of replicas' statistics, the mean."""
    weights, others = _listed(arrays, "weights"), _listed(arrays, "replica")
    shapes = [[one.shape for one in kind] for kind in (weights, [value[0] for value in others])]
    if shapes != [
        [tuple(v.shape) for v in kind] for kind in (model.trainable_variables, model.non_trainable_variables)
    ]:
        raise UsageError("the checkpoint's weights are not those of this model, which its function made otherwise then")
    for variable, value in zip(model.trainable_variables, weights, strict=True):
        variable.assign(value)
    for variable, values in zip(model.non_trainable_variables, others, strict=True):
        variable.assign(_of_replicas(values, World())[0])


def describe_variables(variables: Sequence[Any]) -> list[list[Any]]:
    """Returns [path, shape, dtype] of each variable."""
    return [[v.path, list(v.shape), str(v.dtype)] for v in variables]


def _named(kind: str, values: Sequence[npt.NDArray[Any]]) -> Arrays:
    return {f"{kind}/{number:05d}": np.array(value) for number, value in enumerate(values)}


def _listed(arrays: Mapping[str, npt.NDArray[Any]], kind: str) -> list[npt.NDArray[Any]]:
    return [arrays[name] for name in sorted(arrays) if name.startswith(f"{kind}/")]


def _of_replicas(values: npt.NDArray[Any], world: World) -> npt.NDArray[Any]:
    """Returns this worker's part, [its replicas, ...], of `values`, [all replicas when captured, ...]."""
    if len(values) == world.num_replicas:
        return values[world.rank * world.num_devices : (world.rank + 1) * world.num_devices]
    if np.issubdtype(values.dtype, np.floating):
        value = np.asarray(values.mean(axis=0, dtype=np.float64), values.dtype)
    else:
        value = values[0]
    return np.stack([value] * world.num_devices)


def _added(totals: Sequence[npt.NDArray[Any]], partial: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """Returns, for each variable, the sum of all workers' totals and all replicas' states since."""
    sums = [total.sum(axis=0) for total in totals]
    return [total + states.sum(axis=0) for total, states in zip(sums, partial, strict=True)] if partial else sums


def _of_leader(total: npt.NDArray[Any], world: World) -> npt.NDArray[Any]:
    """Returns each worker's part, [world size, ...]: `total` for the leader, zeros for the others."""
    parts = np.zeros((world.size, *total.shape), total.dtype)
    parts[0] = total
    return parts


def _random_state() -> list[npt.NDArray[Any]]:
    """Returns Python's and NumPy's integers, the normal number each may have drawn ahead (else NaN), and Keras's.

    Keras makes its global generator when something first draws from it without a seed; until then its integers are -1.
    """
    _, python, python_ahead = random.getstate()
    _, keys, position, has_ahead, ahead = np.random.get_state(legacy=True)
    normals = [np.nan if python_ahead is None else python_ahead, ahead if has_ahead else np.nan]
    kerass = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    drawn = np.asarray(kerass.state.numpy(), np.int64) if kerass is not None else np.full(2, -1, np.int64)
    return [np.array(python, np.uint64), np.append(keys, position).astype(np.uint64), np.array(normals), drawn]


def _set_random_state(state: Sequence[npt.NDArray[Any]]) -> None:
    python, numpys, (python_ahead, ahead), *kerass = state
    if kerass and kerass[0][0] >= 0:  # first, because making Keras's generator draws from Python's
        global_seed_generator().state.assign(kerass[0])
    random.setstate((3, tuple(python.tolist()), None if np.isnan(python_ahead) else float(python_ahead)))
    drawn_ahead = (0, 0.0) if np.isnan(ahead) else (1, float(ahead))
    np.random.set_state(("MT19937", numpys[:-1].astype(np.uint32), int(numpys[-1]), *drawn_ahead))
