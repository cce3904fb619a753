# SPDX-License-Identifier: Apache-2.0
"""METHOD.md, stage 2: what a sequence's candidates have to do with its query rows. MEAN_COSINE is exact (fp32, the
written order); MAX_COSINE and ATTENTION are close, and stand here in float64."""
import numpy as np

from score import F32, F64, dot, finish, is_bad, length, mean_direction

CANDIDATE, QUERY, ABSENT = 1, 2, 4


def has_role(roles, bit):
    """Rows with the role; an absent row has none."""
    return ((roles & bit) != 0) & ((roles & ABSENT) == 0)


def mean_cosine(x, roles):
    """Scores of the candidates, in row order, and whether the reference is bad."""
    candidates = x[has_role(roles, CANDIDATE)]
    u = mean_direction(x, has_role(roles, QUERY))
    if u is None:
        return np.zeros(len(candidates), F32), True
    return finish(dot(candidates, u) / length(candidates)), is_bad(u)


def max_cosine(x, roles):
    """The greatest cosine to a query row other than the row itself; 0 where there is no other."""
    wide = x.astype(F64)
    size = np.sqrt((wide * wide).sum(1))
    size = np.where(np.isfinite(size), np.maximum(size, 1e-8), np.nan)
    query = np.flatnonzero(has_role(roles, QUERY))
    scores = []
    for v in np.flatnonzero(has_role(roles, CANDIDATE)):
        others = query[query != v]
        cosines = (wide[others] @ wide[v]) / (size[others] * size[v])
        scores.append(np.fmax.reduce(cosines) if len(others) else 0.0)
    return np.array(scores, F64), len(query) == 0


def attention(q, k, roles, causal=False, last_query=False, reductions=("mean", "mean")):
    """The attention that query rows pay to each candidate, reduced over heads, then over rows. q [N, Hq, d],
    k [N, Hkv, d]."""
    rows, heads, dim = q.shape
    shared = heads // k.shape[1]  # query heads that read one key head
    query = np.flatnonzero(has_role(roles, QUERY))
    candidate = np.flatnonzero(has_role(roles, CANDIDATE))
    if last_query:
        query = query[-1:]
    keys = np.repeat((roles & ABSENT)[None, :] == 0, len(query), 0)
    if causal:
        keys &= np.arange(rows)[None, :] <= query[:, None]
    if not keys[:, candidate].any():
        return np.zeros(len(candidate), F64), True
    paid = np.zeros((heads, len(query), rows), F64)
    for h in range(heads):
        logits = q[query, h].astype(F64) @ k[:, h // shared].astype(F64).T / np.sqrt(F64(dim))
        logits = np.where(keys, logits, -np.inf)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        paid[h] = weights / weights.sum(1, keepdims=True)
    over_heads, over_rows = (np.mean if how == "mean" else np.max for how in reductions)
    return over_rows(over_heads(paid, 0), 0)[candidate], False
