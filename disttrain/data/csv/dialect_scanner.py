"""The compiled loops that find rows in any dialect, beginning anywhere: also within a comment, or within quotes.

Whoever begins in the middle of a file cannot know where it is. So each chunk is counted for every state in which it may
begin, which takes little longer, as all states outside quotes soon become the same one; once all chunks are counted, it
is known in which state each one does begin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import types

from disttrain.data.csv.decimals import CR, LF, QUOTE, SPACE, TAB
from disttrain.data.csv.dialect import Dialect
from disttrain.data.csv.row_scanner import BLOCK_WORDS, count_feeds
from disttrain.native import address, byte_at, called, compiled, inlined

# Where a byte may be: on a line with only blanks before it; where a field begins; within a field; within quotes; after
# a quote within quotes; within a comment.
LINE, FIELD, WITHIN, QUOTED, QUOTE_SEEN, COMMENT = range(6)
NUM_STATES = 6
BEGINS = 8  # added to the state after a byte with which a row starts
ROWS, FEEDS, FIRST, FEEDS_BEFORE_FIRST, STATE = range(5)  # what is counted from each state; `STATE` is the one after it
_TOGETHER = 1 << 12  # bytes that all states see, before those that have become the same are followed as one

_DELIMITER, _COMMENT = NUM_STATES * 256, NUM_STATES * 256 + 1
_BLOCK_BYTES = 8 * BLOCK_WORDS
_ONES, _HIGH_BITS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)

Int64s = npt.NDArray[np.int64]


@functools.cache
def transitions(dialect: Dialect) -> npt.NDArray[np.uint8]:
    """Returns what follows on each byte in each state, uint8 [states * 256 + 2]: the next state, plus BEGINS at a row.

    The last two are the byte that delimits and the one that begins comments: a quote, which is looked for anyway, if
    none does.
    """
    table = np.zeros((NUM_STATES, 256), np.uint8)
    for state in range(NUM_STATES):
        for byte in range(256):
            table[state, byte] = _next(chr(byte), state, dialect)
    special = np.array([ord(dialect.delimiter), ord(dialect.comment or '"')], np.uint8)
    return np.concatenate([table.reshape(-1), special])


def _next(byte: str, state: int, dialect: Dialect) -> int:
    if byte == "\n":
        return QUOTED if state == QUOTED and dialect.quoted_newlines else LINE
    if state == COMMENT:
        return COMMENT
    if state in (QUOTED, QUOTE_SEEN) and not dialect.quoted_newlines:  # where no byte is
        state = WITHIN
    if state == QUOTED:
        return QUOTE_SEEN if byte == '"' else QUOTED
    if state == QUOTE_SEEN and byte == '"':
        return QUOTED
    is_blank = byte in " \t" and (dialect.runs or byte != dialect.delimiter)
    is_delimiter = is_blank if dialect.runs else byte == dialect.delimiter
    within = QUOTED if dialect.quoted_newlines and byte == '"' else WITHIN
    if state == LINE:
        if is_blank or (byte == "\r" and byte != dialect.delimiter):
            return LINE
        if byte == dialect.comment:
            return COMMENT
        return (FIELD if is_delimiter else within) + BEGINS
    if is_delimiter:
        return FIELD
    return (FIELD if is_blank else within) if state == FIELD else WITHIN


@inlined
def _is_clean(words: Any, first: Any, stop: Any, one: Any, other: Any) -> Any:
    """Returns whether neither of two bytes, each given eight times in a word, is among `words[first:stop]`."""
    found = np.uint64(0)
    for number in range(first, stop):  # without a branch, so that it becomes SIMD instructions
        word = words[number] ^ one
        found |= (word - _ONES) & ~word
        word = words[number] ^ other
        found |= (word - _ONES) & ~word
    return found & _HIGH_BITS == 0


@called
def _follow(buffer: Any, words: Any, start: Any, stop: Any, table: Any, found: Any) -> Any:
    """Follows the bytes `[start, stop)` from a state on, `found[STATE]`, and adds to what was found."""
    base = address(buffer)
    state, rows, feeds = found[STATE], found[ROWS], found[FEEDS]
    delimiter, comment = np.int64(table[_DELIMITER]), np.int64(table[_COMMENT])
    quotes, comments = np.uint64(QUOTE) * _ONES, np.uint64(comment) * _ONES
    position = start
    while position < stop:
        end = min(position + _BLOCK_BYTES, stop)
        is_quoted = state == QUOTED
        is_usual = is_quoted or (rows > 0 and state in (LINE, FIELD, WITHIN))
        if is_usual and end - position == _BLOCK_BYTES and position % 8 == 0:
            last = byte_at(base + end - 1)
            is_clear = is_quoted or last not in (delimiter, SPACE, TAB, CR)  # what state the block ends in
            if is_clear and _is_clean(words, position // 8, end // 8, quotes, comments):
                more_feeds, is_suspicious = count_feeds(words, position // 8, end // 8, state == LINE)
                if is_quoted:
                    feeds += more_feeds
                    position = end
                    continue
                if not is_suspicious:
                    ends_line = last == LF
                    rows += (state == LINE) + more_feeds - ends_line
                    feeds += more_feeds
                    state = LINE if ends_line else WITHIN
                    position = end
                    continue
        while position < end:
            byte = byte_at(base + position)
            code = np.int64(table[np.uint64((state << 8) + byte)])
            state = code & (BEGINS - 1)
            if code >= BEGINS:
                if rows == 0:
                    found[FIRST] = position
                    found[FEEDS_BEFORE_FIRST] = feeds
                rows += 1
            feeds += byte == LF
            position += 1
    found[STATE], found[ROWS], found[FEEDS] = state, rows, feeds


def _count(buffer: Any, words: Any, num_bytes: Any, table: Any, found: Any) -> Any:
    """Fills `found`, int64 [states, 5], with the rows and line feeds of a chunk that begins in each state."""
    together = min(_TOGETHER, num_bytes)
    for state in range(NUM_STATES):
        found[state, :] = 0
        found[state, FIRST] = -1
        found[state, STATE] = state
        _follow(buffer, words, 0, together, table, found[state])
    rest = np.zeros((NUM_STATES, 5), np.int64)
    is_known = np.zeros(NUM_STATES, np.bool_)
    for state in range(NUM_STATES):
        here = found[state, STATE]
        if not is_known[here]:
            is_known[here] = True
            rest[here, FIRST] = -1
            rest[here, STATE] = here
            _follow(buffer, words, together, num_bytes, table, rest[here])
        own = rest[here]
        if found[state, ROWS] == 0 and own[ROWS] > 0:
            found[state, FIRST] = own[FIRST]
            found[state, FEEDS_BEFORE_FIRST] = found[state, FEEDS] + own[FEEDS_BEFORE_FIRST]
        found[state, ROWS] += own[ROWS]
        found[state, FEEDS] += own[FEEDS]
        found[state, STATE] = own[STATE]


def _find(buffer: Any, num_bytes: Any, state: Any, skip: Any, table: Any) -> Any:
    """Finds where the row after `skip` others starts: (position or -1, rows passed, the state after all bytes)."""
    base = address(buffer)
    rows = 0
    for position in range(num_bytes):
        code = np.int64(table[np.uint64((state << 8) + byte_at(base + position))])
        state = code & (BEGINS - 1)
        if code >= BEGINS:
            if rows == skip:
                return position, rows, state
            rows += 1
    return -1, rows, state


def follow_chunks(found: Int64s) -> Int64s:
    """Returns the counts of a file's chunks, int64 [chunks, 4], from those of each state, int64 [chunks, states, 5]."""
    state, counts = LINE, np.zeros((len(found), 4), np.int64)
    for chunk, states in enumerate(found):
        counts[chunk] = states[state, :STATE]
        state = int(states[state, STATE])
    return counts


@functools.cache
def count() -> Callable[..., None]:
    """Returns `_count` compiled without the GIL: (uint8 buffer, it as uint64, num_bytes, table, found).

    The table is uint8, as `transitions` gives it; `found` int64 [states, 5].
    """
    word, buffer = types.int64, types.Array(types.uint8, 1, "C")
    signature = types.void(buffer, types.Array(types.uint64, 1, "C"), word, buffer, types.Array(word, 2, "C"))
    return compiled(_count, signature)


@functools.cache
def find() -> Callable[..., tuple[int, int, int]]:
    """Returns `_find` compiled without the GIL: (uint8 buffer, num_bytes, state, skip, uint8 table)."""
    word, buffer = types.int64, types.Array(types.uint8, 1, "C")
    results = types.Tuple((word, word, word))  # type: ignore[no-untyped-call]
    return compiled(_find, results(buffer, word, word, word, buffer))
