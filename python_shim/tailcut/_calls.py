# SPDX-License-Identifier: Apache-2.0
"""The calls, but for those on sequences (_sequence.py). Each takes arrays of any library and gives
arrays of the same (numpy's for other host arrays); `stream` is a raw cudaStream_t, by default the
one that the arrays' library works on. On a device nothing is waited for.

Words as in tailcut.h: N candidates of a segment, D channels, B segments, rows = [N], [B, N] or
(ragged) [total].
"""
from __future__ import annotations

import inspect
from ctypes import addressof, byref, c_void_p
from typing import Any, Callable, Generic, Iterable, ParamSpec, Protocol, Sequence, TypeVar, cast

from . import _abi
from ._abi import Call, Dtype, Placement, Power, ReferenceSource, RowsFlag
from ._arrays import View, view
from ._errors import conflict
from ._handle import Handle
from ._load import fail, library
from ._options import (Array, Batch, Merge, Reference, Rule, is_a, member, merging, named_rule,
                       names_of, whole)
from ._plan import Plan, Prepared
from ._results import Merged, Scores, Selection
from ._reuse import WANT, again
from ._rows import Rows
from ._setup import Setup
from ._structs import most_kept, reference_of, rule_of

P = ParamSpec("P")
R = TypeVar("R")


class Function(Protocol, Generic[P, R]):
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def plan(self, *args: P.args, **kwargs: P.kwargs) -> Plan[R]:
        """The same call, prepared to run often."""


def prepared(prepare: Callable[P, Prepared[R]]) -> Function[P, R]:
    """A function that runs the call; its attribute `plan` prepares it."""
    def plan(*args: P.args, **kwargs: P.kwargs) -> Plan[R]:
        return prepare(*args, **kwargs).plan()

    run: Any = again(prepare)
    plan.__doc__ = f"{prepare.__name__}, prepared to run often: see Plan."
    run.plan = plan
    result = run.__annotations__["return"].removeprefix("Prepared[").removesuffix("]")
    run.__annotations__["return"] = result
    plan.__signature__ = (  # type: ignore[attr-defined]
        inspect.signature(prepare).replace(return_annotation=f"Plan[{result}]"))
    return cast(Function[P, R], run)


def dtype_of(dtype: Dtype | str | None) -> Dtype | None:
    return None if dtype is None else member(Dtype, dtype, "dtype")


def start(x: Any, name: str, own_axes: int, batch: Batch | None, handle: Handle | None,
          stream: int | None, prefix: int = 0) -> tuple[View, Setup]:
    """The view of the first array, whose last `own_axes` axes do not number rows, and the call's
    setup."""
    first = view(x, name, stream)
    shape = first.shape
    return first, Setup(first, shape[:len(shape) - own_axes] if own_axes else shape, batch, handle,
                        stream, prefix)


def _reference(cls: Any) -> tuple[Any, int]:
    """(the reference, the prefix rows that it needs)."""
    if cls is None:
        cls = Reference(ReferenceSource.MEAN)
    elif isinstance(cls, str):
        cls = Reference(cls)
    row = isinstance(cls, Reference) and cls.source == ReferenceSource.ROW
    return cls, 1 if row else 0


@prepared
def score(x: Array, reference: Array | Reference | str | None = None, *,
          batch: Batch | None = None, dim: int | None = None, dtype: Dtype | str | None = None,
          handle: Handle | None = None, stream: int | None = None) -> Prepared[Scores]:
    """Cosine of each token to a reference, in bits that are the same everywhere.

    x          [rows.., D] float16, bfloat16 or float32 (uint16 with dtype="bf16"); any strides but
               along D
    reference  what tokens are compared with: [D] or [B, D] in x's dtype or float32, such as the CLS
               token; "row" (the segment's first row is the CLS token); "mean" or None (the mean
               direction of the segment's tokens); "novelty" (each other: how different a token is
               from all that score higher); a Reference
    batch      how rows form segments, where the shape does not say it
    dim        only the first `dim` channels are compared
    """
    given, prefix = _reference(reference)
    first, s = start(x, "x", 1, batch, handle, stream, prefix)
    kind = dtype_of(dtype)
    tokens = s.tokens(first, dim, kind)
    against = reference_of(given, s, tokens.dim, kind)
    return Prepared(s, Call.SCORE, "tailcut_score", (
        s.handle._pointer, s.batch, byref(tokens), byref(against), *s.scored()), Scores, tokens.dim,
        window=against.window or (64 if against.source == ReferenceSource.NOVELTY else 0))


@prepared
def mean_direction(x: Array, roles: Array | None = None, *, batch: Batch | None = None,
                   dim: int | None = None,
                   dtype: Dtype | str | None = None, handle: Handle | None = None,
                   stream: int | None = None) -> Prepared[Array]:
    """The mean of the rows' directions, float32 [segments, D]: of every candidate, or of the query
    rows where `roles` (uint8 by row, bits of Role) are given. A reference for `score`: the same
    bits as "mean"."""
    first, s = start(x, "x", 1, batch, handle, stream)
    tokens = s.tokens(first, dim, dtype_of(dtype))
    roles_at = None if roles is None else s.role_of(roles)
    return Prepared(s, Call.MEAN_DIRECTION, "tailcut_mean_direction", (
        s.handle._pointer, s.batch, byref(tokens), roles_at,
        s.output("direction", (s.segments, tokens.dim), "f4", c_void_p())), None, tokens.dim)


@prepared
def cut(scores: Array, rule: Rule | str | None = None, *, batch: Batch | None = None,
        roles: Array | None = None,
        input_flags: Array | None = None, want: Iterable[str] = ("mask",),
        placement: Placement | str = Placement.PACKED, handle: Handle | None = None,
        stream: int | None = None) -> Prepared[Selection]:
    """Which rows stay, from scores of any kind: float32, contiguous, [N], [B, N] or [total]; higher
    is better.

    rule         default: OTSU finds how many
    roles        uint8 by row, bits of Role: rows that are no candidates stay (ABSENT ones never)
    input_flags  Scores.flags. With Rule(scale="unit") too, score and cut equal prune
    want         what else to return: "mask", "curve", "ranks", "group_counts"
    placement    of `kept`
    """
    first, s = start(scores, "scores", 0, batch, handle, stream)
    scores_at = s.pointer(s.by_row(scores, "f4", "scores"))
    roles_at = None if roles is None else s.role_of(roles)
    flags_at = None if input_flags is None else s.pointer(
        s.small(input_flags, "i4", "input_flags", s.segments))
    rule_struct = rule_of(rule, s)
    made = s.select(want, member(Placement, placement, "placement"))
    return Prepared(s, Call.CUT, "tailcut_cut", (
        s.handle._pointer, s.batch, scores_at, roles_at, flags_at, byref(rule_struct), byref(made)),
        Selection)


@prepared
def compact(rows: Sequence[Rows | Array], kept: Array, counts: Array,
            cu_seqlens: Array | None = None, *,
            batch: Batch | None = None, kept_placement: Placement | str = Placement.PACKED,
            placement: Placement | str = Placement.PACKED, handle: Handle | None = None,
            stream: int | None = None) -> Prepared[tuple[Array, ...]]:
    """Moves the kept rows of any arrays together, in order; returns the destinations, in full
    length.

    rows            Rows, or arrays [rows.., ...] for new packed ones. The first says how many rows
                    there are; its axis 0 numbers segments where it is as long as counts and the
                    token axis is another
    kept, counts, cu_seqlens  of a Selection
    kept_placement  of `kept`
    placement       of results that do not say it
    """
    is_a(rows, (list, tuple), "rows", " of arrays or Rows")
    entries = [entry if isinstance(entry, Rows) else Rows(entry) for entry in rows]
    if not entries:
        raise conflict("rows is empty")
    given = entries[0].src if entries[0].src is not None else entries[0].dst
    first = view(given, "rows[0]", stream)
    axis = entries[0].token_axis
    segments = view(counts, "counts").shape[0]
    if axis is None:
        axis = 1 if segments > 1 and (batch is None or batch.cu_seqlens is None
                                      and batch.segments is None) else 0
    axis %= len(first.shape)
    batched = axis > 0 and segments == first.shape[0] and (
        batch is None or batch.cu_seqlens is None)
    s = Setup(first, (segments, first.shape[axis]) if batched else (first.shape[axis],), batch,
              handle, stream)
    if s.segments != segments:
        raise conflict(f"counts has {segments} elements, but the arrays have {s.segments} segments")
    local = member(Placement, kept_placement, "kept_placement")
    given_kept = _kept(s, kept, counts, cu_seqlens, local)
    made = s.compacted(None, False, 0, entries, max(s.max_tokens - s.prefix, 0),
                       member(Placement, placement, "placement"))
    return Prepared(s, Call.COMPACT, "tailcut_compact", (
        s.handle._pointer, s.batch, *given_kept, made, len(entries)), tuple)


def _kept(s: Setup, kept: Array, counts: Array, cu_seqlens: Array | None,
          placement: Placement) -> tuple[Any, ...]:
    """A kept list as arguments."""
    kept_at = s.pointer(s.small(kept, "i4", "kept"))
    s.counts = s.pointer(s.small(counts, "i4", "counts", s.segments))
    return kept_at, placement, s.counts, None if cu_seqlens is None else s.pointer(
        s.small(cu_seqlens, "i4", "cu_seqlens", s.segments + 1))


@prepared
def merge(x: Array, kept: Array, counts: Array, cu_seqlens: Array | None = None, *,
          merge: Merge | Power | str = Power.COS4, batch: Batch | None = None,
          rows: Sequence[Rows] = (), out: Any = None,
          zero_tail: bool = False, want: Iterable[str] = (),
          kept_placement: Placement | str = Placement.PACKED,
          placement: Placement | str = Placement.PACKED, dim: int | None = None,
          dtype: Dtype | str | None = None,
          handle: Handle | None = None, stream: int | None = None) -> Prepared[Merged]:
    """Compaction that loses nothing, for kept lists from anywhere: each row that is not kept joins
    the kept one of its window that is most like it, and the kept rows become weighted means of what
    they stand for.

    x                         as in `prune`; its first `dim` channels say how alike rows are
    kept, counts, cu_seqlens  of a Selection
    merge                     how much joining rows count, windows and sizes: a Merge, or its power
                              ("mean", "cos4")
    rows                      more arrays: merged with RowsFlag.MERGE, compacted without
    out, zero_tail, placement as in `prune`
    want                      "joins"
    """
    how, placed, want = merging(merge), member(Placement, placement, "placement"), names_of(want)
    if any(name != "joins" for name in want):
        raise conflict(f"want is {list(want)}; expected joins or nothing")
    first, s = start(x, "x", 1, batch, handle, stream)
    kind = dtype_of(dtype)
    tokens = s.tokens(first, dim, kind)
    local = member(Placement, kept_placement, "kept_placement")
    given_kept, s.packed = _kept(s, kept, counts, cu_seqlens, local), local == Placement.PACKED
    merge_struct = s.merges(how, want)
    flags = RowsFlag.MERGE | (RowsFlag.ZERO_TAIL if zero_tail else 0)
    entries = s.compacted(x, out, flags, rows, max(s.max_tokens - s.prefix, 0), placed, kind)
    return Prepared(s, Call.MERGE, "tailcut_merge", (
        s.handle._pointer, s.batch, byref(tokens), *given_kept, byref(merge_struct), entries,
        len(s.targets)), Merged, tokens.dim, window=how.window or 64)


@prepared
def prune(x: Array, reference: Array | Reference | str | None = None, *,
          rule: Rule | str | None = None, batch: Batch | None = None, rows: Sequence[Rows] = (),
          out: Any = None, zero_tail: bool = False, want: Iterable[str] = WANT,
          placement: Placement | str = Placement.PACKED, merge: Merge | Power | str | None = None,
          dim: int | None = None, dtype: Dtype | str | None = None, handle: Handle | None = None,
          stream: int | None = None) -> Prepared[Selection]:
    """Prunes visual tokens: scores them against a reference, cuts the sorted scores, keeps the head
    in its order and compacts the tokens and any other arrays to it. Equal, bit for bit, to score,
    cut and compact.

    x          [rows.., D] float16, bfloat16 or float32 (uint16 with dtype="bf16"); any strides but
               along D
    reference  what tokens are compared with: [D] or [B, D] in x's dtype or float32, such as the CLS
               token; "row" (the segment's first row is the CLS token and no candidate); "mean" or
               None (the mean direction of the segment's tokens); "novelty" (each other: what is
               different stays); a Reference
    rule       how many stay; default: OTSU finds it. A Rule, or a detector's name
    batch      how rows form segments, where the shape does not say it
    rows       more arrays to compact
    out        where the kept tokens go. None: a new array, packed [sum of counts, D] (LOCAL: [B,
               room, D]); an array; x itself: in place, at each segment's start; False: nowhere
    zero_tail  clears the rows of `out` behind the last result
    want       what else to return: "scores", "mask", "curve", "ranks", "group_counts"
    placement  of kept and of new arrays
    merge      dropped tokens are merged into kept ones: in `out`, and in Rows with RowsFlag.MERGE.
               A Merge, or its power ("mean", "cos4"). `want` may have "joins"
    dim        only the first `dim` channels are compared
    """
    first = view(x, "x", stream)
    given, prefix = _reference(reference)
    s = Setup(first, first.shape[:-1], batch, handle, stream, prefix)
    kind = dtype_of(dtype)
    tokens = s.tokens(first, dim, kind)
    against = reference_of(given, s, tokens.dim, kind)
    rule_struct = rule_of(rule, s)
    placed = member(Placement, placement, "placement")
    want = names_of(want)
    made = s.select([name for name in want if name != "joins" or merge is None], placed)
    flags = RowsFlag.ZERO_TAIL if zero_tail else 0
    window = against.window or (64 if against.source == ReferenceSource.NOVELTY else 0)
    if merge is not None:
        merge = merging(merge)
        made.merge = addressof(s.merges(merge, want))
        flags, window = flags | RowsFlag.MERGE, window or merge.window or 64
    entries = s.compacted(x, out, flags, rows, most_kept(rule_struct, s) if out is not False
                          or rows else 0, placed, kind)
    return Prepared(s, Call.PRUNE_VISUAL, "tailcut_prune_visual", (
        s.handle._pointer, s.batch, byref(tokens), byref(against), byref(rule_struct), byref(made),
        entries, len(s.targets)), Selection, tokens.dim, window=window)


def kept_count(rule: Rule | str | None, n: int) -> int:
    """How many of a group's n candidates `rule` keeps: exact for RATIO and for TOPK without
    group_k, an upper bound for the rest. Needs no data and no device."""
    found: int = library().tailcut_kept_count(byref(named_rule(rule)._host_struct()), whole(n, "n"))
    if found < 0:
        fail(_abi.Status.ERROR_RANGE)
    return found
