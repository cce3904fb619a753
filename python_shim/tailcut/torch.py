# SPDX-License-Identifier: Apache-2.0
"""Pruning as PyTorch operators (torch.ops.tailcut.prune and prune_): they trace, so torch.compile(fullgraph=True) and
CUDA graphs take them; outputs and workspace come from torch's allocator, work goes to the current stream, and nothing
waits for a count. Gradients flow to the rows that are kept.

Shapes are static: [B, room, D], room being what tailcut.kept_count says. TOPK and RATIO fill it exactly; other rules
fill counts[b] rows of it, the rest is zero and its `kept` -1. Importing this imports torch.
"""
from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._abi import Detector, Placement, ReferenceSource
from ._calls import kept_count, prune as _prune
from ._errors import conflict
from ._options import Batch, Reference, Rule

_EXACT = (Detector.TOPK, Detector.RATIO)


class Pruned(NamedTuple):
    """What `prune` gives; without the batch's axis for [N, D]."""

    tokens: Tensor  #: [B, room, D]
    kept: Tensor    #: int32 [B, room]: numbers of the kept candidates, ascending, then -1
    counts: Tensor  #: int32 [B]: how many; on the device


def prune(x: Tensor, cls: Tensor | Reference | str | None = None, *, rule: Rule | str | None = None,
          prefix_rows: int = 0, dim: int | None = None) -> Pruned:
    """tailcut.prune with static shapes.

    x     [B, N, D] or [N, D], float16, bfloat16 or float32; any strides but along D
    cls   [D] or [B, D] in x's dtype or float32; "row", "mean" or None, or a Reference
    rule  its max_keep is what bounds `room` where the number of kept tokens depends on the data
    """
    source, lag, prefix_rows = _source(cls, prefix_rows)
    vector = cls if isinstance(cls, Tensor) else cls.data if isinstance(cls, Reference) else None
    return Pruned(*torch.ops.tailcut.prune(x, vector, _word(rule), source, lag, prefix_rows, dim or x.shape[-1]))


def prune_(x: Tensor, cls: Tensor | Reference | str | None = None, *, rule: Rule | str | None = None,
           prefix_rows: int = 0, dim: int | None = None) -> Pruned:
    """The same in place, without a gradient: result rows go to the front of x (of each x[b]), and `tokens` is a view of
    them; rows behind counts[b] are unspecified."""
    source, lag, prefix_rows = _source(cls, prefix_rows)
    vector = cls if isinstance(cls, Tensor) else cls.data if isinstance(cls, Reference) else None
    kept, counts = torch.ops.tailcut.prune_(x, vector, _word(rule), source, lag, prefix_rows, dim or x.shape[-1])
    return Pruned(x.narrow(-2, 0, kept.shape[-1]), kept, counts)


def _source(cls: Any, prefix_rows: int) -> tuple[int, int, int]:
    """(source, lag or window, prefix rows)."""
    if cls is None:
        return int(ReferenceSource.MEAN), 0, prefix_rows
    if isinstance(cls, Tensor):
        return int(ReferenceSource.GIVEN), 0, prefix_rows
    given = Reference(cls) if isinstance(cls, str) else cls
    row = given.source == ReferenceSource.ROW
    return int(given.source), given.lag or given.window, max(prefix_rows, 1 if row else 0)


# ------------------------------------------------------------------------------------------ rules as text
# An operator's arguments are numbers, tensors and strings: a rule travels as "detector=TOPK k=144".
def _word(rule: Rule | str | None) -> str:
    if rule is None or isinstance(rule, str):
        return f"detector={rule or 'otsu'}"
    if rule.group_k is not None:
        raise conflict("rule.group_k: an operator has one k for all")
    default, words = Rule(), [f"detector={rule.detector.name}"]  # type: ignore[union-attr]
    for name in rule.__dataclass_fields__:
        value = getattr(rule, name)
        if name not in ("detector", "group_k") and value is not None and value != getattr(default, name):
            words.append(f"{name}={getattr(value, 'name', None) or repr(value)}")
    return " ".join(words)


@lru_cache(maxsize=256)
def _rule(word: str) -> Rule:
    fields: dict[str, Any] = {}
    for part in word.split():
        name, _, value = part.partition("=")
        fields[name] = value if name in ("detector", "rounding", "order", "scale") else (
            float(value) if "." in value or "e" in value or "n" in value else int(value))
    return Rule(**fields)


@lru_cache(maxsize=4096)
def _room(word: str, candidates: int) -> int:
    return kept_count(_rule(word), max(candidates, 0))


# --------------------------------------------------------------------------------------------- operators
_ARGUMENTS = "Tensor? cls, str rule, int source, int lag, int prefix_rows, int dim"
torch.library.define("tailcut::prune", f"(Tensor x, {_ARGUMENTS}) -> (Tensor tokens, Tensor kept, Tensor counts)")
torch.library.define("tailcut::prune_", f"(Tensor(a!) x, {_ARGUMENTS}) -> (Tensor kept, Tensor counts)")


def _shapes(x: Tensor, word: str, prefix_rows: int) -> tuple[tuple[int, ...], int]:
    """(the batch's axis or none, room)."""
    if x.dim() not in (2, 3):
        raise conflict(f"x has shape {list(x.shape)}: [N, D] or [B, N, D] is expected")
    return tuple(x.shape[:-2]), _room(word, int(x.shape[-2]) - prefix_rows)


def _run(x: Tensor, cls: Tensor | None, word: str, source: int, lag: int, prefix_rows: int, dim: int,
         out: Tensor) -> tuple[Tensor, Tensor]:
    lead, room = _shapes(x, word, prefix_rows)
    rule = _rule(word)
    exact = rule.detector in _EXACT
    reference: Any = cls if source == ReferenceSource.GIVEN else Reference(ReferenceSource(source), **{
        "window" if source == ReferenceSource.NOVELTY else "lag": lag})
    packed = exact and bool(lead)
    into = out.view(-1, out.shape[-1]) if packed and out is not x else out
    found = _prune(x, reference, rule=rule, batch=Batch(prefix_rows=prefix_rows) if prefix_rows else None, out=into,
                   zero_tail=out is not x and not exact, want=(), dim=dim,
                   placement=Placement.PACKED if packed else Placement.LOCAL)
    kept: Tensor = found.kept  # at the start of memory that counts are in too: an operator's outputs share none
    kept = kept[:lead[0] * room].view(*lead, room) if packed else kept[..., :room].contiguous()
    return kept, found.counts.clone()


def _count(lead: tuple[int, ...]) -> int:
    return lead[0] if lead else 1


@torch.library.impl("tailcut::prune", ("cpu", "cuda"))
def _prune_kernel(x: Tensor, cls: Tensor | None, rule: str, source: int, lag: int, prefix_rows: int,
                  dim: int) -> tuple[Tensor, Tensor, Tensor]:
    lead, room = _shapes(x, rule, prefix_rows)
    tokens = torch.empty((*lead, room, x.shape[-1]), dtype=x.dtype, device=x.device)
    return (tokens, *_run(x, cls, rule, source, lag, prefix_rows, dim, tokens))


@torch.library.impl("tailcut::prune_", ("cpu", "cuda"))
def _prune_in_place_kernel(x: Tensor, cls: Tensor | None, rule: str, source: int, lag: int, prefix_rows: int,
                           dim: int) -> tuple[Tensor, Tensor]:
    return _run(x, cls, rule, source, lag, prefix_rows, dim, x)


@torch.library.register_fake("tailcut::prune")
def _prune_fake(x: Tensor, cls: Tensor | None, rule: str, source: int, lag: int, prefix_rows: int,
                dim: int) -> tuple[Tensor, Tensor, Tensor]:
    lead, room = _shapes(x, rule, prefix_rows)
    return (torch.empty((*lead, room, x.shape[-1]), dtype=x.dtype, device=x.device),
            *_prune_in_place_fake(x, cls, rule, source, lag, prefix_rows, dim))


@torch.library.register_fake("tailcut::prune_")
def _prune_in_place_fake(x: Tensor, cls: Tensor | None, rule: str, source: int, lag: int, prefix_rows: int,
                         dim: int) -> tuple[Tensor, Tensor]:
    lead, room = _shapes(x, rule, prefix_rows)
    return (torch.empty((*lead, room), dtype=torch.int32, device=x.device),
            torch.empty((_count(lead),), dtype=torch.int32, device=x.device))


# ------------------------------------------------------------------------------------------------ gradient
def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _cls, _word, _source, _lag, ctx.prefix_rows, _dim = inputs
    ctx.save_for_backward(output[1])
    ctx.shape = x.shape


def _backward(ctx: Any, grad: Tensor, _kept: Any, _counts: Any) -> tuple[Any, ...]:
    """The choice is constant: each kept row gets its result's gradient, the others none."""
    (kept,) = ctx.saved_tensors
    rows = kept.clamp(min=0).long() + ctx.prefix_rows
    grad = grad * (kept >= 0).unsqueeze(-1)
    into = torch.zeros(ctx.shape, dtype=grad.dtype, device=grad.device)
    return into.scatter_add(-2, rows.unsqueeze(-1).expand_as(grad), grad), None, None, None, None, None, None


torch.library.register_autograd("tailcut::prune", _backward, setup_context=_save)
