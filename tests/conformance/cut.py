# SPDX-License-Identifier: Apache-2.0
"""METHOD.md, the cut of one group: order, detectors, roundings, clamps, spread, flags. Curve arithmetic in int64 and
double; what is not a number never enters it."""
import math
from dataclasses import dataclass

import numpy as np

from score import F32, F64, I64

FLAG_WHOLE, FLAG_NAN, FLAG_BAD, FLAG_NO_SCORE = 1, 2, 4, 16
# Given alone, a parameter chooses the detector that uses it.
CHOOSES = {"k": "topk", "ratio": "ratio", "percent": "ratio", "tau": "threshold", "mass": "mass", "lam": "mean",
           "window": "curvature"}


@dataclass
class Rule:
    detector: str = "otsu"
    k: int = 0
    ratio: float = 0.0
    percent: int = 0
    rounding: str = "ceil"
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
    order: str = "high"
    scale: str = "unit"


def rule_of(values):
    """The rule that a command line's values mean."""
    values = dict(values)
    for name, detector in CHOOSES.items():
        if name in values:
            values.setdefault("detector", detector)
    if "percent" in values:
        values.setdefault("rounding", "drop-percent")
    return Rule(**values)


# ---------------------------------------------------------------------------------------------- order and curve
def rank_order(scores):
    """Row numbers, best first; ties by index; NaN last, by index."""
    values = scores.tolist()
    number = [i for i, s in enumerate(values) if s == s]
    number.sort(key=lambda i: -values[i])  # list.sort is stable, and -0 equals +0
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


# ---------------------------------------------------------------------------------------------- detectors
def best(values, first, lo, hi):
    """Smallest rank with the greatest positive value, values[i] belonging to rank first+i, lo <= rank <= hi."""
    start, stop = max(lo, first), min(hi, first + len(values) - 1)
    if start > stop:
        return None
    searched = values[start - first:stop - first + 1]
    i = int(np.argmax(searched))
    return start + i if searched[i] > 0 else None


def detect(scores, order, rule):
    """k chosen by a curve rule before the clamps; None means keep all."""
    n = int(np.count_nonzero(~np.isnan(scores)))
    name = rule.detector
    if name == "threshold":  # a comparison, not a curve: any number of scores will do
        tau = -F32(rule.tau) if rule.order == "low" else F32(rule.tau)
        return int(np.count_nonzero(scores >= tau))
    p, q = curve(scores[order[:n]], rule.scale)
    lo, hi = math.floor(rule.lo * n), math.ceil(rule.hi * n) - 1
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
    else:
        raise ValueError(name)
    return None if chosen is None else chosen + 1


def share(n, rule):
    """RATIO's k of n candidates; ratio is the dropped share in the roundings named DROP."""
    size, r = float(n), rule.ratio
    return {
        "ceil": lambda: math.ceil(size * r - 1e-9),
        "floor": lambda: math.trunc(size * r),
        "nearest": lambda: int(np.rint(size * r)),
        "drop-ceil": lambda: n - math.ceil(size * r - 1e-9),
        "drop-trunc": lambda: math.trunc(size * (1.0 - r)),
        "drop-percent": lambda: n - n * rule.percent // 100,
    }[rule.rounding]()


# ---------------------------------------------------------------------------------------------- how many, and which
def clamp(k, n, rule):
    top = n if rule.max_keep is None else rule.max_keep
    k = min(max(k, rule.min_keep), top)
    k = -(-k // rule.round_to) * rule.round_to
    return min(k, top, n)


def spread_ranks(k, numbers, part):
    """The k ranks kept: the best h, then t taken evenly from the tail."""
    t = math.floor(part * k)
    h = k - t
    m = max(numbers, k) - h
    return list(range(h)) + [h + ((2 * i + 1) * m) // (2 * t) for i in range(t)]


def cut(scores, rule, bad=False, group_k=None):
    """Kept indices, ascending, and the flags, for the scores of one group's candidates. group_k: TOPK's k of this
    group, where each has its own."""
    n = len(scores)
    if n == 0:
        return [], 0
    numbers = int(np.count_nonzero(~np.isnan(scores)))
    flags = (FLAG_NAN if numbers < n else 0) | (FLAG_BAD if bad else 0) | (FLAG_NO_SCORE if numbers == 0 else 0)
    compared = -scores if rule.order == "low" else scores
    order = rank_order(compared)
    if rule.detector == "topk":
        k = rule.k if group_k is None else min(max(group_k, 0), rule.k)
    elif rule.detector == "ratio":
        k = share(n, rule)
    elif bad or (numbers < 3 and rule.detector != "threshold"):
        k, flags = n, flags | FLAG_WHOLE
    else:
        k = detect(compared, order, rule)
        k = n if k is None else k
    k = clamp(k, n, rule)
    return sorted(order[r] for r in spread_ranks(k, numbers, rule.spread)), flags
