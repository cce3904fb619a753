# SPDX-License-Identifier: Apache-2.0
"""What the operators of tailcut.torch share: rules as text, how an operator's rows form segments
and where its results stand (Form), and their definition.
"""
from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from typing import Any, Sequence

import torch
from torch import Tensor

from ._abi import MAX_SEGMENT_TOKENS, Detector, Placement, ReferenceSource, RowsFlag
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

    def room(self, word: str) -> Any:
        """Rows of a segment that a rule can keep; ragged: of all together."""
        if not self.ragged:
            candidates = self.rows[-1] - self.prefix
            if type(candidates) is int or rule_of_word(word).detector == Detector.RATIO:
                return room_of(word, int(candidates))
            # Of a length that is traced as unknown: any rule but RATIO keeps min(its most, all).
            return torch.sym_min(room_of(word, MAX_SEGMENT_TOKENS), torch.sym_max(candidates, 0))
        if self.given:
            return self.given
        return torch.sym_min(self.rows[0], self.segments * room_of(
            word, self.max_tokens - self.prefix))

    def batch(self) -> Batch | None:
        if self.cu_seqlens is not None:
            return Batch(self.cu_seqlens, prefix_rows=self.prefix, max_tokens=self.max_tokens)
        return Batch(prefix_rows=self.prefix) if self.prefix else None


def offsets_of(counts: Tensor) -> Tensor:
    """Where each segment's packed results begin."""
    if not torch.compiler.is_compiling() and counts.is_cpu and _is_plain((counts,)):
        return torch.tensor([0, *accumulate(counts.tolist())], dtype=torch.int32)
    return torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))


def check_room(counts: Sequence[int], room: int, of: str = " of a segment") -> None:
    """Counts on the host."""
    if counts and (most := max(counts)) > room:
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


def rows_like(x: Tensor, room: Any, axis: int = -2) -> Tensor:
    """A result's array."""
    return torch.empty(with_room(x.shape, axis % x.dim(), room), dtype=x.dtype, device=x.device)


def new_rows(rows: Sequence[Tensor], axes: Sequence[int], room: Any) -> list[Tensor]:
    return [rows_like(array, room, axis) for array, axis in zip(rows, axes)]


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
_kernels: dict[str, Any] = {}


def define(schema: str, kernel: Any, fake: Any) -> None:
    name = schema.partition("(")[0]
    torch.library.define(f"tailcut::{name}", schema[len(name):])
    torch.library.impl(f"tailcut::{name}", ("cpu", "cuda"), kernel)
    torch.library.register_fake(f"tailcut::{name}", fake)
    _kernels[name] = kernel


def run(name: str, *args: Any) -> Any:
    """An operator; its kernel alone where the dispatcher would do no more than to call that."""
    if not torch.compiler.is_compiling():
        if _is_plain(args):
            return _kernels[name](*args)
        if _transforms() is not None:
            from ._torch_transforms import transformed
            return transformed(name, args)
    return getattr(torch.ops.tailcut, name)(*args)


def _is_plain(args: Sequence[Any]) -> bool:
    """Nothing transforms, traces, records or differentiates, and tensors are dense ones of the CPU
    or CUDA and of no subclass."""
    if _modes() or _transforms() is not None or _functions() or _profiled() or (
            _traced() is not None):
        return False
    for value in args:
        kind = type(value)
        if kind in _NO_TENSORS:
            continue
        for one in value if kind is list else (value,):
            if type(one) is not Tensor:
                if type(one) is not int:
                    return False
            elif one.layout is not _STRIDED or one.is_nested or one.is_neg() or not (
                    one.is_cpu or one.is_cuda) or one.requires_grad and torch.is_grad_enabled():
                return False
    return True


_modes, _functions = torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack
_transforms, _traced = torch._C._functorch.peek_interpreter_stack, torch._C._get_tracing_state
_profiled: Any = torch.autograd._profiler_enabled
_NO_TENSORS, _STRIDED = {type(None), int, bool, str}, torch.strided
