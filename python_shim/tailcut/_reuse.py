# SPDX-License-Identifier: Apache-2.0
"""Prune again what was pruned before: a call whose arrays have the shapes, strides and types of an
earlier one, and whose options are the same, takes that one's arguments and changes the addresses.

numpy's arrays and PyTorch's tensors are told apart by their own attributes, which takes a
microsecond; others by a View. A thread has a few such calls of its own. One is taken out while it
is in use, so that a signal handler that prunes too meets none of them half changed; nothing in them
keeps a caller's array alive.
"""
from __future__ import annotations

import threading
from ctypes import c_int32, c_uint64, sizeof
from typing import Any, Callable, Hashable

import numpy as np

from ._arrays import is_torch, numpy_address, stream_of, torch_address, view
from ._making import like_at
from ._load import fail
from ._options import Batch, Reference, Rule, Selection
from ._plan import Prepared, Setup, cut_to

_MOST = 64
Facts = tuple[Hashable, int, Any]  # what has to be equal, the address, what holds it


class _Calls(threading.local):
    def __init__(self) -> None:
        self.known: dict[Hashable, Form] = {}


_calls = _Calls()


# ------------------------------------------------------------------------------- what an array is
def _of_numpy(array: Any, _name: str, _stream: int | None) -> Facts:
    same = array.shape, array.strides, array.dtype, array.flags.writeable
    return same, numpy_address(array), None


def _of_torch(array: Any, _name: str, _stream: int | None) -> Facts:
    return (array.shape, array.stride(), array.dtype, array.device), torch_address(array), None


def _of_any(array: Any, name: str, stream: int | None) -> Facts:
    of = view(array, name, stream)
    kind = type(array), getattr(array, "dtype", None)
    return (of.shape, of.strides, of.code, of.device, of.read_only, kind), of.data, of


_looks: dict[type, Callable[[Any, str, int | None], Facts]] = {np.ndarray: _of_numpy}


def _facts(array: Any, name: str, stream: int | None) -> Facts:
    look = _looks.get(type(array))
    if look is None:
        # A subclass may mean something else by these attributes.
        kind = type(array)
        look = _looks[kind] = _of_torch if is_torch(kind) and kind.__name__ == "Tensor" else _of_any
    return look(array, name, stream)


# ---------------------------------------------------------------------------------------- results
class _Late(Selection):
    """A Selection whose arrays are made when they are first asked for."""

    def __init__(self, setup: Setup, memory: Any, first: int | None) -> None:
        self.__dict__["_late"] = setup.block, memory, first, setup.names

    def __reduce__(self) -> tuple[Any, ...]:
        return Selection, tuple(getattr(self, name) for name in Selection.__dataclass_fields__)


class _Missing:
    """An attribute as long as the instance has none of that name."""

    def __init__(self, name: str) -> None:
        self.name, self.default = name, () if name == "rows" else None
        self.in_struct = "new_cu_seqlens" if name == "cu_seqlens" else name

    def __get__(self, instance: _Late, _kind: type) -> Any:
        own = instance.__dict__
        block, memory, first, names = own["_late"]
        value = own[self.name] = self.default if self.in_struct not in names else (
            block.one(memory, names.index(self.in_struct), first))
        return value


_Late.__name__ = _Late.__qualname__ = "Selection"
for _name in Selection.__dataclass_fields__:
    setattr(_Late, _name, _Missing(_name))


# ------------------------------------------------------------------------------------------ calls
class Form:
    """A call that ran, and where the addresses of the next of its kind go."""

    __slots__ = ("function", "arguments", "size", "setup", "on_host", "tokens", "reference",
                 "entry",
                 "target", "words", "at", "block", "fills", "packed", "last")

    def __init__(self, call: Prepared[Selection]) -> None:
        s = call.setup
        self.function, self.arguments, self.size, self.setup = (
            call.function, call.arguments, call.size, s)
        self.on_host, self.packed, self.block, self.fills = s.on_host, s.packed, s.block, s.fills
        self.tokens, self.reference = s.tokens_struct, s.reference_struct
        self.entry: Any = None
        self.target: tuple[str, tuple[int, ...], int | None] = "", (), None
        if s.dsts:
            name, target, axis = s.dsts[0]
            self.target, self.entry = (name, tuple(target.shape), axis), s.rows_struct[0]
        kind, whole = type(s.selection), sizeof(s.selection)
        self.words = (c_uint64 * (whole // 8)).from_buffer(s.selection)
        self.at = [getattr(kind, name).offset // 8 for name in s.names]
        self.last = 4 * s.segments
        s.dsts.clear()
        s.keep.clear()


class Again:
    """A call of prune, and `key`: what has to be equal for another's arguments to do (None:
    never)."""

    __slots__ = ("key", "x", "out", "stream", "x_at", "reference_at", "out_at", "keep")

    def __init__(self, x: Any = None, reference: Any = None, *more: Any, rule: Any = None,
                 batch: Batch | None = None, rows: Any = (), merge: Any = None, out: Any = None,
                 want: Any = None, stream: int | None = None, **options: Any) -> None:
        self.key: Hashable = None
        if rows or merge is not None or more or x is None:
            return
        if isinstance(rule, Rule) and (rule := rule._bytes()) is None:
            return
        if want is not None and type(want) is not tuple:
            if type(want) not in (set, list, frozenset):
                return
            want = tuple(want)
        prefix = 0
        if batch is not None:
            if not batch._is_plain():
                return
            prefix = batch.prefix_rows
        self.x, self.out, self.stream = x, out, stream
        own, self.x_at, self.keep = _facts(x, "x", stream)
        source: Any = reference
        if isinstance(reference, Reference):
            source, reference = (reference.source, reference.lag, reference.window), reference.data
        self.reference_at = 0
        if reference is not None and type(reference) is not str:
            facts, self.reference_at, keep = _facts(reference, "reference", stream)
            source = source if type(source) is tuple else None, facts
            if keep is not None:
                self.keep = self.keep, keep
        to: Any = out
        self.out_at = 0
        if out is x:
            to, self.out_at = True, self.x_at
        elif out is not None and out is not False:
            to, self.out_at, keep = _facts(out, "out", stream)
            if keep is not None:
                self.keep = self.keep, keep
        self.key = type(x), own, source, to, rule, prefix, want, *options.items()

    def known(self) -> Form | None:
        """An earlier call."""
        try:
            return _calls.known.pop(self.key, None)
        except TypeError:  # an option that has no hash: the call itself will say what it makes of
                           # it
            self.key = None
            return None

    def run(self, form: Form) -> Selection:
        """The earlier call with this one's addresses."""
        s, x, block = form.setup, self.x, form.block
        form.tokens.data = self.x_at
        if self.reference_at:
            form.reference.data = self.reference_at
        on_host, entry, target = form.on_host, form.entry, self.out
        stream = 0 if on_host else stream_of(view(x, "x", self.stream), self.stream)
        if entry is not None:
            at = self.out_at
            if target is None:
                target, at = like_at(x, s.code, form.target[1], s.making)
            entry.src, entry.dst = self.x_at, at
        memory = block.place(form.words, form.at)
        result = s.selection_of(block.arrays(memory)) if form.fills else None
        size = form.size
        workspace, _holder = s.handle.workspace(size, s.making, stream)
        status = form.function(*form.arguments, workspace, size, stream)
        if status:
            fail(status)
        total = _int32_at(s.selection.new_cu_seqlens + form.last).value if on_host else None
        if result is None:
            first = total if form.packed else None
            result = _Late(s, memory, first) if block.late else s.selection_of(
                block.arrays(memory, first))
        elif on_host and form.packed:
            result.kept = result.kept[:total]
        if entry is not None:
            name, shape, axis = form.target
            if total is None or axis is None or total == shape[axis]:
                result.tokens = target
            elif block.late and self.out is None and axis == 0:
                result.tokens = target.resize_(total, *shape[1:])  # a third of a slice's time
            else:
                result.tokens = cut_to(name, target, axis, total)
        self._keep(form)
        return result

    def remember(self, call: Prepared[Selection]) -> None:
        """For the next; after it ran."""
        if self.key is not None:
            call.result = None  # type: ignore[assignment]
            self._keep(Form(call))

    def _keep(self, form: Form) -> None:
        known = _calls.known
        if len(known) >= _MOST:
            known.clear()
        known[self.key] = form


_int32_at = c_int32.from_address
