# SPDX-License-Identifier: Apache-2.0
"""The operators torch.ops.tailcut.*, which tailcut.torch calls: schemas, and shapes for tracing.
Their kernels for cpu and cuda are in _torch_again.py, their gradients in _torch_gradients.py. An
operator's arguments are tensors, numbers and strings, so a rule travels as "detector=TOPK k=144".

Results are LOCAL: segment b's are rows 0 .. counts[b] - 1 of [B, room, ..]; with cu_seqlens PACKED:
they follow each other in [room, ..]. Behind them is zero (numbers of rows: -1). In place they are
LOCAL always, ragged ones at their segment's own start; numbers of rows are as above. No output
shares memory with another, as operators must have it.
"""
from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import _torch_again as _again
from ._torch_forms import RAGGED, Form, axes_of, define, int32, new_rows, rows_like


# ---------------------------------------------------------------------------------- score and cut
def _score_fake(x: Tensor, _cls: Any, _source: int, _lag: int, prefix_rows: int, _dim: int,
                *ragged: Any) -> tuple[Tensor, Tensor]:
    form = Form(x.shape[:-1], prefix_rows, *ragged)
    return (torch.empty(form.rows, dtype=torch.float32, device=x.device),
            int32((form.segments,), x))


def _cut_fake(scores: Tensor, _flags: Any, rule: str, prefix_rows: int,
              *ragged: Any) -> tuple[Tensor, Tensor]:
    form = Form(scores.shape, prefix_rows, *ragged, name="scores", more="")
    return (int32((*form.lead, form.room(rule)), scores), int32((form.segments,), scores))


define("score(Tensor x, Tensor? cls, int source, int lag, int prefix_rows, int dim, "
       "Tensor? cu_seqlens, int max_tokens) -> (Tensor scores, Tensor flags)", _again.score_again,
       _score_fake)
define(f"cut(Tensor scores, Tensor? flags, str rule, int prefix_rows, {RAGGED}) -> "
       "(Tensor kept, Tensor counts)", _again.cut_again, _cut_fake)


# -------------------------------------------------------------------------------- prune and merge
_PRUNE = "Tensor? cls, str rule, int source, int lag, int prefix_rows, int dim"
_MERGE = "int power, int window, Tensor? sizes"


def _prune_in_place_fake(x: Tensor, _cls: Any, rule: str, _source: int, _lag: int,
                         prefix_rows: int, _dim: int, *ragged: Any) -> tuple[Tensor, Tensor]:
    form = Form(x.shape[:-1], prefix_rows, *ragged)
    return int32((*form.lead, form.room(rule)), x), int32((form.segments,), x)


def _prune_fake(x: Tensor, *how: Any) -> tuple[Tensor, Tensor, Tensor]:
    kept, counts = _prune_in_place_fake(x, *how)
    return rows_like(x, kept.shape[-1]), kept, counts


def _prune_merge_in_place_fake(x: Tensor, *how: Any) -> tuple[Tensor, ...]:
    kept, counts = _prune_in_place_fake(x, *how[:6], *how[9:])
    return kept, counts, int32(kept.shape, x), int32(x.shape[:-1], x)


def _prune_merge_fake(x: Tensor, *how: Any) -> tuple[Tensor, ...]:
    others = _prune_merge_in_place_fake(x, *how)
    return rows_like(x, others[0].shape[-1]), *others


def _merge_fake(x: Tensor, kept: Tensor, *_how: Any) -> tuple[Tensor, Tensor, Tensor]:
    return rows_like(x, kept.shape[-1]), int32(kept.shape, x), int32(x.shape[:-1], x)


define(f"prune(Tensor x, {_PRUNE}, {RAGGED}) -> (Tensor tokens, Tensor kept, Tensor counts)",
       _again.prune_again, _prune_fake)
define(f"prune_(Tensor(a!) x, {_PRUNE}, {RAGGED}) -> (Tensor kept, Tensor counts)",
       partial(_again.prune_again, in_place=True), _prune_in_place_fake)
define(f"prune_merge(Tensor x, {_PRUNE}, {_MERGE}, {RAGGED}) -> "
       "(Tensor tokens, Tensor kept, Tensor counts, Tensor sizes, Tensor joins)",
       _again.prune_merge_again, _prune_merge_fake)
define(f"prune_merge_(Tensor(a!) x, {_PRUNE}, {_MERGE}, {RAGGED}) -> "
       "(Tensor kept, Tensor counts, Tensor sizes, Tensor joins)",
       partial(_again.prune_merge_again, in_place=True), _prune_merge_in_place_fake)
define(f"merge(Tensor x, Tensor kept, Tensor counts, {_MERGE}, int prefix_rows, int dim, "
       "Tensor? cu_seqlens, int max_tokens) -> (Tensor tokens, Tensor sizes, Tensor joins)",
       _again.merge_again, _merge_fake)


# ---------------------------------------------------------------------------------------- compact
def _compact_fake(rows: list[Tensor], axes: list[int], kept: Tensor, *_how: Any) -> list[Tensor]:
    return new_rows(rows, axes_of(rows, axes, kept.dim() == 2), kept.shape[-1])


def _compact_in_place_kernel(*inputs: Any) -> None:
    _again.compact_again(*inputs, in_place=True)


def _compact_in_place_fake(rows: list[Tensor], axes: list[int], kept: Tensor, *_how: Any) -> None:
    axes_of(rows, axes, kept.dim() == 2)


_KEPT = "Tensor kept, Tensor counts, int prefix_rows"
define(f"compact(Tensor[] rows, int[] axes, {_KEPT}, Tensor? cu_seqlens, int max_tokens) -> "
       "Tensor[]", _again.compact_again, _compact_fake)
define(f"compact_(Tensor(a!)[] rows, int[] axes, {_KEPT}, Tensor? cu_seqlens, int max_tokens) -> "
       "()", _compact_in_place_kernel, _compact_in_place_fake)


# --------------------------------------------------------------------------------- prune_sequence
_SEQUENCE = ("Tensor roles, {}[] rows, int[] axes, SymInt room, str rule, int dim, Tensor? q, "
             "Tensor? k, Tensor? lse, int policy, bool causal, bool last_query, "
             "int head_reduction, int query_reduction")


def _sequence_in_place_fake(x: Tensor, _roles: Tensor, rows: list[Tensor], axes: list[int],
                            room: int, *how: Any) -> tuple[Tensor, Tensor]:
    form = Form(x.shape[:-1], 0, *how[-2:])
    axes_of(rows, axes, bool(form.lead))
    return int32((*form.lead, room), x), int32((form.segments,), x)


def _sequence_fake(x: Tensor, roles: Tensor, rows: list[Tensor], axes: list[int], room: int,
                   *how: Any) -> tuple[Any, ...]:
    return (rows_like(x, room), *_sequence_in_place_fake(x, roles, rows, axes, room, *how),
            new_rows(rows, axes_of(rows, axes, x.dim() == 3), room))


define(f"prune_sequence(Tensor x, {_SEQUENCE.format('Tensor')}, Tensor? cu_seqlens, "
       "int max_tokens) -> (Tensor tokens, Tensor kept, Tensor counts, Tensor[] moved)",
       _again.sequence_again, _sequence_fake)
define(f"prune_sequence_(Tensor(a!) x, {_SEQUENCE.format('Tensor(b!)')}, Tensor? cu_seqlens, "
       "int max_tokens) -> (Tensor kept, Tensor counts)",
       partial(_again.sequence_again, in_place=True), _sequence_in_place_fake)
