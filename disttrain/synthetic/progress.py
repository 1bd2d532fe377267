"""Shows the progress of writing a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 5.0


@contextmanager
def file_progress(title: str, num_rows: int) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of (rows written, bytes written): it shows a bar on a terminal, else a line every few seconds.

    On leaving without an error it prints what was written, and how fast.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    begun_s = time.monotonic()
    shown_s = begun_s
    state = ""
    live = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    task = live.add_task(title, total=num_rows, state="")

    def show(rows: int, num_bytes: int) -> None:
        nonlocal shown_s, state
        now_s = time.monotonic()
        rate = num_bytes / max(now_s - begun_s, 1e-9)
        state = f"{rows:,} rows · {num_bytes / 1e9:.2f} GB · {rate / 1e6:,.0f} MB/s"
        live.update(task, completed=rows, state=state)
        if not console.is_terminal and now_s - shown_s >= LINE_EVERY_S:
            shown_s = now_s
            console.print(f"{title}: {state}")

    with live:
        yield show
    console.print(f"{title}: done, {state}")
