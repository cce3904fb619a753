# SPDX-License-Identifier: Apache-2.0
"""Every rule of the statement, broken: (file, text as it stands, text that breaks the rule). A broken statement must
give another answer to some case of check.py, or those cases could not tell a program that breaks the rule."""
import os
import sys
import types

import numpy as np

import method

HERE = os.path.dirname(os.path.abspath(__file__))
MODULES = ["score", "cut", "sequence", "novelty", "method"]
RULES = [
    # score
    ("score", "np.maximum(size, TINY), F32(np.nan))", "size, F32(np.nan))"),
    ("score", "F32(1e-8)", "F32(1e-7)"),
    ("score", "np.where(np.isfinite(size), np.maximum(size, TINY), F32(np.nan))", "np.maximum(size, TINY)"),
    ("score", "dot(x, c) / (length(x) * length(np.atleast_2d(c)))",
     "dot(x, c) / np.fmax(norm(x) * norm(np.atleast_2d(c)), TINY)"),
    ("score", "dot(x, c) / (length(x) * length(np.atleast_2d(c)))", "dot(x, c) / length(x) / length(np.atleast_2d(c))"),
    ("score", "acc = fma32(padded_x[:, part], padded_y[..., part], acc)",
     "acc = padded_x[:, part] * padded_y[..., part] + acc"),
    ("score", "for stride in (4, 2, 1):\n        eights = eights[:, :, :stride] + eights[:, :, stride:2 * stride]",
     "for stride in (4, 2, 1):\n        eights = eights[:, :, 0::2] + eights[:, :, 1::2]"),
    ("score", "sums = sums[:, :stride] + sums[:, stride:2 * stride]", "sums = sums[:, 0::2] + sums[:, 1::2]"),
    ("score", "eights = acc.reshape(rows, 32, 8)", "eights = acc.reshape(rows, 8, 32).transpose(0, 2, 1)"),
    ("score", "ACCUMULATORS, BLOCK = 256, 64", "ACCUMULATORS, BLOCK = 256, 32"),
    ("score", "np.where(scores > 1, F32(1), np.where(scores < -1, F32(-1), scores))", "scores"),
    ("score", "np.where(scores > 1, F32(1), np.where(scores < -1, F32(-1), scores))",
     "np.fmin(np.fmax(scores, F32(-1)), F32(1))"),
    ("score", "return clamped + F32(0)", "return clamped"),
    ("score", "size == 0 or not np.isfinite(size)", "size == 0"),
    ("score", "size == 0 or not np.isfinite(size)", "not np.isfinite(size)"),
    ("score", "np.full(first, -1, F32)", "np.full(first, 0, F32)"),
    ("score", "score(x[first:], x[:len(x) - first])", "score(x[first:], x[first - 1:-1])"),
    ("score", "score_lag(x, reference[1]), False", "score_lag(x, reference[1]), is_bad(x[0])"),
    ("score", "fma32(px[:, i], pw[:, i, None], acc)", "px[:, i] * pw[:, i, None] + acc"),
    ("score", "weight = F32(1) / length(x)", "weight = F32(1) / np.fmax(norm(x), TINY)"),
    ("score", "total / F32(count)", "total"),
    ("score", "total / F32(count)", "total * (F32(1) / F32(count))"),
    ("score", "x = widen(rows[prefix:], bf16)", "x = widen(rows[:max(len(rows) - prefix, 0)], bf16)"),
    ("score", "c = widen(rows[0], bf16) if", "c = widen(rows[prefix - 1], bf16) if"),
    ("score", "mean_direction(x, np.ones(len(x), bool))",
     "mean_direction(widen(rows, bf16), np.arange(len(rows)) >= prefix)"),
    # order and curve
    ("cut", "number.sort(key=lambda i: -values[i])", "number.sort(key=lambda i: (-values[i], -i))"),
    ("cut", "number.sort(key=lambda i: -values[i])", "number.sort(key=lambda i: (-values[i], np.signbit(values[i])))"),
    ("cut", "return number + [i for i, s in enumerate(values) if s != s]",
     "return number + [i for i, s in enumerate(values) if s != s][::-1]"),
    ("cut", "return number + [i for i, s in enumerate(values) if s != s]",
     "return [i for i, s in enumerate(values) if s != s] + number"),
    ("cut", "np.abs(scores[np.isfinite(scores)]", "np.abs(np.nan_to_num(scores)[~np.isnan(scores)]"),
    ("cut", "e = -126\n", "e = -149\n"),
    ("cut", "while top > math.ldexp(1.0, e)", "while top >= math.ldexp(1.0, e)"),
    ("cut", "np.clip(q, -(2.0 ** 30), 2.0 ** 30)", "np.clip(q, -(2.0 ** 31), 2.0 ** 31)"),
    ("cut", "return q >> 10, q", "return q, q"),
    ("cut", "return q >> 10, q", "return np.trunc(q / 1024).astype(I64), q"),
    ("cut", "compared = -scores if rule.order == \"low\" else scores", "compared = scores"),
    ("cut", "order = rank_order(compared)", "order = rank_order(scores)"),
    ("cut", "k = detect(compared, order, rule)", "k = detect(scores, order, rule)"),
    ("cut", "tau = -F32(rule.tau) if rule.order == \"low\" else F32(rule.tau)", "tau = F32(rule.tau)"),
    # detectors
    ("cut", "np.count_nonzero(scores >= tau)", "np.count_nonzero(scores > tau)"),
    ("cut", "math.floor(rule.lo * n)", "math.ceil(rule.lo * n)"),
    ("cut", "math.ceil(rule.hi * n) - 1", "math.floor(rule.hi * n) - 1"),
    ("cut", "start + i if searched[i] > 0 else None", "start + i"),
    ("cut", "i = int(np.argmax(searched))", "i = len(searched) - 1 - int(np.argmax(searched[::-1]))"),
    ("cut", "d = n * np.cumsum(p)[:-1] - k * p.sum()", "d = n * np.cumsum(q)[:-1] - k * q.sum()"),
    ("cut", "d.astype(F64) * d.astype(F64) / (k", "d.astype(F64) / (k"),
    ("cut", "np.abs((p[0] - p) * (n - 1) - np.arange(n, dtype=I64) * (p[0] - p[-1]))",
     "(p[0] - p) * (n - 1) - np.arange(n, dtype=I64) * (p[0] - p[-1])"),
    ("cut", "best(q[:-1] - q[1:], 0, lo, hi)", "best(p[:-1] - p[1:], 0, lo, hi)"),
    ("cut", "best(q[:-1] - q[1:], 0, lo, hi)", "best(q[:-1] - q[1:], 0, 0, n)"),
    ("cut", "max(1, n // 16)", "max(2, n // 16)"),
    ("cut", "max(1, n // 16)", "max(1, -(-n // 16))"),
    ("cut", "q[:n - 2 * w] - 2 * q[w:n - w] + q[2 * w:], w, lo, hi)",
     "q[:n - 2 * w] - 2 * q[w:n - w] + q[2 * w:], w, 0, n)"),
    ("cut", "p[(n - 1) // 4]", "p[n // 4]"),
    ("cut", "p[3 * (n - 1) // 4]", "p[3 * n // 4]"),
    ("cut", "2 * p > 2 * q3 + 3 * (q3 - q1)", "2 * p >= 2 * q3 + 3 * (q3 - q1)"),
    ("cut", "p.astype(F64) > t", "p.astype(F64) >= t"),
    ("cut", "rule.lam * math.sqrt(max(v, 0.0))", "rule.lam * math.sqrt(abs(v) * n / max(n - 1, 1))"),
    ("cut", "np.cumsum(p - p[-1])", "np.cumsum(p)"),
    ("cut", "sums.astype(F64) >= rule.mass", "sums.astype(F64) > rule.mass"),
    # roundings, clamps, spread, flags
    ("cut", "\"ceil\": lambda: math.ceil(size * r - 1e-9)", "\"ceil\": lambda: math.ceil(size * r)"),
    ("cut", "\"floor\": lambda: math.trunc(size * r)", "\"floor\": lambda: math.trunc(size * r + 1e-9)"),
    ("cut", "\"nearest\": lambda: int(np.rint(size * r))", "\"nearest\": lambda: int(math.floor(size * r + 0.5))"),
    ("cut", "n - math.ceil(size * r - 1e-9)", "n - math.ceil(size * r)"),
    ("cut", "math.trunc(size * (1.0 - r))", "n - math.trunc(size * r)"),
    ("cut", "math.trunc(size * (1.0 - r))", "math.trunc(size - size * r)"),
    ("cut", "n - n * rule.percent // 100", "n * (100 - rule.percent) // 100"),
    ("cut", "k = min(max(k, rule.min_keep), top)", "k = min(k, top)"),
    ("cut", "k = -(-k // rule.round_to) * rule.round_to", "k = k // rule.round_to * rule.round_to"),
    ("cut", "return min(k, top, n)", "return min(k, n)"),
    ("cut", "t = math.floor(part * k)", "t = math.ceil(part * k)"),
    ("cut", "m = max(numbers, k) - h", "m = numbers - h"),
    ("cut", "((2 * i + 1) * m) // (2 * t)", "(i * m) // t"),
    ("cut", "if n == 0:\n        return [], 0", "if n == 0:\n        return [], 4 * bad"),
    ("cut", "FLAG_NO_SCORE if numbers == 0 else 0", "0"),
    ("cut", "(FLAG_NAN if numbers < n else 0)", "0"),
    ("cut", "(FLAG_BAD if bad else 0)", "(FLAG_BAD if bad and rule.detector not in ('topk', 'ratio') else 0)"),
    ("cut", "elif bad or (numbers < 3 and rule.detector != \"threshold\"):", "elif bad or numbers < 3:"),
    ("cut", "elif bad or (numbers < 3 and rule.detector != \"threshold\"):",
     "elif rule.detector != \"threshold\" and (bad or numbers < 3):"),
    ("cut", "elif bad or (numbers < 3 and rule.detector != \"threshold\"):",
     "elif bad or (numbers < 2 and rule.detector != \"threshold\"):"),
    ("cut", "k, flags = n, flags | FLAG_WHOLE", "k, flags = n, flags"),
    ("cut", "k = n if k is None else k", "k, flags = (n, flags | FLAG_WHOLE) if k is None else (k, flags)"),
    # sequences
    ("sequence", "((roles & bit) != 0) & ((roles & ABSENT) == 0)", "(roles & bit) != 0"),
    ("sequence", "return np.zeros(len(candidates), F32), True", "return np.zeros(len(candidates), F32), False"),
    ("sequence", "finish(dot(candidates, u) / length(candidates))",
     "finish(dot(candidates, u) / np.fmax(np.sqrt(dot(candidates, candidates)), F32(1e-8)))"),
    ("sequence", "others = query[query != v]", "others = query"),
    ("sequence", "if len(others) else 0.0", "if len(others) else 1.0"),
    ("sequence", "return np.array(scores, F64), len(query) == 0",
     "return np.array(scores, F64), len(query) < 2 and bool(((roles[query] & CANDIDATE) != 0).all())"),
    ("sequence", "k[:, h // shared]", "k[:, h % k.shape[1]]"),
    ("sequence", "query = query[-1:]", "query = np.arange(rows)[-1:]"),
    ("sequence", "query = query[-1:]", "query = query[:1]"),
    ("sequence", "keys = np.repeat((roles & ABSENT)[None, :] == 0, len(query), 0)",
     "keys = np.ones((len(query), rows), bool)"),
    ("sequence", "keys = np.repeat((roles & ABSENT)[None, :] == 0, len(query), 0)",
     "keys = np.repeat((roles & 7)[None, :] % 4 != 0, len(query), 0)"),
    ("sequence", "np.arange(rows)[None, :] <= query[:, None]", "np.arange(rows)[None, :] < query[:, None]"),
    ("sequence", "if not keys[:, candidate].any():", "if len(query) == 0:"),
    ("sequence", "/ np.sqrt(F64(dim))", ""),
    ("sequence", "over_rows(over_heads(paid, 0), 0)", "over_heads(over_rows(paid, 1), 0)"),
    ("sequence", "over_rows(over_heads(paid, 0), 0)", "over_heads(over_heads(paid, 0), 0)"),
    ("sequence", "over_rows(over_heads(paid, 0), 0)", "over_rows(over_rows(paid, 0), 0)"),
    # novelty
    ("novelty", "mean_squares(x):\n    return dot(x, x) / F32(x.shape[1])", "mean_squares(x):\n    return dot(x, x)"),
    ("novelty", "np.isfinite(r) & (r > 0)", "np.isfinite(r)"),
    ("novelty", "np.isfinite(r) & (r > 0)", "r > 0"),
    ("novelty", "[1] - 1\n", "[1]\n"),
    ("novelty", "4 - (exponent >> 1)", "4 - exponent // 2 - (exponent & 1)"),
    ("novelty", "4 - (exponent >> 1)", "5 - (exponent >> 1)"),
    ("novelty", "np.rint(np.ldexp(", "np.trunc(np.ldexp("),
    ("novelty", "np.rint(np.ldexp(x.astype(F64), shift[:, None]))",
     "np.floor(np.ldexp(x.astype(F64), shift[:, None]) + 0.5)"),
    ("novelty", "np.clip(scaled, -127, 127)", "np.clip(scaled, -128, 127)"),
    ("novelty", "np.clip(scaled, -127, 127)", "scaled.clip(-1000, 1000)"),
    ("novelty", "c = g.astype(F32) / (length[:, None] * length[None, :])",
     "c = g.astype(F32) / length[:, None] / length[None, :]"),
    ("novelty", "np.rint(np.clip(c, F32(-1), F32(1)).astype(F64) * ONE)",
     "(np.clip(c, F32(-1), F32(1)).astype(F64) * ONE)"),
    ("novelty", "slice(b * n // count, (b + 1) * n // count)", "slice(b * most, min((b + 1) * most, n))"),
    ("novelty", "count = -(-n // most)", "count = n // most + 1"),
    ("novelty", "at = int(np.argmin(m))", "at = len(m) - 1 - int(np.argmin(m[::-1]))"),
    ("novelty", "m = np.maximum(np.delete(m, at), p[left, row])", "m = p[left, row]"),
    ("novelty", "m = np.maximum(np.delete(m, at), p[left, row])", "m = np.minimum(np.delete(m, at), p[left, row])"),
    ("novelty", "max(int(v.max()), 0) + 1", "max(int(v.max()), 0)"),
    ("novelty", "max(int(v.max()), 0) + 1", "2 * ONE + 1"),
    ("novelty", "np.where(r == 0, 0, np.nan)", "np.nan"),
    ("novelty", "np.where(r == 0, 0, np.nan)", "0.0"),
    ("novelty", "v * 2.0 ** -22", "v * 2.0 ** -21"),
    # merging
    ("novelty", "hosts = np.flatnonzero(own & ~blank)", "hosts = np.flatnonzero(own)"),
    ("novelty", "elif not blank[i] and len(hosts)", "elif len(hosts)"),
    ("novelty", "int(np.argmax(p[i, hosts]))", "len(hosts) - 1 - int(np.argmax(p[i, hosts][::-1]))"),
    ("novelty", "np.maximum(like, 0).astype(F32)", "like.astype(F32)"),
    ("novelty", "np.where(is_kept | (power == \"mean\"), F32(1), (c * c) * (c * c))",
     "np.where(power == \"mean\", F32(1), (c * c) * (c * c))"),
    ("novelty", "np.where(is_kept | (power == \"mean\"), F32(1), (c * c) * (c * c))",
     "np.where(is_kept, F32(1), (c * c) * (c * c))"),
    ("novelty", "np.where(is_kept | (power == \"mean\"), F32(1), (c * c) * (c * c))",
     "np.where(is_kept | (power == \"mean\"), F32(1), c * c)"),
    ("novelty", "w if sizes is None else w * sizes.astype(F32)", "w"),
    ("novelty", "((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)", "((bits + 0x8000) >> 16)"),
    ("novelty", "a, t = fma32(weight[i], x[i], a), F32(t + weight[i])",
     "a, t = weight[i] * x[i] + a, F32(t + weight[i])"),
    ("novelty", "a, t = fma32(weight[i], x[i], a), F32(t + weight[i])", "a, t = fma32(weight[i], x[i], a), F32(t + 1)"),
    ("novelty", "for i in members:", "for i in members[::-1]:"),
    ("novelty", "narrow(a / t, stored.dtype)", "narrow(a * (F32(1) / t), stored.dtype)"),
    # calls
    ("method", "default = \"auto\" if request.kind == \"cut\" or request.relevance == \"attention\" else \"unit\"",
     "default = \"unit\""),
    ("method", "default = \"auto\" if request.kind == \"cut\" or", "default = \"auto\" if True or"),
    ("method", "bounds = request.cu if request.groups is None else request.groups", "bounds = request.cu"),
    ("method", "(sequence.CANDIDATE | sequence.ABSENT)) == 0", "sequence.CANDIDATE) == 0"),
    ("method", "flags[-1] |= flag", "flags[-1] = flag"),
    ("method", "- (request.prefix if request.kind == \"prune\" else 0)", ""),
]


def broken_method(rule):
    """The modules of the statement with one rule broken, as a module like `method`."""
    file, stands, breaks = rule
    sound = {name: sys.modules[name] for name in MODULES}
    try:
        for name in MODULES:
            with open(os.path.join(HERE, f"{name}.py"), encoding="utf-8") as stream:
                text = stream.read()
            if name == file:
                if text.count(stands) != 1:
                    raise ValueError(f"{file}.py has {text.count(stands)} times {stands!r}, expected once")
                text = text.replace(stands, breaks)
            sys.modules[name] = types.ModuleType(name)
            exec(compile(text, f"broken {name}.py", "exec"), sys.modules[name].__dict__)
        return sys.modules["method"]
    finally:
        sys.modules.update(sound)


def same(got, want):
    """Equal bits; any two NaN are the same score."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    if got.dtype.kind == "f" and got.size:
        numbers = ~np.isnan(want)
        return np.array_equal(numbers, ~np.isnan(got)) and got[numbers].tobytes() == want[numbers].tobytes()
    return got.tobytes() == want.tobytes()


def differs(request, want, close, broken):
    """Whether the broken statement answers the request otherwise, beyond the tolerance of a close policy."""
    if close is None:
        got = broken.answer(request)
    else:
        other = broken.close(request)
        tolerance = method.tolerance(request, np.nan_to_num(close))
        if not np.array_equal(np.isnan(other), np.isnan(close)):
            return True
        if (np.abs(other - close) > tolerance)[~np.isnan(close)].any():
            return True
        got = broken.answer(request, close.astype(np.float32))  # the same scores: only what follows from them counts
    return not all(same(got[name], want[name]) for name in want)


def unnoticed(requests):
    """The rules whose breaking no request tells."""
    known = []
    for i in np.random.default_rng(5).permutation(len(requests)):
        close = method.close(requests[i]) if method.is_close(requests[i]) else None
        scores = None if close is None else close.astype(np.float32)
        known.append((requests[i], method.answer(requests[i], scores), close))
    missed = []
    for rule in RULES:
        broken = broken_method(rule)
        kind = {"score": "prune", "novelty": "prune", "cut": "cut", "sequence": "prune-seq"}.get(rule[0])
        known.sort(key=lambda case: case[0].kind != kind)  # where it is seen soonest
        try:
            if not any(differs(*case, broken) for case in known):
                missed.append(rule)
        except (ArithmeticError, IndexError, ValueError) as error:  # breaks Python, not a rule
            missed.append((*rule, repr(error)))
    return missed
