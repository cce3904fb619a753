# SPDX-License-Identifier: Apache-2.0
"""Prune again what was pruned before: a call whose arrays have the shapes, strides and types of an
earlier one, and whose options are the same, takes that one's arguments and changes the addresses.

numpy's arrays and PyTorch's tensors are told apart by their own attributes, which takes a
microsecond; others by a View. A thread has a few such calls of its own. One is `busy` while it is
in use, so that a signal handler that prunes too uses none of them half changed; nothing in them
keeps a caller's array alive. Results have memory of their own, each call's new.
"""
from __future__ import annotations

import functools
import threading
from ctypes import c_size_t, c_uint64, c_void_p, sizeof
from typing import Any, Callable, Hashable, ParamSpec, cast

import numpy as np

from ._abi import Placement
from ._arrays import (is_torch, numpy_address, stream_of, torch_address, view, without_memory,
                      writes_tensor)
from ._load import fail, laid_out
from ._making import again_like
from ._options import Batch, Reference, Rule, names_of
from ._plan import Prepared
from ._results import Selection, late
from ._setup import cut_to

P = ParamSpec("P")
WANT = ("scores", "mask")
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


def _of_torch(array: Any, name: str, _stream: int | None) -> Facts:
    try:
        return (array.shape, array.stride(), array.dtype, array.device), torch_address(array), None
    except RuntimeError as failure:
        raise without_memory(name, failure) from None


def _of_any(array: Any, name: str, stream: int | None) -> Facts:
    of = view(array, name, stream)
    kind = type(array), getattr(array, "dtype", None)
    return (of.shape, of.strides, of.code, of.device, of.read_only, kind), of.data, of


_looks: dict[type, Callable[[Any, str, int | None], Facts]] = {np.ndarray: _of_numpy}


def _look(kind: type) -> Callable[[Any, str, int | None], Facts]:
    # A subclass may mean something else by these attributes.
    found = _looks[kind] = _of_torch if is_torch(kind) and kind.__name__ == "Tensor" else _of_any
    return found


# ------------------------------------------------------------------------------------------ calls
class Known:
    """A call with arguments that are laid out, but for the workspace."""

    __slots__ = ("function", "arguments", "size", "setup", "on_host", "memory", "full",
                 "workspace_at")

    def __init__(self, call: Prepared[Any]) -> None:
        self.function, self.arguments = laid_out(call.function, call.arguments)
        self.size, self.setup, self.on_host = call.size, call.setup, call.setup.on_host
        self.memory, self.workspace_at = call.setup.handle._memory, -1
        if self.on_host:
            call.setup.handle.workspace(self.size, call.setup.making, 0)
        self.full: tuple[Any, ...] = ()

    def change(self, addresses: dict[int, int]) -> None:
        """Addresses that are arguments themselves, by their places."""
        given = list(self.arguments)
        for place, address in addresses.items():
            given[place] = c_void_p.from_param(address)
        self.arguments, self.workspace_at = tuple(given), -1

    def call(self, stream: int) -> None:
        """The C call, with the addresses that stand in its structs."""
        if self.on_host:
            held = self.memory.held  # the thread's workspace; alive until the call is done
            if held[0] != self.workspace_at:
                held = self.setup.handle.workspace(self.size, self.setup.making, 0)
                self._with(held[0], 0)
        else:
            held = self.setup.handle.fresh_workspace(self.size, self.setup.making, stream)
            self._with(held[0], stream)
        status = self.function(*self.full)
        if status:
            fail(status)

    def _with(self, workspace: int, stream: int) -> None:
        self.full = (*self.arguments, c_void_p.from_param(workspace),
                     c_size_t.from_param(self.size), c_void_p.from_param(stream or None))
        self.workspace_at = workspace


class Form(Known):
    """A call of prune that ran, and where the addresses of the next of its kind go."""

    __slots__ = ("busy", "tokens", "reference", "entry", "places", "words", "at", "block", "fills",
                 "packed", "last", "new", "finish", "marks", "target")

    def __init__(self, call: Prepared[Selection], x: Any = None) -> None:
        super().__init__(call)
        s = call.setup
        self.busy, self.packed, self.block = False, s.packed, s.block
        self.fills = [(s.names.index(name), value) for name, value in s.fills.items()]
        self.tokens, self.reference, self.entry = s.tokens_struct, s.reference_struct, None
        self.marks = any(is_torch(type(array)) for array, _name in s.written)
        self.new: Any = None
        self.finish: Any = None
        self.target: tuple[str, tuple[int, ...], int | None] = "", (), None
        if s.dsts:
            name, target, axis = s.dsts[0]
            self.target, self.entry = (name, tuple(target.shape), axis), s.rows_struct[0]
            if x is not None:
                self.new, self.finish = again_like(x, s.code, self.target[1], s.making)
        kind, whole = type(s.selection), sizeof(s.selection)
        self.words = (c_uint64 * (whole // 8)).from_buffer(s.selection)
        self.at = [getattr(kind, name).offset // 8 for name in s.names]
        names = ["cu_seqlens" if name == "new_cu_seqlens" else name for name in s.names]
        self.places = {name: number for number, name in enumerate(names)}
        self.last = s.names.index("new_cu_seqlens"), s.segments
        s.dsts.clear()
        s.keep.clear()
        s.written.clear()

    def run(self, x: Any, x_at: int, reference_at: int, out: Any, out_at: int,
            stream: int | None) -> Selection:
        """The call with these arrays."""
        entry, block, made = self.entry, self.block, None
        if self.marks:
            writes_tensor(out, "out.dst")
        self.busy = True
        self.tokens.data = x_at
        if reference_at:
            self.reference.data = reference_at
        if entry is not None:
            if out is None:
                made, out_at = self.new()
            entry.src, entry.dst = x_at, out_at
        memory = block.place(self.words, self.at)
        for number, value in self.fills:
            block.fill(memory, number, value)
        try:
            self.call(0 if self.on_host else stream_of(view(x, "x", stream), stream))
        finally:
            self.busy = False
        total = block.element(memory, *self.last) if self.on_host else None
        if entry is not None:
            name, shape, axis = self.target
            rows = None if axis is None or total == shape[axis] else total
            if made is not None:  # its rows are along axis 0
                out = self.finish(made, rows)
            elif rows is not None:
                out = cut_to(name, out, axis, rows)
        return late((block, memory, self.places, total if self.packed else None),
                    None if entry is None else out)

    def remember(self, key: Hashable) -> None:
        """For the next; after it ran."""
        known = _calls.known
        if len(known) >= _MOST:
            known.clear()
        known[key] = self


def again(prepare: Callable[P, Prepared[Selection]]) -> Callable[P, Selection]:
    """prune, of which calls of one form are prepared once."""
    make = cast(Callable[..., Prepared[Selection]], prepare)

    @functools.wraps(prepare)
    def run(x: Any, reference: Any = None, *, rule: Any = None, batch: Batch | None = None,
            rows: Any = (), out: Any = None, zero_tail: bool = False, want: Any = WANT,
            placement: Any = Placement.PACKED, merge: Any = None, dim: int | None = None,
            dtype: Any = None, handle: Any = None, stream: int | None = None) -> Selection:
        key = None
        word: Any = rule
        if isinstance(rule, Rule):
            word = rule._bytes() or rule  # with group_k, which the call reads: prepared each time
        if type(want) is not tuple:
            want = names_of(want)
        if (type(rows) is tuple and not rows and merge is None and (
                word is None or type(word) in (str, bytes)) and (
                    batch is None or isinstance(batch, Batch) and batch._is_plain())):
            kind = type(x)
            own, x_at, keep = (_looks.get(kind) or _look(kind))(x, "x", stream)
            source: Any = None
            data, reference_at = reference, 0
            if isinstance(reference, Reference):
                data = reference.data
                source = reference.source, reference.lag, reference.window
            elif type(reference) is str:
                data, source = None, reference
            if data is not None:
                kind = type(data)
                facts, reference_at, held = (_looks.get(kind) or _look(kind))(
                    data, "reference", stream)
                source, keep = (source, facts), (keep, held)
            to: Any = out
            out_at = 0
            if out is x:
                to, out_at = True, x_at
            elif out is not None and out is not False:
                kind = type(out)
                to, out_at, held = (_looks.get(kind) or _look(kind))(out, "out", stream)
                keep = keep, held
            key = (own, source, to, word, 0 if batch is None else batch.prefix_rows, want,
                   placement, zero_tail, dim, dtype, handle)
            try:
                form = _calls.known.get(key)
            except TypeError:  # no hash: the call itself will say what it makes of that
                key = form = None
            if form is not None and not form.busy:
                return form.run(x, x_at, reference_at, out, out_at, stream)
        call = make(x, reference, rule=rule, batch=batch, rows=rows, out=out, zero_tail=zero_tail,
                    want=want, placement=placement, merge=merge, dim=dim, dtype=dtype,
                    handle=handle, stream=stream)
        result = call.once()
        if key is not None:
            call.result = None  # type: ignore[assignment]
            Form(call, x).remember(key)
        return result

    return cast(Callable[P, Selection], run)
