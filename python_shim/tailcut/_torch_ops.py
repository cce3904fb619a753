# SPDX-License-Identifier: Apache-2.0
"""The operators torch.ops.tailcut.*, which tailcut.torch calls: schemas, kernels for cpu and cuda,
shapes for tracing. Here those of tokens; _torch_rows.py has those of other arrays,
_torch_gradients.py their gradients. An operator's arguments are tensors, numbers and strings, so a
rule travels as "detector=TOPK k=144".

Results are LOCAL: segment b's are rows 0 .. counts[b] - 1 of [B, room, ..]; with cu_seqlens PACKED:
they follow each other in [room, ..]. Behind them is zero (numbers of rows: -1). In place they are
LOCAL always, ragged ones at their segment's own start; numbers of rows are as above. No output
shares memory with another, as operators must have it.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._abi import Power
from ._calls import merge as _merge, prune as _prune, score as _score
from ._options import Merge
from ._torch_again import cut_again, prune_again
from ._torch_forms import (RAGGED, Form, check_room, define, int32, reference_of, rows_like,
                           rule_of_word)


# ---------------------------------------------------------------------------------- score and cut
def _score_kernel(x: Tensor, cls: Tensor | None, source: int, lag: int, prefix_rows: int, dim: int,
                  *ragged: Any) -> tuple[Tensor, Tensor]:
    form = Form(x.shape[:-1], prefix_rows, *ragged)
    found = _score(x, reference_of(cls, source, lag), batch=form.batch(), dim=dim)
    return found.scores, found.flags.clone()


def _score_fake(x: Tensor, _cls: Any, _source: int, _lag: int, prefix_rows: int, _dim: int,
                *ragged: Any) -> tuple[Tensor, Tensor]:
    form = Form(x.shape[:-1], prefix_rows, *ragged)
    return (torch.empty(form.rows, dtype=torch.float32, device=x.device),
            int32((form.segments,), x))


def _cut_form(scores: Tensor, prefix_rows: int, ragged: tuple[Any, ...]) -> Form:
    return Form(scores.shape, prefix_rows, *ragged, name="scores", more="")


def _cut_fake(scores: Tensor, _flags: Any, rule: str, prefix_rows: int,
              *ragged: Any) -> tuple[Tensor, Tensor]:
    form = _cut_form(scores, prefix_rows, ragged)
    return (int32((*form.lead, form.room(rule)), scores), int32((form.segments,), scores))


define("score(Tensor x, Tensor? cls, int source, int lag, int prefix_rows, int dim, "
       "Tensor? cu_seqlens, int max_tokens) -> (Tensor scores, Tensor flags)", _score_kernel,
       _score_fake)
define(f"cut(Tensor scores, Tensor? flags, str rule, int prefix_rows, {RAGGED}) -> "
       "(Tensor kept, Tensor counts)", cut_again, _cut_fake)


# ------------------------------------------------------------------------------------------ prune
_PRUNE = "Tensor? cls, str rule, int source, int lag, int prefix_rows, int dim"


def _prune_in_place_kernel(*inputs: Any) -> Any:
    return prune_again(*inputs, in_place=True)


def _prune_in_place_fake(x: Tensor, _cls: Any, rule: str, _source: int, _lag: int,
                         prefix_rows: int, _dim: int, *ragged: Any) -> tuple[Tensor, Tensor]:
    form = Form(x.shape[:-1], prefix_rows, *ragged)
    return int32((*form.lead, form.room(rule)), x), int32((form.segments,), x)


def _prune_fake(x: Tensor, *how: Any) -> tuple[Tensor, Tensor, Tensor]:
    kept, counts = _prune_in_place_fake(x, *how)
    return rows_like(x, kept.shape[-1]), kept, counts


define(f"prune(Tensor x, {_PRUNE}, {RAGGED}) -> (Tensor tokens, Tensor kept, Tensor counts)",
       prune_again, _prune_fake)
define(f"prune_(Tensor(a!) x, {_PRUNE}, {RAGGED}) -> (Tensor kept, Tensor counts)",
       _prune_in_place_kernel, _prune_in_place_fake)


# -------------------------------------------------------------------------------- prune and merge
_MERGE = "int power, int window, Tensor? sizes"


def _prune_merged(out: Tensor, form: Form, x: Tensor, cls: Tensor | None, word: str, source: int,
                  lag: int, dim: int, power: int, window: int,
                  sizes: Tensor | None) -> tuple[Tensor, ...]:
    room = form.room(word)
    found: Any = _prune(
        x, reference_of(cls, source, lag), rule=rule_of_word(word), batch=form.batch(), out=out,
        zero_tail=out is not x and not form.ragged, want=("joins",), dim=dim,
        placement=form.placement, merge=Merge(Power(power), window, sizes))
    if form.ragged and out is x:
        check_room(found.counts.sum(), room)
    return (form.first(found.kept, found.counts, room), found.counts.clone(),
            form.first(found.sizes, found.counts, room, 0).clamp_(min=0), found.joins.clone())


def _prune_merge_kernel(x: Tensor, cls: Tensor | None, rule: str, source: int, lag: int,
                        prefix_rows: int, dim: int, power: int, window: int, sizes: Tensor | None,
                        *ragged: Any) -> tuple[Tensor, ...]:
    form = Form(x.shape[:-1], prefix_rows, *ragged)
    tokens = rows_like(x, form.room(rule), zero=form.ragged)
    return tokens, *_prune_merged(tokens, form, x, cls, rule, source, lag, dim, power, window,
                                  sizes)


def _prune_merge_in_place_kernel(x: Tensor, cls: Tensor | None, rule: str, source: int, lag: int,
                                 prefix_rows: int, dim: int, power: int, window: int,
                                 sizes: Tensor | None, *ragged: Any) -> tuple[Tensor, ...]:
    return _prune_merged(x, Form(x.shape[:-1], prefix_rows, *ragged), x, cls, rule, source, lag,
                         dim, power, window, sizes)


def _prune_merge_in_place_fake(x: Tensor, *how: Any) -> tuple[Tensor, ...]:
    kept, counts = _prune_in_place_fake(x, *how[:6], *how[9:])
    return kept, counts, int32(kept.shape, x), int32(x.shape[:-1], x)


def _prune_merge_fake(x: Tensor, *how: Any) -> tuple[Tensor, ...]:
    others = _prune_merge_in_place_fake(x, *how)
    return rows_like(x, others[0].shape[-1]), *others


define(f"prune_merge(Tensor x, {_PRUNE}, {_MERGE}, {RAGGED}) -> "
       "(Tensor tokens, Tensor kept, Tensor counts, Tensor sizes, Tensor joins)",
       _prune_merge_kernel, _prune_merge_fake)
define(f"prune_merge_(Tensor(a!) x, {_PRUNE}, {_MERGE}, {RAGGED}) -> "
       "(Tensor kept, Tensor counts, Tensor sizes, Tensor joins)",
       _prune_merge_in_place_kernel, _prune_merge_in_place_fake)


def _merge_kernel(x: Tensor, kept: Tensor, counts: Tensor, power: int, window: int,
                  sizes: Tensor | None, prefix_rows: int, dim: int,
                  *ragged: Any) -> tuple[Tensor, Tensor, Tensor]:
    form, room = Form(x.shape[:-1], prefix_rows, *ragged), int(kept.shape[-1])
    tokens = rows_like(x, room, zero=form.ragged)
    found: Any = _merge(x, *form.given_kept(kept, counts, x.shape[-2]),
                        merge=Merge(Power(power), window, sizes), batch=form.batch(),
                        kept_placement=form.placement, placement=form.placement, out=tokens,
                        zero_tail=not form.ragged, want=("joins",), dim=dim)
    return tokens, form.first(found.sizes, counts, room, 0).clamp_(min=0), found.joins.clone()


def _merge_fake(x: Tensor, kept: Tensor, *_how: Any) -> tuple[Tensor, Tensor, Tensor]:
    return rows_like(x, kept.shape[-1]), int32(kept.shape, x), int32(x.shape[:-1], x)


define(f"merge(Tensor x, Tensor kept, Tensor counts, {_MERGE}, int prefix_rows, int dim, "
       "Tensor? cu_seqlens, int max_tokens) -> (Tensor tokens, Tensor sizes, Tensor joins)",
       _merge_kernel, _merge_fake)
