# SPDX-License-Identifier: Apache-2.0
"""The calls on sequences inside a layer: relevance of candidate rows to query rows, and pruning by
it. What all calls have in common: _calls.py.
"""
from __future__ import annotations

from ctypes import byref
from typing import Any, Iterable, Sequence

from ._abi import Call, Dtype, Placement, Policy, RowsFlag
from ._calls import dtype_of, prepared, start
from ._errors import conflict
from ._handle import Handle
from ._options import Array, Batch, RelevanceOptions, Rule, member
from ._plan import Prepared
from ._results import Scores, Selection
from ._reuse import WANT
from ._rows import Rows
from ._setup import Setup
from ._structs import relevance_of, rule_of


@prepared
def relevance(x: Array | None, roles: Array, options: RelevanceOptions | Policy | str | None = None,
              *,
              batch: Batch | None = None, dim: int | None = None, dtype: Dtype | str | None = None,
              handle: Handle | None = None, stream: int | None = None) -> Prepared[Scores]:
    """How much each candidate row of a sequence has to do with its query rows.

    x        hidden states [rows.., D] as in `score`; None is allowed with ATTENTION
    roles    uint8 by row, bits of Role
    options  the policy (default MEAN_COSINE) and, with ATTENTION, q and k
    """
    s, tokens, made, heads, head_dim, dims = _sequence(x, options, batch, dim, dtype, handle,
                                                       stream)
    roles_at = s.role_of(roles)
    return Prepared(s, Call.RELEVANCE, "tailcut_relevance", (
        s.handle._pointer, s.batch, tokens, roles_at, byref(made), *s.scored()), Scores, dims,
        heads, head_dim)


@prepared
def prune_sequence(x: Array | None, roles: Array,
                   options: RelevanceOptions | Policy | str | None = None, *,
                   rule: Rule | str | None = None, batch: Batch | None = None,
                   rows: Sequence[Rows] = (),
                   out: Any = None, zero_tail: bool = False, want: Iterable[str] = WANT,
                   placement: Placement | str = Placement.PACKED, dim: int | None = None,
                   dtype: Dtype | str | None = None, handle: Handle | None = None,
                   stream: int | None = None) -> Prepared[Selection]:
    """Prunes a sequence inside a layer: relevance, cut and compaction. All rows that are no
    candidates stay (ABSENT ones never), and kept, counts and cu_seqlens cover them too.

    x, roles, options  as in `relevance`
    rule, batch, rows, out, want, placement, dim  as in `prune`; `rows` names position ids (original
                                                  positions are
                       kept, or RENUMBER) and the K/V rows of earlier layers
    """
    s, tokens, made, heads, head_dim, dims = _sequence(x, options, batch, dim, dtype, handle,
                                                       stream)
    roles_at = s.role_of(roles)
    rule_struct = rule_of(rule, s)
    placed = member(Placement, placement, "placement")
    chosen = s.select(want, placed)
    entries = s.compacted(x, out if x is not None else False, RowsFlag.ZERO_TAIL if zero_tail
                          else 0, rows, s.max_tokens, placed)
    return Prepared(s, Call.PRUNE_SEQUENCE, "tailcut_prune_sequence", (
        s.handle._pointer, s.batch, tokens, roles_at, byref(made), byref(rule_struct),
        byref(chosen), entries, len(s.targets)), Selection, dims, heads, head_dim)


def _sequence(x: Any, options: Any, batch: Batch | None, dim: int | None, dtype: Any,
              handle: Handle | None,
              stream: int | None) -> tuple[Setup, Any, Any, int, int, int]:
    """(setup, tokens, options, q_heads, head_dim, dim) of a call on sequences."""
    if options is not None and not isinstance(options, RelevanceOptions):
        options = RelevanceOptions(options)
    kind = dtype_of(dtype)
    tokens, dims = None, 0
    if x is not None:
        first, s = start(x, "x", 1, batch, handle, stream)
        made_tokens = s.tokens(first, dim, kind)
        tokens, dims = byref(made_tokens), made_tokens.dim
    else:
        if options is None or options.q is None:
            raise conflict("x is None; expected without it: ATTENTION with q and k")
        _first, s = start(options.q, "options.q", 2, batch, handle, stream)
    made, heads, head_dim = relevance_of(options, s, kind)
    return s, tokens, made, heads, head_dim, dims
