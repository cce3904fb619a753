# SPDX-License-Identifier: Apache-2.0
"""The method (METHOD.md) in Python and numpy, written from the text alone; no C code was read for it, so that the two
can disagree. score.py, cut.py and sequence.py state its parts; here they become whole calls on segments and groups.

answer(request) says what every output must hold: bit for bit, or (MAX_COSINE, ATTENTION) computed from the scores of
the program under test, which `close` bounds.
"""
from dataclasses import dataclass, field

import numpy as np

import novelty
import sequence
from cut import cut, rule_of
from score import F32, F64, score_segment, widen


@dataclass
class Request:
    """A call. `rows` [total, D] as stored, or the scores [total] of kind "cut"."""
    kind: str                              # "prune", "cut" or "prune-seq"
    rows: np.ndarray
    cu: np.ndarray                         # offsets of the segments
    values: dict = field(default_factory=dict)  # what the rule says, by the names of cut.Rule
    bf16: bool = False
    reference: object = None               # prune: "row", "mean", ("lag", n), ("novelty", W) or [B, D] as stored
    prefix: int = 0
    groups: np.ndarray | None = None       # cut offsets; None: a segment is a group
    group_k: np.ndarray | None = None      # TOPK's k of each group
    roles: np.ndarray | None = None        # prune-seq, [total]
    relevance: str = "mean-cosine"
    q: np.ndarray | None = None            # attention: [total, Hq, d] and [total, Hkv, d] as stored
    k: np.ndarray | None = None
    causal: bool = False
    last_query: bool = False
    reductions: tuple = ("mean", "mean")   # attention: over the heads, then over the query rows
    merge: tuple | None = None             # prune: ("mean" or "cos4", window), with sizes below or without
    sizes: np.ndarray | None = None        # int32 of each candidate


def segments(request):
    return [slice(int(a), int(b)) for a, b in zip(request.cu[:-1], request.cu[1:])]


def is_close(request):
    return request.kind == "prune-seq" and request.relevance != "mean-cosine"


def tolerance(request, reference):
    """How far scores of a close policy may be from the float64 ones."""
    stored = request.q if request.relevance == "attention" else request.rows
    tol = 1e-5 if stored.dtype == F32 else 2e-3
    if request.relevance == "attention":
        return tol * np.maximum(np.abs(reference), 2.0 ** -7)
    return np.full(reference.shape, tol)


def groups_of(request, at):
    """The candidates of a segment's groups, as row numbers, in order."""
    cuts = request.groups if request.groups is not None else request.cu
    rows = np.arange(min(at.start + request.prefix, at.stop), at.stop)
    parts = [rows[(rows >= first) & (rows < end)] for first, end in zip(cuts[:-1], cuts[1:])]
    return [part for part in parts if len(part)]


def merge(request, mask):
    """The outputs that merging makes or changes, from the mask of what is kept."""
    power, most = request.merge
    out, sizes, joins, done = [request.rows[:0]], [], [], 0
    for at in segments(request):
        first = min(at.start + request.prefix, at.stop)
        for rows in groups_of(request, at):
            x, is_kept = widen(request.rows[rows], request.bf16), mask[rows] != 0
            own = None if request.sizes is None else request.sizes[done:done + len(rows)]
            done += len(rows)
            found, like = novelty.joins(x, is_kept, most)
            weight = novelty.weights(like, is_kept, power, own)
            out.append(novelty.merged(x, request.rows[rows], found, weight))
            ones = np.ones(len(rows), np.int64) if own is None else own.astype(np.int64)
            sizes += [int(ones[found == host].sum()) for host in np.flatnonzero(is_kept)]
            joins += [int(host) + int(rows[0]) - first if host >= 0 else -1 for host in found]
    return {"out": np.concatenate(out), "sizes": np.array(sizes, np.int64).astype(np.int32),
            "joins": np.array(joins, np.int32)}


def segment_scores(request, b, at):
    """Scores of segment b's candidates (fp32 where exact, float64 where close) and whether its reference is bad."""
    rows = request.rows[at]
    if request.kind == "cut":
        return rows, False
    if request.kind == "prune":
        reference = request.reference
        if isinstance(reference, tuple) and reference[0] == "novelty":
            own = [novelty.scores(widen(request.rows[rows_of], request.bf16), reference[1])
                   for rows_of in groups_of(request, at)]
            return np.concatenate(own + [np.zeros(0, F32)]).astype(F32), False
        if not isinstance(reference, (str, tuple)):
            reference = reference[b]
        return score_segment(rows, request.prefix, reference, request.bf16)
    roles = request.roles[at]
    if request.relevance == "attention":
        q, k = (widen(array[at], request.bf16) for array in (request.q, request.k))
        return sequence.attention(q, k, roles, request.causal, request.last_query, request.reductions)
    policy = sequence.mean_cosine if request.relevance == "mean-cosine" else sequence.max_cosine
    return policy(widen(rows, request.bf16), roles)


def close(request):
    """The float64 scores of a close policy by row, NaN for rows that are no candidates."""
    scores = np.full(len(request.rows), np.nan, F64)
    for b, at in enumerate(segments(request)):
        scores[at][sequence.has_role(request.roles[at], sequence.CANDIDATE)] = segment_scores(request, b, at)[0]
    return scores


def answer(request, scores=None):
    """The outputs, by the names of the command's options. `scores` [total]: those of the program under test, for a
    close policy."""
    default = "auto" if request.kind == "cut" or request.relevance == "attention" else "unit"
    rule = rule_of({"scale": default} | request.values)
    bounds = request.cu if request.groups is None else request.groups
    mask = np.zeros(len(request.rows), np.uint8)
    flags, reported = [], []
    for b, at in enumerate(segments(request)):
        if request.kind == "prune-seq":
            roles = request.roles[at]
            candidates = at.start + np.flatnonzero(sequence.has_role(roles, sequence.CANDIDATE))
            mask[at] = (roles & (sequence.CANDIDATE | sequence.ABSENT)) == 0  # kept whatever is cut
        else:
            candidates = np.arange(min(at.start + request.prefix, at.stop), at.stop)
        found, bad = segment_scores(request, b, at)
        found = found.astype(F32) if scores is None else scores[candidates]
        flags.append(0)
        for g, (first, end) in enumerate(zip(bounds[:-1], bounds[1:])):
            own = (candidates >= first) & (candidates < end)
            given = None if request.group_k is None else int(request.group_k[g])
            chosen, flag = cut(found[own], rule, bad, given)
            mask[candidates[own][chosen]] = 1
            flags[-1] |= flag
        if request.kind == "prune-seq":
            by_row = np.full(at.stop - at.start, np.nan, F32)
            by_row[candidates - at.start] = found
            found = by_row
        reported.append(found)
    kept = [np.flatnonzero(mask[at]) - (request.prefix if request.kind == "prune" else 0) for at in segments(request)]
    counts = np.array([len(k) for k in kept], np.int32)
    made = {} if request.merge is None else merge(request, mask)
    return {
        "kept": np.concatenate(kept + [np.zeros(0)]).astype(np.int32),
        "counts": counts,
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        "flags": np.array(flags, np.int32),
        "scores": np.concatenate(reported + [np.zeros(0, F32)]).astype(F32),
        "out": request.rows[mask != 0],
        "mask": mask,
        "group-counts": np.array([mask[a:b].sum() for a, b in zip(bounds[:-1], bounds[1:])], np.int32),
    } | made
