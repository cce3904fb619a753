# SPDX-License-Identifier: Apache-2.0
"""The kernels of the operators prune, prune_, cut, compact and compact_. What _reuse.py does for
tailcut.prune: a call of the shapes, strides and types of an earlier one takes its arguments and
changes the addresses. Results are written where the operator returns them.
"""
from __future__ import annotations

import threading
from ctypes import c_int32
from typing import Any, Callable, Hashable, Sequence

from torch import Tensor

from ._abi import Detector, Placement
from ._arrays import stream_of, torch_address, view, writes_tensor
from ._calls import compact, cut, prune
from ._reuse import Form as KnownSelection, Known
from ._setup import cut_to
from ._torch_forms import Form, gathered, new_rows, reference_of, rule_of_word

_MOST = 64


class _Numbers:
    """kept and counts of a call, made for each run."""

    def __init__(self, call: Any, form: Form, word: str, x: Tensor) -> None:
        self.call = known = KnownSelection(call)
        setup = known.setup
        self.room, self.lead, self.segments = form.room(word), form.lead, setup.segments
        self.ragged, self.rows, self.device = form.ragged, form.rows[-1], x.device
        self.exact = _fills_room(form, word)
        # Behind `kept` in one tensor: flags and offsets, which operators do not return.
        most = max(setup.total, self.room)
        places = {"kept": 0, "flags": 4 * most, "new_cu_seqlens": 4 * (most + self.segments)}
        self.places = [(word, places.get(name)) for word, name in zip(known.at, setup.names)]
        self.elements = most + 2 * self.segments + 1
        self.last = 4 * (self.elements - 1)
        self.new = setup.making.none.new_empty  # type: ignore[attr-defined]

    def point(self) -> tuple[Tensor, Tensor]:
        """(memory that begins with kept, counts), and their addresses in the call."""
        numbers, counts = self.new(self.elements), self.new(self.segments)
        base, words = numbers.data_ptr(), self.call.words
        for word, offset in self.places:
            words[word] = torch_address(counts) if offset is None else base + offset
        if not self.exact:
            numbers.fill_(-1)
        return numbers, counts

    def total(self, numbers: Tensor) -> int:
        """Ragged, on the host: how many are kept."""
        return c_int32.from_address(numbers.data_ptr() + self.last).value

    def stream(self, x: Tensor) -> int:
        return 0 if self.call.on_host else stream_of(view(x, "x"), None)

    def kept(self, numbers: Tensor) -> Tensor:
        if self.exact or self.ragged or self.room == self.rows:
            return numbers.resize_(*self.lead, self.room)
        return numbers.as_strided((*self.lead, self.room),
                                  (self.rows, 1)[-1 - len(self.lead):]).clone()


def _fills_room(form: Form, word: str) -> bool:
    """Each segment fills its room: packed results are those of [B, room]."""
    return not form.ragged and rule_of_word(word).detector in (Detector.TOPK, Detector.RATIO)


class _Prune:
    def __init__(self, x: Tensor, cls: Tensor | None, cu_seqlens: Tensor | None, word: str,
                 source: int, lag: int, prefix_rows: int, dim: int, max_tokens: int, room: int,
                 in_place: bool) -> None:
        form = Form(x.shape[:-1], prefix_rows, cu_seqlens, max_tokens, room)
        self.in_place, self.shape = in_place, (*x.shape[:-2], form.room(word), x.shape[-1])
        exact = _fills_room(form, word)
        packed = form.ragged or exact and bool(form.lead) and form.lead[0] > 0
        out: Any = x
        if not in_place:
            out = x.new_empty(self.shape)
            out = out.view(-1, out.shape[-1]) if packed else out
        prepare: Any = prune.__wrapped__  # type: ignore[attr-defined]
        self.numbers = _Numbers(prepare(
            x, reference_of(cls, source, lag), rule=rule_of_word(word), batch=form.batch(),
            out=out, want=(), zero_tail=not in_place and not exact and not form.ragged, dim=dim,
            placement=Placement.PACKED if packed else Placement.LOCAL), form, word, x)

    def run(self, x: Tensor, cls: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, ...]:
        own = self.numbers
        known, ragged, tokens = own.call, own.ragged, x
        if not self.in_place:
            # A packed result's tail: ZERO_TAIL clears it only as far as the batch has candidates.
            tokens = x.new_zeros(self.shape) if ragged and not known.on_host else (
                x.new_empty(self.shape))
        else:
            writes_tensor(x, "x")
        numbers, counts = own.point()
        entry: Any = known.entry
        at = torch_address(x)
        known.tokens.data = entry.src = at
        entry.dst = at if self.in_place else torch_address(tokens)
        if cls is not None:
            known.reference.data = torch_address(cls)
        if cu_seqlens is not None:
            known.setup.struct.cu_seqlens = torch_address(cu_seqlens)
        known.call(own.stream(x))
        if ragged and known.on_host:
            total = own.total(numbers)
            if total > own.room:
                cut_to("kept" if self.in_place else "out", numbers[:own.room], 0, total)
            if not self.in_place and total < own.room:
                tokens[total:].zero_()
        kept = own.kept(numbers)
        return (kept, counts) if self.in_place else (tokens, kept, counts)


class _Cut:
    def __init__(self, scores: Tensor, flags: Tensor | None, cu_seqlens: Tensor | None,
                 word: str, prefix_rows: int, max_tokens: int, room: int) -> None:
        form = Form(scores.shape, prefix_rows, cu_seqlens, max_tokens, room, name="scores",
                    more="")
        packed = form.ragged or _fills_room(form, word) and bool(form.lead) and form.lead[0] > 0
        prepare: Any = cut.__wrapped__  # type: ignore[attr-defined]
        self.numbers = _Numbers(prepare(
            scores, rule_of_word(word), batch=form.batch(), input_flags=flags, want=(),
            placement=Placement.PACKED if packed else Placement.LOCAL), form, word, scores)

    def run(self, scores: Tensor, flags: Tensor | None,
            cu_seqlens: Tensor | None) -> tuple[Tensor, ...]:
        own = self.numbers
        known = own.call
        numbers, counts = own.point()
        if cu_seqlens is not None:
            known.setup.struct.cu_seqlens = torch_address(cu_seqlens)
        known.change({2: torch_address(scores)} | (
            {} if flags is None else {4: torch_address(flags)}))
        known.call(own.stream(scores))
        if own.ragged and known.on_host and (total := own.total(numbers)) > own.room:
            cut_to("kept", numbers[:own.room], 0, total)
        return own.kept(numbers), counts


class _Compact:
    """`how`: axes, prefix rows, most tokens, whether it is in place."""

    def __init__(self, kept: Tensor, counts: Tensor, cu_seqlens: Tensor | None,
                 *given: Any) -> None:
        *rows, self.axes, prefix_rows, max_tokens, self.in_place = given
        size = rows[0].shape[self.axes[0]]
        self.form = form = Form((*kept.shape[:-1], size), prefix_rows, cu_seqlens, max_tokens,
                                name="rows[0]")
        self.room, self.rows = kept.shape[-1], size
        targets = rows if self.in_place else self._targets(rows)
        prepare: Any = compact.__wrapped__  # type: ignore[attr-defined]
        call = prepare(gathered(rows, targets, self.axes, form.placement),
                       *form.given_kept(kept, counts, size), batch=form.batch(),
                       kept_placement=form.placement, placement=form.placement)
        self.call, self.entries = Known(call), call.setup.rows_struct
        call.setup.dsts.clear()
        call.setup.keep.clear()
        call.setup.written.clear()
        call.setup.counts = call.result = None
        form.cu_seqlens = None

    def _targets(self, rows: Sequence[Tensor]) -> list[Tensor]:
        return new_rows(rows, self.axes, self.room, self.form.ragged)

    def run(self, kept: Tensor, counts: Tensor, cu_seqlens: Tensor | None,
            *rows: Tensor) -> Sequence[Tensor]:
        known, given = self.call, self.form.given_kept(kept, counts, self.rows)
        addresses = {2: torch_address(given[0]), 4: torch_address(counts)}
        if cu_seqlens is not None:
            known.setup.struct.cu_seqlens = torch_address(cu_seqlens)
            addresses[5] = torch_address(given[2])
        known.change(addresses)
        targets = rows if self.in_place else self._targets(rows)
        for i, (entry, array, target) in enumerate(zip(self.entries, rows, targets)):
            if self.in_place:
                writes_tensor(array, f"rows[{i}]")
            entry.src, entry.dst = torch_address(array), torch_address(target)
        known.call(0 if known.on_host else stream_of(view(kept, "kept"), None))
        return targets


# ------------------------------------------------------------------------------------------ calls
class _Known(threading.local):
    def __init__(self) -> None:
        self.known: dict[Hashable, Any] = {}


_known = _Known()


def _again(kind: Callable[..., Any], tensors: Sequence[Tensor | None],
           how: tuple[Any, ...]) -> Any:
    """The results of a kind of call; `how`: what it takes beside tensors."""
    key = kind, how, *[None if one is None else (one.shape, one.stride(), one.dtype, one.device)
                       for one in tensors]
    known = _known.known
    made = known.pop(key, None)  # out while it is in use: a signal handler may prune too
    if made is None:
        made = kind(*tensors, *how)
    found = made.run(*tensors)
    if len(known) >= _MOST:
        known.clear()
    known[key] = made
    return found


def prune_again(x: Tensor, cls: Tensor | None, rule: str, source: int, lag: int, prefix_rows: int,
                dim: int, cu_seqlens: Tensor | None, max_tokens: int, room: int, *,
                in_place: bool = False) -> Any:
    return _again(_Prune, (x, cls, cu_seqlens),
                  (rule, source, lag, prefix_rows, dim, max_tokens, room, in_place))


def cut_again(scores: Tensor, flags: Tensor | None, rule: str, prefix_rows: int,
              cu_seqlens: Tensor | None, max_tokens: int, room: int) -> Any:
    return _again(_Cut, (scores.contiguous(), flags, cu_seqlens),
                  (rule, prefix_rows, max_tokens, room))


def compact_again(rows: Sequence[Tensor], axes: Sequence[int], kept: Tensor, counts: Tensor,
                  prefix_rows: int, cu_seqlens: Tensor | None, max_tokens: int, *,
                  in_place: bool) -> Any:
    return _again(_Compact, (kept, counts, cu_seqlens, *rows),
                  (tuple(axes), prefix_rows, max_tokens, in_place)) if rows else []
