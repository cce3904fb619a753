# SPDX-License-Identifier: Apache-2.0
"""The kernels of the operators: calls of the package that are prepared once (_reuse.py), whose
results are written where the operator returns them.

An operator's call is bound to the tensors it is given, and behind them to the targets that it makes
for each run. What it returns beside them (kept, counts, sizes, ...) is memory of its own each; what
the library writes and no operator returns goes to scratch memory.
"""
from __future__ import annotations

from ctypes import c_int32
from functools import lru_cache
from math import prod
from typing import Any, Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ._abi import Detector, Placement, Policy, Power, Reduction
from ._arrays import numpy_address, torch_address, writes_tensor
from ._calls import compact, cut, merge, prune, score
from ._errors import out_of_range
from ._options import Merge, RelevanceOptions
from ._plan import Prepared
from ._reuse import Found, give, of_torch, take
from ._sequence import prune_sequence
from ._torch_forms import (Form, axes_of, check_room, gathered, offsets_of, reference_of,
                           rule_of_word, with_room)

_KEPT = {"kept": -1, "sizes": 0}  # results of a room, and what is behind them


def _prepare(call: Any, *args: Any, **kwargs: Any) -> Prepared[Any]:
    return call.__wrapped__(*args, **kwargs)  # type: ignore[no-any-return]


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


class _Operator:
    """`new`: the arrays that targets are like, and their token axes; their length is `room`. Empty
    in place: then `marks` are the tensors that are written. `exact`: each segment fills its room.
    `checked`: how many are kept is not known to be within `room`.

    On the host the results are pieces of numpy's memory, which are made in a fraction of the time
    that PyTorch takes (and PyTorch sees no memory that they share); elsewhere tensors each."""

    def __init__(self, form: Form, room: int, prepare: Callable[[list[Tensor]], Prepared[Any]],
                 given: Sequence[Tensor | None], returns: Sequence[str], *,
                 new: Sequence[tuple[Tensor, int]] = (),
                 marks: Sequence[tuple[Tensor, str]] = (),
                 exact: bool = False, checked: bool = False) -> None:
        arrays = [one for one in given if one is not None]
        ids = [id(one) for one in arrays]
        self.form, self.room, self.checked = form, room, checked
        self.new = [(ids.index(id(like)), with_room(like.shape, axis % like.dim(), room),
                     axis % like.dim()) for like, axis in new]
        self.marks = [(ids.index(id(one)), name) for one, name in marks]
        self.call = call = prepare([arrays[at].new_empty(shape) for at, shape, _axis in self.new])
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
        call, targets = self.call, []
        for at, shape, _axis in self.new:
            array = arrays[at]
            target = array.new_zeros(shape) if self.zero else array.new_empty(shape)
            targets.append(target)
            addresses.append(torch_address(target))
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
            return targets, [torch.from_numpy(of.of_numpy(memory)) for of in self.results]
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

    def _check(self, targets: list[Tensor]) -> None:
        """On the host: more than there is room for is an error, and tails become zero."""
        call, room = self.call, self.room
        if self.form.ragged:
            total = call.total(None) or 0 if self.ends is None else c_int32.from_address(
                self.ends.value + 4 * call.setup.segments).value
            if total > room and self.results:
                raise out_of_range(f"{'out' if self.new else 'kept'} has room for {room} rows, "
                                   f"but {total} are kept")
            if total < room:
                for target, (_at, _shape, axis) in zip(targets, self.new):
                    target.narrow(axis, total, room - total).zero_()
        elif self.checked:
            counts = call.words[call.names["counts"]].value
            check_room(list((c_int32 * call.setup.segments).from_address(counts)), room)


def _fill(memory: Any, of: _Result) -> None:
    part = memory[of.first:of.first + of.made]
    (part if of.dtype == np.int32 else part.view(of.dtype)).fill(of.behind)


def _again(build: Callable[..., _Operator], tensors: Sequence[Tensor | None],
           how: tuple[Any, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """What a kind of call gives; `how`: what it takes beside tensors."""
    found = Found(None)
    own = [None if one is None else of_torch(one, found) for one in tensors]
    key = build, how, found.pattern(), *own
    made = take(key)
    if made is None:
        made = build(*tensors, *how)
    result = made.run(found.arrays, found.addresses)
    give(key, made)
    return result  # type: ignore[no-any-return]


def _named(rows: Sequence[Tensor]) -> list[tuple[Tensor, str]]:
    return [(array, f"rows[{i}]") for i, array in enumerate(rows)]


def _fills_room(form: Form, word: str) -> bool:
    """Each segment fills its room: packed results are those of [B, room]."""
    return not form.ragged and rule_of_word(word).detector in (Detector.TOPK, Detector.RATIO)


# ---------------------------------------------------------------------------------- score and cut
def _score(x: Tensor, cls: Tensor | None, cu_seqlens: Tensor | None, source: int, lag: int,
           prefix_rows: int, dim: int, max_tokens: int) -> _Operator:
    form = Form(x.shape[:-1], prefix_rows, cu_seqlens, max_tokens)
    return _Operator(form, 0, lambda _none: _prepare(
        score, x, reference_of(cls, source, lag), batch=form.batch(), dim=dim),
        (x, cls, cu_seqlens), ("scores", "flags"))


def score_again(x: Tensor, cls: Tensor | None, source: int, lag: int, prefix_rows: int, dim: int,
                cu_seqlens: Tensor | None, max_tokens: int) -> Any:
    return tuple(_again(_score, (x, cls, cu_seqlens),
                        (source, lag, prefix_rows, dim, max_tokens))[1])


def _cut(scores: Tensor, flags: Tensor | None, cu_seqlens: Tensor | None, word: str,
         prefix_rows: int, max_tokens: int, room: int) -> _Operator:
    form = Form(scores.shape, prefix_rows, cu_seqlens, max_tokens, room, name="scores", more="")
    exact = _fills_room(form, word)
    return _Operator(form, form.room(word), lambda _none: _prepare(
        cut, scores, rule_of_word(word), batch=form.batch(), input_flags=flags, want=(),
        placement=_packed(form, exact)), (scores, flags, cu_seqlens), ("kept", "counts"),
        exact=exact)


def _packed(form: Form, exact: bool) -> Placement:
    packed = form.ragged or exact and bool(form.lead) and form.lead[0] > 0
    return Placement.PACKED if packed else Placement.LOCAL


def cut_again(scores: Tensor, flags: Tensor | None, rule: str, prefix_rows: int,
              cu_seqlens: Tensor | None, max_tokens: int, room: int) -> Any:
    return tuple(_again(_cut, (scores.contiguous(), flags, cu_seqlens),
                        (rule, prefix_rows, max_tokens, room))[1])


# ------------------------------------------------------------------------------- prune and merge
def _prune(x: Tensor, cls: Tensor | None, sizes: Tensor | None, cu_seqlens: Tensor | None,
           word: str, source: int, lag: int, prefix_rows: int, dim: int, merging: Any,
           max_tokens: int, room: int, in_place: bool) -> _Operator:
    form = Form(x.shape[:-1], prefix_rows, cu_seqlens, max_tokens, room)
    exact = _fills_room(form, word)
    placement = _packed(form, exact)

    def prepare(targets: list[Tensor]) -> Prepared[Any]:
        out = x if in_place else targets[0]
        if not in_place and placement == Placement.PACKED:
            out = out.view(-1, out.shape[-1])
        how = {} if merging is None else {"merge": Merge(Power(merging[0]), merging[1], sizes)}
        return _prepare(prune, x, reference_of(cls, source, lag), rule=rule_of_word(word),
                        batch=form.batch(), out=out, want=("joins",) if how else (), dim=dim,
                        zero_tail=not in_place and not exact and not form.ragged,
                        placement=placement, **how)

    return _Operator(form, form.room(word), prepare, (x, cls, sizes, cu_seqlens),
                     ("kept", "counts") + (() if merging is None else ("sizes", "joins")),
                     new=() if in_place else [(x, -2)], marks=[(x, "x")] if in_place else (), exact=exact)


def prune_again(x: Tensor, cls: Tensor | None, rule: str, source: int, lag: int, prefix_rows: int,
                dim: int, cu_seqlens: Tensor | None, max_tokens: int, room: int, *,
                in_place: bool = False) -> Any:
    targets, made = _again(_prune, (x, cls, None, cu_seqlens), (
        rule, source, lag, prefix_rows, dim, None, max_tokens, room, in_place))
    return *targets, *made


def prune_merge_again(x: Tensor, cls: Tensor | None, rule: str, source: int, lag: int,
                      prefix_rows: int, dim: int, power: int, window: int, sizes: Tensor | None,
                      cu_seqlens: Tensor | None, max_tokens: int, room: int, *,
                      in_place: bool = False) -> Any:
    targets, made = _again(_prune, (x, cls, sizes, cu_seqlens), (
        rule, source, lag, prefix_rows, dim, (power, window), max_tokens, room, in_place))
    return *targets, *made


def _merge(x: Tensor, kept: Tensor, counts: Tensor, offsets: Tensor | None, sizes: Tensor | None,
           cu_seqlens: Tensor | None, room: int, power: int, window: int, prefix_rows: int,
           dim: int, max_tokens: int) -> _Operator:
    form = Form(x.shape[:-1], prefix_rows, cu_seqlens, max_tokens)
    return _Operator(form, room, lambda targets: _prepare(
        merge, x, kept, counts, offsets, merge=Merge(Power(power), window, sizes),
        batch=form.batch(), kept_placement=_placed(offsets), placement=form.placement,
        out=targets[0], zero_tail=not form.ragged, want=("joins",), dim=dim),
        (x, kept, counts, offsets, sizes, cu_seqlens), ("sizes", "joins"), new=[(x, -2)],
        exact=offsets is not None and not form.ragged)


def merge_again(x: Tensor, kept: Tensor, counts: Tensor, power: int, window: int,
                sizes: Tensor | None, prefix_rows: int, dim: int, cu_seqlens: Tensor | None,
                max_tokens: int) -> Any:
    room = kept.shape[-1]
    targets, made = _again(_merge, (
        x, *_given_kept(kept, counts, cu_seqlens, x.shape[-2]), sizes, cu_seqlens), (
            room, power, window, prefix_rows, dim, max_tokens))
    return *targets, *made


def _given_kept(kept: Tensor, counts: Tensor, cu_seqlens: Tensor | None,
                rows: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """(kept, counts, offsets) as calls want them: `kept` [.., room] with the segments as far apart
    as in the arrays, or with offsets PACKED. On the host counts are looked at, which costs no
    wait."""
    room, on_host = kept.shape[-1], kept.is_cpu
    if on_host:
        found = counts.tolist() if counts.dim() else [int(counts)]
        if cu_seqlens is None:
            check_room(found, room)
        else:
            check_room([sum(found)], room, "")
    if cu_seqlens is not None:
        return kept.contiguous(), counts, offsets_of(counts)
    if room >= rows or on_host and kept.dim() == 1:
        return kept.contiguous(), counts, None
    if on_host and min(found, default=0) == room:
        return kept.contiguous(), counts, _full_offsets(len(found), room)
    return torch.nn.functional.pad(kept, (0, rows - room), value=-1), counts, None


@lru_cache(maxsize=256)
def _full_offsets(segments: int, room: int) -> Tensor:
    return torch.arange(0, (segments + 1) * room, room or 1, dtype=torch.int32)[:segments + 1]


def _placed(offsets: Tensor | None) -> Placement:
    return Placement.LOCAL if offsets is None else Placement.PACKED


# ---------------------------------------------------------------------- compact and prune_sequence
def _compact(kept: Tensor, counts: Tensor, offsets: Tensor | None, cu_seqlens: Tensor | None,
             *given: Any) -> _Operator:
    *rows, axes, room, prefix_rows, max_tokens, in_place = given
    lead = kept.shape[:-1] if cu_seqlens is None else ()
    form = Form((*lead, rows[0].shape[axes[0]]), prefix_rows, cu_seqlens, max_tokens,
                name="rows[0]")
    return _Operator(form, room, lambda targets: _prepare(
        compact, gathered(rows, rows if in_place else targets, axes, form.placement), kept, counts,
        offsets, batch=form.batch(), kept_placement=_placed(offsets), placement=form.placement),
        (kept, counts, offsets, cu_seqlens, *rows), (),
        new=() if in_place else list(zip(rows, axes)), marks=_named(rows) if in_place else ())


def compact_again(rows: Sequence[Tensor], axes: Sequence[int], kept: Tensor, counts: Tensor,
                  prefix_rows: int, cu_seqlens: Tensor | None, max_tokens: int, *,
                  in_place: bool = False) -> list[Tensor]:
    if not rows:
        return []
    axes = axes_of(rows, axes, kept.dim() == 2)
    given = _given_kept(kept, counts, cu_seqlens, rows[0].shape[axes[0]])
    return _again(_compact, (*given, cu_seqlens, *rows),
                  (tuple(axes), kept.shape[-1], prefix_rows, max_tokens, in_place))[0]


def _sequence(x: Tensor, roles: Tensor, q: Tensor | None, k: Tensor | None, lse: Tensor | None,
              cu_seqlens: Tensor | None, *given: Any) -> _Operator:
    *rows, axes, room, word, dim, policy, causal, last_query, heads, queries, most, own = given
    form = Form(x.shape[:-1], 0, cu_seqlens, most)
    options = RelevanceOptions(Policy(policy), causal, last_query, q, k, Reduction(heads),
                               Reduction(queries), lse)

    def prepare(targets: list[Tensor]) -> Prepared[Any]:
        out, *moved = [x, *rows] if own else targets
        return _prepare(prune_sequence, x, roles, options, rule=rule_of_word(word), out=out,
                        zero_tail=not own and not form.ragged, want=(), batch=form.batch(),
                        dim=dim, placement=form.placement,
                        rows=gathered(rows, moved, axes, form.placement))

    return _Operator(form, room, prepare, (x, roles, q, k, lse, cu_seqlens, *rows),
                     ("kept", "counts"), new=() if own else [(x, -2), *zip(rows, axes)],
                     marks=[(x, "x"), *_named(rows)] if own else (), checked=True)


def sequence_again(x: Tensor, roles: Tensor, rows: Sequence[Tensor], axes: Sequence[int],
                   room: int, rule: str, dim: int, q: Tensor | None, k: Tensor | None,
                   lse: Tensor | None, policy: int, causal: bool, last_query: bool, heads: int,
                   queries: int, cu_seqlens: Tensor | None, max_tokens: int, *,
                   in_place: bool = False) -> Any:
    axes = axes_of(rows, axes, x.dim() == 3)
    targets, made = _again(_sequence, (x, roles.contiguous(), q, k, lse, cu_seqlens, *rows), (
        tuple(axes), room, rule, dim, policy, causal, last_query, heads, queries, max_tokens,
        in_place))
    return tuple(made) if in_place else (targets[0], *made, targets[1:])
