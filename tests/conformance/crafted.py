# SPDX-License-Identifier: Apache-2.0
"""Deterministic edge cases of the first stage, the cut and MEAN_COSINE for check.py: curve shapes, ties, degenerate
sizes, special values, block borders. What groups, orders, roles and the other options add stands in
crafted_options.py."""
import numpy as np

from cases import case_of, offsets_of
from draw import DETECTORS, F32, store
from method import Request

REQUIRED = {"topk": {"k": 3}, "ratio": {"ratio": 0.4}, "threshold": {"tau": 0.25}}


def shape_of(array, cu):
    """(form, offsets) of an input [N, ...] or [B, N, ...]; offsets given make it ragged."""
    if cu is not None:
        return "ragged", np.array(cu, np.int32)
    if array.ndim == 1:
        return "single", offsets_of([len(array)])
    return "batch", offsets_of([array.shape[1]] * array.shape[0])


def cut_one(name, scores, detector, scale="unit", cu=None, groups=None, **values):
    scores = np.asarray(scores, F32)
    form, cu = shape_of(scores, cu)
    required = {} if "percent" in values else REQUIRED.get(detector, {})
    values = {"detector": detector, "scale": scale} | required | values
    request = Request("cut", scores.reshape(-1), cu, values, groups=groups)
    return case_of(f"cut/{name}/{detector}/{scale}", request, form)


def prune_one(name, tokens, reference, dtype="f32", cls_dtype=None, cu=None, prefix=None, groups=None, **values):
    """tokens as fp32 [N, D] or [B, N, D]; reference "row", "mean", ("lag", n) or fp32 [D] / [B, D]."""
    rows = store(np.asarray(tokens, F32), dtype)
    form, cu = shape_of(rows[..., 0], cu)
    one_cls = False
    if not isinstance(reference, (str, tuple)):
        reference = store(np.asarray(reference, F32), cls_dtype or dtype)
        one_cls = reference.ndim == 1
        if one_cls:  # at least one row, for the file of a batch without segments
            reference = np.repeat(reference[None], max(len(cu) - 1, 1), 0)
    if prefix is None:
        prefix = int(isinstance(reference, str) and reference == "row")
    request = Request("prune", rows.reshape(-1, rows.shape[-1]), cu, values, dtype == "bf16", reference, prefix, groups)
    return case_of(f"prune/{name}/{dtype}", request, form, one_cls, "bf16" if dtype == "bf16" else None)


def sequence_one(name, hidden, roles, dtype="f32", cu=None, groups=None, **values):
    rows, roles = store(np.asarray(hidden, F32), dtype), np.asarray(roles, np.uint8)
    form, cu = shape_of(rows[..., 0], cu)
    request = Request("prune-seq", rows.reshape(-1, rows.shape[-1]), cu, values, dtype == "bf16", groups=groups,
                      roles=roles.reshape(-1))
    return case_of(f"prune-seq/{name}/{dtype}", request, form, dtype="bf16" if dtype == "bf16" else None)


def curves():
    t = np.arange(64) / 63
    nan, inf = np.nan, np.inf
    low = np.array([-0.0, 0.0, -0.0, 0.0, 1e-45, -1e-45], F32)
    return {
        "flat": np.full(40, 0.5), "line": 0.9 - 0.8 * t, "convex": np.exp(-6 * t), "concave": 0.9 - t ** 4,
        "sigmoid": 1 / (1 + np.exp(20 * (t - 0.4))),
        "cliff": np.where(t < 0.3, 0.8, 0.1), "two-cliffs": np.select([t < 0.2, t < 0.7], [0.9, 0.5], 0.1),
        "ties": np.tile([0.2, 0.7, 0.7], 9),
        "rising": t, "one": [0.3], "two": [0.1, 0.9], "three": [0.1, 0.9, 0.5], "three-flat": [1, 1, 1], "none": [],
        "nan-only": [nan] * 5,
        "nan-some": [0.1, nan, 0.9, 0.5, nan, 0.4, 0.2, 0.05], "nan-two-numbers": [nan, 0.5, nan, 0.1],
        "infinities": [inf, 0.5, -inf, 0.25, inf, 0],
        "inf-only": [inf, inf, -inf, inf], "zeros": np.zeros(9), "signed-zero": low, "denormal": np.arange(20) * 1e-44,
        "largest": [3.4e38, 1, -3.4e38, 0, 2e38],
        "power": [4, 2, 1, 0.5, -4], "beyond-one": [1.0000001, 1.5, 0.9, -2, 0.1], "outlier-top": [0.9] + [0.3] * 30,
        "outlier-low": [0.3] * 30 + [-0.9],
        "quartiles": [1, 0.9] + [0.2] * 7 + [-1] * 3, "extremes": [1] * 5 + [-1] * 5,
        "last-bit": 0.5 + np.arange(12) * 2.0 ** -24, "sub-p": 0.5 + np.arange(12) * 2.0 ** -21,
    }


def crafted_cases():
    rng = np.random.default_rng(7)
    shapes = curves()
    for name, values in shapes.items():
        for detector in DETECTORS:
            for scale in ("unit", "auto"):
                yield cut_one(name, values, detector, scale)
    for name in ("convex", "sigmoid", "nan-some", "ties"):
        n = len(shapes[name])
        for detector in DETECTORS:
            for values in ({"min_keep": 0, "max_keep": 0}, {"min_keep": n + 4}, {"max_keep": 3, "round_to": 8},
                           {"round_to": 7}, {"round_to": 2 ** 31 - 1},
                           {"spread": 1.0}, {"spread": 0.5, "min_keep": n // 2},
                           {"spread": 0.3333333333333333, "max_keep": 5}):
                yield cut_one(f"{name}-{values}", shapes[name], detector, "unit", **values)
    for detector in ("otsu", "chord", "gap", "curvature"):
        for lo, hi in ((0.0, 0.1), (0.5, 1.0), (0.25, 0.26), (0.99, 1.0), (0.0, 1e-9),
                       (0.3333333333333333, 0.6666666666666666)):
            for name in ("sigmoid", "two-cliffs", "three", "outlier-low"):
                yield cut_one(f"{name}-{lo}:{hi}", shapes[name], detector, "unit", lo=lo, hi=hi)
    for w in (0, 1, 2, 31, 32, 33, 10 ** 6):
        yield cut_one(f"sigmoid-w{w}", shapes["sigmoid"], "curvature", "unit", window=w)
    for lam in (-2.5, -1.0, 0.0, 1e-300, 3.0, 1.7e308, -1.7e308):
        for name in ("sigmoid", "flat", "extremes"):
            yield cut_one(f"{name}-{lam}", shapes[name], "mean", "unit", lam=lam)
    for mass in (5e-324, 1e-9, 0.5, 0.9999999999, 1.0):
        for name in ("convex", "flat", "extremes", "cliff"):
            yield cut_one(f"{name}-{mass}", shapes[name], "mass", "unit", mass=mass)
    for tau in (-0.08, 0.0, -0.0, float(F32(0.7)), 3.4e38, -3.4e38):
        yield cut_one(f"ties-{tau}", shapes["ties"], "threshold", "unit", tau=float(F32(tau)))
        yield cut_one(f"signed-zero-{tau}", shapes["signed-zero"], "threshold", "unit", tau=float(F32(tau)))
    for n in (1, 3, 10, 49, 100, 576):
        for ratio in (0.0, 1e-12, 0.1, 0.2, 0.3, 0.7, 1 / 3, 0.9999999999999999, 1.0):
            yield cut_one(f"n{n}-{ratio}", np.arange(n) / n, "ratio", "unit", ratio=ratio)
    yield cut_one("empty-segments", np.arange(9) / 9, "otsu", "auto", cu=[0, 0, 4, 4, 9, 9])
    yield cut_one("scales-differ", [1, 2, 4, 9, 1e-3, 1e-4, 0, 5e-5], "gap", "auto", cu=[0, 4, 8])
    yield cut_one("batch", rng.random((3, 17)), "otsu", "auto")
    yield cut_one("no-segments", np.zeros(0), "otsu", "auto", cu=[0])
    yield cut_one("no-segments", np.zeros((0, 5)), "otsu", "auto")
    yield cut_one("empty-rows", np.zeros((3, 0)), "otsu", "auto")
    yield cut_one("two-empty", np.zeros(0), "topk", "unit", cu=[0, 0, 0], min_keep=2)

    for dtype in ("f16", "bf16", "f32"):
        x, c = rng.normal(size=(30, 96)) + np.repeat([[1.5], [0]], 15, 0), np.ones(96)
        for bad in (0.0, np.nan, np.inf, -0.0):
            for detector in ("otsu", "topk", "threshold"):
                yield prune_one(f"cls-{bad}", x, np.full(96, bad), dtype, detector=detector,
                                **REQUIRED.get(detector, {}))
        yield prune_one("cls-f32", x, c / 3, dtype, "f32")
        yield prune_one("cls-overflow", x, c * 1e25, dtype, "f32", min_keep=2, max_keep=7)
        yield prune_one("cls-underflow", x, c * 1e-25, dtype, "f32")
        yield prune_one("cls-row", x, "row", dtype)
        yield prune_one("cls-mean", x, "mean", dtype)
        yield prune_one("mean-cancels", np.concatenate([x, -x]), "mean", dtype)
        for n in range(5):
            for how in ("row", "mean", c):
                yield prune_one(f"n{n}-{how if isinstance(how, str) else 'cls'}", x[:n], how, dtype)
        for dim in (1, 7, 8, 9, 255, 256, 257, 511, 513, 1300):
            y = rng.normal(size=(20, dim))
            yield prune_one(f"d{dim}", y, y[3], dtype)
            yield prune_one(f"d{dim}-mean", y, "mean", dtype)
        yield prune_one("zero-rows", x * (np.arange(30) % 3 > 0)[:, None], c, dtype)
        yield prune_one("ties", np.repeat(x[:3], 8, 0), c, dtype, detector="topk", k=10)
        nan_rows = x.copy()
        nan_rows[::4, 5] = np.nan
        yield prune_one("nan-rows", nan_rows, c, dtype)
        yield prune_one("nan-rows-mean", nan_rows, "mean", dtype)
        yield prune_one("nan-all", x * np.nan, c, dtype, spread=0.5, max_keep=10)
        yield prune_one("empty-segments", x, "row", dtype, cu=[0, 0, 1, 3, 20, 20, 30])
        yield prune_one("empty-segments", x, "mean", dtype, cu=[0, 0, 1, 3, 20, 20, 30])
        yield prune_one("empty-segments", x, rng.normal(size=(6, 96)), dtype, "f32", cu=[0, 0, 1, 3, 20, 20, 30])
        yield prune_one("no-segments", np.zeros((0, 8)), np.ones(8), dtype, cu=[0])
        yield prune_one("no-segments-batch", np.zeros((0, 4, 8)), "mean", dtype)
        yield prune_one("empty-batch", np.zeros((3, 0, 8)), np.ones(8), dtype)
        yield prune_one("batch", x.reshape(3, 10, 96), "row", dtype, detector="ratio", ratio=0.5)

        for n in (1, 63, 64, 65, 127, 128, 129, 200):
            h = rng.normal(size=(n, 40)) + 0.5
            yield sequence_one(f"both-{n}", h, np.full(n, 3), dtype)
            yield sequence_one(f"mixed-{n}", h, np.arange(n) % 4, dtype)
        h = rng.normal(size=(90, 33))
        roles = np.repeat([0, 1, 2], [10, 60, 20])
        yield sequence_one("usual", h, roles, dtype)
        yield sequence_one("no-query", h, roles & 1, dtype)
        yield sequence_one("no-query-topk", h, roles & 1, dtype, detector="topk", k=5)
        yield sequence_one("no-candidate", h, roles & 2, dtype, detector="topk", k=5)
        yield sequence_one("all-kept", h, roles * 0, dtype, min_keep=7)
        yield sequence_one("two-candidates", h[:12], roles[:12], dtype, detector="iqr")
        bad = h.copy()
        bad[85, 3] = np.nan
        yield sequence_one("nan-query", bad, roles, dtype)
        bad = h.copy()
        bad[20, 3] = np.nan
        yield sequence_one("nan-candidate", bad, roles, dtype, spread=0.25)
        yield sequence_one("zero-query", h * (roles != 2)[:, None], roles, dtype)
        yield sequence_one("segments", h, roles, dtype, cu=[0, 0, 30, 30, 75, 90, 90], detector="topk", k=4)
    big = rng.normal(size=(20, 64)).astype(F32)
    for power in (-40, -30, -21, -20, -19, -12, 12, 18, 19, 30, 37):
        yield prune_one(f"scale-1e{power}", big * F32(10.0 ** power), big[0])
        yield prune_one(f"scale-mean-1e{power}", big * F32(10.0 ** power), "mean")
        yield sequence_one(f"scale-1e{power}", big * F32(10.0 ** power), np.arange(20) % 3 + 1)
    parallel = np.outer(np.linspace(1, 3, 25), big[1])
    yield prune_one("parallel-clamped", parallel, big[1])
    yield prune_one("antiparallel-clamped", -parallel, big[1], detector="mean", lam=-1.0)
