# SPDX-License-Identifier: Apache-2.0
"""Command lines that must be refused: a parameter that the detector does not use, options that contradict each other,
values out of range (wrong usage, exit status 2), files that are not what the option needs (1). Each names the option
or file."""
import numpy as np

from cases import OPTION, Case
from cut import CHOOSES
from draw import DETECTORS, F32

WORD = {"k": "3", "ratio": "0.5", "percent": "40", "tau": "0.1", "mass": "0.5", "lam": "1", "window": "2",
        "search": "0.1:0.9", "rounding": "floor"}
USERS = {name: [detector] for name, detector in CHOOSES.items()} | {"search": ["otsu", "chord", "gap", "curvature"],
                                                                    "rounding": ["ratio"]}
NEEDS = {"topk": "k", "ratio": "ratio", "threshold": "tau"}
SPELLED = OPTION | {"search": "--search"}


def scores():
    return {"scores": (np.arange(9) / 9).astype(F32)}


def cut_line(name, *words, word, status=2, **files):
    return Case(f"refused/cut/{name}", ["cut", "--scores", "@scores", *words], scores() | files, refused=(status, word))


def unused(detector, odd):
    """The detector with all it needs and a parameter of another one."""
    needed = [SPELLED[NEEDS[detector]], WORD[NEEDS[detector]]] if detector in NEEDS else []
    return cut_line(f"{detector}-{odd}", "--detector", detector, *needed, SPELLED[odd], WORD[odd], word=SPELLED[odd])


def parameters():
    for detector in DETECTORS:
        for odd in WORD:
            if detector not in USERS[odd]:
                yield unused(detector, odd)
        if detector in NEEDS:
            yield cut_line(f"{detector}-alone", "--detector", detector, word=SPELLED[NEEDS[detector]])
    for first in CHOOSES:  # two parameters, each choosing its own detector
        for second in CHOOSES:
            if first < second and CHOOSES[first] != CHOOSES[second]:
                yield cut_line(f"{first}-{second}", SPELLED[first], WORD[first], SPELLED[second], WORD[second],
                               word="--")
    yield cut_line("rounding-alone", "--rounding", "floor", word="--")
    yield cut_line("percent-floor", "--percent", "40", "--rounding", "floor", word="--")
    yield cut_line("ratio-percent", "--ratio", "0.4", "--percent", "40", word="--")
    yield cut_line("ratio-drop-percent", "--ratio", "0.4", "--rounding", "drop-percent", word="--")


def prune_line(name, *words, word, status=2, **files):
    tokens = {"tokens": np.ones((9, 4), F32)}
    return Case(f"refused/prune/{name}", ["prune", "--tokens", "@tokens", *words], tokens | files,
                refused=(status, word))


def merging():
    novelty = ("--novelty", "64")
    for value in ("0", "65", "512", "-64", "x"):
        yield prune_line(f"novelty={value}", "--novelty", value, word="--novelty")
        yield prune_line(f"merge-window={value}", "--cls-mean", "--merge", "mean", "--merge-window", value,
                         word="--merge-window")
    yield prune_line("merge=cos2", *novelty, "--merge", "cos2", word="--merge")
    yield prune_line("two-windows", *novelty, "--merge", "mean", "--merge-window", "128", word="--merge-window")
    yield prune_line("novelty-and-mean", *novelty, "--cls-mean", word="--novelty")
    yield prune_line("window-alone", *novelty, "--merge-window", "64", word="--merge-window")
    yield prune_line("sizes-alone", *novelty, "--sizes-in", "@sizes", word="--sizes-in", sizes=np.ones(9, np.int32))
    for name, sizes in (("few", np.ones(8)), ("many", np.ones(10)), ("square", np.ones((3, 3))), ("zero", np.zeros(9))):
        yield prune_line(f"sizes-{name}", *novelty, "--merge", "mean", "--sizes-in", "@sizes", word="sizes", status=1,
                         sizes=sizes.astype(np.int32))
    yield Case("refused/prune/wide", ["prune", "--tokens", "@tokens", *novelty],
               {"tokens": np.ones((1, 131072), np.float16)}, refused=(1, "131071"))


def ranges():
    for option, bad in {"--percent": ["-1", "101", "1.5", ""], "--ratio": ["-0.1", "1.1", "nan"],
                        "--k": ["0", "-1", "2147483648"], "--mass": ["0", "1.1"],
                        "--window": ["-1"], "--tau": ["nan", "inf", "1e39"], "--lambda": ["inf", "nan"],
                        "--order": ["up", "LOW", ""],
                        "--rounding": ["up", "drop"], "--spread": ["1.5"], "--search": ["0.5:0.5", "0:2"],
                        "--round-to": ["0"], "--min-keep": ["-1"]}.items():
        for value in bad:
            yield cut_line(f"{option}={value}", option, value, word=option)
    yield cut_line("keep-order", "--min-keep", "3", "--max-keep", "2", word="--m")


def files():
    for name, offsets in {"boundary": [0, 4, 9], "falling": [0, 6, 3, 9], "first": [1, 6, 9], "last": [0, 6, 8],
                          "beyond": [0, 6, 9, 12], "negative": [0, -1, 6, 9],
                          "nothing": []}.items():
        yield cut_line(f"groups-{name}", "--groups", "@groups", "--cu-seqlens", "@cu", word="groups", status=1,
                       groups=np.array(offsets, np.int32),
                       cu=np.array([0, 6, 9], np.int32))
    yield cut_line("groups-float", "--groups", "@groups", word="groups", status=1, groups=np.array([0, 9], F32))
    yield cut_line("groups-shape", "--groups", "@groups", word="groups", status=1, groups=np.array([[0, 9]], np.int32))


def references():
    x = {"tokens": np.arange(24, dtype=F32).reshape(8, 3), "cls": np.ones(3, F32)}

    def line(name, *words, word):
        return Case(f"refused/prune/{name}", ["prune", "--tokens", "@tokens", *words],
                    {n: a for n, a in x.items() if n == "tokens" or f"@{n}" in words},
                    refused=(2, word))

    yield line("no-reference", word="--cls")
    for other in (["--cls", "@cls"], ["--cls-row", "0"], ["--cls-mean"]):
        yield line(f"lag-and{other[0]}", "--lag", "2", *other, word="--")
    for lag in ("0", "-1", "1.5", "2147483648"):
        yield line(f"lag-{lag}", "--lag", lag, word="--lag")
    for prefix in ("-1", "x", "2147483648"):
        yield line(f"prefix-{prefix}", "--cls-mean", "--prefix", prefix, word="--prefix")
    yield line("row-without-prefix", "--cls-row", "0", "--prefix", "0", word="--prefix")
    yield line("group-counts-alone", "--cls-mean", "--group-counts", "counts.npy", word="--group-counts")
    yield line("row-1", "--cls-row", "1", word="--cls-row")


def sequences():
    h, roles = np.arange(24, dtype=F32).reshape(8, 3), np.array([1, 1, 2, 2, 1, 1, 0, 2], np.uint8)
    q, k = np.ones((8, 4, 2), F32), np.ones((8, 2, 2), F32)

    def line(name, *words, word, status=2, **changed):
        named = {"hidden": h, "roles": roles, "q": q, "keys": k} | changed
        used = {n: a for n, a in named.items() if n in ("hidden", "roles") or f"@{n}" in words}
        return Case(f"refused/prune-seq/{name}", ["prune-seq", "--hidden", "@hidden", "--roles", "@roles", *words],
                    used, refused=(status, word))

    attention = ["--relevance", "attention", "--q", "@q", "--keys", "@keys"]
    yield line("q-alone", *attention[:4], word="--keys")
    yield line("keys-alone", "--relevance", "attention", "--keys", "@keys", word="--q")
    for policy in ("mean-cosine", "max-cosine"):
        for odd in (["--causal"], ["--last-query"], ["--q", "@q"], ["--keys", "@keys"],
                    ["--head-reduction", "max"], ["--query-reduction", "mean"]):
            yield line(f"{policy}{odd[0]}", "--relevance", policy, *odd, word=odd[0])
    for odd in ("--head-reduction", "--query-reduction"):
        yield line(f"{odd}-none", *attention, odd, "sum", word=odd)
    yield line("heads", *attention, word="q", status=1, q=np.ones((8, 3, 2), F32))
    yield line("head-dim", *attention, word="q", status=1, q=np.ones((8, 4, 3), F32))
    yield line("q-rows", *attention, word="q", status=1, q=np.ones((7, 4, 2), F32))
    yield line("keys-rows", *attention, word="keys", status=1, keys=np.ones((9, 2, 2), F32))
    yield line("q-flat", *attention, word="q", status=1, q=np.ones((8, 8), F32))
    yield line("q-dtype", *attention, word="q", status=1, q=q.astype(np.complex64))
    for byte in (8, 128, 255):
        yield line(f"role-{byte}", "--relevance", "mean-cosine", word="roles", status=1,
                   roles=np.where(roles == 0, byte, roles).astype(np.uint8))


def refusal_cases():
    for make in (parameters, ranges, merging, files, references, sequences):
        yield from make()
