# SPDX-License-Identifier: Apache-2.0
"""The operators of _torch_ops.py that move any arrays: compact and prune_sequence."""
from __future__ import annotations

from typing import Any, Sequence

from torch import Tensor

from ._abi import Policy, Reduction
from ._options import RelevanceOptions
from ._sequence import prune_sequence as _prune_sequence
from ._torch_again import compact_again
from ._torch_forms import (Form, axes_of, check_room, define, gathered, int32, new_rows, rows_like,
                           rule_of_word)


# ---------------------------------------------------------------------------------------- compact
def _compact_kernel(rows: list[Tensor], axes: list[int], kept: Tensor,
                    *how: Any) -> list[Tensor]:
    axes = axes_of(rows, axes, kept.dim() == 2)
    return list(compact_again(rows, axes, kept, *how, in_place=False))


def _compact_fake(rows: list[Tensor], axes: list[int], kept: Tensor, *_how: Any) -> list[Tensor]:
    return new_rows(rows, axes_of(rows, axes, kept.dim() == 2), kept.shape[-1])


def _compact_in_place_kernel(rows: list[Tensor], axes: list[int], kept: Tensor,
                             *how: Any) -> None:
    compact_again(rows, axes_of(rows, axes, kept.dim() == 2), kept, *how, in_place=True)


def _compact_in_place_fake(rows: list[Tensor], axes: list[int], kept: Tensor, *_how: Any) -> None:
    axes_of(rows, axes, kept.dim() == 2)


_KEPT = "Tensor kept, Tensor counts, int prefix_rows"
define(f"compact(Tensor[] rows, int[] axes, {_KEPT}, Tensor? cu_seqlens, int max_tokens) -> "
       "Tensor[]", _compact_kernel, _compact_fake)
define(f"compact_(Tensor(a!)[] rows, int[] axes, {_KEPT}, Tensor? cu_seqlens, int max_tokens) -> "
       "()", _compact_in_place_kernel, _compact_in_place_fake)


# --------------------------------------------------------------------------------- prune_sequence
_SEQUENCE = ("Tensor roles, {}[] rows, int[] axes, SymInt room, str rule, int dim, Tensor? q, "
             "Tensor? k, Tensor? lse, int policy, bool causal, bool last_query, "
             "int head_reduction, int query_reduction")


def _sequence_pruned(form: Form, out: Tensor, targets: Sequence[Tensor], x: Tensor, roles: Tensor,
                     rows: Sequence[Tensor], axes: Sequence[int], room: int, rule: str, dim: int,
                     q: Tensor | None, k: Tensor | None, lse: Tensor | None, policy: int,
                     causal: bool, last_query: bool, heads: int,
                     queries: int) -> tuple[Tensor, Tensor]:
    options = RelevanceOptions(Policy(policy), causal, last_query, q, k, Reduction(heads),
                               Reduction(queries), lse)
    found = _prune_sequence(x, roles.contiguous(), options, rule=rule_of_word(rule), out=out,
                            zero_tail=out is not x and not form.ragged, want=(),
                            batch=form.batch(), dim=dim,
                            placement=form.placement,
                            rows=gathered(rows, targets, axes, form.placement))
    check_room(found.counts.sum() if form.ragged else found.counts, room)
    return form.first(found.kept, found.counts, room), found.counts.clone()


def _sequence_kernel(x: Tensor, roles: Tensor, rows: list[Tensor], axes: list[int], room: int,
                     *how: Any) -> tuple[Any, ...]:
    form = Form(x.shape[:-1], 0, *how[-2:])
    axes = axes_of(rows, axes, bool(form.lead))
    tokens, moved = rows_like(x, room, zero=form.ragged), new_rows(rows, axes, room, form.ragged)
    return tokens, *_sequence_pruned(form, tokens, moved, x, roles, rows, axes, room,
                                     *how[:-2]), moved


def _sequence_in_place_kernel(x: Tensor, roles: Tensor, rows: list[Tensor], axes: list[int],
                              *how: Any) -> tuple[Tensor, Tensor]:
    form = Form(x.shape[:-1], 0, *how[-2:])
    axes = axes_of(rows, axes, bool(form.lead))
    return _sequence_pruned(form, x, rows, x, roles, rows, axes, *how[:-2])


def _sequence_shapes(form: Form, x: Tensor, rows: list[Tensor], axes: list[int],
                     room: int) -> tuple[Tensor, Tensor]:
    axes_of(rows, axes, bool(form.lead))
    return int32((*form.lead, room), x), int32((form.segments,), x)


def _sequence_in_place_fake(x: Tensor, _roles: Tensor, rows: list[Tensor], axes: list[int],
                            room: int, *how: Any) -> tuple[Tensor, Tensor]:
    return _sequence_shapes(Form(x.shape[:-1], 0, *how[-2:]), x, rows, axes, room)


def _sequence_fake(x: Tensor, _roles: Tensor, rows: list[Tensor], axes: list[int], room: int,
                   *how: Any) -> tuple[Any, ...]:
    form = Form(x.shape[:-1], 0, *how[-2:])
    found = _sequence_shapes(form, x, rows, axes, room)
    return rows_like(x, room), *found, new_rows(rows, axes_of(rows, axes, bool(form.lead)), room)


define(f"prune_sequence(Tensor x, {_SEQUENCE.format('Tensor')}, Tensor? cu_seqlens, "
       "int max_tokens) -> (Tensor tokens, Tensor kept, Tensor counts, Tensor[] moved)",
       _sequence_kernel, _sequence_fake)
define(f"prune_sequence_(Tensor(a!) x, {_SEQUENCE.format('Tensor(b!)')}, Tensor? cu_seqlens, "
       "int max_tokens) -> (Tensor kept, Tensor counts)", _sequence_in_place_kernel,
       _sequence_in_place_fake)
