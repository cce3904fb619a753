# SPDX-License-Identifier: Apache-2.0
"""A call again with what an earlier one prepared: the arrays have that one's shapes, strides and
types, and the options are the same; only addresses are others, and the library looks at those in
every call.

The key of a prepared call is made of all arguments: of an array what is not its address or its
contents, of options their values, and which arrays are one and the same object. Where an argument
is of a kind that is not known here, the call is prepared anew. numpy's arrays and PyTorch's tensors
are told apart by their own attributes, which takes a microsecond; others by a View.

A thread has prepared calls of its own. One is `busy` while it is in use, so that a signal handler
that prunes too uses none of them half changed, and one that failed is forgotten.
Nothing in them keeps a caller's array alive.
"""
from __future__ import annotations

import functools
import threading
from typing import Any, Callable, Hashable, ParamSpec, Sequence, TypeVar

import numpy as np

from ._arrays import (is_contiguous, is_torch, numpy_address, torch_address, view)
from ._handle import Handle
from ._options import PLAIN, Batch, Merge, Reference, RelevanceOptions, Rule
from ._plan import Prepared
from ._rows import Rotation, Rows
from ._setup import longest

P = ParamSpec("P")
R = TypeVar("R")
WANT = ("scores", "mask")
_MOST = 64
_TWICE = 0, 0


class _Calls(threading.local):
    def __init__(self) -> None:
        self.known: dict[Hashable, Any] = {}


_calls = _Calls()


def take(key: Hashable) -> Any:
    """What is known of that key, or None; `give` brings it back."""
    found = _calls.known.get(key)
    if found is None or found.busy:
        return None
    found.busy = True
    return found


def forget(key: Hashable) -> None:
    _calls.known.pop(key, None)


def give(key: Hashable, made: Any) -> None:
    if made.busy:  # it was taken
        made.busy = False
        return
    known = _calls.known
    if len(known) >= _MOST:
        known.clear()
    known[key] = made


# --------------------------------------------------------------------------- what an argument is
class Found:
    """The arrays of a call."""

    __slots__ = ("arrays", "addresses", "held", "stream")

    def __init__(self, stream: int | None) -> None:
        self.arrays: list[Any] = []
        self.addresses: list[int] = []
        self.held: Any = None  # what owns the addresses
        self.stream = stream

    def pattern(self) -> tuple[int, ...] | None:
        """Which are the same object."""
        arrays = self.arrays
        if len(arrays) < 3:
            return _TWICE if len(arrays) == 2 and arrays[0] is arrays[1] else None
        if len(arrays) == 3:
            a, b, c = arrays
            if a is not b and a is not c and b is not c:
                return None
        ids = list(map(id, arrays))
        return None if len(set(ids)) == len(ids) else tuple([ids.index(one) for one in ids])


def facts(value: Any, found: Found) -> Hashable:
    """What of an argument has to be equal."""
    kind = type(value)
    if kind in PLAIN:
        return value  # type: ignore[no-any-return]
    return (_of_kind.get(kind) or _learn(kind))(value, found)


def _of_numpy(array: Any, found: Found) -> Hashable:
    found.arrays.append(array)
    found.addresses.append(numpy_address(array))
    return array.shape, array.strides, array.dtype, array.flags.writeable


def of_torch(array: Any, found: Found) -> Hashable:
    found.arrays.append(array)
    found.addresses.append(torch_address(array))
    return array.shape, array.stride(), array.dtype, array.device


def _of_tensor(array: Any, found: Found) -> Hashable:
    if array.is_neg():  # its memory holds the values with the other sign
        raise TypeError
    found.arrays.append(array)  # of_torch(), in line
    found.addresses.append(torch_address(array))
    return array.shape, array.stride(), array.dtype, array.device


def _of_any(array: Any, found: Found) -> Hashable:
    of = view(array, "an array", found.stream)
    found.arrays.append(array)
    found.addresses.append(of.data)
    found.held = of, found.held
    return (type(array), of.shape, of.strides, of.code, of.device, of.read_only,
            getattr(array, "dtype", None))


def _of_several(values: Sequence[Any], found: Found) -> Hashable:
    return tuple([facts(value, found) for value in values])


def _of_options(value: Any, found: Found) -> Hashable:
    try:
        plain, others = value._parts
    except AttributeError:
        plain, others = parts = value._split()
        object.__setattr__(value, "_parts", parts)
    return (plain, *[facts(one, found) for one in others]) if others else plain


def _of_batch(batch: Batch, found: Found) -> Hashable:
    own, offsets = _of_options(batch, found), batch.cu_seqlens
    if offsets is None or batch.max_tokens is not None or isinstance(offsets, (list, tuple)):
        return own
    of = view(offsets, "batch.cu_seqlens", found.stream)
    if not of.on_host:
        return own
    if of.code != "i4" or not is_contiguous(of):
        raise TypeError
    return own, longest(of)  # buffers are sized by that


def _of_itself(value: Any, _found: Found) -> Hashable:
    return value  # type: ignore[no-any-return]


_of_kind: dict[type, Callable[[Any, Found], Hashable]] = {
    np.ndarray: _of_numpy, list: _of_several, tuple: _of_several, Batch: _of_batch,
    Handle: _of_itself,
    **{kind: _of_options for kind in (Merge, Reference, RelevanceOptions, Rotation, Rows, Rule)}}


def _learn(kind: type) -> Callable[[Any, Found], Hashable]:
    # A subclass of Tensor may mean something else by its attributes.
    if is_torch(kind) and kind.__name__ == "Tensor":
        _of_kind[kind] = _of_tensor
    elif hasattr(kind, "__dlpack__") or hasattr(kind, "__cuda_array_interface__"):
        _of_kind[kind] = _of_any
    return _of_kind[kind]


# ------------------------------------------------------------------------------------------ calls
def again(prepare: Callable[P, Prepared[R]]) -> Callable[P, R]:
    """The function that runs the call, prepared once for all calls of one kind."""
    @functools.wraps(prepare)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        found, key = Found(kwargs.get("stream")), None  # type: ignore[arg-type]
        call: Prepared[R] | None = None
        try:
            own = [value if (kind := type(value)) in PLAIN else  # facts(), in line
                   (_of_kind.get(kind) or _learn(kind))(value, found)
                   for value in (*args, *kwargs.values())]
            key = prepare, len(args), *kwargs, found.pattern(), *own
            call = take(key)
        except Exception:  # preparing it says what is wrong
            key = None
        if call is None:
            call = prepare(*args, **kwargs)
            arrays = call.own() if key is None else found.arrays
            if not call.bind(arrays):
                key = None
        else:
            arrays = found.arrays
            call.point(found.addresses)
        try:
            result = call.run(arrays)
        except BaseException:
            forget(key)
            raise
        if key is not None:
            give(key, call)
        return result

    return run
