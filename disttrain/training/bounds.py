"""Finds indices that are out of range inside a compiled step.

TensorFlow's CPU kernels reject such indices. XLA and the GPU kernels clamp them, or return zeros or NaN, so that a
model would train on the wrong rows of its tables. The checks here find what the CPU kernels reject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf


class UncheckedError(Exception):
    """A model looks something up inside a function of its own, where no check can be added."""


def num_operations() -> int:
    """Returns how many operations the graph being traced has so far; `out_of_range` checks those added later."""
    return len(tf.compat.v1.get_default_graph().get_operations())


def out_of_range(num_before: int) -> tf.Tensor | None:
    """Returns whether any index of the operations after the first `num_before` is out of range.

    The result is a bool scalar, or None if none of these operations takes an index.

    Raises:
        UncheckedError: if an operation that takes an index is inside a function that the model calls.
    """
    operations = tf.compat.v1.get_default_graph().get_operations()[num_before:]
    found = [check for operation in operations for check in _checks(operation)]
    return tf.reduce_any(tf.stack(found)) if found else None


def _checks(operation: tf.Operation) -> Iterator[tf.Tensor]:
    if (look := _LOOKS.get(operation.type)) is not None:
        indices, sizes = look(operation)
        if indices is not None:
            sizes = tf.cast(sizes, indices.dtype)
            yield tf.reduce_any((indices < 0) | (indices >= sizes))
    elif any(_looks_up(name, operation.graph, set()) for name in _functions(operation)):
        raise UncheckedError


def _functions(operation: tf.Operation) -> list[str]:
    """Returns the names of the functions that an operation calls."""
    names = []
    for name in ("f", "body", "cond", "then_branch", "else_branch"):
        try:
            names.append(operation.get_attr(name).name)
        except ValueError:
            continue
    return names


def _looks_up(name: str, graph: tf.Graph, seen: set[str]) -> bool:
    """Returns whether a function, or one that it calls, has an operation that looks something up."""
    if name in seen:
        return False
    seen.add(name)
    definition = graph._get_function(name)
    if definition is None:
        return False
    nodes = definition.cached_definition.node_def
    called = (value.func.name for node in nodes for value in node.attr.values() if value.HasField("func"))
    return any(node.op in _LOOKS and node.op != "Slice" for node in nodes) or any(
        _looks_up(inner, graph, seen) for inner in called
    )


Look = Callable[[tf.Operation], tuple[tf.Tensor | None, Any]]


def _gather(operation: tf.Operation) -> tuple[tf.Tensor | None, Any]:
    """Returns the indices along one axis of a table, and their bound."""
    table, indices = operation.inputs[0], operation.inputs[1]
    axis = tf.get_static_value(operation.inputs[2]) if len(operation.inputs) > 2 else 0
    return indices, tf.shape(table)[int(axis)] if axis is not None else tf.reduce_max(tf.shape(table))


def _variable_gather(operation: tf.Operation) -> tuple[tf.Tensor | None, Any]:
    """Returns the same for a variable that is given by its handle."""
    handle, indices = operation.inputs[0], operation.inputs[1]
    shape = _variable_shape(handle, operation.get_attr("dtype"))
    return indices, shape[operation.get_attr("batch_dims")]


def _variable_shape(handle: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    return tf.shape(tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype))


def _gather_nd(operation: tf.Operation) -> tuple[tf.Tensor | None, Any]:
    """Returns indices [..., depth] into the first `depth` axes of a table, and their bounds."""
    table, indices = operation.inputs[0], operation.inputs[1]
    return indices, tf.shape(table)[: tf.shape(indices)[-1]]


def _variable_gather_nd(operation: tf.Operation) -> tuple[tf.Tensor | None, Any]:
    handle, indices = operation.inputs[0], operation.inputs[1]
    return indices, _variable_shape(handle, operation.get_attr("dtype"))[: tf.shape(indices)[-1]]


def _labels(operation: tf.Operation) -> tuple[tf.Tensor | None, Any]:
    """Returns the class numbers that go with logits [rows, classes], and the number of classes."""
    logits, labels = operation.inputs[0], operation.inputs[1]
    return labels, tf.shape(logits)[-1]


def _scatter(operation: tf.Operation) -> tuple[tf.Tensor | None, Any]:
    """Returns the indices into a tensor that is written to, and their bounds."""
    table, indices = operation.inputs[0], operation.inputs[1]
    return indices, tf.shape(table)[: tf.shape(indices)[-1]]


def _scatter_nd(operation: tf.Operation) -> tuple[tf.Tensor | None, Any]:
    indices, shape = operation.inputs[0], operation.inputs[2]
    return indices, shape[: tf.shape(indices)[-1]]


def _segments(operation: tf.Operation) -> tuple[tf.Tensor | None, Any]:
    """Returns segment numbers and their bound; TensorFlow ignores those below 0, as it documents."""
    numbers, num_segments = operation.inputs[1], operation.inputs[2]
    return tf.maximum(numbers, 0), num_segments


def _slice(operation: tf.Operation) -> tuple[tf.Tensor | None, Any]:
    """Returns the index of a slice's last element, which must be in the tensor, and the tensor's shape."""
    table, begin, size = operation.inputs
    if tf.get_static_value(begin) is not None:  # a constant: checked by TensorFlow when it is traced
        return None, None
    return begin + tf.maximum(tf.cast(size, begin.dtype) - 1, 0), tf.shape(table)


def _table(looks: Sequence[tuple[Look, str]]) -> dict[str, Look]:
    return {name: look for look, names in looks for name in names.split()}


_LOOKS = _table(
    [
        (_gather, "Gather GatherV2"),
        (_variable_gather, "ResourceGather"),
        (_gather_nd, "GatherNd"),
        (_variable_gather_nd, "ResourceGatherNd"),
        (_labels, "SparseSoftmaxCrossEntropyWithLogits"),
        (_scatter, "TensorScatterAdd TensorScatterSub TensorScatterUpdate TensorScatterMin TensorScatterMax"),
        (_scatter_nd, "ScatterNd"),
        (_segments, "UnsortedSegmentSum UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd"),
        (_slice, "Slice"),
    ]
)
