# SPDX-License-Identifier: Apache-2.0
"""Pruning as PyTorch operators (torch.ops.tailcut.*): they trace, so torch.compile(fullgraph=True)
and CUDA graphs take them; outputs and workspace come from torch's allocator, work goes to the
current stream, and nothing waits for a count. Gradients flow to the rows that are kept.

Shapes are static: results are [B, room, ..]. Segment b's are the first counts[b], the rest is zero
(numbers of rows: -1). For prune and cut, room is what tailcut.kept_count says: TOPK and RATIO fill
it exactly, other rules up to max_keep. Without the batch's axis for [N, D].

Ragged batches, such as Qwen2.5-VL's images behind one another: arrays [total, ..] with cu_seqlens
(int32 [B + 1] on the device) and max_tokens (a number: rows of the longest segment, prefix rows
included; default: all). Results follow each other in [room, ..], behind the last is the same as
above, and Pruned.cu_seqlens says where each segment's begin. room is by default the most that any
lengths could leave; who knows the lengths gives the sum of tailcut.kept_count. What finds no room
is not written (on the host: an error).

Functions whose name ends in _ work in place and have no gradient: what requires one is refused.
There is no forward mode (torch.func.jvp sees constants), and torch.func.grad does not take
the operators. Importing this imports torch.
"""
from __future__ import annotations

from typing import Any, NamedTuple, Sequence, TypeAlias

import torch
from torch import Tensor

from . import _torch_forms as _forms, _torch_transforms  # noqa: F401  (makes the operators)
from ._abi import Policy, Power, ReferenceSource
from ._arrays import NO_GRADIENT
from ._errors import conflict
from ._options import Merge, Reference, RelevanceOptions, Rule, member, merging

Source: TypeAlias = Tensor | Reference | str | None


class Pruned(NamedTuple):
    """What `prune` gives, and `prune_sequence`."""

    tokens: Tensor  #: [B, room, D]
    kept: Tensor    #: int32 [B, room]: kept candidates (rows of a sequence), ascending, then -1
    counts: Tensor  #: int32 [B]: how many; on the device
    sizes: Tensor | None = None  #: int32 [B, room], with merging: tokens a row stands for, then 0;
    #:                              in later layers logits of keys + log(sizes)
    joins: Tensor | None = None  #: int32 [B, N], with merging: what candidate i joins, -1 for none
    rows: tuple[Tensor, ...] = ()  #: prune_sequence: those of `rows`
    cu_seqlens: Tensor | None = None  #: ragged: int32 [B + 1], offsets of the results (in place: of
    #:                                   those in kept and sizes)


def prune(x: Tensor, reference: Source = None, *, rule: Rule | str | None = None,
          prefix_rows: int = 0, dim: int | None = None, merge: Merge | Power | str | None = None,
          cu_seqlens: Tensor | None = None, max_tokens: int | None = None,
          room: int | None = None) -> Pruned:
    """tailcut.prune with static shapes.

    x          [B, N, D] or [N, D], float16, bfloat16 or float32; any strides but along D
    reference  [D] or [B, D] in x's dtype or float32; "row", "mean" or None, "novelty", a Reference
    rule       its max_keep bounds `room` where the number of kept tokens depends on the data
    merge      dropped tokens are merged into kept ones: a Merge (sizes_in int32 [B, N]), or its
               power. A result's gradient goes to its members by their weights, which count as
               constants (they come from rounded integers), as does the choice of members
    """
    arguments = _arguments(x, reference, rule, prefix_rows, dim)
    ragged = _ragged(x, cu_seqlens, max_tokens, room)
    if merge is None:
        found = Pruned(*_forms.run("prune", x, *arguments, *ragged))
    else:
        found = Pruned(*_forms.run("prune_merge", x, *arguments, *_merging(merge), *ragged))
    return _with_offsets(found, cu_seqlens)


def prune_(x: Tensor, reference: Source = None, *, rule: Rule | str | None = None,
           prefix_rows: int = 0, dim: int | None = None,
           merge: Merge | Power | str | None = None, cu_seqlens: Tensor | None = None,
           max_tokens: int | None = None, room: int | None = None) -> Pruned:
    """The same in place: result rows go to the front of x (of each x[b]), and `tokens` is a view of
    them; rows behind counts[b] are unspecified. Ragged: `tokens` is x, with the results of segment
    b in its rows from the given cu_seqlens[b]; kept and sizes follow each other as in `prune` (more
    than `room`: an error on the host, behind which x is pruned)."""
    _in_place([x])
    arguments = _arguments(x, reference, rule, prefix_rows, dim)
    ragged = _ragged(x, cu_seqlens, max_tokens, room)
    if merge is None:
        found = _forms.run("prune_", x, *arguments, *ragged)
    else:
        found = _forms.run("prune_merge_", x, *arguments, *_merging(merge), *ragged)
    return _with_offsets(Pruned(_front(x, -2, found[0], cu_seqlens), *found), cu_seqlens)


def score(x: Tensor, reference: Source = None, *, prefix_rows: int = 0, dim: int | None = None,
          cu_seqlens: Tensor | None = None,
          max_tokens: int | None = None) -> tuple[Tensor, Tensor]:
    """(float32 scores [B, N] or [total], int32 flags [B]) for `cut`; as tailcut.score. They have no
    gradient."""
    source, lag, prefix_rows = _source(reference, prefix_rows)
    ragged = _ragged(x, cu_seqlens, max_tokens, None)[:2]
    scores, flags = _forms.run("score", x, _vector(reference), source, lag, prefix_rows,
                               x.shape[-1] if dim is None else dim, *ragged)
    return scores, flags


def cut(scores: Tensor, rule: Rule | str | None = None, *, flags: Tensor | None = None,
        prefix_rows: int = 0, cu_seqlens: Tensor | None = None, max_tokens: int | None = None,
        room: int | None = None) -> tuple[Tensor, Tensor]:
    """(kept [B, room], counts [B]) from float32 scores [B, N], [N] or [total] of any kind, higher
    is better. With Rule(scale="unit") and the flags of `score`: what `prune` keeps."""
    kept, counts = _forms.run("cut", scores, flags, _forms.rule_word(rule), prefix_rows,
                              *_ragged(scores, cu_seqlens, max_tokens, room))
    return kept, counts


def compact(rows: Sequence[Tensor], kept: Tensor, counts: Tensor, *,
            token_axis: int | Sequence[int] | None = None, prefix_rows: int = 0,
            cu_seqlens: Tensor | None = None,
            max_tokens: int | None = None) -> tuple[Tensor, ...]:
    """The kept rows of any arrays, one behind another: each with `room` in place of its tokens.

    rows          arrays of any dtype, any strides: [B, N, ...], K and V [B, H, N, d], ...; axis 0
                  is the batch's where kept has one
    kept, counts  of `prune`, `cut` or `prune_sequence`: int32 [B, room] and [B]. On the device they
                  are not looked at; where more than room are counted, a segment has no results
    token_axis    which axis numbers the tokens, of all or of each. Default: 1 in a batch, else 0
    prefix_rows   rows before the first that `kept` numbers
    cu_seqlens    of the arrays, where they are ragged: [total, ...], K and V [H, total, d], ...
    """
    axes = _axes(rows, kept, token_axis)
    return tuple(_forms.run("compact", list(rows), axes, kept, counts, prefix_rows,
                            *_ragged(rows, cu_seqlens, max_tokens, None, axes)[:2]))


def compact_(rows: Sequence[Tensor], kept: Tensor, counts: Tensor, *,
             token_axis: int | Sequence[int] | None = None, prefix_rows: int = 0,
             cu_seqlens: Tensor | None = None,
             max_tokens: int | None = None) -> tuple[Tensor, ...]:
    """The same in place; returns views of the first `room` rows (ragged: the arrays, with results
    as `prune_` places them). What is behind counts[b] is unspecified."""
    _in_place(rows, "rows")
    axes = _axes(rows, kept, token_axis)
    _forms.run("compact_", list(rows), axes, kept, counts, prefix_rows,
               *_ragged(rows, cu_seqlens, max_tokens, None, axes)[:2])
    return tuple(_front(array, axis, kept, cu_seqlens) for array, axis in zip(rows, axes))


def merge(x: Tensor, kept: Tensor, counts: Tensor, *, merge: Merge | Power | str = Power.COS4,
          prefix_rows: int = 0, dim: int | None = None, cu_seqlens: Tensor | None = None,
          max_tokens: int | None = None) -> Pruned:
    """tailcut.merge: kept rows of x become weighted means of what joins them. kept, counts as in
    `compact`; merge and its gradient as in `prune`."""
    ragged = _ragged(x, cu_seqlens, max_tokens, None)[:2]
    tokens, sizes, joins = _forms.run("merge", x, kept, counts, *_merging(merge), prefix_rows,
                                      x.shape[-1] if dim is None else dim, *ragged)
    return _with_offsets(Pruned(tokens, kept, counts, sizes, joins), cu_seqlens)


def prune_sequence(x: Tensor, roles: Tensor, options: RelevanceOptions | Policy | str | None = None,
                   *, rule: Rule | str | None = None, rows: Sequence[Tensor] = (),
                   token_axis: int | Sequence[int] | None = None, room: int | None = None,
                   dim: int | None = None, cu_seqlens: Tensor | None = None,
                   max_tokens: int | None = None) -> Pruned:
    """tailcut.prune_sequence with static shapes: hidden states and any arrays beside them, pruned
    inside a layer. All rows but candidates stay, and kept and counts cover them.

    x           [B, T, D] or [T, D]; with cu_seqlens [total, D]
    roles       uint8 [B, T] or [T] (ragged: [total]), bits of tailcut.Role
    options     as in tailcut.relevance; q, k and lse get no gradient
    rows        position ids [B, T], K/V of earlier layers [B, H, T, d], ...
    token_axis  of `rows`, as in `compact`
    room        rows of a sequence that results have room for; default: all T. With c candidates
                each, under a rule that says k: T - c + tailcut.kept_count(rule, c). A sequence that
                keeps more has no results (on the host: an error)
    """
    axes = _axes(rows, roles, token_axis)
    arguments = _sequence(x, roles, options, rows, axes, rule, room, dim)
    ragged = _ragged(x, cu_seqlens, max_tokens, None)[:2]
    tokens, kept, counts, moved = _forms.run("prune_sequence", x, *arguments, *ragged)
    return _with_offsets(Pruned(tokens, kept, counts, rows=tuple(moved)), cu_seqlens)


def prune_sequence_(x: Tensor, roles: Tensor,
                    options: RelevanceOptions | Policy | str | None = None, *,
                    rule: Rule | str | None = None, rows: Sequence[Tensor] = (),
                    token_axis: int | Sequence[int] | None = None, room: int | None = None,
                    dim: int | None = None, cu_seqlens: Tensor | None = None,
                    max_tokens: int | None = None) -> Pruned:
    """The same in place, x and each of `rows`; tokens and rows are views of the first `room`
    (ragged: the arrays, with results as `prune_` places them). What is behind counts[b] is
    unspecified."""
    _in_place([x])
    _in_place(rows, "rows")
    axes = _axes(rows, roles, token_axis)
    arguments = _sequence(x, roles, options, rows, axes, rule, room, dim)
    ragged = _ragged(x, cu_seqlens, max_tokens, None)[:2]
    kept, counts = _forms.run("prune_sequence_", x, *arguments, *ragged)
    moved = tuple(_front(array, axis, kept, cu_seqlens) for array, axis in zip(rows, axes))
    return _with_offsets(Pruned(_front(x, -2, kept, cu_seqlens), kept, counts, rows=moved),
                         cu_seqlens)


# ----------------------------------------------------------------------------- operators' arguments
def _vector(reference: Source) -> Tensor | None:
    return reference if isinstance(reference, Tensor) else (
        reference.data if isinstance(reference, Reference) else None)


def _source(reference: Source, prefix_rows: int) -> tuple[int, int, int]:
    """(source, lag or window, prefix rows)."""
    if reference is None:
        return int(ReferenceSource.MEAN), 0, prefix_rows
    if isinstance(reference, Tensor):
        return int(ReferenceSource.GIVEN), 0, prefix_rows
    given = Reference(reference) if isinstance(reference, str) else reference
    row = given.source == ReferenceSource.ROW
    return int(given.source), given.lag or given.window, max(prefix_rows, 1 if row else 0)


def _arguments(x: Tensor, reference: Source, rule: Rule | str | None, prefix_rows: int,
               dim: int | None) -> tuple[Any, ...]:
    return (_vector(reference), _forms.rule_word(rule), *_source(reference, prefix_rows),
            x.shape[-1] if dim is None else dim)


def _ragged(x: Any, cu_seqlens: Tensor | None, max_tokens: int | None, room: int | None,
            axes: Sequence[int] = ()) -> tuple[Tensor | None, int, int]:
    """`axes`: of `x`, if that is several arrays."""
    if cu_seqlens is None:
        if max_tokens is not None or room is not None:
            raise conflict("max_tokens and room go with cu_seqlens")
        return None, 0, 0
    if max_tokens is None:
        max_tokens = x.shape[0] if isinstance(x, Tensor) else x[0].shape[axes[0]] if x else 0
    return cu_seqlens, max_tokens, room or 0


def _in_place(arrays: Sequence[Tensor], name: str | None = None) -> None:
    """Refuses what would have a wrong gradient; here, where it is seen when a graph is traced."""
    if torch.is_grad_enabled():
        for i, array in enumerate(arrays):
            if array.requires_grad:
                raise conflict((f"{name}[{i}]" if name else "x") + NO_GRADIENT)


def _front(array: Tensor, axis: int, kept: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Where in-place results are."""
    return array.narrow(axis, 0, kept.shape[-1]) if cu_seqlens is None else array


def _with_offsets(found: Pruned, cu_seqlens: Tensor | None) -> Pruned:
    return found if cu_seqlens is None else found._replace(
        cu_seqlens=_forms.offsets_of(found.counts))


def _merging(merge: Merge | Power | str) -> tuple[int, int, Tensor | None]:
    how = merge if isinstance(merge, Merge) else _POWERS.get(merge) or merging(merge)
    return int(how.power), how.window, how.sizes_in


def _axes(rows: Sequence[Tensor], like: Tensor,
          token_axis: int | Sequence[int] | None) -> list[int]:
    if token_axis is None or isinstance(token_axis, int):
        axis = like.dim() - 1 if token_axis is None else token_axis
        return [axis % array.dim() for array in rows]
    return [axis % array.dim() for axis, array in zip(token_axis, rows, strict=True)]


def _policy(policy: Any) -> RelevanceOptions:
    found = _POLICIES.get(policy)
    return found or RelevanceOptions(member(Policy, policy, "options.policy"))


_POLICIES: dict[Any, RelevanceOptions] = {
    None: RelevanceOptions(), **{policy: RelevanceOptions(policy) for policy in Policy}}
_POWERS: dict[Any, Merge] = {
    name: Merge(power) for power in Power for name in (power, power.name.lower())}


def _sequence(x: Tensor, roles: Tensor, options: Any, rows: Sequence[Tensor], axes: list[int],
              rule: Rule | str | None, room: int | None, dim: int | None) -> tuple[Any, ...]:
    if not isinstance(options, RelevanceOptions):
        options = _policy(options)
    return (roles, list(rows), axes, x.shape[-2] if room is None else room, _forms.rule_word(rule),
            x.shape[-1] if dim is None else dim, options.q, options.k, options.lse,
            int(options.policy), options.causal, options.last_query, int(options.head_reduction),
            int(options.query_reduction))
