# SPDX-License-Identifier: Apache-2.0
"""What the operators of tailcut.torch share: rules as text, how an operator's rows form segments
and where its results stand (Form), and their definition.
"""
from __future__ import annotations

from functools import lru_cache
from typing import Any, Sequence

import torch
from torch import Tensor

from ._abi import Placement, ReferenceSource, RowsFlag
from ._calls import kept_count
from ._errors import conflict, out_of_range
from ._options import Batch, Reference, Rule, named_rule
from ._rows import Rows

RAGGED = "Tensor? cu_seqlens, int max_tokens, int room"


# ---------------------------------------------------------------------------------- rules as text
def rule_word(rule: Rule | str | None) -> str:
    if rule is None or isinstance(rule, str):
        return f"detector={rule or 'otsu'}"
    rule = named_rule(rule)
    own = rule.__dict__
    if "_word" in own:
        return own["_word"]  # type: ignore[no-any-return]
    if rule.group_k is not None:
        raise conflict("rule.group_k: an operator has one k for all")
    default, words = Rule(), [f"detector={rule.detector.name}"]  # type: ignore[union-attr]
    for name in rule.__dataclass_fields__:
        value = getattr(rule, name)
        if name in ("detector", "group_k") or value is None:
            continue
        if value != getattr(default, name):
            words.append(f"{name}={getattr(value, 'name', None) or repr(value)}")
    word = " ".join(words)
    if not torch.compiler.is_compiling():
        own["_word"] = word
    return word


@lru_cache(maxsize=256)
def rule_of_word(word: str) -> Rule:
    fields: dict[str, Any] = {}
    for part in word.split():
        name, _, value = part.partition("=")
        fields[name] = value if name in ("detector", "rounding", "order", "scale") else (
            float(value) if set(value) & set(".en") else int(value))
    return Rule(**fields)


@lru_cache(maxsize=4096)
def room_of(word: str, candidates: int) -> int:
    return kept_count(rule_of_word(word), max(candidates, 0))


# ----------------------------------------------------------------------------------------- shapes
class Form:
    """How rows form segments. Uniform: `lead` is the batch's axis, or none, and segment b's results
    are the first counts[b] of [*lead, room]. Ragged: they follow each other in [room]."""

    def __init__(self, rows: Sequence[Any], prefix_rows: int = 0, cu_seqlens: Tensor | None = None,
                 max_tokens: int = 0, room: int = 0, *, name: str = "x",
                 more: str = ", D") -> None:
        self.rows, self.prefix, self.cu_seqlens = tuple(rows), prefix_rows, cu_seqlens
        self.ragged, self.max_tokens, self.given = cu_seqlens is not None, max_tokens, room
        shapes = f"[total{more}]" if self.ragged else f"[N{more}] or [B, N{more}]"
        if len(self.rows) not in ((1,) if self.ragged else (1, 2)):
            raise conflict(f"{name} has {len(self.rows)} axes of rows: {shapes} is expected")
        if cu_seqlens is not None and cu_seqlens.dim() != 1:
            raise out_of_range(f"cu_seqlens has shape {list(cu_seqlens.shape)}: [B + 1] is "
                               "expected")
        self.lead = self.rows[:-1]
        self.segments: Any = (cu_seqlens.shape[0] - 1 if cu_seqlens is not None
                              else self.lead[0] if self.lead else 1)
        self.placement = Placement.PACKED if self.ragged else Placement.LOCAL

    def room(self, word: str) -> int:
        """Rows of a segment that a rule can keep; ragged: of all together."""
        if not self.ragged:
            return room_of(word, int(self.rows[-1]) - self.prefix)
        if self.given:
            return self.given
        return min(int(self.rows[0]), int(self.segments) * room_of(
            word, self.max_tokens - self.prefix))

    def batch(self) -> Batch | None:
        if self.cu_seqlens is not None:
            return Batch(self.cu_seqlens, prefix_rows=self.prefix, max_tokens=self.max_tokens)
        return Batch(prefix_rows=self.prefix) if self.prefix else None

    def first(self, numbers: Tensor, counts: Tensor, room: int, behind: int = -1) -> Tensor:
        """Numbers of results, cut to `room`, in memory of their own; `behind` the last."""
        if not self.ragged:
            return numbers[..., :room].clone(memory_format=torch.contiguous_format)
        missing = room - int(numbers.shape[0])  # on the host they end with the last
        numbers = torch.nn.functional.pad(numbers, (0, missing), value=behind)
        if not numbers.is_cuda:
            return numbers.contiguous()
        past = torch.arange(room, device=numbers.device) >= counts.sum()
        return numbers.masked_fill(past, behind)

    def given_kept(self, kept: Tensor, counts: Tensor, rows: int) -> tuple[Tensor, ...]:
        """(kept, counts, offsets) as calls want them: `kept` [.., room] with the segments as far
        apart as in the arrays."""
        if self.ragged:
            check_room(counts.sum(), int(kept.shape[0]))
            return kept.contiguous(), counts, offsets_of(counts)
        room = int(kept.shape[-1])
        check_room(counts, room)
        if room >= rows:
            return kept.contiguous(), counts
        wide = kept.new_full((*kept.shape[:-1], rows), -1)
        wide.narrow(-1, 0, room).copy_(kept)
        return wide, counts


def offsets_of(counts: Tensor) -> Tensor:
    """Where each segment's packed results begin."""
    return torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))


def check_room(counts: Tensor, room: int) -> None:
    """On the host, where it costs no wait."""
    if not counts.is_cuda and counts.numel() and (
            most := max(counts.tolist() if counts.dim() else [int(counts)])) > room:
        of = " of a segment" if counts.dim() else ""
        raise out_of_range(f"room is {room}, but {most} rows{of} are kept")


def with_room(shape: Sequence[Any], axis: int, room: Any) -> tuple[Any, ...]:
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


def rows_like(x: Tensor, room: Any, axis: int = -2, zero: bool = False) -> Tensor:
    """A result's array. `zero`: for packed ones, whose tail ZERO_TAIL clears only as far as
    the batch has candidates."""
    make = torch.zeros if zero else torch.empty
    return make(with_room(x.shape, axis % x.dim(), room), dtype=x.dtype, device=x.device)


def new_rows(rows: Sequence[Tensor], axes: Sequence[int], room: Any,
             zero: bool = False) -> list[Tensor]:
    return [rows_like(array, room, axis, zero) for array, axis in zip(rows, axes)]


def int32(shape: Sequence[Any], like: Tensor) -> Tensor:
    return torch.empty(tuple(shape), dtype=torch.int32, device=like.device)


def gathered(rows: Sequence[Tensor], targets: Sequence[Tensor], axes: Sequence[int],
             placement: Placement = Placement.LOCAL) -> list[Rows]:
    """`placement`: of results that are not in place."""
    tail = RowsFlag.ZERO_TAIL if placement == Placement.LOCAL else 0
    return [Rows(array, target, axis, Placement.LOCAL) if target is array else
            Rows(array, target, axis, placement, tail)
            for array, target, axis in zip(rows, targets, axes)]


def reference_of(cls: Tensor | None, source: int, lag: int) -> Any:
    if source == ReferenceSource.GIVEN:
        return cls
    number = "window" if source == ReferenceSource.NOVELTY else "lag"
    return Reference(ReferenceSource(source), **{number: lag})


# ----------------------------------------------------------------------- definitions in one place
def define(schema: str, kernel: Any, fake: Any) -> None:
    name = schema.partition("(")[0]
    torch.library.define(f"tailcut::{name}", schema[len(name):])
    torch.library.impl(f"tailcut::{name}", ("cpu", "cuda"), kernel)
    torch.library.register_fake(f"tailcut::{name}", fake)
