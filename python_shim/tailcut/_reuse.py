# SPDX-License-Identifier: Apache-2.0
"""Prune again what was pruned before: a call whose arrays have the shapes, strides and types of an earlier one, and
whose options are the same, takes that one's arguments and changes the addresses.

A thread has a few such calls of its own. One is taken out while it is in use, so that a signal handler that prunes too
meets none of them half changed; nothing in them keeps a caller's array alive.
"""
from __future__ import annotations

import threading
from typing import Any, Hashable

from ._arrays import View, like, stream_of, view
from ._options import Batch, Reference, Rule
from ._plan import Prepared

_MOST = 64


class _Calls(threading.local):
    def __init__(self) -> None:
        self.known: dict[Hashable, Prepared[Any]] = {}


_calls = _Calls()


class Again:
    """The arrays of a call, and `key`: what has to be equal for another's arguments to do (None: never the same)."""

    __slots__ = ("x", "cls", "out", "key", "stream")

    def __init__(self, x: View, cls: Any, out: Any, rule: Rule | str | None, batch: Batch | None,
                 options: tuple[Any, ...], stream: int | None) -> None:
        self.x, self.stream = x, stream
        self.cls = self.out = None
        self.key: Hashable = None
        if isinstance(rule, Rule):
            rule = rule._bytes()  # type: ignore[assignment]
            if rule is None:
                return
        prefix = 0
        if batch is not None:
            if not batch._is_plain():
                return
            prefix = batch.prefix_rows
        source: Any = cls
        if isinstance(cls, Reference):
            source, cls = (cls.source, cls.lag, cls.window), cls.data
        if cls is not None and not isinstance(cls, str):
            self.cls = of = view(cls, "reference", stream)
            source = source if type(source) is tuple else None, of.shape, of.strides, of.code, of.device
        to: Any = out
        if out is x.array:
            to, self.out = True, x
        elif out is not None and out is not False:
            self.out = of = view(out, "out", stream)
            to = of.shape, of.strides, of.code, of.device, of.read_only
        self.key = (x.shape, x.strides, x.code, x.device, x.read_only, type(x.array), getattr(x.array, "dtype", None),
                    source, to, rule, prefix, options)

    def known(self) -> Prepared[Any] | None:
        """An earlier call, with this one's addresses."""
        found = _calls.known.pop(self.key, None)
        if found is None:
            return None
        s, x = found.setup, self.x
        s.tokens_struct.data = x.data
        if self.cls is not None:
            s.reference_struct.data = self.cls.data
        s.stream = stream_of(x, self.stream)
        result = s.selected()
        if s.rows_struct is not None:
            assert s.out_as is not None
            name, shape, axis = s.out_as
            target = self.out
            if target is None:
                target = view(like(x, shape, s.making), name)
            s.rows_struct[0].src, s.rows_struct[0].dst = x.data, target.data
            s.dsts.append((name, target.array, axis))
            result.tokens = target.array
        found.result, found.again = result, self
        return found

    def remember(self, call: Prepared[Any]) -> None:
        """For the next; after it ran."""
        s = call.setup
        if s.dsts:
            if s.out_as is None:
                name, target, axis = s.dsts[0]
                s.out_as = name, tuple(target.shape), axis
            s.dsts.clear()
        s.keep.clear()
        call.result = call.again = None
        if len(_calls.known) >= _MOST:
            _calls.known.clear()
        _calls.known[self.key] = call
