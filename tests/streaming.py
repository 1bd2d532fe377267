"""What the tests of streams share: files of every kind, the steps of an epoch, a reader that records what it reads."""

import io
import threading
import time
from dataclasses import replace

import numpy as np

from disttrain.data.epoch import EpochPlan
from disttrain.data.sharding import Sharding, shards_of_rank
from disttrain.data.superbatches import superbatches
from disttrain.storage.local import LocalReader


def table(num_rows, num_columns=2):
    return np.random.default_rng(5).normal(size=(num_rows, num_columns)).astype(np.float32)


def as_csv(values, end="\n"):
    stream = io.StringIO()
    np.savetxt(stream, values, fmt="%.9g", delimiter=",", newline=end)
    return stream.getvalue()


def with_blank_lines(text):
    lines = text.splitlines(keepends=True)
    for place in range(0, len(lines), 3):
        lines[place] = "\n \t\n\r\n" + lines[place]
    return "".join(lines) + "\n\n  \n"


FILES = {
    "header": lambda values: "x,y\n" + as_csv(values),
    "no header": as_csv,
    "no final newline": lambda values: "x,y\n" + as_csv(values).rstrip("\n"),
    "CRLF": lambda values: "x,y\r\n" + as_csv(values, "\r\n"),
    "CRLF, no final newline": lambda values: "x,y\r\n" + as_csv(values, "\r\n").rstrip("\r\n"),
    "byte-order mark": lambda values: "\ufeffx,y\n" + as_csv(values),
    "byte-order mark, no header": lambda values: "\ufeff" + as_csv(values),
    "blank lines": lambda values: "\n\nx,y\n" + with_blank_lines(as_csv(values)),
    "blank lines, no header": lambda values: with_blank_lines(as_csv(values)),
    "quoted names": lambda values: '"x","y"\n' + as_csv(values),  # as pyarrow writes them
    "quoted numbers": lambda values: "x,y\n" + "".join(f'"{a:.9g}","{b:.9g}"\n' for a, b in values),
    "spaces": lambda values: "x, y\n" + "".join(f"  {a:.9g} , {b:.9g} \n" for a, b in values),
}


def stream_of(source, *, batch_size, shards=range(1), num_shards=1, steps_per_superbatch=3, **options):
    """The superbatches of some of a file's shards; the options are those of the plan and of `superbatches`."""
    of_plan = {name: options.pop(name) for name in ("order", "start_step") if name in options}
    plan = EpochPlan(Sharding(source.num_rows, num_shards, batch_size), shards, steps_per_superbatch, **of_plan)
    return superbatches(source, plan, **options)


def steps_of(source, *, steps_per_superbatch=3, **options):
    """Returns every step's rows, and checks what is promised about superbatches."""
    steps, first = [], options.get("start_step", 0)
    with stream_of(source, steps_per_superbatch=steps_per_superbatch, **options) as stream:
        for superbatch in stream:
            assert superbatch.data.dtype == np.float32
            assert superbatch.data.flags.c_contiguous
            assert superbatch.data.shape[2] == source.num_columns
            assert superbatch.first_step == first + len(steps)
            assert 1 <= superbatch.num_steps == len(superbatch.data) <= steps_per_superbatch
            steps.extend(superbatch.data)
    return steps


class RecordingReader(LocalReader):
    """Reads a local file, and records the byte ranges that were read."""

    def __init__(self, info):
        super().__init__(info.url, info.url)
        self.ranges = []

    def read_into(self, offset, buffer):
        self.ranges.append((offset, offset + len(buffer)))
        super().read_into(offset, buffer)


def epoch_rows(source, cache, *, num_shards=1, world_size=1, batch_size=100, **options):
    """Returns all ranks' rows of one epoch, and the number of bytes of the CSV that were read for it."""
    rows, read_bytes = [], 0
    for rank in range(world_size):
        with RecordingReader(source.text.info) as reader:
            shards = shards_of_rank(num_shards, world_size, rank)
            recorded = replace(source, text=replace(source.text, reader=reader))
            options_here = {"shards": shards, "num_shards": num_shards, "batch_size": batch_size, **options}
            rows += steps_of(recorded, cache=cache, **options_here)
            read_bytes += sum(stop - start for start, stop in reader.ranges)
    return np.concatenate(rows), read_bytes


def assert_same_bits(found, expected):
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def stream_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(("read-", "parse-", "superbatches"))]


def assert_threads_end():
    deadline = time.monotonic() + 10
    while stream_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stream_threads() == []
