# SPDX-License-Identifier: Apache-2.0
"""A prepared call (_setup.py lays its arguments out): it runs once, again with other arrays of the
same kind (_reuse.py and _torch_again.py look for one), or becomes a Plan that runs again and again
on its own.

Every address stands in a word: a field of a struct, or an argument. To run with other arrays is to
change those words. Results have memory of their own, each run's new.
"""
from __future__ import annotations

from ctypes import c_int32, c_size_t, c_void_p
from typing import Any, Generic, Sequence, TypeVar

from ._arrays import OF_LIST, is_torch, stream_of, view, writes_tensor
from ._errors import out_of_range
from ._load import fail, laid_out, library
from ._results import Merged, Scores, Selection, late
from ._rows import Target
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
    """A call with all its arguments but the workspace. `kind`: of its result; tuple: the
    destinations, None: its only array."""

    __slots__ = ("setup", "function", "arguments", "size", "block", "words", "names", "fills",
                 "targets", "has_tokens", "packed", "ends", "inputs", "marks", "first", "keep",
                 "on_host", "memory", "workspace_at", "full", "give", "busy")

    def __init__(self, setup: Setup, call: int, function: str, arguments: tuple[Any, ...],
                 kind: type | None, dim: int = 0, q_heads: int = 0, head_dim: int = 0,
                 window: int = 0) -> None:
        self.setup, self.targets = setup, setup.targets
        self.has_tokens, self.packed = setup.has_tokens, setup.packed
        self.function, self.arguments = laid_out(getattr(library(), function), arguments)
        self.size = setup.handle.workspace_size(call, setup.segments, setup.max_tokens, setup.total,
                                                dim, setup.groups, q_heads, head_dim, window)
        outputs = setup.outputs
        self.block = setup.making.block([of.spec for of in outputs])
        self.words = [of.word for of in outputs]
        self.names = {of.name: number for number, of in enumerate(outputs)}
        self.fills = [(number, of.behind) for number, of in enumerate(outputs)
                      if of.behind is not None]
        self.on_host, self.memory, self.workspace_at = setup.on_host, setup.handle._memory, -1
        self.full: tuple[Any, ...] = ()
        self.busy = False  # _reuse.take
        # Where the host finds how many are kept, in calls that say so.
        self.ends = (self.names["cu_seqlens"], setup.segments) if kind is Selection else None
        self.give: Any = self._GIVES[kind]

    # ---------------------------------------------------------------------------------- the arrays
    def own(self) -> list[Any]:
        """The caller's arrays, each once."""
        return list({id(of.array): of.array for of, _word in self.setup.slots}.values())

    def bind(self, arrays: Sequence[Any]) -> bool:
        """Puts the caller's arrays in this order, and keeps none of them. Whether the call may be
        made again with others: not if an array's contents were copied while it was prepared."""
        s, number = self.setup, {id(array): i for i, array in enumerate(arrays)}
        self.inputs: list[tuple[int, Any]] = []  # the number of an array, a word
        self.keep, again = [], True
        for of, word in s.slots:
            at = number.get(id(of.array))
            if at is not None:
                self.inputs.append((at, word))
            else:
                self.keep.append(of)
                again = again and of.keep is OF_LIST
        self.marks: list[tuple[int, str]] = []
        for target in self.targets:
            if target.array is not None:
                target.number = number.get(id(target.array))
                again = again and target.number is not None
                if target.number is not None and is_torch(type(target.array)):
                    self.marks.append((target.number, f"{target.name}.dst"))
                target.array = None
        self.first = number.get(id(s.first), -1)
        again = again and self.first >= 0
        s.slots, s.first = [], None
        return again

    def point(self, addresses: Sequence[int]) -> None:
        """Other arrays: their addresses, in the order of `bind`."""
        for at, word in self.inputs:
            word.value = addresses[at]

    # ------------------------------------------------------------------------------------ the call
    def run(self, arrays: Sequence[Any]) -> R:
        """The call, with the caller's arrays, whose addresses are in place."""
        for number, name in self.marks:
            writes_tensor(arrays[number], name)
        memory, targets = self.place(arrays)
        self.call(0 if self.on_host else self.stream(arrays[self.first]))
        result: R = self.give(self, memory, targets, self.total(memory) if self.on_host else None)
        return result

    def place(self, arrays: Sequence[Any]) -> tuple[Any, list[Any]]:
        """(new memory for the results; the destinations: the caller's arrays, or memory for new
        ones)."""
        block, targets = self.block, []
        memory = block.place(self.words)
        for number, value in self.fills:
            block.fill(memory, number, value)
        for target in self.targets:
            if target.number is None:
                made, target.word.value = target.new()
            else:
                made = arrays[target.number]
            targets.append(made)
        return memory, targets

    def stream(self, first: Any) -> int:
        given = self.setup.given_stream
        return stream_of(view(first, "x", given), given)

    def call(self, stream: int) -> None:
        """The C call, with the addresses as they stand."""
        s = self.setup
        if self.on_host:  # the thread's workspace; alive until the call is done
            held = getattr(self.memory, "held", None)
            if held is None or held[0] != self.workspace_at:
                held = s.handle.workspace(self.size, s.making, 0)
                self.full = self._with(held[0], 0)
                self.workspace_at = held[0]
        else:
            held = s.handle.fresh_workspace(self.size, s.making, stream)
            self.full = self._with(held[0], stream)
        status = self.function(*self.full)
        if status:
            fail(status)

    def _with(self, workspace: int, stream: int) -> tuple[Any, ...]:
        return (*self.arguments, c_void_p.from_param(workspace), c_size_t.from_param(self.size),
                c_void_p.from_param(stream or None))

    def plan(self) -> Plan[R]:
        s, arrays = self.setup, self.own()
        slots, stream = s.slots, s.stream
        self.bind(arrays)
        workspace, holder = s.handle.fresh_workspace(self.size, s.making, stream)
        memory, targets = self.place(arrays)
        return Plan(self.function, self._with(workspace, stream), (
            self, holder, memory, targets, slots), self.give(self, memory, targets, None),
            [(arrays[number], name) for number, name in self.marks])

    # ----------------------------------------------------------------------------------- its result
    def total(self, memory: Any) -> int | None:
        """On the host: how many rows are kept, where results are as long as that."""
        if self.ends is not None:
            return self.block.element(memory, *self.ends)
        counts = self.setup.counts
        return None if counts is None else sum(
            (c_int32 * self.setup.segments).from_address(counts.value))

    def _selection(self, memory: Any, targets: list[Any], total: int | None) -> Any:
        moved = [_finished(target, array, total) for target, array in zip(self.targets, targets)]
        tokens = moved.pop(0) if self.has_tokens else None
        return late((self.block, memory, self.names, total if self.packed else None), tokens,
                    tuple(moved))

    def _scores(self, memory: Any, _targets: list[Any], _total: int | None) -> Any:
        return Scores(self.block.one(memory, 0), self.block.one(memory, 1))

    def _array(self, memory: Any, _targets: list[Any], _total: int | None) -> Any:
        return self.block.one(memory, 0)

    def _arrays(self, _memory: Any, targets: list[Any], total: int | None) -> Any:
        return tuple([_finished(target, array, total)
                      for target, array in zip(self.targets, targets)])

    def _merged(self, memory: Any, targets: list[Any], total: int | None) -> Any:
        tokens, *moved = self._arrays(memory, targets, total)
        one = self.block.one
        return Merged(one(memory, 0, total if self.packed else None), tokens,
                      one(memory, 1) if "joins" in self.names else None, tuple(moved))

    _GIVES: dict[Any, Any] = {Selection: _selection, Scores: _scores, Merged: _merged,
                              tuple: _arrays, None: _array}


def _finished(target: Target, array: Any, total: int | None) -> Any:
    """A destination of which `total` rows are written."""
    axis = target.axis
    if axis is None or total == target.shape[axis]:
        total = None
    if target.number is None:
        if axis == 0 or total is None:
            return target.finish(array, total)
        array = target.finish(array, None)
    return array if total is None or axis is None else cut_to(target.name, array, axis, total)


def cut_to(name: str, target: Any, axis: int, total: int) -> Any:
    """The first `total` rows of a destination along its axis."""
    if target.shape[axis] < total:
        raise out_of_range(f"{name} has room for {target.shape[axis]} rows, but {total} are kept")
    return target[:total] if axis == 0 else target[(slice(None),) * axis + (slice(total),)]
