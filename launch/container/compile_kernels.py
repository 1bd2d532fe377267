"""Compiles, without running it, what disttrain compiles with numba: while an image is built, so that no container does.

For the processor that NUMBA_CPU_NAME names.
"""

from disttrain.data.csv.encoded_parser import compile_encoder
from disttrain.data.csv.field_scanner import scan_rows
from disttrain.data.csv.normalizer import compile_dialects
from disttrain.data.csv.row_scanner import count_rows, find_row
from disttrain.data.selection import compile_selection
from disttrain.data.shuffle import compile_permutation
from disttrain.data.table.gathering import compile_sums
from disttrain.synthetic.number_text import compile_formatting

scan_rows()
count_rows()
find_row()
compile_dialects()
compile_permutation()
compile_selection()
compile_sums()
compile_encoder()
compile_formatting()
