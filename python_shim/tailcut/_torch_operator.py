# SPDX-License-Identifier: Apache-2.0
"""A call of the package as an operator's kernel: prepared once, run with other tensors.

It is bound to the tensors that the operator is given, and behind them to the targets that it makes
for each run. What the operator returns beside them (kept, counts, sizes, ...) is memory of its own
each; what the library writes and the operator does not return goes to scratch memory.
"""
from __future__ import annotations

from ctypes import c_int32
from math import prod
from typing import Any, Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ._arrays import numpy_address, torch_address, view, writes_tensor
from ._errors import out_of_range
from ._plan import Prepared
from ._torch_forms import Form, check_room, with_room

_KEPT = {"kept": -1, "sizes": 0}  # results of a room, and what is behind them


class _Result:
    """What an operator returns beside its targets: `shape`, of which the first `made` elements or,
    with a batch, of each row of `rows` are what it is. `behind`: the value of those that the
    library leaves."""

    __slots__ = ("word", "dtype", "made", "shape", "rows", "behind", "first")

    def __init__(self, word: Any, code: str, made: int, shape: tuple[int, ...], rows: int,
                 behind: float | None) -> None:
        self.word, self.made, self.shape, self.rows, self.behind = word, made, shape, rows, behind
        self.dtype, self.first = np.dtype(code), 0

    def of_numpy(self, memory: Any) -> Any:
        """From the words of all results."""
        if self.rows:
            strides = 4 * self.rows, 4
            return np.ndarray(self.shape, self.dtype, memory, 4 * self.first, strides).copy()
        return np.ndarray(self.shape, self.dtype, memory, 4 * self.first)

    def of_torch(self, made: Tensor) -> Tensor:
        if self.rows:
            return made.as_strided(self.shape, (self.rows, 1)).clone()
        return made if made.shape == self.shape else made.resize_(self.shape)


class _Target:
    """An array that is made for each run, like the operator's tensor of number `at`, with `room` in
    place of its tokens."""

    def __init__(self, at: int, like: Tensor, axis: int, room: int) -> None:
        self.at, self.axis = at, axis % like.dim()
        self.shape, code = with_room(like.shape, self.axis, room), view(like, "x").code
        self.dtype = np.dtype("u2" if code == "bf2" else code)
        self.bytes = prod(self.shape) * self.dtype.itemsize + 63
        self.kind = like.dtype if code == "bf2" else None
        self.tail = (slice(None),) * self.axis

    def of_numpy(self) -> tuple[Any, int]:
        """At an address that is a multiple of 64, as PyTorch's are."""
        memory = np.empty(self.bytes, np.uint8)
        at = numpy_address(memory)
        return np.ndarray(self.shape, self.dtype, memory, -at & 63), at + 63 & -64

    def clear(self, made: Any, total: int) -> None:
        """What is behind `total` rows."""
        made[self.tail + (slice(total, None),)] = 0

    def finish(self, made: Any) -> Tensor:
        tensor = torch.from_numpy(made)
        return tensor if self.kind is None else tensor.view(self.kind)


class Operator:
    """`new`: the arrays that targets are like, and their token axes; their length is `room`. Empty
    in place: then `marks` are the tensors that are written. `exact`: each segment fills its room.
    `checked`: how many are kept is not known to be within `room`.

    On the host targets and results are numpy's memory, which is made in a fraction of the time that
    PyTorch takes (results are pieces of one; PyTorch sees none that they share); elsewhere tensors
    each."""

    def __init__(self, form: Form, room: int, prepare: Callable[[list[Tensor]], Prepared[Any]],
                 given: Sequence[Tensor | None], returns: Sequence[str], *,
                 new: Sequence[tuple[Tensor, int]] = (),
                 marks: Sequence[tuple[Tensor, str]] = (),
                 exact: bool = False, checked: bool = False) -> None:
        arrays = [one for one in given if one is not None]
        ids = [id(one) for one in arrays]
        self.form, self.room, self.checked, self.busy = form, room, checked, False
        self.new = [_Target(ids.index(id(like)), like, axis, room) for like, axis in new]
        self.marks = [(ids.index(id(one)), name) for one, name in marks]
        self.call = call = prepare([arrays[of.at].new_empty(of.shape) for of in self.new])
        # Bound to what the call was prepared with: a target may be a view of the operator's.
        call.bind([*arrays, *[of.array for of in call.targets if id(of.array) not in ids]])
        self.zero = form.ragged and not call.on_host
        self.results: list[_Result] = []
        self.scratch: list[tuple[Any, int]] = []  # words, and elements in front of theirs
        self.length = 0
        total, most, order = call.setup.total, max(call.setup.total, room), {}
        for name, number in call.names.items():
            of = call.setup.outputs[number]
            (shape, code), behind, rows = of.spec, of.behind, 0
            made = most if name in _KEPT else prod(shape)
            if name not in returns:
                self.scratch.append((of.word, self.length))
                self.length += made
                continue
            if name in _KEPT:
                behind, shape = None if exact else _KEPT[name], (*form.lead, room)
                if form.lead and not exact and room < form.rows[-1]:
                    rows, made = int(form.rows[-1]), total
            order[id(of.word)] = returns.index(name)
            self.results.append(_Result(of.word, code, made, tuple(shape), rows, behind))
        self.results.sort(key=lambda of: order[id(of.word)])
        making: Any = call.setup.making
        self.ints, self.by_numpy = making.none, making.by_numpy
        self.floats = self.ints.new_empty(0, dtype=torch.float32)
        if self.by_numpy:
            for one in self.results:
                one.first = self.length
                self.length += one.made
            self.scratch += [(one.word, one.first) for one in self.results]
        self.ends = next((of.word for of in call.setup.outputs if of.name == "cu_seqlens"), None)
        form.cu_seqlens = None  # the first call's

    def run(self, arrays: Sequence[Tensor],
            addresses: list[int]) -> tuple[list[Tensor], list[Tensor]]:
        """(targets, results)."""
        for at, name in self.marks:
            writes_tensor(arrays[at], name)
        call = self.call
        targets: list[Any] = []
        for target in self.new:
            if self.by_numpy:
                one, address = target.of_numpy()
            else:
                like = arrays[target.at]
                one = like.new_zeros(target.shape) if self.zero else like.new_empty(target.shape)
                address = torch_address(one)
            targets.append(one)
            addresses.append(address)
        call.point(addresses)
        memory: Any
        if self.by_numpy:
            memory = np.empty(self.length, np.int32)
            base = numpy_address(memory)
            for of in self.results:
                if of.behind is not None:
                    _fill(memory, of)
        else:
            memory = self.ints.new_empty(self.length + 1)
            base, made = torch_address(memory), self._made()
        for word, first in self.scratch:
            word.value = base + 4 * first
        if call.on_host:
            call.call(0)
            self._check(targets)
        else:
            call.call(call.stream(arrays[0]))
        if self.by_numpy:
            return [target.finish(one) for target, one in zip(self.new, targets)], [
                torch.from_numpy(of.of_numpy(memory)) for of in self.results]
        return targets, [of.of_torch(one) for of, one in zip(self.results, made)]

    def _made(self) -> list[Tensor]:
        """A tensor for each result."""
        found = []
        for of in self.results:
            like = self.floats if of.dtype == np.float32 else self.ints
            shape = of.shape if of.made == prod(of.shape) else (of.made,)
            one = like.new_empty(shape) if of.behind is None else like.new_full(shape, of.behind)
            of.word.value = torch_address(one)
            found.append(one)
        return found

    def _check(self, targets: list[Any]) -> None:
        """On the host: more than there is room for is an error, and tails become zero."""
        call, room = self.call, self.room
        if self.form.ragged:
            total = call.total(None) or 0 if self.ends is None else c_int32.from_address(
                self.ends.value + 4 * call.setup.segments).value
            if total > room and self.results:
                raise out_of_range(f"{'out' if self.new else 'kept'} has room for {room} rows, "
                                   f"but {total} are kept")
            if total < room:
                for target, one in zip(self.new, targets):
                    target.clear(one, total)
        elif self.checked:
            counts = call.words[call.names["counts"]].value
            check_room(list((c_int32 * call.setup.segments).from_address(counts)), room)


def _fill(memory: Any, of: _Result) -> None:
    part = memory[of.first:of.first + of.made]
    (part if of.dtype == np.int32 else part.view(of.dtype)).fill(of.behind)
