# SPDX-License-Identifier: Apache-2.0
"""The kernels of the operators: which call of the package each makes, prepared once for all calls
of one kind (_reuse.py). What they have in common: _torch_operator.py.
"""
from __future__ import annotations

from functools import lru_cache
from typing import Any, Callable, Sequence

import torch
from torch import Tensor

from ._abi import Detector, Placement, Policy, Power, Reduction
from ._calls import compact, cut, merge, prune, score
from ._options import Merge, RelevanceOptions
from ._plan import Prepared
from ._reuse import Found, forget, give, of_torch, take
from ._sequence import prune_sequence
from ._torch_forms import (Form, axes_of, check_room, gathered, offsets_of, reference_of,
                           rule_of_word)
from ._torch_operator import Operator


def _prepare(call: Any, *args: Any, **kwargs: Any) -> Prepared[Any]:
    return call.__wrapped__(*args, **kwargs)  # type: ignore[no-any-return]


def _again(build: Callable[..., Operator], tensors: Sequence[Tensor | None],
           how: tuple[Any, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """What a kind of call gives; `how`: what it takes beside tensors."""
    found = Found(None)
    own = [None if one is None else of_torch(one, found) for one in tensors]
    key = build, how, found.pattern(), *own
    made = take(key)
    if made is None:
        made = build(*tensors, *how)
    try:
        result = made.run(found.arrays, found.addresses)
    except BaseException:
        forget(key)
        raise
    give(key, made)
    return result  # type: ignore[no-any-return]


def _named(rows: Sequence[Tensor]) -> list[tuple[Tensor, str]]:
    return [(array, f"rows[{i}]") for i, array in enumerate(rows)]


def _fills_room(form: Form, word: str) -> bool:
    """Each segment fills its room: packed results are those of [B, room]."""
    return not form.ragged and rule_of_word(word).detector in (Detector.TOPK, Detector.RATIO)


# ---------------------------------------------------------------------------------- score and cut
def _score(x: Tensor, cls: Tensor | None, cu_seqlens: Tensor | None, source: int, lag: int,
           prefix_rows: int, dim: int, max_tokens: int) -> Operator:
    form = Form(x.shape[:-1], prefix_rows, cu_seqlens, max_tokens)
    return Operator(form, 0, lambda _none: _prepare(
        score, x, reference_of(cls, source, lag), batch=form.batch(), dim=dim),
        (x, cls, cu_seqlens), ("scores", "flags"))


def score_again(x: Tensor, cls: Tensor | None, source: int, lag: int, prefix_rows: int, dim: int,
                cu_seqlens: Tensor | None, max_tokens: int) -> Any:
    return tuple(_again(_score, (x, cls, cu_seqlens),
                        (source, lag, prefix_rows, dim, max_tokens))[1])


def _cut(scores: Tensor, flags: Tensor | None, cu_seqlens: Tensor | None, word: str,
         prefix_rows: int, max_tokens: int, room: int) -> Operator:
    form = Form(scores.shape, prefix_rows, cu_seqlens, max_tokens, room, name="scores", more="")
    exact = _fills_room(form, word)
    return Operator(form, form.room(word), lambda _none: _prepare(
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
           max_tokens: int, room: int, in_place: bool) -> Operator:
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

    return Operator(form, form.room(word), prepare, (x, cls, sizes, cu_seqlens),
                    ("kept", "counts") + (() if merging is None else ("sizes", "joins")),
                    new=() if in_place else [(x, -2)], marks=[(x, "x")] if in_place else (),
                    exact=exact)


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
           dim: int, max_tokens: int) -> Operator:
    form = Form(x.shape[:-1], prefix_rows, cu_seqlens, max_tokens)
    return Operator(form, room, lambda targets: _prepare(
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
             *given: Any) -> Operator:
    *rows, axes, room, prefix_rows, max_tokens, in_place = given
    lead = kept.shape[:-1] if cu_seqlens is None else ()
    form = Form((*lead, rows[0].shape[axes[0]]), prefix_rows, cu_seqlens, max_tokens,
                name="rows[0]")
    return Operator(form, room, lambda targets: _prepare(
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
              cu_seqlens: Tensor | None, *given: Any) -> Operator:
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

    return Operator(form, room, prepare, (x, roles, q, k, lse, cu_seqlens, *rows),
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
