"""Compiles functions with numba and keeps them on disk; loads and prefetches, for which numba has no functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: Callable[..., Any], signature: Any, **options: Any) -> Callable[..., Any]:
    """Returns `function` compiled for one signature, without the GIL: from numba's cache, or compiled in seconds."""
    try:
        result = numba.njit(signature, nogil=True, cache=True, **options)(function)
    except RuntimeError as error:  # no directory for the cache is writable: a read-only machine without a home
        if "cannot cache" not in str(error):
            raise
        result = numba.njit(signature, nogil=True, **options)(function)
    return cast(Callable[..., Any], result)


def inlined(function: _F) -> _F:
    """Compiles a function into each of its callers, for the quick functions."""
    return cast(_F, numba.njit(error_model="numpy", forceinline=True)(function))


def called(function: _F) -> _F:
    """Compiles a function; LLVM decides whether to inline it."""
    return cast(_F, numba.njit(error_model="numpy")(function))


def _intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    return cast(Callable[..., Any], intrinsic(function))


@_intrinsic
def address(_typing: Any, array: Any) -> Any:
    """Returns the address of an array's first element, which unlike the array costs no reference count to pass on."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), code


def _load(builder: Any, address: Any, bits: int) -> Any:
    """Emits the code of an unaligned load, without bounds check or wrap-around."""
    value = builder.load(builder.inttoptr(address, ir.IntType(bits).as_pointer()))
    value.align = 1
    return value


@_intrinsic
def byte_at(_typing: Any, address: Any) -> Any:
    """Returns the byte at an address, as an int64."""

    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.zext(_load(builder, args[0], 8), ir.IntType(64))

    return types.int64(types.int64), code


@_intrinsic
def pair_at(_typing: Any, address: Any) -> Any:
    """Loads the two bytes at an address, as an int64."""

    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.zext(_load(builder, args[0], 16), ir.IntType(64))

    return types.int64(types.int64), code


@_intrinsic
def half_at(_typing: Any, address: Any) -> Any:
    """Loads the four bytes at an address, as an int64."""

    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.zext(_load(builder, args[0], 32), ir.IntType(64))

    return types.int64(types.int64), code


@_intrinsic
def word_at(_typing: Any, address: Any) -> Any:
    """Loads the eight bytes at an address, as a uint64."""

    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _load(builder, args[0], 64)

    return types.uint64(types.int64), code


@_intrinsic
def prefetch(_typing: Any, address: Any) -> Any:
    """Prefetches the cache line at an address, which need not be valid."""

    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        int32, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        function_type = ir.FunctionType(ir.VoidType(), [pointer, int32, int32, int32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], function_type)
        to_read, keep, as_data = int32(0), int32(3), int32(1)
        builder.call(function, [builder.inttoptr(args[0], pointer), to_read, keep, as_data])
        return ir.Constant(ir.IntType(64), 0)

    return types.int64(types.int64), code


@_intrinsic
def high_product(_typing: Any, one: Any, other: Any) -> Any:
    """Returns the upper 64 bits of the product of two uint64s."""

    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, wide(64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), code


@_intrinsic
def leading_zeros(_typing: Any, word: Any) -> Any:
    """Counts the highest bits of a uint64 that are zero."""

    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))  # 64 for no bit at all

    return types.uint64(types.uint64), code


@_intrinsic
def double_of_bits(_typing: Any, bits: Any) -> Any:
    """Returns the double that has these bits, given as a uint64."""

    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.uint64), code


@_intrinsic
def bits_of_double(_typing: Any, value: Any) -> Any:
    """Returns the bits of a double as a uint64."""

    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.uint64(types.float64), code


@_intrinsic
def trailing_zeros(_typing: Any, word: Any) -> Any:
    """Counts the lowest bits of a uint64 that are zero."""

    def code(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))  # 64 for no bit at all

    return types.uint64(types.uint64), code
