# SPDX-License-Identifier: Apache-2.0
"""The method (METHOD.md) in Python and numpy, written from the text alone.

Exact where the text says exact: fp32 scores in the written summation order with a correctly rounded fused
multiply-add, the order, every detector, the clamps, spread, flags, and stage 2's mean cosine. MAX_COSINE has a
float64 reference only (the text calls it close). No C code was read for it, so that the two can disagree.

Run as a program it tests itself: `method.py [--fma N]` (hand-worked examples; the fma against exact fractions).
"""
import argparse
import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

F32, F64, I64 = np.float32, np.float64, np.int64
TINY = F32(1e-8)
ACCUMULATORS = 256
FLAG_WHOLE, FLAG_NAN, FLAG_BAD = 1, 2, 4
np.seterr(all="ignore")


# ---------------------------------------------------------------------------------------------- fp32 arithmetic
def fma32(a, b, c):
    """fp32(a*b + c), one rounding. The product is exact in double; the sum is rounded to odd there, then to fp32."""
    product = np.multiply(a, b, dtype=F64)
    addend = np.asarray(c, dtype=F32).astype(F64)
    total = np.atleast_1d(product + addend)
    back = total - product
    error = (product - (total - back)) + (addend - back)
    bits = total.view(I64)
    fix = (error != 0) & np.isfinite(error) & ((bits & 1) == 0)
    step = np.where((error > 0) == (total > 0), 1, -1)
    return (bits + np.where(fix, step, 0)).view(F64).astype(F32).reshape(product.shape)


def widen(array, bf16=False):
    """fp16, fp32, or bf16 carried as uint16, to fp32 exactly."""
    if bf16 and array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(F32)
    return array.astype(F32)


def dot(x, y):
    """Row dot products in the written order. x is [N, D]; y is [D] or [N, D]; both fp32."""
    rows, dim = x.shape
    steps = -(-dim // ACCUMULATORS)
    padded_x = np.zeros((rows, steps * ACCUMULATORS), F32)
    padded_x[:, :dim] = x
    padded_y = np.zeros(y.shape[:-1] + (steps * ACCUMULATORS,), F32)
    padded_y[..., :dim] = y
    acc = np.zeros((rows, ACCUMULATORS), F32)
    for s in range(steps):
        part = slice(s * ACCUMULATORS, (s + 1) * ACCUMULATORS)
        acc = fma32(padded_x[:, part], padded_y[..., part], acc)
    groups = acc.reshape(rows, 32, 8)
    for stride in (4, 2, 1):
        groups = groups[:, :, :stride] + groups[:, :, stride:2 * stride]
    sums = groups[:, :, 0]
    for stride in (16, 8, 4, 2, 1):
        sums = sums[:, :stride] + sums[:, stride:2 * stride]
    return sums[:, 0]


def norm(x):
    """fp32 norms of the rows of [N, D]."""
    return np.sqrt(dot(x, x))


def finish(scores):
    """Clamp to [-1, 1] keeping NaN; -0 becomes +0."""
    clamped = np.where(scores > 1, F32(1), np.where(scores < -1, F32(-1), scores)).astype(F32)
    return clamped + F32(0)


def is_bad(reference):
    size = norm(reference[None, :])[0]
    return bool(size == 0 or not np.isfinite(size))


def score(x, c):
    """Stage 1: cosine of every row of x [N, D] with c [D], and whether c is a bad reference."""
    size = norm(c[None, :])[0]
    bound = np.fmax(norm(x) * size, TINY)
    return finish(dot(x, c) / bound), is_bad(c)


def mean_direction(x, query):
    """u of stage 2: the mean over the query rows of row/|row|, blocks of 64 consecutive rows. None if there is none."""
    rows, dim = x.shape
    count = int(np.count_nonzero(query))
    if count == 0:
        return None
    weight = F32(1) / np.fmax(norm(x), TINY)
    blocks = -(-rows // 64)
    px, pw, pq = np.zeros((blocks * 64, dim), F32), np.zeros(blocks * 64, F32), np.zeros(blocks * 64, bool)
    px[:rows], pw[:rows], pq[:rows] = x, weight, query
    px, pw, pq = px.reshape(blocks, 64, dim), pw.reshape(blocks, 64), pq.reshape(blocks, 64)
    acc = np.zeros((blocks, dim), F32)
    for i in range(min(64, rows)):
        acc = np.where(pq[:, i, None], fma32(px[:, i], pw[:, i, None], acc), acc)
    total = np.zeros(dim, F32)
    for block in acc:
        total = total + block
    return total / F32(count)


def relevance_mean(x, roles):
    """MEAN_COSINE: scores of the candidates (in row order) and whether u is bad."""
    candidates = x[(roles & 1) != 0]
    u = mean_direction(x, (roles & 2) != 0)
    if u is None:
        return np.zeros(len(candidates), F32), True
    return finish(dot(candidates, u) / np.fmax(norm(candidates), TINY)), is_bad(u)


def relevance_max(x, roles):
    """MAX_COSINE in float64, for closeness only. T = 0 scores 0."""
    wide = x.astype(F64)
    v, t = wide[(roles & 1) != 0], wide[(roles & 2) != 0]
    if len(t) == 0:
        return np.zeros(len(v))
    bound = np.sqrt((v * v).sum(1))[:, None] * np.sqrt((t * t).sum(1))[None, :]
    return np.fmax.reduce((v @ t.T) / np.fmax(bound, 1e-8), axis=1)


# ---------------------------------------------------------------------------------------------- order and cut
@dataclass
class Rule:
    detector: str = "otsu"
    k: int = 0
    ratio: float = 0.0
    tau: float = 0.0
    lam: float = 1.0
    mass: float = 0.9
    window: int = 0
    lo: float = 0.0
    hi: float = 1.0
    min_keep: int = 1
    max_keep: int | None = None
    round_to: int = 1
    spread: float = 0.0
    scale: str = "unit"


def rank_order(scores):
    """Row numbers, best first; ties by index; NaN last, by index."""
    number = [i for i, s in enumerate(scores.tolist()) if s == s]
    values = scores.tolist()
    number.sort(key=lambda i: -values[i])  # list.sort is stable
    return number + [i for i, s in enumerate(values) if s != s]


def auto_exponent(scores):
    finite = np.abs(scores[np.isfinite(scores)].astype(F64))
    top = float(finite.max()) if len(finite) else 0.0
    if top == 0:
        return 0
    e = -126
    while top > math.ldexp(1.0, e):
        e += 1
    return e


def curve(ranked, scale):
    """The integer curve (p, q) of scores in rank order, no NaN among them."""
    e = auto_exponent(ranked) if scale == "auto" else 0
    q = np.rint(ranked.astype(F64) * math.ldexp(1.0, 30 - e))
    q = np.clip(q, -(2.0 ** 30), 2.0 ** 30).astype(I64)
    return q >> 10, q


def best(values, first, lo, hi):
    """Smallest rank with the greatest positive value, values[i] belonging to rank first+i, lo <= rank <= hi."""
    start, stop = max(lo, first), min(hi, first + len(values) - 1)
    if start > stop:
        return None
    window = values[start - first:stop - first + 1]
    i = int(np.argmax(window))
    return start + i if window[i] > 0 else None


def detect(scores, order, rule):
    """k chosen by the rule before the clamps; None means keep all. Not for TOPK and RATIO."""
    n = int(np.count_nonzero(~np.isnan(scores)))
    p, q = curve(scores[order[:n]], rule.scale)
    lo, hi = math.floor(rule.lo * n), math.ceil(rule.hi * n) - 1
    name = rule.detector
    if name == "otsu":
        k = np.arange(1, n, dtype=I64)
        d = n * np.cumsum(p)[:-1] - k * p.sum()
        chosen = best(d.astype(F64) * d.astype(F64) / (k.astype(F64) * (n - k).astype(F64)), 0, lo, hi)
    elif name == "chord":
        chosen = best(np.abs((p[0] - p) * (n - 1) - np.arange(n, dtype=I64) * (p[0] - p[-1])), 0, lo, hi)
    elif name == "gap":
        chosen = best(q[:-1] - q[1:], 0, lo, hi)
    elif name == "curvature":
        w = rule.window or max(1, n // 16)
        chosen = best(q[:n - 2 * w] - 2 * q[w:n - w] + q[2 * w:], w, lo, hi) if n > 2 * w else None
    elif name == "iqr":
        q3, q1 = int(p[(n - 1) // 4]), int(p[3 * (n - 1) // 4])
        return int(np.count_nonzero(2 * p > 2 * q3 + 3 * (q3 - q1)))
    elif name == "mean":
        s1, s2 = float(int(p.sum())), float(int((p * p).sum()))
        m = s1 / float(n)
        v = s2 / float(n) - m * m
        t = m + rule.lam * math.sqrt(max(v, 0.0))
        return int(np.count_nonzero(p.astype(F64) > t))
    elif name == "mass":
        sums = np.cumsum(p - p[-1])
        if sums[-1] == 0:
            return None
        return int(np.argmax(sums.astype(F64) >= rule.mass * float(int(sums[-1])))) + 1
    elif name == "threshold":
        return int(np.count_nonzero(scores >= F32(rule.tau)))
    else:
        raise ValueError(name)
    return None if chosen is None else chosen + 1


def clamp(k, n, rule):
    top = n if rule.max_keep is None else rule.max_keep
    k = min(max(k, rule.min_keep), top)
    k = -(-k // rule.round_to) * rule.round_to
    return min(k, top, n)


def spread_ranks(k, n_numbers, share):
    """The k ranks kept: the best h, then t taken evenly from the tail."""
    t = math.floor(share * k)
    h = k - t
    m = max(n_numbers, k) - h
    return list(range(h)) + [h + ((2 * i + 1) * m) // (2 * t) for i in range(t)]


def cut(scores, rule, bad=False):
    """Kept indices, ascending, and the flags, for the scores of one segment's candidates."""
    n = len(scores)
    if n == 0:
        return [], 0
    numbers = int(np.count_nonzero(~np.isnan(scores)))
    flags = (FLAG_NAN if numbers < n else 0) | (FLAG_BAD if bad else 0)
    order = rank_order(scores)
    if rule.detector == "topk":
        k = rule.k
    elif rule.detector == "ratio":
        k = math.ceil(float(n) * rule.ratio - 1e-9)
    elif bad or numbers < 3:
        k, flags = n, flags | FLAG_WHOLE
    else:
        k = detect(scores, order, rule)
        k = n if k is None else k
    k = clamp(k, n, rule)
    return sorted(order[r] for r in spread_ranks(k, numbers, rule.spread)), flags


# ---------------------------------------------------------------------------------------------- self test
def _exact_fma(a, b, c):
    """fp32(a*b+c) for finite values by exact fractions."""
    value = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if value == 0:
        return F32(0)
    e = -149
    while abs(value) >= Fraction(2) ** (e + 24):
        e += 1
    scaled = value / Fraction(2) ** e
    rounded = round(scaled)  # Fraction rounds half to even
    exact = Fraction(rounded) * Fraction(2) ** e
    return F32(math.inf if exact > 0 else -math.inf) if abs(exact) >= Fraction(2) ** 128 else F32(float(exact))


def _self_test(count):
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2 ** 32, (3, count), dtype=np.uint32)
    a, b, c = bits.view(F32)
    near = rng.random(count) < 0.7  # c close to a*b, or just outside its last bits: cancellation and double rounding
    c = np.where(near, (a * b * F32(2) ** rng.integers(-30, 31, count).astype(F32)).astype(F32), c)
    c = np.where(rng.random(count) < 0.2, -(a * b), c)
    half = rng.random(count) < 0.2  # halfway cases: 1 + 2^-24 and a hair
    a = np.where(half, F32(1) + F32(2) ** -12, a)
    b = np.where(half, F32(2) ** -12, b)
    c = np.where(half, F32(1) + F32(2) ** -23 * rng.integers(0, 4, count).astype(F32), c)
    keep = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
    a, b, c = a[keep].astype(F32), b[keep].astype(F32), c[keep].astype(F32)
    got = fma32(a, b, c)
    for x, y, z, g in zip(a, b, c, got):
        assert _exact_fma(x, y, z) == g, (x, y, z, g)

    def kept(values, **options):
        return cut(np.array(values, F32), Rule(**options))

    nan, inf = math.nan, math.inf
    assert kept([.1, .9, .1, .8], detector="otsu") == ([1, 3], 0)
    assert kept([.5, .5, .5]) == ([0, 1, 2], 0)
    assert kept([.5, nan, .1]) == ([0, 1, 2], FLAG_WHOLE | FLAG_NAN)
    assert kept([.5, nan, .1], detector="topk", k=2) == ([0, 2], FLAG_NAN)
    assert kept([.1, .2, .2, .3], detector="topk", k=2) == ([1, 3], 0)
    assert kept([1, .9, .2, .1], detector="gap") == ([0, 1], 0)
    assert kept([1, .9, .2, .1], detector="chord") == ([0, 1], 0)
    assert kept([1, .5, .25, .125], detector="curvature", window=1) == ([0, 1], 0)  # .25 beats .125
    assert kept([1, .5, .25, .125], detector="curvature", window=2) == ([0, 1, 2, 3], 0)
    assert kept([.1, 1, .1, .1, .1, .1, .1], detector="iqr") == ([1], 0)
    assert kept([.1] * 5, detector="iqr") == ([0], 0) and kept([.1] * 5, detector="mean", min_keep=2) == ([0, 1], 0)
    assert kept([1, 0, 0, 0], detector="mean") == ([0], 0)
    assert kept([1, .5, .5, 0], detector="mass", mass=.5) == ([0], 0)
    assert kept([1, .5, .5, 0], detector="mass", mass=.51) == ([0, 1], 0)
    assert kept([.3, .1, .2], detector="threshold", tau=.2) == ([0, 2], 0)  # fp32(.2) on both sides
    assert kept([.3, .1, .2, nan], detector="threshold", tau=float(F32(.2))) == ([0, 2], FLAG_NAN)
    assert kept(np.arange(10) / 10, detector="ratio", ratio=.3) == ([7, 8, 9], 0)
    assert kept(np.arange(10) / 10, detector="ratio", ratio=.31, round_to=3, max_keep=5) == ([5, 6, 7, 8, 9], 0)
    assert kept(np.arange(10, 0, -1) / 10, detector="topk", k=4, spread=.5) == ([0, 1, 4, 8], 0)
    assert kept([inf, 4, 2, -inf], detector="gap", scale="auto") == ([0, 1, 2], 0)
    assert auto_exponent(np.array([4, 2], F32)) == 2 and auto_exponent(np.array([4.5], F32)) == 3
    assert auto_exponent(np.array([1e-45], F32)) == -126 and auto_exponent(np.array([inf, 0], F32)) == 0
    assert auto_exponent(np.array([3.4e38], F32)) == 128
    for k in range(1, 40):  # the closed form for "is rank r one of the spread ones" agrees with the list
        for n in range(k, 60):
            for share in (0.1, 0.5, 0.77, 1.0):
                ranks = spread_ranks(k, n, share)
                t = math.floor(share * k)
                h, m = k - t, n - (k - t)
                form = list(range(h))
                for u in range(m if t else 0):
                    odd = -(-2 * t * u // m) | 1
                    if odd * m < 2 * t * (u + 1) and odd < 2 * t:
                        form.append(h + u)
                assert ranks == form and len(set(ranks)) == k, (k, n, share)
    x = np.array([[3, 4], [4, 3], [-3, -4], [0, 0]], F32)
    s, bad = score(x, np.array([3, 4], F32))
    assert s.tolist() == [1.0, float(F32(24) / F32(25)), -1.0, 0.0] and not bad
    assert score(x, np.zeros(2, F32))[1] and score(x, np.full(2, 1e30, F32))[1]
    u = mean_direction(np.array([[2, 0], [0, 4]], F32), np.array([True, True]))
    assert u.tolist() == [0.5, 0.5]
    r, bad = relevance_mean(np.array([[2, 0], [0, 4], [1, 1]], F32), np.array([2, 3, 1], np.uint8))
    assert r.tolist() == [0.5, float(F32(1) / np.sqrt(F32(2)))] and not bad
    assert relevance_mean(x, np.ones(4, np.uint8))[1]
    print(f"method.py: self test passed ({len(a)} fma against fractions)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fma", type=int, default=20000, help="random fused multiply-adds compared with exact fractions")
    _self_test(parser.parse_args().fma)
