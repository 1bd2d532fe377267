"""ONNX, for onnxruntime: the network by tf2onnx, with the reading of texts around it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, compose, helper

from disttrain import __version__
from disttrain.errors import UsageError
from disttrain.scoring.exporting.comparison import Arrays
from disttrain.scoring.exporting.exportable import exportable
from disttrain.scoring.exporting.exported import Exported
from disttrain.scoring.exporting.onnx_inputs import ML, RUNTIME, OnnxInput, label_nodes, nodes_of
from disttrain.scoring.saved import Trained
from disttrain.scoring.tables import beside
from disttrain.training.description import Description
from disttrain.training.raw_inputs import LABEL

_OPSETS = {"": 18, ML: 2, RUNTIME: 1}  # by domain
_IR_VERSION = 8  # what onnxruntime has taken since 2022
_PREFIX = "network/"  # of what is called so inside
_ROWS = "rows"
_TYPES = {"string": TensorProto.STRING, "float64": TensorProto.DOUBLE, "float32": TensorProto.FLOAT}


def write_onnx(trained: Trained, model: keras.Model, path: Path) -> Exported:
    """Writes a file; see `Writer`."""
    network = exportable(trained, OnnxInput)
    outputs = {name: beside(name, model.input) for name in model.output}  # ONNX allows no output called like an input
    graph = _with_texts(_converted(network), network, model, trained.description, outputs)
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()],
        ir_version=_IR_VERSION,
        producer_name="disttrain",
        producer_version=__version__,
    )
    onnx.checker.check_model(made)
    onnx.save(made, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: Arrays) -> Arrays:
        found = session.run(list(outputs.values()), {name: _as_given(value) for name, value in inputs.items()})
        return dict(zip(outputs, map(np.asarray, found), strict=True))

    return Exported(run, {name: name for name in model.input}, outputs)


def _as_given(value: Any) -> Any:
    return value.astype(object) if value.dtype.kind in "OU" else value


def _converted(network: keras.Model) -> GraphProto:
    """Returns the network in ONNX, with its inputs in their order."""
    specs = [tf.TensorSpec(one.shape, one.dtype, name=f"input_{n}") for n, one in enumerate(network.input.values())]

    def call(*values: Any) -> Any:
        return network(dict(zip(network.input, values, strict=True)), training=False)

    with _quiet():
        converted, _ = tf2onnx.convert.from_function(
            tf.function(call), specs, opset=_OPSETS[""], custom_op_handlers={"SelectV2": (_as_where, [])}
        )
    operations = {node.op_type for node in converted.graph.node if not node.domain}
    if foreign := sorted(name for name in operations if not onnx.defs.has(name, _OPSETS[""])):
        raise UsageError(f"--format onnx: ONNX has nothing for TensorFlow's operation {', '.join(foreign)}")
    return compose.add_prefix_graph(converted.graph, _PREFIX)


def _as_where(graph: Any, node: Any, name: str, arguments: Any) -> None:
    """Converts tf.where; tf2onnx would multiply what is not chosen by 0, and NaN times 0 is NaN."""
    node.type = "Where"


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what the converter and TensorFlow log meanwhile; what went wrong is raised."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _with_texts(
    graph: GraphProto,
    network: keras.Model,
    model: keras.Model,
    description: Description,
    outputs: Mapping[str, str],
) -> GraphProto:
    """Returns the network's graph with nodes around it that read the columns, and name the label."""
    table = description.table
    columns = {column.name: column for column in table.features} if table is not None else {}
    before: list[NodeProto] = []
    for name, inner in zip(network.input, graph.input, strict=True):
        before += nodes_of(name, inner.name, columns, table.gaps if table is not None else ())
    (answer,) = network.output  # the probabilities, or the predictions
    after = [helper.make_node("Identity", [graph.output[0].name], [outputs[answer]])]
    if LABEL in outputs:
        after += label_nodes(outputs[answer], outputs[LABEL], description.labels(0))
    given = [_info(name, one.dtype, one.shape) for name, one in model.input.items()]
    types = {name: "string" if name == LABEL else one.dtype for name, one in model.output.items()}
    told = [_info(outputs[name], types[name], one.shape) for name, one in model.output.items()]
    nodes = [*before, *graph.node, *after]
    return helper.make_graph(nodes, "disttrain", given, told, initializer=graph.initializer)


def _info(name: str, dtype: str, shape: Sequence[int | None]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, _TYPES[dtype], [_ROWS, *shape[1:]])
