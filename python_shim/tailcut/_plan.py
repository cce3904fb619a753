# SPDX-License-Identifier: Apache-2.0
"""A prepared call (_setup.py lays its arguments out): it runs once (the public functions), or
becomes a Plan that runs again and again.
"""
from __future__ import annotations

from typing import Any, Generic, Sequence, TypeVar

from ._arrays import is_torch, writes, writes_tensor
from ._load import fail, laid_out, library
from ._setup import Setup

R = TypeVar("R")


class Plan(Generic[R]):
    """A prepared call: `plan()` runs it again on the arrays it was made with, whose contents
    (lengths and offsets included, inside the bounds it was made for) may have changed, and returns
    `plan.result`, the same arrays each time: in full length, as no count is looked at. It has a
    workspace of its own: one thread (and stream) at a time."""

    __slots__ = ("_function", "_arguments", "_keep", "_written", "result")

    def __init__(self, function: Any, arguments: tuple[Any, ...], keep: Any, result: R,
                 written: Sequence[tuple[Any, str]]) -> None:
        self._function, self._arguments, self._keep, self.result = function, arguments, keep, result
        self._written = written

    def __reduce__(self) -> str:
        raise TypeError("a Plan holds addresses of its arrays: it cannot be copied or pickled")

    def __call__(self) -> R:
        for array, name in self._written:
            writes_tensor(array, name)
        status = self._function(*self._arguments)
        if status:
            fail(status)
        return self.result


class Prepared(Generic[R]):
    """A call with all its arguments but the workspace."""

    def __init__(self, setup: Setup, call: int, function: str, arguments: tuple[Any, ...],
                 result: R, dim: int = 0,
                 q_heads: int = 0, head_dim: int = 0, window: int = 0) -> None:
        self.setup, self.arguments, self.result = setup, arguments, result
        self.function = getattr(library(), function)
        self.size = setup.handle.workspace_size(call, setup.segments, setup.max_tokens, setup.total,
                                                dim, setup.groups,
                                                q_heads, head_dim, window)

    def once(self) -> R:
        s, size = self.setup, self.size
        workspace, _holder = s.handle.workspace(size, s.making, s.stream)
        for array, name in s.written:
            writes(array, name)
        status = self.function(*self.arguments, workspace, size, s.stream)
        if status:
            fail(status)
        return s.trim(self.result) if s.on_host and s.trims else self.result

    def plan(self) -> Plan[R]:
        s = self.setup
        workspace, holder = s.handle.fresh_workspace(self.size, s.making, s.stream)
        function, arguments = laid_out(
            self.function, (*self.arguments, workspace, self.size, s.stream))
        return Plan(function, arguments, (self, holder), self.result, [
            of for of in s.written if is_torch(type(of[0]))])
