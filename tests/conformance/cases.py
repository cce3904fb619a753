# SPDX-License-Identifier: Apache-2.0
"""The cases check.py runs: input arrays, command line, and what METHOD.md says must come out.

`random_case(seed, index)` depends on nothing but its arguments. A case's `argv` names its files as @NAME.
"""
from dataclasses import dataclass, field

import numpy as np

import method
from method import F32, Rule

DIMS = [1, 2, 3, 7, 8, 9, 16, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 200, 255, 256, 257, 384, 511, 512, 513, 768, 1024, 1152,
        1280, 1300]
DETECTORS = ["otsu", "chord", "gap", "curvature", "iqr", "mean", "mass", "threshold", "topk", "ratio"]
MAX_ELEMENTS = 400_000


@dataclass
class Case:
    """argv[0] is the subcommand. `expect` maps an output option to its array. For max-cosine `close` holds what
    check.py needs to derive the rest from the command's own scores."""
    name: str
    argv: list
    files: dict
    expect: dict = field(default_factory=dict)
    tokens: tuple = ()          # counts accepted as the JSON field `tokens`
    detector: str = "otsu"
    close: dict | None = None


# ---------------------------------------------------------------------------------------------- expectations
def split(rows, cu):
    return [rows[a:b] for a, b in zip(cu[:-1], cu[1:])]


def offsets_of(counts):
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def results(kept, flags):
    counts = np.array([len(k) for k in kept], np.int32)
    return {"kept": np.array([i for k in kept for i in k], np.int32), "counts": counts, "offsets": offsets_of(counts),
            "flags": np.array(flags, np.int32)}


def joined(parts, empty):
    return np.concatenate(parts) if parts else empty


def expect_prune(raw, cu, cls, rule, bf16):
    """raw [total, D] as stored; cls is "row", "mean" or an array [B, D] as stored."""
    kept, flags, scores, out = [], [], [], []
    for b, rows in enumerate(split(raw, cu)):
        candidates = rows[1:] if isinstance(cls, str) and cls == "row" else rows
        x, s, bad = method.widen(candidates, bf16), np.zeros(0, F32), False
        if len(candidates):
            if not isinstance(cls, str):
                c = method.widen(cls[b], bf16)
            elif cls == "row":
                c = method.widen(rows[0], bf16)
            else:
                c = method.mean_direction(x, np.ones(len(x), bool))
            s, bad = method.score(x, c)
        k, f = method.cut(s, rule, bad)
        kept.append(k), flags.append(f), scores.append(s), out.append(candidates[k])
    return results(kept, flags) | {"scores": joined(scores, np.zeros(0, F32)), "out": joined(out, raw[:0])}


def expect_cut(scores, cu, rule):
    both = [method.cut(s, rule) for s in split(scores, cu)]
    return results([k for k, _ in both], [f for _, f in both])


def keep_sequence(roles, kept_candidates):
    """Rows kept of a sequence: all non-candidates and the chosen candidates."""
    stay = (roles & 1) == 0
    stay[np.flatnonzero(roles & 1)[kept_candidates]] = True
    return np.flatnonzero(stay).tolist()


def expect_sequence(raw, cu, roles, rule, bf16, scored=None, bad_flags=None):
    """scored: the command's own scores (max-cosine); None computes the mean cosine."""
    kept, flags, scores, out = [], [], [], []
    for b, (rows, role) in enumerate(zip(split(raw, cu), split(roles, cu))):
        full = np.full(len(rows), np.nan, F32)
        if scored is None:
            s, bad = method.relevance_mean(method.widen(rows, bf16), role)
            full[(role & 1) != 0] = s
        else:
            full, bad = scored[cu[b]:cu[b + 1]], bad_flags[b]
        chosen, f = method.cut(full[(role & 1) != 0], rule, bad)
        k = keep_sequence(role, chosen)
        kept.append(k), flags.append(f), scores.append(full), out.append(rows[k])
    return results(kept, flags) | {"scores": joined(scores, np.zeros(0, F32)), "out": joined(out, raw[:0])}


# ---------------------------------------------------------------------------------------------- random values
def store(values, dtype):
    """fp32 values as the file holds them: f16, f32, or bf16 as uint16 (rounded toward zero)."""
    if dtype == "bf16":
        return (np.ascontiguousarray(values, F32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16 if dtype == "f16" else F32)


def curve_values(rng, n):
    """Scores in [-1, 1] of a random shape."""
    t = np.arange(n) / max(n - 1, 1)
    shape = rng.choice(["normal", "uniform", "exponential", "sigmoid", "cliff", "line", "flat", "steps", "concave", "outlier"])
    v = {"normal": lambda: rng.normal(0.2, 0.2, n), "uniform": lambda: rng.uniform(-1, 1, n),
         "exponential": lambda: 0.8 * np.exp(-t * rng.uniform(1, 12)), "sigmoid": lambda: 0.9 / (1 + np.exp((t - rng.random()) * 20)),
         "cliff": lambda: np.where(t < rng.random(), 0.9, 0.1) - 0.01 * t, "line": lambda: 0.9 - 0.8 * t, "flat": lambda: 0 * t + 0.5,
         "steps": lambda: np.floor(t * rng.integers(1, 9)) / 8, "concave": lambda: 0.9 - t ** 3,
         "outlier": lambda: np.where(np.arange(n) == rng.integers(0, max(n, 1)), rng.choice([-1, 1]), 0.3 + 0.01 * rng.normal(size=n))}
    return rng.permutation(np.clip(v[shape](), -1, 1))


def token_values(rng, n, dim, centre):
    """fp32 rows [n, dim]; centre [dim] is the direction the cluster and the curves turn around."""
    mode = rng.choice(["normal", "spiked", "curve", "ties", "few", "zeros", "tiny", "huge", "scaled", "bits", "integers", "constant"])
    x = rng.normal(size=(n, dim))
    if mode == "spiked":
        x += np.where(rng.random((n, 1)) < 0.3, rng.uniform(0.5, 3), 0.1) * centre
    elif mode == "curve":
        s = curve_values(rng, n)[:, None]
        length = max(float(np.sqrt((centre * centre).sum())), 1e-30)
        x = s * centre / length + np.sqrt(1 - s * s) * x / np.sqrt((x * x).sum(1, keepdims=True))
    elif mode in ("ties", "few") and n:
        x = (x + 0.5 * centre)[rng.integers(0, min(n, 1 + (mode == "ties") * n // 2 + 2 * (mode == "few")), n)]
    elif mode == "zeros":
        x[rng.random(n) < 0.4] = 0
        x[:, rng.random(dim) < 0.3] = 0
    elif mode == "tiny":
        x *= 10.0 ** rng.uniform(-44, -5)
    elif mode == "huge":
        x *= 10.0 ** rng.uniform(3, 38)
    elif mode == "scaled":
        x *= 10.0 ** rng.uniform(-20, 20, (n, 1))
    elif mode == "integers":
        x = rng.integers(-3, 4, (n, dim)).astype(float)
    elif mode == "constant":
        x[:] = rng.normal()
    x = x.astype(F32)
    if mode == "bits":
        x = rng.integers(0, 2 ** 32, (n, dim), dtype=np.uint32).view(F32)
        if rng.random() < 0.7:
            x = np.where(np.isfinite(x), x, F32(1))
    return x


def poison(rng, x, share=0.12):
    """Sometimes puts NaN, infinities, -0 or denormals into a few elements."""
    x = x.copy()
    if x.size and rng.random() < share:
        flat = x.reshape(-1)
        for _ in range(int(rng.integers(1, 4))):
            flat[rng.integers(0, x.size)] = rng.choice([np.nan, np.inf, -np.inf, -0.0, 1e-45, -1e-40, 3e38, 0])
    return x


# ---------------------------------------------------------------------------------------------- random shapes, options
def lengths(rng, dim):
    def one():
        top = rng.choice([4, 16, 70, 300, 700], p=[0.2, 0.3, 0.3, 0.14, 0.06])
        return int(rng.integers(0, top + 1))

    form = rng.choice(["single", "batch", "ragged"])
    count = 1 if form == "single" else int(rng.integers(1, 7))
    sizes = [one()] * count if form != "ragged" else [one() if rng.random() < 0.85 else 0 for _ in range(count)]
    while sum(sizes) * dim > MAX_ELEMENTS:
        sizes = [s // 2 for s in sizes]
    return form, sizes


def shape_rows(rows, form, sizes, files, argv, prefix="cu"):
    """Rows [total, ...] shaped as the form wants; a ragged form adds the offsets file. Returns the array and cu."""
    cu = offsets_of(sizes)
    if form == "ragged":
        files[prefix] = cu
        argv += ["--cu-seqlens", f"@{prefix}"]
    elif form == "batch":
        rows = rows.reshape((len(sizes), sizes[0]) + rows.shape[1:])
    return rows, cu


def real(value):
    return repr(float(value))


def random_rule(rng, n, scale, argv, score_like):
    """A Rule and its options appended to argv. score_like: an array of plausible scores for tau."""
    rule = Rule(scale=scale)
    rule.detector = str(rng.choice(DETECTORS, p=[0.2] + [0.8 / 9] * 9))
    if rule.detector != "otsu" or rng.random() < 0.7:
        argv += ["--detector", rule.detector]
    name = rule.detector
    if name in ("otsu", "chord", "gap", "curvature") and rng.random() < 0.4:
        ends = sorted(rng.choice([0, 0.05, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1, *rng.random(4)], 2, replace=False))
        if ends[0] < ends[1]:
            rule.lo, rule.hi = float(ends[0]), float(ends[1])
            argv += ["--search", f"{real(rule.lo)}:{real(rule.hi)}"]
    if name == "curvature" and rng.random() < 0.6:
        rule.window = int(rng.choice([0, 1, 2, 3, 8, n // 2, n]))
        argv += ["--window", str(rule.window)]
    if name == "mean" and rng.random() < 0.7:
        rule.lam = float(rng.choice([-1, 0, 0.5, 2, -1.5, rng.normal(), -1e6, 1e300]))
        argv += ["--lambda", real(rule.lam)]
    if name == "mass" and rng.random() < 0.7:
        rule.mass = float(rng.choice([1, 0.5, 1e-9, 0.95, 1 - rng.random()]))
        argv += ["--mass", real(rule.mass)]
    if name == "threshold":
        finite = score_like[np.isfinite(score_like)]
        rule.tau = float(rng.choice(finite)) if len(finite) and rng.random() < 0.7 else float(F32(rng.choice([0, -0.08, 0.5, 2, -2])))
        argv += ["--tau", real(rule.tau)]
    if name == "topk":
        rule.k = int(rng.choice([1, 2, max(1, n // 3), max(1, n), n + 5, 2 ** 31 - 1]))
        argv += ["--k", str(rule.k)]
    if name == "ratio":
        rule.ratio = float(rng.choice([0, 1, 0.5, 0.25, 0.1, 0.22, 1 / 3, rng.random()]))
        argv += ["--ratio", real(rule.ratio)]
    if rng.random() < 0.25:
        rule.min_keep = int(rng.choice([0, 1, 2, n // 2, n, n + 3]))
        argv += ["--min-keep", str(rule.min_keep)]
    if rng.random() < 0.25:
        rule.max_keep = max(rule.min_keep, int(rng.choice([1, 2, n // 3, n // 2, n, n + 9])))
        argv += ["--max-keep", str(rule.max_keep)]
    if rng.random() < 0.25:
        rule.round_to = int(rng.choice([1, 2, 3, 8, 16, 64, 1000]))
        argv += ["--round-to", str(rule.round_to)]
    if rng.random() < 0.3:
        rule.spread = float(rng.choice([0, 0.25, 0.5, 1, 0.1, rng.random()]))
        argv += ["--spread", real(rule.spread)]
    return rule


def dtype_options(rng, dtype, argv):
    if dtype == "bf16" or rng.random() < 0.3:
        argv += ["--dtype", dtype]


# ---------------------------------------------------------------------------------------------- the three commands
def prune_case(rng, name):
    dim = int(rng.choice(DIMS) if rng.random() < 0.8 else rng.integers(1, 1301))
    form, sizes = lengths(rng, dim)
    dtype = str(rng.choice(["f16", "bf16", "f32"]))
    centre = rng.normal(size=dim)
    values = poison(rng, joined([token_values(rng, n, dim, centre) for n in sizes], np.zeros((0, dim), F32)))
    files, argv = {}, ["prune", "--tokens", "@tokens"]
    files["tokens"], cu = shape_rows(store(values, dtype), form, sizes, files, argv)
    how = rng.choice(["one", "each", "row", "mean"])
    if how in ("row", "mean"):
        cls, tokens = str(how), (int(cu[-1]), int(cu[-1]) - sum(n > 0 for n in sizes) * (how == "row"))
        argv += ["--cls-row", "0"] if how == "row" else ["--cls-mean"]
    else:
        c = np.tile(centre, (1 if how == "one" else len(sizes), 1)) + 0.1 * rng.normal(size=(1 if how == "one" else len(sizes), dim))
        kind = rng.choice(["centre", "token", "zero", "huge", "tiny"], p=[0.6, 0.25, 0.05, 0.05, 0.05])
        if kind == "token" and len(values):
            c = values[rng.integers(0, len(values), len(c))]
        elif kind != "centre":
            c = c * {"zero": 0, "huge": 1e19, "tiny": 1e-24, "token": 1}[kind]
        c = store(poison(rng, c.astype(F32), 0.06), "f32" if rng.random() < 0.4 else dtype)
        files["cls"] = c[0] if how == "one" else c
        cls, tokens = np.broadcast_to(c, (len(sizes), dim)), (int(cu[-1]),)
        argv += ["--cls", "@cls"]
    raw = files["tokens"].reshape(-1, dim) if cu[-1] else np.zeros((0, dim), files["tokens"].dtype)
    dtype_options(rng, dtype, argv)
    scores = expect_prune(raw, cu, cls, Rule(), dtype == "bf16")["scores"]
    rule = random_rule(rng, max(sizes), "unit", argv, scores)
    return Case(name, argv, files, expect_prune(raw, cu, cls, rule, dtype == "bf16"), tokens, rule.detector)


def score_values(rng, n):
    v = curve_values(rng, n).astype(F32)
    mode = rng.choice(["plain", "big", "ties", "bits", "logits"], p=[0.5, 0.15, 0.15, 0.1, 0.1])
    if mode == "big":
        v = (v * F32(10) ** F32(rng.uniform(-44, 38))).astype(F32)
    elif mode == "ties":
        v = np.round(v * 8) / F32(8)
    elif mode == "bits":
        v = rng.integers(0, 2 ** 32, n, dtype=np.uint32).view(F32)
    elif mode == "logits":
        v = rng.normal(0, 10, n).astype(F32)
    if n and rng.random() < 0.25:
        for _ in range(int(rng.integers(1, 5))):
            v[rng.integers(0, n)] = rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0, 1, -1, 1e-45])
    return v.astype(F32)


def cut_case(rng, name):
    form, sizes = lengths(rng, 1)
    values = joined([score_values(rng, n) for n in sizes], np.zeros(0, F32))
    files, argv = {}, ["cut", "--scores", "@scores"]
    files["scores"], cu = shape_rows(values, form, sizes, files, argv)
    scale = str(rng.choice(["auto", "unit"]))
    if scale == "unit" or rng.random() < 0.5:
        argv += ["--scale", scale]
    rule = random_rule(rng, max(sizes), scale, argv, values)
    return Case(name, argv, files, expect_cut(values, cu, rule), (int(cu[-1]),), rule.detector)


def sequence_case(rng, name):
    dim = int(rng.choice(DIMS) if rng.random() < 0.8 else rng.integers(1, 1301))
    close = rng.random() < 0.3
    form, sizes = lengths(rng, dim)
    dtype = str(rng.choice(["f16", "bf16", "f32"]))
    centre = rng.normal(size=dim)
    if close:
        values = joined([rng.normal(size=(n, dim)) + centre * rng.random((n, 1)) for n in sizes], np.zeros((0, dim))).astype(F32)
    else:
        values = poison(rng, joined([token_values(rng, n, dim, centre) for n in sizes], np.zeros((0, dim), F32)))
    roles = rng.choice(np.arange(4, dtype=np.uint8), cu_total := sum(sizes), p=rng.dirichlet([0.5, 4, 2, 0.5]))
    if rng.random() < 0.5:  # as a server has it: system prompt, image, text
        roles = joined([np.repeat(np.array([0, 1, 2], np.uint8), [n // 8, n - n // 8 - n // 4, n // 4]) for n in sizes], roles)
    if rng.random() < 0.1:
        roles = (roles & rng.choice([1, 2])).astype(np.uint8)
    files, argv = {}, ["prune-seq", "--hidden", "@hidden", "--roles", "@roles"]
    files["hidden"], cu = shape_rows(store(values, dtype), form, sizes, files, argv)
    files["roles"] = roles.reshape(files["hidden"].shape[:-1])
    argv += ["--relevance", "max-cosine" if close else "mean-cosine"]
    raw = files["hidden"].reshape(-1, dim) if cu_total else np.zeros((0, dim), files["hidden"].dtype)
    bf16 = dtype == "bf16"
    dtype_options(rng, dtype, argv)
    scores = np.zeros(1, F32) if close else expect_sequence(raw, cu, roles, Rule(), bf16)["scores"]
    rule = random_rule(rng, max(sizes), "unit", argv, scores)
    case = Case(name, argv, files, {}, (int(cu[-1]), int(np.count_nonzero(roles & 1))), rule.detector)
    if close:
        reference = joined([method.relevance_max(method.widen(r, bf16), o) for r, o in zip(split(raw, cu), split(roles, cu))], None)
        case.close = {"raw": raw, "cu": cu, "roles": roles, "rule": rule, "bf16": bf16, "reference": reference,
                      "tol": 1e-5 if dtype == "f32" else 2e-3}
    else:
        case.expect = expect_sequence(raw, cu, roles, rule, bf16)
    return case


def random_case(seed, index):
    rng = np.random.default_rng([seed, index])
    make = [prune_case, cut_case, sequence_case][int(rng.choice(3, p=[0.4, 0.3, 0.3]))]
    return make(rng, f"random-{seed}-{index}")
