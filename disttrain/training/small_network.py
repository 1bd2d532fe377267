"""Networks of a few units a layer on a CPU: the whole loop over their steps as one compiled function.

On a CPU XLA makes a function of each operation and calls one after the other, some fifty in a step of the job's
network. Of its 18 microseconds 7 went into these functions, 9 into the calls and the library that multiplies matrices,
and 2 into malloc (`perf record`). Told to, XLA makes one function of a whole loop, with loops for products: fast ones
unless a factor is transposed, as in gradients. So these are written here without any (docs/records/performance.md).
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from contextlib import AbstractContextManager

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.python.xla import optimization_barrier

# With up to these a step takes 0.6 to 0.85 of its time otherwise; beyond, the library multiplies faster.
MAX_UNITS = 16  # of a layer, and as many inputs
MAX_ROWS = 1024  # of a step
# Loops of up to so many bytes are one function, here all; and products of any size are loops.
FLAGS = (
    "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000000000,"
    "xla_force_enable_experimental_llvm_ir_gemm --xla_cpu_multi_thread_eigen=false"
)
_GRADIENT = "DisttrainSmallProduct"


def is_small(model: keras.Model, rows_per_step: int) -> bool:
    """Whether a built model is of small dense layers alone, in float32, on a CPU, and a step has few rows."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    return (
        0 < rows_per_step <= MAX_ROWS
        and not tf.config.list_logical_devices("GPU")
        and all(
            type(layer) is keras.layers.Dense
            and layer.compute_dtype == "float32"
            and max(layer.kernel.shape) <= MAX_UNITS
            for layer in layers
        )
    )


def set_xla_flags(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Sets FLAGS, which XLA reads when it first compiles, unless the user has set others; whether they are there."""
    return FLAGS in environ.setdefault("XLA_FLAGS", FLAGS)


def products_as_loops() -> AbstractContextManager[None]:
    """In which a graph's products get gradients without transposed factors; for `tf.gradients`, under XLA only."""
    context: AbstractContextManager[None] = tf.compat.v1.get_default_graph().gradient_override_map(
        {"MatMul": _GRADIENT}
    )
    return context


@tf.RegisterGradient(_GRADIENT)  # type: ignore[untyped-decorator]
def _gradients_of_product(product: tf.Operation, gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """For rows [rows, inputs] times kernel [inputs, units], and the product's gradient [rows, units]."""
    rows, kernel = product.inputs
    of_rows = tf.reduce_sum(gradient[:, :, None] * tf.transpose(kernel)[None], axis=1)  # [rows, inputs]
    (columns,) = optimization_barrier(tf.transpose(rows))  # else XLA takes the transposition back into the product
    return of_rows, tf.matmul(columns, gradient)  # [inputs, units]
