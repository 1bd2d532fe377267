"""Stands before JAX on the tests' path, which is there for the benchmarks: where it is, TensorFlow imports it, too.

That takes half a second of each start, and a user's machine seldom has it.
"""

raise ImportError("JAX is hidden from the runs that tests start")
