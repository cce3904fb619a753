# SPDX-License-Identifier: Apache-2.0
"""Tests of the statement of the method itself: hand-worked examples, the fused multiply-add against exact fractions,
and every rule broken on purpose (broken_rules.py), which some case of check.py must notice.

`selftest.py [--fma N] [--random N]`; the last line is `N passed, M failed`.
"""
import argparse
import math
import sys
from fractions import Fraction

import numpy as np

import broken_rules
import method
import novelty
import sequence
from cases import random_case
from crafted import crafted_cases
from crafted_options import option_cases
from cut import FLAG_BAD, FLAG_NAN, FLAG_NO_SCORE, FLAG_WHOLE, Rule, auto_exponent, cut, rule_of, share, spread_ranks
from method import Request
from score import F32, fma32, is_bad, mean_direction, score, score_lag, score_segment


# ---------------------------------------------------------------------------------------------- fp32
def exact_fma(a, b, c):
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


def check_fma(count):
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
    for x, y, z, got in zip(a, b, c, fma32(a, b, c)):
        assert exact_fma(x, y, z) == got, (x, y, z, got)


def check_scores():
    nan = math.nan
    x = np.array([[3, 4], [4, 3], [-3, -4], [0, 0]], F32)
    c = np.array([3, 4], F32)
    assert score(x, c).tolist() == [1.0, float(F32(24) / F32(25)), -1.0, 0.0] and not is_bad(c)
    assert is_bad(np.zeros(2, F32)) and is_bad(np.full(2, 1e30, F32)) and is_bad(np.array([nan, 0], F32))
    tiny = x * F32(2.0 ** -24)  # both norms above the floor, their product far below it: the floor is on each
    assert score(tiny, tiny[0]).tolist() == score(x, c).tolist()
    assert score(x * F32(2.0 ** -40), c).tolist()[0] < 1e-3
    overflow = score(np.array([[3e19, 0], [1, 0]], F32), np.array([1e-3, 0], F32)).tolist()
    assert math.isnan(overflow[0]) and overflow[1] == 1.0
    assert score_lag(np.array([[1, 0], [0, 1], [2, 0], [0, -3]], F32), 2).tolist() == [-1, -1, 1, -1]
    assert score_lag(np.full((2, 1), nan, F32), 5).tolist() == [-1, -1]
    assert mean_direction(np.array([[2, 0], [0, 4]], F32), np.array([True, True])).tolist() == [0.5, 0.5]
    rows = np.array([[1, 0], [9, 9], [1, 0], [0, 1]], np.float16)
    assert score_segment(rows, 2, "row", False)[0].tolist() == [1, 0]
    assert score_segment(rows, 4, "row", False) [0].tolist() == [] and not score_segment(rows * 0, 4, "row", False)[1]


def check_sequence():
    x = np.array([[2, 0], [0, 4], [1, 1]], F32)
    got, bad = sequence.mean_cosine(x, np.array([2, 3, 1], np.uint8))
    assert got.tolist() == [0.5, float(F32(1) / np.sqrt(F32(2)))] and not bad
    assert sequence.mean_cosine(x, np.array([6, 3, 5], np.uint8))[0].tolist() == [1.0]
    assert sequence.mean_cosine(x, np.array([1, 1, 1], np.uint8))[1]
    assert sequence.max_cosine(x, np.array([1, 3, 1], np.uint8))[0].round(6).tolist() == [0, 0, 0.707107]
    assert not sequence.max_cosine(x, np.array([1, 3, 1], np.uint8))[1]
    assert sequence.max_cosine(x, np.array([1, 7, 1], np.uint8))[1]
    one = np.ones((4, 2, 1))
    text_last, text_first = np.array([1, 1, 2, 2], np.uint8), np.array([2, 2, 1, 1], np.uint8)
    assert sequence.attention(one, one, text_last)[0].tolist() == [0.25, 0.25]
    assert np.allclose(sequence.attention(one, one, text_last, causal=True)[0], (1 / 3 + 1 / 4) / 2)
    assert sequence.attention(one, one, text_last, causal=True, last_query=True)[0].tolist() == [0.25, 0.25]
    assert sequence.attention(one, one, text_first, causal=True)[1] and not sequence.attention(one, one, text_first)[1]
    assert np.allclose(sequence.attention(one, one, np.array([1, 4, 2, 6], np.uint8))[0], 0.5)
    q = np.zeros((4, 2, 1))  # row 2 looks away with its second head, row 3 with both
    q[2, 1], q[3] = 100, 100
    k = np.array([0, 0, 1, 1.0]).reshape(4, 1, 1)
    for how, expected in ((("mean", "mean"), 1 / 16), (("max", "mean"), 1 / 8), (("mean", "max"), 1 / 8),
                          (("max", "max"), 1 / 4)):
        assert np.allclose(sequence.attention(q, k, text_last, reductions=how)[0], expected), how


def check_novelty():
    x = np.array([[4, 0], [0, 3], [8, 0], [3, 3], [0, 0], [math.nan, 1]], F32)
    r = novelty.mean_squares(x)
    assert r[:5].tolist() == [8, 4.5, 32, 9, 0] and novelty.as_bytes(x, r).tolist() == [
        [32, 0], [0, 24], [32, 0], [24, 24], [0, 0], [0, 0]]
    half = 741455  # rint(2^20 / sqrt(2))
    p = novelty.similarities(x, r)
    assert p[0, 1] == 0 and p[0, 2] == 1 << 20 and p[0, 3] == p[1, 3] == half
    got = novelty.scores(x, 64)  # 0 first, then 1, which is nothing like it, then 3, then the copy
    one = 1 << 20
    assert (got[:5] * 2.0 ** 22).tolist() == [one + 1, one, 0, one - half, 0] and math.isnan(got[5])
    assert novelty.scores(x[:1], 64).tolist() == [2.0 ** -22] and novelty.scores(x[4:], 64)[0] == 0
    assert novelty.windows(130, 64) == [slice(0, 43), slice(43, 86), slice(86, 130)]
    found, like = novelty.joins(x, np.array([1, 1, 0, 0, 0, 0], bool), 64)
    assert found.tolist() == [0, 1, 0, 0, -1, -1] and like[2:4].tolist() == [one, half]
    w = novelty.weights(like, found == np.arange(6), "mean", np.array([1, 1, 3, 4, 1, 1]))
    assert novelty.merged(x, x, found, w).tolist() == [[5, 1.5], [0, 3]]
    w = novelty.weights(like, found == np.arange(6), "cos4", None)
    assert w[:3].tolist() == [1, 1, 1] and abs(w[3] - 0.25) < 1e-6
    ties = np.array([1 + 2.0 ** -8, 1 + 3 * 2.0 ** -8], F32)
    assert novelty.narrow(ties, np.dtype(np.uint16)).tolist() == [0x3F80, 0x3F82]


# ---------------------------------------------------------------------------------------------- the cut
def kept(values, **options):
    return cut(np.array(values, F32), rule_of(options))


def check_cut():
    nan, inf = math.nan, math.inf
    assert kept([.1, .9, .1, .8], detector="otsu") == ([1, 3], 0)
    assert kept([.5, .5, .5]) == ([0, 1, 2], 0)
    assert kept([.5, nan, .1]) == ([0, 1, 2], FLAG_WHOLE | FLAG_NAN)
    assert kept([nan, nan]) == ([0, 1], FLAG_WHOLE | FLAG_NAN | FLAG_NO_SCORE)
    assert kept([.5, nan, .1], k=2) == ([0, 2], FLAG_NAN) and kept([.1, .2, .2, .3], k=2) == ([1, 3], 0)
    assert kept([1, .9, .2, .1], detector="gap") == ([0, 1], 0) and kept([1, .9, .2, .1], detector="chord") == ([0, 1],
                                                                                                                0)
    assert kept([1, .5, .25, .125], window=1) == ([0, 1], 0)  # .25 beats .125
    assert kept([1, .5, .25, .125], window=2) == ([0, 1, 2, 3], 0)
    assert kept([.1, 1, .1, .1, .1, .1, .1], detector="iqr") == ([1], 0)
    assert kept([.1] * 5, detector="iqr") == ([0], 0) and kept([.1] * 5, detector="mean", min_keep=2) == ([0, 1], 0)
    assert kept([1, 0, 0, 0], lam=1.0) == ([0], 0)
    assert kept([1, .5, .5, 0], mass=.5) == ([0], 0) and kept([1, .5, .5, 0], mass=.51) == ([0, 1], 0)
    assert kept([.3, .1, .2], tau=.2) == ([0, 2], 0)  # fp32(.2) on both sides
    assert kept([.3, .1, .2, nan], tau=.2) == ([0, 2], FLAG_NAN)
    assert kept([.3, .1], tau=.2) == ([0], 0) and kept([nan], tau=.2, min_keep=0) == ([], FLAG_NAN | FLAG_NO_SCORE)
    assert cut(np.array([.3, .1, .2], F32), rule_of({"tau": .2}), bad=True) == ([0, 1, 2], FLAG_WHOLE | FLAG_BAD)
    assert kept([.3, .1, .2], tau=.2, order="low") == ([1, 2], 0) and kept([.1, .2, .2, .3, nan], k=3,
                                                                           order="low") == ([0, 1, 2], FLAG_NAN)
    assert kept([1, .9, .2, .1, .1], detector="gap", order="low") == ([2, 3, 4], 0)
    tenths = np.arange(10) / 10
    assert kept(tenths, ratio=.3) == ([7, 8, 9], 0) and kept(tenths, ratio=.31, round_to=3,
                                                             max_keep=5) == ([5, 6, 7, 8, 9], 0)
    assert kept(np.arange(10, 0, -1) / 10, k=4, spread=.5) == ([0, 1, 4, 8], 0)
    assert kept([inf, 4, 2, -inf], detector="gap", scale="auto") == ([0, 1, 2], 0)
    assert auto_exponent(np.array([4, 2], F32)) == 2 and auto_exponent(np.array([4.5], F32)) == 3
    assert auto_exponent(np.array([1e-45], F32)) == -126 and auto_exponent(np.array([inf, 0], F32)) == 0
    assert auto_exponent(np.array([3.4e38], F32)) == 128
    assert [share(7, Rule(ratio=.5, rounding=r)) for r in ("ceil", "floor", "nearest", "drop-ceil",
                                                           "drop-trunc")] == [4, 3, 4, 3, 3]
    assert [share(10, Rule(ratio=.7, rounding=r)) for r in ("ceil", "drop-ceil", "drop-trunc")] == [7, 3, 3]
    assert [share(7, Rule(percent=p, rounding="drop-percent")) for p in (0, 14, 15, 99, 100)] == [7, 7, 6, 1, 0]
    assert [cut(np.array([.1, .2, .3], F32), rule_of({"k": 2, "min_keep": 0}), group_k=k)[0]
            for k in (-5, 1, 2, 9)] == [[], [2], [1, 2], [1, 2]]


def check_spread():
    """The closed form for "is rank r one of the spread ones" agrees with the list."""
    for k in range(1, 40):
        for n in range(k, 60):
            for part in (0.1, 0.5, 0.77, 1.0):
                ranks = spread_ranks(k, n, part)
                t = math.floor(part * k)
                h, m = k - t, n - (k - t)
                form = list(range(h))
                for u in range(m if t else 0):
                    odd = -(-2 * t * u // m) | 1
                    if odd * m < 2 * t * (u + 1) and odd < 2 * t:
                        form.append(h + u)
                assert ranks == form and len(set(ranks)) == k, (k, n, part)


def check_calls():
    scores = np.array([.9, .1, .2, .8, math.nan, math.nan], F32)
    got = method.answer(Request("cut", scores, [0, 4, 6], {"k": 1}, groups=np.array([0, 2, 4, 4, 6])))
    assert got["kept"].tolist() == [0, 3, 0] and got["group-counts"].tolist() == [1, 1, 0, 1]
    assert got["flags"].tolist() == [0, FLAG_NAN | FLAG_NO_SCORE]
    assert got["mask"].tolist() == [1, 0, 0, 1, 1, 0] and got["offsets"].tolist() == [0, 2, 3]
    rows = np.array([[1, 0], [9, 9], [1, 0], [0, 1], [1, 0]], F32)
    got = method.answer(Request("prune", rows, [0, 1, 5], {"k": 1}, reference="row", prefix=2))
    assert got["kept"].tolist() == [0] and got["mask"].tolist() == [0, 0, 0, 1, 0]
    assert got["counts"].tolist() == [0, 1] and got["flags"].tolist() == [0, 0]
    roles = np.array([4, 0, 1, 1, 2], np.uint8)
    got = method.answer(Request("prune-seq", rows, [0, 5], {"k": 1}, roles=roles, groups=np.array([0, 3, 5])))
    assert got["kept"].tolist() == [1, 2, 3, 4] and got["group-counts"].tolist() == [2, 2]
    assert got["mask"].tolist() == [0, 1, 1, 1, 1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fma", type=int, default=20000,
                        help="random fused multiply-adds compared with exact fractions")
    parser.add_argument("--random", type=int, default=120, help="random cases for the broken rules")
    args = parser.parse_args()
    check_fma(args.fma)
    examples = (check_scores, check_novelty, check_sequence, check_cut, check_spread, check_calls)
    for check in examples:
        check()
    requests = [c.request for c in (*crafted_cases(), *option_cases(),
                                    *(random_case(1, i) for i in range(args.random)))]
    missed = broken_rules.unnoticed(requests)
    for rule in missed:
        print(f"FAILED: no case of check.py notices {rule}")
    print(f"{1 + len(examples) + len(broken_rules.RULES) - len(missed)} passed, {len(missed)} failed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
