# SPDX-License-Identifier: Apache-2.0
"""METHOD.md, novelty and merging: rows as bytes of their own scale, farthest-point order in windows, kept rows that
become means of what joins them. Integers are int64, fp32 operations round once each."""
import numpy as np

from score import F32, F64, I64, dot, fma32

ONE = 1 << 20
CANONICAL = {np.dtype(np.float16): 0x7E00, np.dtype(np.uint16): 0x7FC0, np.dtype(F32): 0x7FC00000}


def mean_squares(x):
    return dot(x, x) / F32(x.shape[1])


def is_blank(r):
    return ~(np.isfinite(r) & (r > 0))


def as_bytes(x, r):
    """q; zero rows where a row is blank."""
    exponent = np.frexp(np.where(is_blank(r), 1, r).astype(F64))[1] - 1
    shift = 4 - (exponent >> 1)
    with np.errstate(invalid="ignore"):
        scaled = np.rint(np.ldexp(x.astype(F64), shift[:, None]))
    return np.where(is_blank(r)[:, None], 0, np.clip(scaled, -127, 127)).astype(I64)


def similarities(x, r):
    """p of every pair; of no meaning where a row is blank."""
    q = as_bytes(x, r)
    g = q @ q.T
    length = np.sqrt(np.where(is_blank(r), 1, np.diag(g)).astype(F32))
    c = g.astype(F32) / (length[:, None] * length[None, :])
    return np.rint(np.clip(c, F32(-1), F32(1)).astype(F64) * ONE).astype(I64)


def windows(n, most):
    count = -(-n // most)
    return [slice(b * n // count, (b + 1) * n // count) for b in range(count)]


def values(p, blank):
    """v of each row of a window: -1 for the first, -2 for blank ones."""
    v = np.where(blank, -2, 0)
    left = np.flatnonzero(~blank)
    if len(left) == 0:
        return v
    v[left[0]] = -1
    m, left = p[left[1:], left[0]], left[1:]
    while len(left):
        at = int(np.argmin(m))  # the first of equals
        row = left[at]
        v[row] = ONE - m[at]
        left = np.delete(left, at)
        m = np.maximum(np.delete(m, at), p[left, row])
    return v


def scores(x, most):
    """The scores of a group's candidates."""
    n = len(x)
    if n == 0:
        return np.zeros(0, F32)
    r = mean_squares(x)
    v = np.concatenate([values(similarities(x[w], r[w]), is_blank(r[w])) for w in windows(n, most)])
    v = np.where(v == -1, max(int(v.max()), 0) + 1, v)
    return np.where(v == -2, np.where(r == 0, 0, np.nan), v * 2.0 ** -22).astype(F32)


def joins(x, kept, most):
    """For each candidate of a group the kept one that it joins or is, -1 where it is lost; and p of the two."""
    found, like = np.full(len(x), -1), np.zeros(len(x), I64)
    r = mean_squares(x) if len(x) else np.zeros(0, F32)
    for w in windows(len(x), most) if len(x) else []:
        p, blank, own = similarities(x[w], r[w]), is_blank(r[w]), kept[w]
        hosts = np.flatnonzero(own & ~blank)
        for i in range(w.stop - w.start):
            if own[i]:
                found[w.start + i] = w.start + i
            elif not blank[i] and len(hosts):
                host = hosts[int(np.argmax(p[i, hosts]))]  # the first of equals
                found[w.start + i], like[w.start + i] = w.start + host, p[i, host]
    return found, like


def weights(like, is_kept, power, sizes):
    c = np.maximum(like, 0).astype(F32) * F32(2.0 ** -20)
    w = np.where(is_kept | (power == "mean"), F32(1), (c * c) * (c * c)).astype(F32)
    return w if sizes is None else w * sizes.astype(F32)


def narrow(y, dtype):
    """fp32 as the file holds it, rounded to nearest even; a NaN is the quiet one."""
    if dtype == np.uint16:
        bits = y.view(np.uint32)
        stored = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    else:
        stored = y.astype(dtype)
    unsigned = stored.view({2: np.uint16, 4: np.uint32}[stored.dtype.itemsize])
    unsigned[np.isnan(y)] = CANONICAL[stored.dtype]
    return stored


def merged(x, stored, found, weight):
    """The rows of the kept candidates, in order: means of what joins them, or as they are stored where nothing does."""
    rows = []
    for host in np.flatnonzero(found == np.arange(len(found))):
        members = np.flatnonzero(found == host)
        if len(members) == 1:
            rows.append(stored[host])
            continue
        a, t = np.zeros(x.shape[1], F32), F32(0)
        for i in members:
            a, t = fma32(weight[i], x[i], a), F32(t + weight[i])
        rows.append(narrow(a / t, stored.dtype))
    return np.stack(rows) if rows else stored[:0]
