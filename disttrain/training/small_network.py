"""Makes XLA compile the loop over the steps of a small network on a CPU into one function.

By default, XLA on a CPU compiles each operation to its own function and calls these one after the other, some fifty in
a step of the job's network. Of the step's 18 microseconds, 7 went into these functions, 9 into the calls and the matrix
library, and 2 into malloc (`perf record`). With FLAGS, XLA makes one function of a whole loop, with loops for matrix
products. Those loops are fast unless a factor is transposed, as in gradients, so the gradients are written here
without a transposed factor (docs/records/performance.md).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from contextlib import AbstractContextManager

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.python.xla import optimization_barrier

# Up to these limits, a step takes 0.6 to 0.85 of its time without FLAGS; beyond, the matrix library is faster.
MAX_UNITS = 16  # of a layer, and of its inputs
MAX_ROWS = 1024  # of a step
# Every loop below the threshold in bytes becomes one function, which is all of them; products of any size become loops.
FLAGS = (
    "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000000000,"
    "xla_force_enable_experimental_llvm_ir_gemm --xla_cpu_multi_thread_eigen=false"
)
_GRADIENT = "DisttrainSmallProduct"


def is_small(model: keras.Model, rows_per_step: int) -> bool:
    """Returns whether a built model has only small dense float32 layers, runs on a CPU, and has few rows in a step."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    return (
        0 < rows_per_step <= MAX_ROWS
        and not tf.config.list_logical_devices("GPU")
        and all(layer.compute_dtype == "float32" and _is_small_layer(layer) for layer in layers)
    )


def _is_small_layer(layer: keras.Layer) -> bool:
    if type(layer) is keras.layers.Rescaling:  # of a scaled target
        return True
    return type(layer) is keras.layers.Dense and max(layer.kernel.shape) <= MAX_UNITS


def set_xla_flags(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Sets FLAGS, which XLA reads when it first compiles, unless the user set others; returns whether they are set."""
    return FLAGS in environ.setdefault("XLA_FLAGS", FLAGS)


def products_as_loops() -> AbstractContextManager[None]:
    """Returns a context in which products get gradients without transposed factors; for `tf.gradients` under XLA."""
    context: AbstractContextManager[None] = tf.compat.v1.get_default_graph().gradient_override_map(
        {"MatMul": _GRADIENT}
    )
    return context


@tf.RegisterGradient(_GRADIENT)  # type: ignore[untyped-decorator]
def _gradients_of_product(product: tf.Operation, gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the gradients of rows [rows, inputs] and kernel [inputs, units] from their product's [rows, units]."""
    rows, kernel = product.inputs
    of_rows = tf.reduce_sum(gradient[:, :, None] * tf.transpose(kernel)[None], axis=1)  # [rows, inputs]
    (columns,) = optimization_barrier(tf.transpose(rows))  # else XLA merges the transposition into the product
    return of_rows, tf.matmul(columns, gradient)  # [inputs, units]
