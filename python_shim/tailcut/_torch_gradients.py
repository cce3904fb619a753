# SPDX-License-Identifier: Apache-2.0
"""Gradients of the operators of _torch_ops.py. Which rows stay, and what they merge with, is
constant: a kept row gets its result's gradient, and with merging each member its share of it.
"""
from __future__ import annotations

from typing import Any, Sequence

import torch
from torch import Tensor

from . import _torch_ops  # noqa: F401  (the operators)
from ._torch_forms import axes_of


def _to_rows(grad: Tensor, kept: Tensor, prefix_rows: int, shape: Sequence[Any],
             axis: int) -> Tensor:
    """Each kept row gets its result's gradient, the others none."""
    numbers = [1] * grad.dim()
    numbers[axis] = kept.shape[-1]
    if kept.dim() == 2:
        numbers[0] = kept.shape[0]
    kept = kept.reshape(numbers)
    grad = grad.masked_fill(kept < 0, 0)
    rows = (kept.clamp(min=0).long() + prefix_rows).expand_as(grad)
    return torch.zeros(tuple(shape), dtype=grad.dtype, device=grad.device).scatter_add(
        axis, rows, grad)


def _segments(ends: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """(the segment of each of `numbers`, whether it is behind the last one)."""
    found = torch.searchsorted(ends.long(), numbers, right=True)
    return found.clamp(max=max(ends.shape[0] - 1, 0)), found >= ends.shape[0]


def _absolute(kept: Tensor, counts: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Ragged: numbers of rows of the batch, not of a segment."""
    if cu_seqlens is None:
        return kept
    segment, past = _segments(counts.cumsum(0), torch.arange(kept.shape[0], device=kept.device))
    return (kept + cu_seqlens[segment]).masked_fill(past | (kept < 0), -1)


def _absolute_joins(joins: Tensor, cu_seqlens: Tensor, prefix_rows: int) -> Tensor:
    """The row that each row joins; -1 for none, and for rows that are no candidates."""
    rows = torch.arange(joins.shape[0], device=joins.device)
    segment, past = _segments(cu_seqlens[1:], rows)
    first = cu_seqlens[segment] + prefix_rows
    joins = joins[(rows - prefix_rows).clamp(min=0)]
    return (joins + first).masked_fill(past | (rows < first) | (joins < 0), -1)


class _Arrays:
    """What the gradients of a list of arrays need to know of them."""

    def __init__(self, rows: Sequence[Tensor], axes: Sequence[int], batched: bool) -> None:
        self.axes = axes_of(rows, axes, batched)
        self.shapes = [array.shape for array in rows]
        self.floats = [array.is_floating_point() for array in rows]

    def to_rows(self, grads: Sequence[Tensor | None], kept: Tensor,
                prefix_rows: int) -> list[Tensor | None]:
        return [_to_rows(grad, kept, prefix_rows, shape, axis) if floats and grad is not None
                else None for grad, shape, axis, floats in zip(
                    grads, self.shapes, self.axes, self.floats)]


def _save_prune(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.shape, ctx.prefix_rows = inputs[0].shape, inputs[5]
    ctx.save_for_backward(*output[1:], inputs[7])


def _prune_backward(ctx: Any, grad: Tensor, *_others: Any) -> tuple[Any, ...]:
    kept = _absolute(*ctx.saved_tensors)
    return _to_rows(grad, kept, ctx.prefix_rows, ctx.shape, -2), *[None] * 9


def _save_compact(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    rows, axes, kept, counts, ctx.prefix_rows, cu_seqlens, _max_tokens = inputs
    ctx.arrays = _Arrays(rows, axes, kept.dim() == 2)
    ctx.save_for_backward(kept, counts, cu_seqlens)


def _compact_backward(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    kept, counts, cu_seqlens = ctx.saved_tensors
    if cu_seqlens is None:
        numbers = torch.arange(kept.shape[-1], device=kept.device)
        kept = kept.masked_fill(numbers >= (counts if kept.dim() == 1 else counts[:, None]), -1)
    kept = _absolute(kept, counts, cu_seqlens)
    return ctx.arrays.to_rows(grads, kept, ctx.prefix_rows), *[None] * 6


def _save_sequence(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, _roles, rows, axes = inputs[:4]
    ctx.shape, ctx.arrays = x.shape, _Arrays(rows, axes, x.dim() == 3)
    ctx.save_for_backward(*output[1:3], inputs[-2])


def _sequence_backward(ctx: Any, grad: Tensor | None, _kept: Any, _counts: Any,
                       grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    kept = _absolute(*ctx.saved_tensors)
    own = None if grad is None else _to_rows(grad, kept, 0, ctx.shape, -2)
    return own, None, ctx.arrays.to_rows(grads, kept, 0), *[None] * 14


# ---------------------------------------------------------------------------------------- merging
# A merged row is sum(w x) / sum(w) over its members. The weights are constant: gradients of cosines
# through rounded integers would be none.
def _rounded(rows: Tensor) -> Tensor:
    """METHOD.md NOVELTY, step 2: the row's bytes."""
    rows = rows.float()
    exponent = torch.frexp((rows * rows).sum(-1) / rows.shape[-1]).exponent - 1
    scaled = torch.ldexp(rows, (4 - (exponent >> 1)).unsqueeze(-1))
    return torch.nan_to_num(scaled.round().clamp(-127, 127))


def _similarity(x: Tensor, other: Tensor) -> Tensor:
    """Step 3: p of each row and the row that stands in its place in `other`."""
    a, b = _rounded(x), _rounded(other)
    g, aa, bb = ((u * v).sum(-1, dtype=torch.float64).float() for u, v in ((a, b), (a, a), (b, b)))
    return torch.nan_to_num((g / (aa.sqrt() * bb.sqrt()) * 2 ** 20).round())


def _merged_backward(grad: Tensor, x: Tensor, kept: Tensor, joins: Tensor, sizes: Tensor | None,
                     power: int, prefix_rows: int, dim: int) -> Tensor:
    prefix_rows = min(prefix_rows, x.shape[-2])
    candidates = x.shape[-2] - prefix_rows
    rows = x.narrow(-2, prefix_rows, candidates)
    joins = joins.narrow(-1, 0, candidates).long()
    lost = joins < 0
    joins = joins.clamp(min=0)
    if power:
        hosts = rows.gather(-2, joins.unsqueeze(-1).expand_as(rows))
        c = _similarity(rows[..., :dim], hosts[..., :dim]).clamp(min=0, max=2 ** 20) * 2.0 ** -20
        itself = joins == torch.arange(candidates, device=x.device)
        weights = torch.where(itself, 1.0, (c * c) * (c * c))
    else:
        weights = torch.ones(joins.shape, dtype=torch.float32, device=x.device)
    if sizes is not None:
        own = sizes.reshape(x.shape[:-1]).narrow(-1, prefix_rows, candidates)
        weights = weights * own.clamp(min=1)
    weights = weights.masked_fill(lost, 0)
    # Where a kept row's result stands; a number behind the last is thrown away.
    places = torch.zeros((*joins.shape[:-1], candidates + 1), dtype=torch.int64, device=x.device)
    results = torch.arange(kept.shape[-1], device=x.device).expand(kept.shape)
    places = places.scatter(-1, torch.where(kept < 0, candidates, kept.long()), results)
    at = places.gather(-1, joins)
    totals = torch.zeros(kept.shape, dtype=weights.dtype, device=x.device).scatter_add(
        -1, at, weights)
    share = (weights / totals.gather(-1, at)).unsqueeze(-1)
    shared = grad.gather(-2, at.unsqueeze(-1).expand_as(rows)).float() * share
    shared = shared.masked_fill(lost.unsqueeze(-1), 0).to(grad.dtype)
    return torch.nn.functional.pad(shared, (0, 0, prefix_rows, 0)) if prefix_rows else shared


def _save_prune_merge(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _cls, _rule, _source, _lag, ctx.prefix_rows, ctx.dim, ctx.power, _window, sizes = inputs[:10]
    ctx.inputs = len(inputs)
    ctx.save_for_backward(x, output[1], output[4], sizes, output[2], inputs[10])


def _save_merge(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, kept, counts, ctx.power, _window, sizes, ctx.prefix_rows, ctx.dim, cu_seqlens, _ = inputs
    ctx.inputs = len(inputs)
    ctx.save_for_backward(x, kept, output[2], sizes, counts, cu_seqlens)


def _merge_backward(ctx: Any, grad: Tensor, *_others: Any) -> tuple[Any, ...]:
    x, kept, joins, sizes, counts, cu_seqlens = ctx.saved_tensors
    prefix_rows = ctx.prefix_rows
    if cu_seqlens is not None:  # one segment of rows, some of which are no candidates
        joins = _absolute_joins(joins, cu_seqlens, prefix_rows)
        kept = _absolute(kept, counts, cu_seqlens)
        kept, prefix_rows = torch.where(kept < 0, kept, kept + prefix_rows), 0
    return _merged_backward(grad, x, kept, joins, sizes, ctx.power, prefix_rows,
                            ctx.dim), *[None] * (ctx.inputs - 1)


# ----------------------------------------------------------------------------------------- scores
def _save_score(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output)


def _no_backward(_ctx: Any, *_grads: Any) -> tuple[Any, ...]:
    return (None,) * 8


# What is kept of a call, and the gradient.
GRADIENTS: dict[str, tuple[Any, Any]] = {
    "prune": (_save_prune, _prune_backward), "compact": (_save_compact, _compact_backward),
    "prune_sequence": (_save_sequence, _sequence_backward),
    "prune_merge": (_save_prune_merge, _merge_backward), "merge": (_save_merge, _merge_backward),
    "score": (_save_score, _no_backward)}
for _name, (_save, _backward) in GRADIENTS.items():
    torch.library.register_autograd(f"tailcut::{_name}", _backward, setup_context=_save)
