"""Compiles, without running it, what disttrain compiles with numba: while an image is built, so that no container does.

For the processor that NUMBA_CPU_NAME names.
"""

from disttrain.formatting import compile_formatting
from disttrain.kernel import scan_rows
from disttrain.newlines import count_rows, find_row
from disttrain.shuffle import compile_permutation

scan_rows()
count_rows()
find_row()
compile_permutation()
compile_formatting()
