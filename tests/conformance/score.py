# SPDX-License-Identifier: Apache-2.0
"""METHOD.md, stage 1's score: fp32 in the written summation order with a correctly rounded fused multiply-add, and
the references (given, ROW, MEAN, LAG). Every operation below rounds once, to fp32, unless it says otherwise."""
import numpy as np

F32, F64, I64 = np.float32, np.float64, np.int64
TINY = F32(1e-8)
ACCUMULATORS, BLOCK = 256, 64
np.seterr(all="ignore")


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
    eights = acc.reshape(rows, 32, 8)
    for stride in (4, 2, 1):
        eights = eights[:, :, :stride] + eights[:, :, stride:2 * stride]
    sums = eights[:, :, 0]
    for stride in (16, 8, 4, 2, 1):
        sums = sums[:, :stride] + sums[:, stride:2 * stride]
    return sums[:, 0]


def norm(x):
    """The norms of the rows of [N, D], as computed: before floor and NaN."""
    return np.sqrt(dot(x, x))


def length(x):
    """What a row is divided by: its norm, at least 1e-8; NaN where the norm is not finite."""
    size = norm(x)
    return np.where(np.isfinite(size), np.maximum(size, TINY), F32(np.nan)).astype(F32)


def finish(scores):
    """Clamp to [-1, 1] keeping NaN; -0 becomes +0."""
    clamped = np.where(scores > 1, F32(1), np.where(scores < -1, F32(-1), scores)).astype(F32)
    return clamped + F32(0)


def is_bad(reference):
    size = norm(reference[None, :])[0]
    return bool(size == 0 or not np.isfinite(size))


def score(x, c):
    """Cosines of the rows of x [N, D] with c, [D] or [N, D]."""
    return finish(dot(x, c) / (length(x) * length(np.atleast_2d(c))))


def score_lag(x, lag):
    """Each candidate against the one `lag` before it; the first ones score -1."""
    first = min(lag, len(x))
    return np.concatenate([np.full(first, -1, F32), score(x[first:], x[:len(x) - first])]).astype(F32)


def mean_direction(x, query):
    """u of stage 2: the mean over the query rows of row/|row|, blocks of 64 consecutive rows. None if there is none."""
    rows, dim = x.shape
    count = int(np.count_nonzero(query))
    if count == 0:
        return None
    weight = F32(1) / length(x)
    blocks = -(-rows // BLOCK)
    px, pw, pq = np.zeros((blocks * BLOCK, dim), F32), np.zeros(blocks * BLOCK, F32), np.zeros(blocks * BLOCK, bool)
    px[:rows], pw[:rows], pq[:rows] = x, weight, query
    px, pw, pq = px.reshape(blocks, BLOCK, dim), pw.reshape(blocks, BLOCK), pq.reshape(blocks, BLOCK)
    acc = np.zeros((blocks, dim), F32)
    for i in range(min(BLOCK, rows)):
        acc = np.where(pq[:, i, None], fma32(px[:, i], pw[:, i, None], acc), acc)
    total = np.zeros(dim, F32)
    for block in acc:
        total = total + block
    return total / F32(count)


def score_segment(rows, prefix, reference, bf16):
    """The scores of a segment's candidates and whether its reference is bad. `rows` as stored, prefix rows included;
    reference: "row", "mean", ("lag", n), or a vector as stored."""
    x = widen(rows[prefix:], bf16)
    if len(x) == 0:
        return np.zeros(0, F32), False
    if isinstance(reference, tuple):
        return score_lag(x, reference[1]), False
    if isinstance(reference, str):
        c = widen(rows[0], bf16) if reference == "row" else mean_direction(x, np.ones(len(x), bool))
    else:
        c = widen(reference, bf16)
    return score(x, c), is_bad(c)
