"""FarmHash's Fingerprint64 of a text, compiled: the hash by which Keras's Hashing layer chooses a text's bin.

`fingerprint(address, length)` equals `farmhashna::Hash64` (https://github.com/google/farmhash), which TensorFlow's
`tf.strings.to_hash_bucket_fast` and so `keras.layers.Hashing` use.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import types

from disttrain.native import address, byte_at, called, compiled, half_at, inlined, word_at

_K0, _K1, _K2 = (np.uint64(n) for n in (0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F))
_LOW_32 = np.uint64(0xFFFFFFFF)
_U1, _U2, _U3, _U8, _U9, _U47, _U63, _U64, _U255 = (np.uint64(n) for n in (1, 2, 3, 8, 9, 47, 63, 64, 255))
_SEED = np.uint64(81)
_U113 = np.uint64(113)


@inlined
def _rotated(word: Any, count: Any) -> Any:
    """Returns a word rotated to the right by 1 to 63 bits."""
    return (word >> np.uint64(count)) | (word << (_U64 - np.uint64(count)))


@inlined
def _mixed(word: Any) -> Any:
    return word ^ (word >> _U47)


@inlined
def _of_two(one: Any, other: Any, factor: Any) -> Any:
    one = (one ^ other) * factor
    one ^= one >> _U47
    other = (other ^ one) * factor
    other ^= other >> _U47
    return other * factor


@called
def _to_16(at: Any, length: Any) -> Any:
    size = np.uint64(length)
    factor = _K2 + size * _U2
    if length >= 8:
        first = word_at(at) + _K2
        last = word_at(at + length - 8)
        return _of_two(_rotated(last, 37) * factor + first, (_rotated(first, 25) + last) * factor, factor)
    if length >= 4:
        return _of_two(size + (np.uint64(half_at(at)) << _U3), np.uint64(half_at(at + length - 4)), factor)
    if length > 0:
        first, middle, last = byte_at(at), byte_at(at + (length >> 1)), byte_at(at + length - 1)
        front = np.uint64(first + (middle << 8)) & _LOW_32
        back = np.uint64(length + (last << 2)) & _LOW_32
        return _mixed(front * _K2 ^ back * _K0) * _K2
    return _K2


@called
def _to_32(at: Any, length: Any) -> Any:
    factor = _K2 + np.uint64(length) * _U2
    a, b = word_at(at) * _K1, word_at(at + 8)
    c, d = word_at(at + length - 8) * factor, word_at(at + length - 16) * _K2
    return _of_two(_rotated(a + b, 43) + _rotated(c, 30) + d, a + _rotated(b + _K2, 18) + c, factor)


@called
def _to_64(at: Any, length: Any) -> Any:
    factor = _K2 + np.uint64(length) * _U2
    a, b = word_at(at) * _K2, word_at(at + 8)
    c, d = word_at(at + length - 8) * factor, word_at(at + length - 16) * _K2
    y = _rotated(a + b, 43) + _rotated(c, 30) + d
    z = _of_two(y, a + _rotated(b + _K2, 18) + c, factor)
    e, f = word_at(at + 16) * factor, word_at(at + 24)
    g, h = (y + word_at(at + length - 32)) * factor, (z + word_at(at + length - 24)) * factor
    return _of_two(_rotated(e + f, 43) + _rotated(g, 30) + h, e + _rotated(f + a, 18) + g, factor)


@inlined
def _weak(at: Any, a: Any, b: Any) -> Any:
    """Returns two words that depend on 32 bytes and two seeds."""
    w, x, y, z = word_at(at), word_at(at + 8), word_at(at + 16), word_at(at + 24)
    a += w
    b = _rotated(b + a + z, 21)
    c = a
    a += x + y
    b += _rotated(a, 44)
    return a + z, b + c


@called
def _longer(at: Any, length: Any) -> Any:
    x, y = _SEED, _SEED * _K1 + _U113
    z = _mixed(y * _K2 + _U113) * _K2
    v1 = v2 = w1 = w2 = np.uint64(0)
    x = x * _K2 + word_at(at)
    end = at + ((length - 1) >> 6 << 6)
    last = at + length - 64
    while at != end:
        x = _rotated(x + y + v1 + word_at(at + 8), 37) * _K1
        y = _rotated(y + v2 + word_at(at + 48), 42) * _K1
        x ^= w2
        y += v1 + word_at(at + 40)
        z = _rotated(z + w1, 33) * _K1
        v1, v2 = _weak(at, v2 * _K1, x + w1)
        w1, w2 = _weak(at + 32, z + w2, y + word_at(at + 16))
        z, x = x, z
        at += 64
    factor = _K1 + ((z & _U255) << _U1)
    w1 += np.uint64((length - 1) & 63)
    v1 += w1
    w1 += v1
    x = _rotated(x + y + v1 + word_at(last + 8), 37) * factor
    y = _rotated(y + v2 + word_at(last + 48), 42) * factor
    x ^= w2 * _U9
    y += v1 * _U9 + word_at(last + 40)
    z = _rotated(z + w1, 33) * factor
    v1, v2 = _weak(last, v2 * factor, x + w1)
    w1, w2 = _weak(last + 32, z + w2, y + word_at(last + 16))
    z, x = x, z
    return _of_two(_of_two(v1, w1, factor) + _mixed(y) * _K0 + z, _of_two(v2, w2, factor) + x, factor)


@called
def fingerprint(at: Any, length: Any) -> Any:
    """Returns the fingerprint, a uint64, of the `length` bytes at an address; reads no others."""
    if length <= 16:
        return _to_16(at, length)
    if length <= 32:
        return _to_32(at, length)
    return _to_64(at, length) if length <= 64 else _longer(at, length)


def fingerprint_of(text: str) -> int:
    """Returns the fingerprint of a text in UTF-8."""
    content = text.replace("\n", "\udc81").encode("utf-8", "surrogateescape")  # see normalizer.py
    return int(_compiled()(np.frombuffer(content or b" ", np.uint8), len(content)))


def _of_buffer(buffer: Any, length: Any) -> Any:
    return fingerprint(address(buffer), length)


@functools.cache
def _compiled() -> Callable[..., int]:
    buffer = types.Array(types.uint8, 1, "C", readonly=True)
    return compiled(_of_buffer, types.uint64(buffer, types.int64), error_model="numpy")
