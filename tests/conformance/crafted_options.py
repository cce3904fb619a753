# SPDX-License-Identifier: Apache-2.0
"""Deterministic edge cases of groups, prefix rows, LAG, order LOW, roundings, roles, MAX_COSINE and ATTENTION, and of
features that are real, tiny or huge. What the command must refuse stands in refusals.py."""
import os

import numpy as np

import method
from cases import case_of, is_novelty, merge_words, offsets_of
from crafted import REQUIRED, cut_one, curves, prune_one, sequence_one
from draw import DETECTORS, F32, ROUNDINGS, store
from method import Request

FEATURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../bench/features")
OTSU_KEEPS = {"astronaut": 150, "chelsea": 240, "china": 178, "clock": 42, "coffee": 184, "flower": 82, "rocket": 239}


def photographs():
    """Real features: the cut does not depend on their scale, and is the published one."""
    every = {name: np.load(os.path.join(FEATURES, f"{name}.npy")) for name in OTSU_KEEPS}
    for name, rows in every.items():
        plain = prune_one(f"photo-{name}", rows, "row", "f16", detector="otsu")
        kept = method.answer(plain.request)["kept"]
        assert len(kept) == OTSU_KEEPS[name], name
        yield plain
        for power in (-20, -26, 40):
            scaled = prune_one(f"photo-{name}-2^{power}", rows.astype(F32) * F32(2.0 ** power), "row", detector="otsu")
            assert np.array_equal(method.answer(scaled.request)["kept"], kept), name
            yield scaled
    batch = np.stack(list(every.values()))
    for reference in ("row", "mean", ("lag", 16), ("lag", 252)):
        yield prune_one("photos-prefix-5", batch, reference, "f16", prefix=5, detector="otsu")
        yield prune_one("photos-prefix-5-low", batch, reference, "f16", prefix=5, order="low", ratio=0.3)
    joined = batch[:, 1:].reshape(-1, batch.shape[-1])
    yield prune_one("photos-one-sequence", joined, batch[3, 0], "f16", groups=offsets_of([256] * 7), spread=0.25)


def extremes():
    """Overflow is NaN and flagged, never silently pruned; underflow has its floor on each norm."""
    x = np.array([[3e19, 0], [1, 0], [0, 1], [2, 1], [-1, 3], [1e-9, 0], [0, 0]])
    for c in ([1e-3, 0], [1e-9, 0], [1e-12, 1e-12], [3e19, 0], [1e30, 1e30], [0, 0]):
        yield prune_one(f"norms-{c}", x, np.array(c))
        yield prune_one(f"norms-{c}-topk", x, np.array(c), k=2)
        yield prune_one(f"norms-{c}-threshold", x, np.array(c), tau=0.5, min_keep=0)
    yield prune_one("negative-zero", np.array([[-1e-45, 4], [1e-45, 4], [-1, 0], [-1e-45, 3]]), np.array([1, 0]))
    yield prune_one("overflow", np.array([[3e19, 0]]), np.array([1e-3, 0]))
    yield prune_one("overflow-all", np.full((6, 2), 3e19), np.array([1e-3, 0]), cu=[0, 1, 6])
    yield prune_one("overflow-mean", x, "mean")
    yield prune_one("floor-mean", x[1:] * 1e-9, "mean")
    for role in (1, 2, 3):
        yield sequence_one(f"overflow-role-{role}", x, [role, 1, 2, 1, 1, 1, 3])
        yield sequence_one(f"floor-role-{role}", x[1:] * 1e-9, [role, 1, 2, 1, 1, 3])


def lows():
    """Order LOW for every detector, where ties, -0, NaN and infinities make a difference."""
    shapes = curves()
    for name in ("sigmoid", "cliff", "convex", "ties", "signed-zero", "nan-some", "nan-only", "infinities",
                 "outlier-low", "extremes", "two", "three-flat",
                 "none", "denormal", "sub-p"):
        for detector in DETECTORS:
            for scale in ("unit", "auto"):
                yield cut_one(f"low-{name}", shapes[name], detector, scale, order="low")
        yield cut_one(f"low-{name}-spread", shapes[name], "topk", k=5, spread=0.5, order="low")
    for tau in (-0.0, 0.0, float(F32(0.7)), -0.08, 3.4e38):
        for name in ("ties", "signed-zero", "nan-some"):
            yield cut_one(f"low-{name}-{tau}", shapes[name], "threshold", tau=float(F32(tau)), order="low")
    for lo, hi in ((0.0, 0.3), (0.6, 1.0)):
        yield cut_one(f"low-two-cliffs-{lo}", shapes["two-cliffs"], "otsu", lo=lo, hi=hi, order="low")


def few_numbers():
    """THRESHOLD compares however few numbers there are; the others keep all below three."""
    for numbers in range(4):
        for nans in (0, 1, 4):
            values = [0.5, 0.1, 0.3][:numbers] + [np.nan] * nans
            for order in ("high", "low"):
                for least in (0, 1, 2):
                    yield cut_one(f"n{numbers}+{nans}-{order}", values, "threshold", tau=0.25, min_keep=least,
                                  order=order)
            for detector in DETECTORS:
                yield cut_one(f"n{numbers}+{nans}", values, detector, min_keep=0)


def roundings():
    for n in (0, 1, 3, 10, 49, 577):
        scores = np.arange(n) / max(n, 1)
        for percent in (0, 1, 33, 50, 67, 99, 100):
            yield cut_one(f"n{n}-{percent}%", scores, "ratio", percent=percent)
            yield cut_one(f"n{n}-{percent}%-min-0", scores, "ratio", percent=percent, min_keep=0,
                          rounding="drop-percent")
        for rounding in ROUNDINGS[:-1]:
            for ratio in (0.0, 1e-12, 0.05, 0.15, 0.3, 0.5, 0.7, 0.8, 1 / 3, 0.9999999999999999, 1.0):
                yield cut_one(f"n{n}-{ratio}-{rounding}", scores, "ratio", ratio=ratio, rounding=rounding, min_keep=0)


def groups():
    rng = np.random.default_rng(11)
    n = 60
    curve = np.concatenate([np.linspace(0.9, 0.1, 20), 1 / (1 + np.exp(np.arange(25) - 8)) * 1e-3, [np.nan] * 5,
                            [0.5, 0.4], [0.3], [7, 6, 1, 1, 1, 1, 1]])
    cuts = {"one": [0, n], "frames": list(range(0, n + 1, 10)), "uneven": [0, 0, 20, 45, 45, 45, 50, 52, 53, 60, 60],
            "rows": list(range(n + 1))}
    for name, offsets in cuts.items():
        for detector in DETECTORS:
            for scale in ("unit", "auto"):
                yield cut_one(f"groups-{name}", curve, detector, scale, groups=offsets)
        for more in ({"min_keep": 3}, {"max_keep": 2}, {"round_to": 4}, {"spread": 0.5, "ratio": 0.6},
                     {"order": "low", "spread": 1.0}, {"lo": 0.2, "hi": 0.7}):
            yield cut_one(f"groups-{name}-{more}", curve, "ratio" if "ratio" in more else "otsu", groups=offsets,
                          **more)
        yield cut_one(f"groups-{name}-segments", curve, "otsu", "auto", [0, 0, 20, 20, 50, 60],
                      sorted(offsets + [20, 50]))
    yield cut_one("groups-batch", rng.random((3, 12)), "gap", groups=[0, 4, 12, 12, 24, 30, 36])
    yield cut_one("groups-none", np.zeros(0), "otsu", cu=[0], groups=[0])
    yield cut_one("groups-empty", np.zeros(0), "otsu", cu=[0, 0], groups=[0, 0, 0, 0])
    x = rng.normal(size=(36, 20)) + 0.4
    x[13] = np.nan
    for reference in ("row", "mean", ("lag", 3), x[0], np.zeros(20)):
        for prefix in (1, 2, 5, 18):
            # cuts in front of, inside and behind the prefix rows
            yield prune_one("groups-prefix", x.reshape(2, 18, 20), reference, prefix=prefix,
                            groups=[0, 1, 3, 6, 7, 18, 20, 23, 30, 36])
            yield prune_one("groups-prefix", x, reference, prefix=prefix, cu=[0, 4, 4, 30, 36],
                            groups=[0, 4, 5, 8, 20, 30, 36], k=3)
    roles = np.arange(36) % 8
    for detector in ("otsu", "topk", "threshold"):
        yield sequence_one("groups", x, roles, groups=[0, 1, 9, 9, 30, 36], detector=detector,
                           **REQUIRED.get(detector, {}))
        yield sequence_one("groups", x, roles & 3, cu=[0, 12, 36], groups=[0, 12, 14, 20, 36], detector=detector,
                           **REQUIRED.get(detector, {}))


def prefixes_and_lags():
    rng = np.random.default_rng(12)
    for dtype in ("f16", "bf16", "f32"):
        x = rng.normal(size=(40, 33)) + np.repeat([[0.8], [0], [0.4], [-0.5]], 10, 0)
        for prefix in (1, 2, 5, 39, 40, 41, 1000):
            yield prune_one(f"prefix-{prefix}", x, "row", dtype, prefix=prefix)
            yield prune_one(f"prefix-{prefix}", x, "mean", dtype, prefix=prefix)
            yield prune_one(f"prefix-{prefix}", x, x[7], dtype, prefix=prefix, detector="chord")
            yield prune_one(f"prefix-{prefix}-ragged", x, "row", dtype, prefix=prefix, cu=[0, 0, 1, 6, 11, 40, 40])
        yield prune_one("prefix-mean-blocks", rng.normal(size=(300, 20)) + 0.3, "mean", dtype, prefix=37)
        for lag in (1, 10, 38, 39, 40, 41, 2 ** 31 - 1):
            for more in ({}, {"order": "low"}, {"order": "low", "ratio": 0.25, "rounding": "drop-trunc",
                                                "min_keep": min(lag, 40)}):
                yield prune_one(f"lag-{lag}", x, ("lag", lag), dtype, **more)
            yield prune_one(f"lag-{lag}-ragged", x, ("lag", lag), dtype, cu=[0, 0, 1, 3, 14, 40], order="low", prefix=2)
        odd = x.copy()
        odd[[0, 5, 30]], odd[[6, 20]] = np.nan, 0
        yield prune_one("lag-nan-zero", odd, ("lag", 10), dtype, order="low")
        yield prune_one("lag-still", np.tile(x[:10], (4, 1)), ("lag", 10), dtype, order="low", k=15)


def merged(case, power, sizes=None):
    """The same case, merging by the windows that its reference has."""
    request = case.request
    request.merge = (power, request.reference[1] if is_novelty(request) else 64)
    if sizes is not None:
        request.sizes = np.resize(np.asarray(sizes, np.int32), int(np.maximum(np.diff(request.cu) - request.prefix, 0)
                                                                   .sum()))
    case.argv[1:1] = merge_words(request, case.files)
    case.name += f"/merge-{power}"
    return case


def novelties():
    """Copies, blank rows, windows that are all blank or one row, real features; merged, with sizes and without."""
    rng = np.random.default_rng(13)
    photo = np.load(os.path.join(FEATURES, "china.npy"))
    for window in (64, 128, 256):
        for prefix, more in ((1, {"ratio": 0.22}), (5, {"k": 40, "order": "low"}), (257, {})):
            yield prune_one(f"novelty-{window}", photo, ("novelty", window), "f16", prefix=prefix, **more)
            for power in ("mean", "cos4"):
                for sizes in (None, [1, 2, 700], [2147483647]):
                    yield merged(prune_one(f"novelty-{window}", photo, ("novelty", window), "f16", prefix=prefix,
                                           **more), power, sizes)
    x = rng.normal(size=(200, 24))
    x[7::9], x[30:40], x[5], x[6] = x[6:-1:9][:len(x[7::9])] * 2, 0, np.nan, np.inf
    x[64:128], x[130] = 0, 3e38
    x[150:160] = -x[140:150]
    x[:, 3] *= 100
    for dtype in ("f16", "bf16", "f32"):
        for cu in (None, [0, 0, 1, 3, 66, 131, 200]):
            for groups in (None, [0, 0, 1, 3, 20, 66, 66, 100, 131, 132, 200]):
                for more in ({"ratio": 0.3}, {"k": 1}, {"ratio": 1.0}, {"ratio": 0.0, "min_keep": 0}, {}):
                    odd = {"cu": cu, "groups": groups} | more
                    yield prune_one("novelty-odd", x, ("novelty", 64), dtype, **odd)
                    yield merged(prune_one("novelty-odd", x, ("novelty", 64), dtype, **odd), "cos4", [3, 1])
                    yield merged(prune_one("cosine-odd", x, x[0], dtype, **odd), "mean")
        yield prune_one("novelty-still", np.tile(x[:1], (70, 1)), ("novelty", 64), dtype, ratio=0.1)
        yield merged(prune_one("novelty-zeros", np.zeros((70, 3)), ("novelty", 64), dtype, ratio=0.1), "cos4")
    wide = rng.normal(size=(3, 70001))
    wide[2] = wide[0]
    yield merged(prune_one("novelty-wide", wide, ("novelty", 64), "f16", k=2), "cos4")


def roles():
    rng = np.random.default_rng(13)
    h = rng.normal(size=(200, 24)) + 0.4
    for n in (8, 64, 65, 200):
        yield sequence_one(f"roles-{n}", h[:n], np.arange(n) % 8)
        yield sequence_one(f"roles-blocks-{n}", h[:n], np.repeat(np.arange(8), -(-n // 8))[:n], k=4)
    usual = np.repeat([0, 1, 2, 4], [20, 120, 40, 20])
    odd = h.copy()
    odd[180:] = np.nan
    yield sequence_one("absent-nan", odd, usual)
    yield sequence_one("absent-candidates", h, np.where(np.arange(200) % 3 == 0, usual | 4, usual))
    yield sequence_one("absent-queries", h, np.where(usual == 2, 6, usual))
    yield sequence_one("absent-all", h, usual | 4, cu=[0, 0, 90, 200])
    yield sequence_one("absent-others", h, np.where(usual == 0, 4, usual), min_keep=0, max_keep=0)
    yield sequence_one("absent-first-of-block", h, np.where(np.arange(200) % 64 == 0, 6, 3))


def close_policies():
    rng = np.random.default_rng(14)
    n = 48
    h = store(rng.normal(size=(n, 32)), "f32")
    forms = {"image-first": np.repeat([1, 2], [30, 18]), "text-first": np.repeat([2, 1], [18, 30]),
             "usual": np.repeat([0, 1, 2, 4], [6, 24, 12, 6]),
             "both": np.full(n, 3), "one-query": np.where(np.arange(n) == 20, 3, 1), "no-query": np.ones(n),
             "no-candidate": np.full(n, 2), "eight": np.arange(n) % 8,
             "absent": np.full(n, 7), "one-both": np.where(np.arange(n) == 20, 3, 0),
             "last-absent": np.where(np.arange(n) == n - 1, 6, np.arange(n) % 3)}
    for name, byte in forms.items():
        byte = np.asarray(byte, np.uint8)
        for values in ({}, {"k": 5}, {"order": "low", "ratio": 0.5}, {"tau": 0.01}):
            request = Request("prune-seq", h, offsets_of([n]), values, roles=byte, relevance="max-cosine")
            yield case_of(f"prune-seq/max-{name}-{values}", request, "single")
        for dtype, heads, shared, size in (("f32", 1, 1, 8), ("f16", 2, 4, 16), ("bf16", 3, 1, 64)):
            q, k = (store(rng.normal(0, 1.5, (n, many, size)).astype(F32), dtype) for many in (heads * shared, heads))
            for causal in (False, True):
                for last in (False, True):
                    cu = offsets_of([n]) if dtype == "f32" else np.array([0, 10, 10, 31, n], np.int32)
                    request = Request("prune-seq", store(h, dtype), cu, {"detector": "otsu"} if last else {"k": 6},
                                      dtype == "bf16", roles=byte,
                                      relevance="attention", q=q, k=k, causal=causal, last_query=last)
                    if dtype == "f16":
                        request.groups = np.array([0, 4, 10, 20, 31, 40, n], np.int32)
                    said = "bf16" if dtype == "bf16" else None
                    request.reductions = {"f32": ("mean", "max"), "f16": ("max", "mean")}.get(dtype, ("mean", "mean"))
                    yield case_of(f"prune-seq/attention-{name}-{dtype}-{causal}-{last}", request, dtype=said)


def option_cases():
    for make in (photographs, extremes, lows, few_numbers, roundings, groups, prefixes_and_lags, novelties, roles,
                 close_policies):
        yield from make()
