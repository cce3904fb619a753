# SPDX-License-Identifier: Apache-2.0
"""The operators torch.ops.tailcut.*, which tailcut.torch calls: schemas, kernels for cpu and cuda,
shapes for tracing; _torch_gradients.py has their gradients. An operator's arguments are tensors,
numbers and strings, so a rule travels as "detector=TOPK k=144".

Results are LOCAL: segment b's are rows 0 .. counts[b] - 1 of [B, room, ..], then zero (numbers of
rows: -1). No output shares memory with another, as operators must have it.
"""
from __future__ import annotations

from functools import lru_cache
from typing import Any, Sequence

import torch
from torch import Tensor

from ._abi import Detector, Placement, ReferenceSource, RowsFlag
from ._calls import compact as _compact, cut as _cut, kept_count, merge as _merge, prune as _prune
from ._calls import prune_sequence as _prune_sequence, score as _score
from ._errors import conflict, out_of_range
from ._options import Batch, Merge, Reference, RelevanceOptions, Rule
from ._rows import Rows

_EXACT = (Detector.TOPK, Detector.RATIO)
_LOCAL = Placement.LOCAL


# ---------------------------------------------------------------------------------- rules as text
def rule_word(rule: Rule | str | None) -> str:
    if rule is None or isinstance(rule, str):
        return f"detector={rule or 'otsu'}"
    if rule.group_k is not None:
        raise conflict("rule.group_k: an operator has one k for all")
    default, words = Rule(), [f"detector={rule.detector.name}"]  # type: ignore[union-attr]
    for name in rule.__dataclass_fields__:
        value = getattr(rule, name)
        if name in ("detector", "group_k") or value is None:
            continue
        if value != getattr(default, name):
            words.append(f"{name}={getattr(value, 'name', None) or repr(value)}")
    return " ".join(words)


@lru_cache(maxsize=256)
def rule_of_word(word: str) -> Rule:
    fields: dict[str, Any] = {}
    for part in word.split():
        name, _, value = part.partition("=")
        fields[name] = value if name in ("detector", "rounding", "order", "scale") else (
            float(value) if set(value) & set(".en") else int(value))
    return Rule(**fields)


@lru_cache(maxsize=4096)
def _room(word: str, candidates: int) -> int:
    return kept_count(rule_of_word(word), max(candidates, 0))


# ----------------------------------------------------------------------------------------- shapes
def _lead(x: Tensor, name: str = "x") -> tuple[Any, ...]:
    """The batch's axis, or none."""
    if x.dim() not in (2, 3):
        raise conflict(f"{name} has shape {list(x.shape)}: [N, D] or [B, N, D] is expected")
    return tuple(x.shape[:-2])


def _shapes(x: Tensor, word: str, prefix_rows: int) -> tuple[tuple[Any, ...], int]:
    """(the batch's axis or none, room)."""
    return _lead(x), _room(word, int(x.shape[-2]) - prefix_rows)


def _count(lead: Sequence[Any]) -> Any:
    return lead[0] if lead else 1


def _with_room(shape: Sequence[Any], axis: int, room: Any) -> tuple[Any, ...]:
    return (*shape[:axis], room, *shape[axis + 1:])


def axes_of(rows: Sequence[Tensor], axes: Sequence[int], batched: bool) -> list[int]:
    """Which axis of each array numbers its tokens; axis 0 numbers the batch."""
    if len(rows) != len(axes):
        raise conflict(f"axes has {len(axes)} elements for {len(rows)} arrays")
    found = []
    for i, (array, axis) in enumerate(zip(rows, axes)):
        if not -array.dim() <= axis < array.dim() or (batched and axis % array.dim() == 0):
            raise out_of_range(f"rows[{i}] has shape {list(array.shape)}: its token axis cannot be "
                               f"{axis}")
        found.append(axis % array.dim())
    return found


def _batch(prefix_rows: int) -> Batch | None:
    return Batch(prefix_rows=prefix_rows) if prefix_rows else None


def _first(kept: Tensor, room: int) -> Tensor:
    """The first `room` of each segment, in memory of their own."""
    return kept[..., :room].clone(memory_format=torch.contiguous_format)


def _check_room(counts: Tensor, room: int) -> None:
    """On the host, where it costs no wait."""
    if not counts.is_cuda and counts.numel() and (most := int(counts.max())) > room:
        raise out_of_range(f"room is {room}, but {most} rows of a segment are kept")


def _all_rows(kept: Tensor, rows: int) -> Tensor:
    """`kept` [.., room] with the segments as far apart as in the arrays."""
    missing = rows - int(kept.shape[-1])
    if missing <= 0:
        return kept.contiguous()
    return torch.nn.functional.pad(kept, (0, missing), value=-1)


def _new(rows: Sequence[Tensor], axes: Sequence[int], room: Any) -> list[Tensor]:
    return [torch.empty(_with_room(array.shape, axis, room), dtype=array.dtype, device=array.device)
            for array, axis in zip(rows, axes)]


def _gathered(rows: Sequence[Tensor], targets: Sequence[Tensor], axes: Sequence[int]) -> list[Rows]:
    return [Rows(array, target, axis, _LOCAL, 0 if target is array else RowsFlag.ZERO_TAIL)
            for array, target, axis in zip(rows, targets, axes)]


def _reference_of(cls: Tensor | None, source: int, lag: int) -> Any:
    if source == ReferenceSource.GIVEN:
        return cls
    number = "window" if source == ReferenceSource.NOVELTY else "lag"
    return Reference(ReferenceSource(source), **{number: lag})


# ----------------------------------------------------------------------- definitions in one place
def _define(schema: str, kernel: Any, fake: Any) -> None:
    name = schema.partition("(")[0]
    torch.library.define(f"tailcut::{name}", schema[len(name):])
    torch.library.impl(f"tailcut::{name}", ("cpu", "cuda"), kernel)
    torch.library.register_fake(f"tailcut::{name}", fake)


def _i4(shape: Sequence[Any], like: Tensor) -> Tensor:
    return torch.empty(tuple(shape), dtype=torch.int32, device=like.device)


def _rows_like(x: Tensor, room: Any) -> Tensor:
    return torch.empty(_with_room(x.shape, x.dim() - 2, room), dtype=x.dtype, device=x.device)


# ---------------------------------------------------------------------------------- score and cut
def _score_kernel(x: Tensor, cls: Tensor | None, source: int, lag: int, prefix_rows: int,
                  dim: int) -> tuple[Tensor, Tensor]:
    _lead(x)
    found = _score(x, _reference_of(cls, source, lag), batch=_batch(prefix_rows), dim=dim)
    return found.scores, found.flags.clone()


def _score_fake(x: Tensor, *_how: Any) -> tuple[Tensor, Tensor]:
    count = _count(_lead(x))
    return torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device), _i4((count,), x)


def _cut_kernel(scores: Tensor, flags: Tensor | None, rule: str,
                prefix_rows: int) -> tuple[Tensor, Tensor]:
    found = _cut(scores.contiguous(), rule_of_word(rule), batch=_batch(prefix_rows),
                 input_flags=flags, want=(), placement=_LOCAL)
    room = _room(rule, int(scores.shape[-1]) - prefix_rows)
    return _first(found.kept, room), found.counts.clone()


def _cut_fake(scores: Tensor, _flags: Any, rule: str, prefix_rows: int) -> tuple[Tensor, Tensor]:
    if scores.dim() not in (1, 2):
        raise conflict(f"scores has shape {list(scores.shape)}: [N] or [B, N] is expected")
    lead, room = tuple(scores.shape[:-1]), _room(rule, int(scores.shape[-1]) - prefix_rows)
    return _i4((*lead, room), scores), _i4((_count(lead),), scores)


_define("score(Tensor x, Tensor? cls, int source, int lag, int prefix_rows, int dim) -> "
        "(Tensor scores, Tensor flags)", _score_kernel, _score_fake)
_define("cut(Tensor scores, Tensor? flags, str rule, int prefix_rows) -> "
        "(Tensor kept, Tensor counts)", _cut_kernel, _cut_fake)


# ------------------------------------------------------------------------------------------ prune
_PRUNE = "Tensor? cls, str rule, int source, int lag, int prefix_rows, int dim"


def _pruned(out: Tensor, x: Tensor, cls: Tensor | None, word: str, source: int, lag: int,
            prefix_rows: int, dim: int) -> tuple[Tensor, Tensor]:
    lead, room = _shapes(x, word, prefix_rows)
    rule = rule_of_word(word)
    exact = rule.detector in _EXACT
    packed = exact and bool(lead)
    found = _prune(
        x, _reference_of(cls, source, lag), rule=rule, batch=_batch(prefix_rows),
        out=out.view(-1, out.shape[-1]) if packed and out is not x else out,
        zero_tail=out is not x and not exact, want=(), dim=dim,
        placement=Placement.PACKED if packed else _LOCAL)
    kept = found.kept[:lead[0] * room].view(*lead, room) if packed else _first(found.kept, room)
    return kept, found.counts.clone()  # kept is at the start of memory that counts are in too


def _prune_kernel(x: Tensor, cls: Tensor | None, rule: str, source: int, lag: int,
                  prefix_rows: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    tokens = _rows_like(x, _shapes(x, rule, prefix_rows)[1])
    return (tokens, *_pruned(tokens, x, cls, rule, source, lag, prefix_rows, dim))


def _prune_in_place_kernel(x: Tensor, *how: Any) -> tuple[Tensor, Tensor]:
    return _pruned(x, x, *how)


def _prune_in_place_fake(x: Tensor, _cls: Any, rule: str, _source: int, _lag: int,
                         prefix_rows: int, _dim: int) -> tuple[Tensor, Tensor]:
    lead, room = _shapes(x, rule, prefix_rows)
    return _i4((*lead, room), x), _i4((_count(lead),), x)


def _prune_fake(x: Tensor, *how: Any) -> tuple[Tensor, Tensor, Tensor]:
    kept, counts = _prune_in_place_fake(x, *how)
    return _rows_like(x, kept.shape[-1]), kept, counts


_define(f"prune(Tensor x, {_PRUNE}) -> (Tensor tokens, Tensor kept, Tensor counts)", _prune_kernel,
        _prune_fake)
_define(f"prune_(Tensor(a!) x, {_PRUNE}) -> (Tensor kept, Tensor counts)", _prune_in_place_kernel,
        _prune_in_place_fake)


# -------------------------------------------------------------------------------- prune and merge
_MERGE = "int power, int window, Tensor? sizes"


def _prune_merged(out: Tensor, x: Tensor, cls: Tensor | None, word: str, source: int, lag: int,
                  prefix_rows: int, dim: int, power: int, window: int,
                  sizes: Tensor | None) -> tuple[Tensor, ...]:
    room = _shapes(x, word, prefix_rows)[1]
    found = _prune(x, _reference_of(cls, source, lag), rule=rule_of_word(word),
                   batch=_batch(prefix_rows), out=out, zero_tail=out is not x, want=("joins",),
                   dim=dim, placement=_LOCAL, merge=Merge(power, window, sizes))
    return (_first(found.kept, room), found.counts.clone(),
            found.sizes[..., :room].clamp(min=0), found.joins.clone())


def _prune_merge_kernel(x: Tensor, cls: Tensor | None, rule: str, source: int, lag: int,
                        prefix_rows: int, *how: Any) -> tuple[Tensor, ...]:
    tokens = _rows_like(x, _shapes(x, rule, prefix_rows)[1])
    return tokens, *_prune_merged(tokens, x, cls, rule, source, lag, prefix_rows, *how)


def _prune_merge_in_place_kernel(x: Tensor, *how: Any) -> tuple[Tensor, ...]:
    return _prune_merged(x, x, *how)


def _prune_merge_in_place_fake(x: Tensor, *how: Any) -> tuple[Tensor, ...]:
    kept, counts = _prune_in_place_fake(x, *how[:6])
    return kept, counts, _i4(kept.shape, x), _i4(x.shape[:-1], x)


def _prune_merge_fake(x: Tensor, *how: Any) -> tuple[Tensor, ...]:
    others = _prune_merge_in_place_fake(x, *how)
    return _rows_like(x, others[0].shape[-1]), *others


_define(f"prune_merge(Tensor x, {_PRUNE}, {_MERGE}) -> "
        "(Tensor tokens, Tensor kept, Tensor counts, Tensor sizes, Tensor joins)",
        _prune_merge_kernel, _prune_merge_fake)
_define(f"prune_merge_(Tensor(a!) x, {_PRUNE}, {_MERGE}) -> "
        "(Tensor kept, Tensor counts, Tensor sizes, Tensor joins)",
        _prune_merge_in_place_kernel, _prune_merge_in_place_fake)


def _merge_kernel(x: Tensor, kept: Tensor, counts: Tensor, power: int, window: int,
                  sizes: Tensor | None, prefix_rows: int,
                  dim: int) -> tuple[Tensor, Tensor, Tensor]:
    _lead(x)
    room = int(kept.shape[-1])
    _check_room(counts, room)
    tokens = _rows_like(x, room)
    found: Any = _merge(x, _all_rows(kept, x.shape[-2]), counts, merge=Merge(power, window, sizes),
                        batch=_batch(prefix_rows), kept_placement=_LOCAL, placement=_LOCAL,
                        out=tokens, zero_tail=True, want=("joins",), dim=dim)
    return tokens, found.sizes[..., :room].clamp(min=0), found.joins.clone()


def _merge_fake(x: Tensor, kept: Tensor, *_how: Any) -> tuple[Tensor, Tensor, Tensor]:
    room = kept.shape[-1]
    return _rows_like(x, room), _i4((*_lead(x), room), x), _i4(x.shape[:-1], x)


_define(f"merge(Tensor x, Tensor kept, Tensor counts, {_MERGE}, int prefix_rows, int dim) -> "
        "(Tensor tokens, Tensor sizes, Tensor joins)", _merge_kernel, _merge_fake)


# ---------------------------------------------------------------------------------------- compact
def _compacted(rows: Sequence[Tensor], targets: Sequence[Tensor], axes: Sequence[int],
               kept: Tensor, counts: Tensor, prefix_rows: int) -> None:
    if rows:
        _check_room(counts, int(kept.shape[-1]))
        _compact(_gathered(rows, targets, axes), _all_rows(kept, rows[0].shape[axes[0]]), counts,
                 batch=_batch(prefix_rows), kept_placement=_LOCAL, placement=_LOCAL)


def _compact_kernel(rows: list[Tensor], axes: list[int], kept: Tensor, counts: Tensor,
                    prefix_rows: int) -> list[Tensor]:
    axes = axes_of(rows, axes, kept.dim() == 2)
    targets = _new(rows, axes, kept.shape[-1])
    _compacted(rows, targets, axes, kept, counts, prefix_rows)
    return targets


def _compact_fake(rows: list[Tensor], axes: list[int], kept: Tensor, *_how: Any) -> list[Tensor]:
    return _new(rows, axes_of(rows, axes, kept.dim() == 2), kept.shape[-1])


def _compact_in_place_kernel(rows: list[Tensor], axes: list[int], kept: Tensor,
                             *how: Any) -> None:
    _compacted(rows, rows, axes_of(rows, axes, kept.dim() == 2), kept, *how)


def _compact_in_place_fake(rows: list[Tensor], axes: list[int], kept: Tensor, *_how: Any) -> None:
    axes_of(rows, axes, kept.dim() == 2)


_KEPT = "Tensor kept, Tensor counts, int prefix_rows"
_define(f"compact(Tensor[] rows, int[] axes, {_KEPT}) -> Tensor[]", _compact_kernel, _compact_fake)
_define(f"compact_(Tensor(a!)[] rows, int[] axes, {_KEPT}) -> ()", _compact_in_place_kernel,
        _compact_in_place_fake)


# --------------------------------------------------------------------------------- prune_sequence
_SEQUENCE = ("Tensor roles, {}[] rows, int[] axes, SymInt room, str rule, int dim, Tensor? q, "
             "Tensor? k, Tensor? lse, int policy, bool causal, bool last_query, "
             "int head_reduction, int query_reduction")


def _sequence_pruned(out: Tensor, targets: Sequence[Tensor], x: Tensor, roles: Tensor,
                     rows: Sequence[Tensor], axes: Sequence[int], room: int, rule: str, dim: int,
                     q: Tensor | None, k: Tensor | None, lse: Tensor | None, policy: int,
                     causal: bool, last_query: bool, *reductions: int) -> tuple[Tensor, Tensor]:
    options = RelevanceOptions(policy, causal, last_query, q, k, *reductions, lse)  # type: ignore
    found = _prune_sequence(x, roles.contiguous(), options, rule=rule_of_word(rule), out=out,
                            zero_tail=out is not x, want=(), placement=_LOCAL, dim=dim,
                            rows=_gathered(rows, targets, axes))
    _check_room(found.counts, room)
    return _first(found.kept, room), found.counts.clone()


def _sequence_kernel(x: Tensor, roles: Tensor, rows: list[Tensor], axes: list[int], room: int,
                     *how: Any) -> tuple[Any, ...]:
    axes = axes_of(rows, axes, bool(_lead(x)))
    tokens, moved = _rows_like(x, room), _new(rows, axes, room)
    return tokens, *_sequence_pruned(tokens, moved, x, roles, rows, axes, room, *how), moved


def _sequence_in_place_kernel(x: Tensor, roles: Tensor, rows: list[Tensor], axes: list[int],
                              *how: Any) -> tuple[Tensor, Tensor]:
    axes = axes_of(rows, axes, bool(_lead(x)))
    return _sequence_pruned(x, rows, x, roles, rows, axes, *how)


def _sequence_in_place_fake(x: Tensor, _roles: Tensor, rows: list[Tensor], axes: list[int],
                            room: int, *_how: Any) -> tuple[Tensor, Tensor]:
    lead = _lead(x)
    axes_of(rows, axes, bool(lead))
    return _i4((*lead, room), x), _i4((_count(lead),), x)


def _sequence_fake(x: Tensor, roles: Tensor, rows: list[Tensor], axes: list[int], room: int,
                   *how: Any) -> tuple[Any, ...]:
    found = _sequence_in_place_fake(x, roles, rows, axes, room, *how)
    return _rows_like(x, room), *found, _new(rows, axes_of(rows, axes, x.dim() == 3), room)


_define(f"prune_sequence(Tensor x, {_SEQUENCE.format('Tensor')}) -> "
        "(Tensor tokens, Tensor kept, Tensor counts, Tensor[] moved)", _sequence_kernel,
        _sequence_fake)
_define(f"prune_sequence_(Tensor(a!) x, {_SEQUENCE.format('Tensor(b!)')}) -> "
        "(Tensor kept, Tensor counts)", _sequence_in_place_kernel, _sequence_in_place_fake)
