# SPDX-License-Identifier: Apache-2.0
"""The kernel of the operators prune and prune_ for uniform batches. What _reuse.py does for
tailcut.prune: a call of the shapes, strides and types of an earlier one takes its arguments and
changes the addresses. Results are written where the operator returns them.
"""
from __future__ import annotations

import threading
from typing import Any, Hashable

from torch import Tensor

from ._abi import Detector, Placement
from ._arrays import stream_of, torch_address, view
from ._calls import prune
from ._load import fail
from ._reuse import Form as Known
from ._torch_forms import Form, reference_of, rule_of_word

_MOST = 64


class _Kernel:
    """Calls of one kind."""

    def __init__(self, x: Tensor, cls: Tensor | None, word: str, source: int, lag: int,
                 prefix_rows: int, dim: int, *, in_place: bool) -> None:
        form, rule = Form(x.shape[:-1], prefix_rows), rule_of_word(word)
        self.room, self.lead, self.tokens_per_segment = form.room(word), form.lead, form.rows[-1]
        # Each segment fills its room: packed results are those of [B, room].
        self.exact = rule.detector in (Detector.TOPK, Detector.RATIO)
        packed = self.exact and bool(form.lead) and form.lead[0] > 0
        self.shape = (*x.shape[:-2], self.room, x.shape[-1])
        out: Any = x
        if not in_place:
            out = x.new_empty(self.shape)
            out = out.view(-1, out.shape[-1]) if packed else out
        prepare: Any = prune.__wrapped__  # type: ignore[attr-defined]
        self.call = Known(prepare(
            x, reference_of(cls, source, lag), rule=rule, batch=form.batch(), out=out, want=(),
            zero_tail=not in_place and not self.exact, dim=dim,
            placement=Placement.PACKED if packed else Placement.LOCAL))
        # Behind `kept` in one tensor: flags and offsets, which operators do not return.
        setup = self.call.setup
        total, segments = setup.total, setup.segments
        places = {"kept": 0, "flags": 4 * total, "new_cu_seqlens": 4 * (total + segments)}
        self.offsets = [places.get(name) for name in setup.names]
        self.elements, self.segments = total + 2 * segments + 1, segments
        self.new = setup.making.none.new_empty  # type: ignore[attr-defined]

    def run(self, x: Tensor, cls: Tensor | None, in_place: bool) -> tuple[Tensor, ...]:
        known = self.call
        setup, entry, words = known.setup, known.entry, known.words
        tokens = x if in_place else x.new_empty(self.shape)
        numbers, counts = self.new(self.elements), self.new(self.segments)
        at = torch_address(x)
        known.tokens.data = entry.src = at
        entry.dst = at if in_place else torch_address(tokens)
        if cls is not None:
            known.reference.data = torch_address(cls)
        base = numbers.data_ptr()
        for word, offset in zip(known.at, self.offsets):
            words[word] = torch_address(counts) if offset is None else base + offset
        if not self.exact:
            numbers.fill_(-1)
        stream = 0 if known.on_host else stream_of(view(x, "x"), None)
        workspace, _holder = setup.handle.workspace(known.size, setup.making, stream)
        status = known.function(*known.arguments, workspace, known.size, stream)
        if status:
            fail(status)
        if self.exact or self.room == self.tokens_per_segment:
            kept = numbers.resize_(*self.lead, self.room)
        else:
            rows = setup.total // max(setup.segments, 1)
            kept = numbers.as_strided((*self.lead, self.room), (rows, 1)[-1 - len(self.lead):])
            kept = kept.clone()
        return (kept, counts) if in_place else (tokens, kept, counts)


class _Kernels(threading.local):
    def __init__(self) -> None:
        self.known: dict[Hashable, _Kernel] = {}


_kernels = _Kernels()


def prune_uniform(x: Tensor, cls: Tensor | None, *how: Any,
                  in_place: bool = False) -> tuple[Tensor, ...]:
    """The results of the operator; `how`: rule .. dim of its schema."""
    key = (how, in_place, x.shape, x.stride(), x.dtype, x.device, None if cls is None else (
        cls.shape, cls.stride(), cls.dtype, cls.device))
    known = _kernels.known
    kernel = known.pop(key, None)  # out while it is in use: a signal handler may prune too
    if kernel is None:
        kernel = _Kernel(x, cls, *how, in_place=in_place)
    found = kernel.run(x, cls, in_place)
    if len(known) >= _MOST:
        known.clear()
    known[key] = kernel
    return found
