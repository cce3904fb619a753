# SPDX-License-Identifier: Apache-2.0
"""Cases for check.py: a request (what METHOD.md is asked) with the command line and the files that ask the same of
`tailcut`. `random_case(seed, index)` depends on nothing but its arguments; random values stand in draw.py."""
from dataclasses import dataclass

import numpy as np

import draw
import method
from cut import rule_of
from method import Request

DIMS = [1, 2, 3, 7, 8, 9, 16, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 200, 255, 256, 257, 384, 511, 512, 513, 768,
        1024, 1152, 1280, 1300]
MAX_ELEMENTS = 400_000
OPTION = {"detector": "--detector", "k": "--k", "ratio": "--ratio", "percent": "--percent", "rounding": "--rounding",
          "tau": "--tau",
          "lam": "--lambda", "mass": "--mass", "window": "--window", "min_keep": "--min-keep", "max_keep": "--max-keep",
          "round_to": "--round-to", "spread": "--spread", "order": "--order", "scale": "--scale"}
INPUT = {"prune": "tokens", "cut": "scores", "prune-seq": "hidden"}


@dataclass
class Case:
    """argv[0] is the subcommand; @NAME stands for the path of a file. `refused`: the exit status and a word of the
    message, where the command must not accept the line; there is no request then."""
    name: str
    argv: list
    files: dict
    request: Request | None = None
    refused: tuple | None = None


# ---------------------------------------------------------------------------------------------- command lines
def word(value):
    return repr(float(value)) if isinstance(value, float) else str(value)


def rule_words(values):
    """The options that say a rule."""
    argv = [w for name, value in values.items() if name in OPTION for w in (OPTION[name], word(value))]
    if "lo" in values:
        argv += ["--search", f"{word(values['lo'])}:{word(values['hi'])}"]
    return argv


def reference_words(request, files, one_cls):
    reference = request.reference
    if isinstance(reference, str):
        words = {"row": ["--cls-row", "0"], "mean": ["--cls-mean"]}[reference]
    elif isinstance(reference, tuple):
        words = [f"--{reference[0]}", str(reference[1])]
    else:
        files["cls"] = reference[0] if one_cls else reference
        words = ["--cls", "@cls"]
    usual = int(words[0] == "--cls-row")
    return words + (["--prefix", str(request.prefix)] if request.prefix != usual else [])


def merge_words(request, files):
    if request.merge is None:
        return []
    power, window = request.merge
    words = ["--merge", power]
    if window != (request.reference[1] if is_novelty(request) else 64):
        words += ["--merge-window", str(window)]
    if request.sizes is not None:
        files["sizes"] = request.sizes
        words += ["--sizes-in", "@sizes"]
    return words


def is_novelty(request):
    return isinstance(request.reference, tuple) and request.reference[0] == "novelty"


def attention_words(request, files, shape):
    for name, array in (("q", request.q), ("keys", request.k)):
        files[name] = array.reshape(shape + array.shape[1:])
    return ["--q", "@q", "--keys", "@keys"] + ["--causal"] * request.causal + ["--last-query"] * request.last_query + [
        word for name, how in zip(("head", "query"), request.reductions) if how != "mean"
        for word in (f"--{name}-reduction", how)]


def case_of(name, request, form="ragged", one_cls=False, dtype=None):
    """The case of a request. form: "single" [N, ...], "batch" [B, N, ...] or "ragged"; one_cls: all segments have
    the first reference, given as [D]; dtype: the type of the features, where the command line says it."""
    count = len(request.cu) - 1
    shape = (count, int(request.cu[1]) if count else 0) if form == "batch" else (len(request.rows),)
    files = {INPUT[request.kind]: request.rows.reshape(shape + request.rows.shape[1:])}
    argv = [request.kind, f"--{INPUT[request.kind]}", f"@{INPUT[request.kind]}"]
    if form == "ragged":
        files["cu"] = np.asarray(request.cu, np.int32)
        argv += ["--cu-seqlens", "@cu"]
    if request.kind == "prune":
        argv += reference_words(request, files, one_cls) + merge_words(request, files)
    if request.kind == "prune-seq":
        files["roles"] = request.roles.reshape(shape)
        argv += ["--roles", "@roles", "--relevance", request.relevance]
        if request.relevance == "attention":
            argv += attention_words(request, files, shape)
    if request.groups is not None:
        files["groups"] = np.asarray(request.groups, np.int32)
        argv += ["--groups", "@groups"]
    argv += ["--dtype", dtype] if dtype else []
    return Case(name, argv + rule_words(request.values), files, request)


# ---------------------------------------------------------------------------------------------- random shapes and rules
def lengths(rng, dim):
    """(form, lengths of the segments)."""
    def one():
        top = rng.choice([4, 16, 70, 300, 700], p=[0.2, 0.3, 0.3, 0.14, 0.06])
        return int(rng.integers(0, top + 1))

    form = str(rng.choice(["single", "batch", "ragged"]))
    count = 1 if form == "single" else int(rng.integers(1, 7))
    sizes = [one()] * count if form != "ragged" else [one() if rng.random() < 0.85 else 0 for _ in range(count)]
    while sum(sizes) * dim > MAX_ELEMENTS:
        sizes = [s // 2 for s in sizes]
    return form, sizes


def offsets_of(sizes):
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)


def random_groups(rng, cu):
    """Sometimes cut offsets: every segment boundary and others, some twice (a group without rows)."""
    if rng.random() < 0.65:
        return None
    more = rng.integers(0, cu[-1] + 1, int(rng.integers(0, 9)))
    if rng.random() < 0.3:  # frames of one length
        more = np.arange(0, cu[-1], int(rng.integers(1, 40)))[:200]
    twice = more[rng.random(len(more)) < 0.2]
    return np.sort(np.concatenate([np.unique(cu) if rng.random() < 0.5 else cu, more, twice])).astype(np.int32)


def random_rule(rng, n, score_like):
    """Values of a rule. score_like: plausible scores, for tau."""
    name = draw.detector(rng)
    values = {"detector": name}
    if name in ("otsu", "chord", "gap", "curvature") and rng.random() < 0.4:
        ends = sorted(rng.choice([0, 0.05, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1, *rng.random(4)], 2, replace=False))
        if ends[0] < ends[1]:
            values |= {"lo": float(ends[0]), "hi": float(ends[1])}
    if name == "curvature" and rng.random() < 0.6:
        values["window"] = int(rng.choice([0, 1, 2, 3, 8, n // 2, n]))
    elif name == "mean" and rng.random() < 0.7:
        values["lam"] = float(rng.choice([-1, 0, 0.5, 2, -1.5, rng.normal(), -1e6, 1e300]))
    elif name == "mass" and rng.random() < 0.7:
        values["mass"] = float(rng.choice([1, 0.5, 1e-9, 0.95, 1 - rng.random()]))
    elif name == "threshold":
        values["tau"] = draw.tau(rng, score_like)
    elif name == "topk":
        values["k"] = int(rng.choice([1, 2, max(1, n // 3), max(1, n), n + 5, 2 ** 31 - 1]))
    elif name == "ratio":
        values |= draw.share(rng)
    if rng.random() < 0.25:
        values["min_keep"] = int(rng.choice([0, 1, 2, n // 2, n, n + 3]))
    if rng.random() < 0.25:
        values["max_keep"] = max(values.get("min_keep", 1), int(rng.choice([1, 2, n // 3, n // 2, n, n + 9])))
    if rng.random() < 0.25:
        values["round_to"] = int(rng.choice([1, 2, 3, 8, 16, 64, 1000]))
    if rng.random() < 0.3:
        values["spread"] = float(rng.choice([0, 0.25, 0.5, 1, 0.1, rng.random()]))
    if rng.random() < 0.4:
        values["order"] = str(rng.choice(["low", "low", "high"]))
    if rng.random() < 0.4 and rule_of({n: v for n, v in values.items() if n != "detector"}).detector == name:
        del values["detector"]  # its parameter chooses it, or it is the default
    return values


def spoken(rng, dtype):
    """bf16 travels as uint16 and must be said; the others may be."""
    return dtype if dtype == "bf16" or rng.random() < 0.3 else None


# ---------------------------------------------------------------------------------------------- the three commands
def random_features(rng, tame=False):
    """(dim, form, cu, dtype, centre, fp32 rows). tame: nothing that overflows or is not a number."""
    dim = int(rng.choice(DIMS) if rng.random() < 0.8 else rng.integers(1, 1301))
    form, sizes = lengths(rng, dim)
    dtype = str(rng.choice(["f16", "bf16", "f32"]))
    centre = rng.normal(size=dim)
    empty = np.zeros((0, dim), np.float32)
    if tame:
        rows = np.concatenate([rng.normal(size=(n, dim)) + centre * rng.random((n, 1)) for n in sizes]
                              + [empty]).astype(np.float32)
    else:
        rows = draw.poison(rng, np.concatenate([draw.tokens(rng, n, dim, centre) for n in sizes] + [empty]))
    return dim, form, offsets_of(sizes), dtype, centre, rows


def prune_case(rng, name):
    dim, form, cu, dtype, centre, rows = random_features(rng)
    longest, one_cls = int(np.diff(cu).max()), False
    how = str(rng.choice(["one", "each", "row", "mean", "lag", "novelty", "novelty"]))
    prefix = int(how == "row")
    if rng.random() < 0.35:
        prefix = int(rng.choice([1, 2, 5, longest, longest + 3] + [0] * (how != "row")))
    prefix = max(prefix, int(how == "row"))
    reference = how
    if how == "lag":
        reference = ("lag", int(rng.choice([1, 2, 3, max(1, longest // 4), max(1, longest), longest + 7, 2 ** 31 - 1])))
    elif how == "novelty":
        reference = ("novelty", int(rng.choice([64, 64, 128, 256])))
    elif how in ("one", "each"):
        one_cls = how == "one"
        vectors = draw.references(rng, 1 if one_cls else len(cu) - 1, centre, rows)
        vectors = draw.store(vectors, "f32" if rng.random() < 0.4 else dtype)
        reference = np.repeat(vectors, len(cu) - 1 if one_cls else 1, 0)
    request = Request("prune", draw.store(rows, dtype), cu, bf16=dtype == "bf16", reference=reference, prefix=prefix)
    request.groups = random_groups(rng, cu)
    request.values = random_rule(rng, longest, method.answer(request)["scores"])
    if rng.random() < (0.6 if how == "novelty" else 0.15):
        window = reference[1] if how == "novelty" else int(rng.choice([64, 128, 256]))
        request.merge = (str(rng.choice(["mean", "cos4"])), window)
        if rng.random() < 0.5:
            request.sizes = rng.integers(1, rng.choice([2, 9, 100000]), int(np.maximum(np.diff(cu) - prefix, 0).sum()),
                                         dtype=np.int32)
    return case_of(name, request, form, one_cls, spoken(rng, dtype))


def cut_case(rng, name):
    form, sizes = lengths(rng, 1)
    cu = offsets_of(sizes)
    scores = np.concatenate([draw.scores(rng, n) for n in sizes] + [np.zeros(0, np.float32)])
    request = Request("cut", scores, cu, random_rule(rng, max(sizes), scores), groups=random_groups(rng, cu))
    if rng.random() < 0.7:
        request.values["scale"] = str(rng.choice(["auto", "unit", "unit"]))
    return case_of(name, request, form)


def sequence_case(rng, name):
    relevance = str(rng.choice(["mean-cosine", "max-cosine", "attention"], p=[0.6, 0.2, 0.2]))
    dim, form, cu, dtype, _, rows = random_features(rng, tame=relevance != "mean-cosine")
    request = Request("prune-seq", draw.store(rows, dtype), cu, bf16=dtype == "bf16", relevance=relevance)
    request.roles = draw.roles(rng, np.diff(cu))
    if relevance == "attention":
        shared, heads = int(rng.choice([1, 2, 4])), int(rng.integers(1, 4))
        size = int(rng.choice([1, 5, 8, 16, 64, 80, 128]))
        request.q = draw.store(rng.normal(0, 1.5, (len(rows), heads * shared, size)).astype(np.float32), dtype)
        request.k = draw.store(rng.normal(0, 1, (len(rows), heads, size)).astype(np.float32), dtype)
        request.causal, request.last_query = bool(rng.random() < 0.5), bool(rng.random() < 0.4)
        request.reductions = tuple(str(rng.choice(["mean", "max"])) for _ in range(2))
    request.groups = random_groups(rng, cu)
    scores = np.zeros(1, np.float32) if method.is_close(request) else method.answer(request)["scores"]
    request.values = random_rule(rng, int(np.diff(cu).max()), scores)
    return case_of(name, request, form, dtype=spoken(rng, dtype))


def random_case(seed, index):
    rng = np.random.default_rng([seed, index])
    make = [prune_case, cut_case, sequence_case][int(rng.choice(3, p=[0.4, 0.3, 0.3]))]
    return make(rng, f"random-{seed}-{index}")
