"""Stands before JAX on the tests' path: TensorFlow imports it wherever it is, here for the benchmarks, in half a second.

A user's machine seldom has it.
"""

raise ImportError("JAX is hidden from the runs that tests start")
