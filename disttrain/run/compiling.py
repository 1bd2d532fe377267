"""Compiles what reads a run's files, or loads what an earlier run compiled, and says so if it takes long."""

from __future__ import annotations

import time

from disttrain.activity import activity
from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.encoded_parser import compile_encoder
from disttrain.data.csv.normalizer import compile_dialects
from disttrain.data.csv.parser import compile_kernels
from disttrain.data.csv.row_scanner import count_rows, find_row
from disttrain.data.selection import compile_selection
from disttrain.data.shuffle import compile_permutation
from disttrain.data.table.gathering import compile_sums
from disttrain.run.context import RunContext

SLOW_COMPILE_S = 3.0  # loading what was compiled before takes one or two, numba's own start among them


def compile_readers(context: RunContext, dialect: Dialect, *, encodes: bool) -> None:
    """Compiles what finds and parses rows and, if it `encodes`, what reads other columns; the second time at once."""
    begun_s = time.monotonic()
    with activity("compiling"):
        count_rows()
        find_row()
        compile_kernels()
        if not dialect.is_plain:
            compile_dialects()
        if encodes:
            compile_sums()
            compile_encoder()
        if context.config.limit is not None or context.config.validation_split:
            compile_selection()
        if context.config.shuffle != "none":
            compile_permutation()
    seconds = time.monotonic() - begun_s
    if seconds > SLOW_COMPILE_S:
        context.console.print(f"Compiled the parser in {seconds:.1f} s; kept for the next run")
