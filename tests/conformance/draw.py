# SPDX-License-Identifier: Apache-2.0
"""Random values for cases.py: features, scores, references, roles, parameters. Ordinary ones, and those where floating
point and ties do what nobody expects."""
import numpy as np

F32 = np.float32
DETECTORS = ["otsu", "chord", "gap", "curvature", "iqr", "mean", "mass", "threshold", "topk", "ratio"]
ROUNDINGS = ["ceil", "floor", "nearest", "drop-ceil", "drop-trunc", "drop-percent"]


def store(values, dtype):
    """fp32 values as the file holds them: f16, f32, or bf16 as uint16 (rounded toward zero)."""
    if dtype == "bf16":
        return (np.ascontiguousarray(values, F32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16 if dtype == "f16" else F32)


def curve(rng, n):
    """Scores in [-1, 1] of a random shape."""
    t = np.arange(n) / max(n - 1, 1)
    shape = rng.choice(["normal", "uniform", "exponential", "sigmoid", "cliff", "line", "flat", "steps", "concave",
                        "outlier"])
    v = {"normal": lambda: rng.normal(0.2, 0.2, n), "uniform": lambda: rng.uniform(-1, 1, n),
         "exponential": lambda: 0.8 * np.exp(-t * rng.uniform(1, 12)),
         "sigmoid": lambda: 0.9 / (1 + np.exp((t - rng.random()) * 20)),
         "cliff": lambda: np.where(t < rng.random(), 0.9, 0.1) - 0.01 * t, "line": lambda: 0.9 - 0.8 * t,
         "flat": lambda: 0 * t + 0.5,
         "steps": lambda: np.floor(t * rng.integers(1, 9)) / 8, "concave": lambda: 0.9 - t ** 3,
         "outlier": lambda: np.where(np.arange(n) == rng.integers(0, max(n, 1)), rng.choice([-1, 1]),
                                     0.3 + 0.01 * rng.normal(size=n))}
    return rng.permutation(np.clip(v[shape](), -1, 1))


def tokens(rng, n, dim, centre):
    """fp32 rows [n, dim]; centre [dim] is the direction the cluster and the curves turn around."""
    mode = rng.choice(["normal", "spiked", "curve", "ties", "few", "zeros", "tiny", "huge", "scaled", "bits",
                       "integers", "constant"])
    x = rng.normal(size=(n, dim))
    if mode == "spiked":
        x += np.where(rng.random((n, 1)) < 0.3, rng.uniform(0.5, 3), 0.1) * centre
    elif mode == "curve":
        s = curve(rng, n)[:, None]
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


def references(rng, count, centre, rows):
    """fp32 vectors [count, dim]."""
    c = np.tile(centre, (count, 1)) + 0.1 * rng.normal(size=(count, len(centre)))
    kind = rng.choice(["centre", "token", "zero", "huge", "tiny"], p=[0.55, 0.25, 0.05, 0.05, 0.1])
    if kind == "token" and len(rows):
        c = rows[rng.integers(0, len(rows), count)]
    elif kind != "centre":
        c = c * {"zero": 0, "huge": 1e19, "tiny": 10.0 ** rng.uniform(-26, -7), "token": 1}[kind]
    return poison(rng, c.astype(F32), 0.06)


def scores(rng, n):
    v = curve(rng, n).astype(F32)
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
    if n and rng.random() < 0.08:  # few numbers, or none
        v[rng.permutation(n)[int(rng.integers(0, 4)):]] = np.nan
    return v.astype(F32)


def roles(rng, sizes):
    """Role bytes of sequences of these lengths."""
    total = int(sum(sizes))
    bytes_ = rng.choice(np.arange(4, dtype=np.uint8), total, p=rng.dirichlet([0.5, 4, 2, 0.5]))
    if rng.random() < 0.5:  # as a server has it: system prompt, image, text; or text before the image
        parts = [np.repeat(np.array([0, 1, 2], np.uint8), [n // 8, n - n // 8 - n // 4, n // 4]) for n in sizes]
        bytes_ = np.concatenate([p[::-1] if rng.random() < 0.3 else p for p in parts] + [np.zeros(0, np.uint8)])
    if rng.random() < 0.1:
        bytes_ = (bytes_ & rng.choice([1, 2])).astype(np.uint8)
    if rng.random() < 0.4:  # padding
        bytes_ = np.where(rng.random(total) < rng.choice([0.05, 0.5, 1]), bytes_ | 4, bytes_).astype(np.uint8)
    return bytes_


def detector(rng):
    return str(rng.choice(DETECTORS, p=[0.2] + [0.8 / 9] * 9))


def tau(rng, score_like):
    finite = score_like[np.isfinite(score_like)]
    if len(finite) and rng.random() < 0.7:
        return float(rng.choice(finite))
    return float(F32(rng.choice([0, -0.08, 0.5, 2, -2])))


def share(rng):
    """The values of RATIO."""
    rounding = str(rng.choice(ROUNDINGS))
    if rounding == "drop-percent":
        values = {"percent": int(rng.choice([0, 1, 33, 50, 99, 100, rng.integers(0, 101)]))}
        return values if rng.random() < 0.5 else values | {"rounding": rounding}
    values = {"ratio": float(rng.choice([0, 1, 0.5, 0.25, 0.1, 0.22, 1 / 3, 0.7, rng.random()]))}
    return values if rounding == "ceil" and rng.random() < 0.5 else values | {"rounding": rounding}
