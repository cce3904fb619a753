# SPDX-License-Identifier: Apache-2.0
"""refusals.py TAILCUT: the lines that the command does not take: status, and what its one line on stderr must say."""
import sys

import numpy as np

from command import case, main, refused, save

PRUNE = ["prune", "--tokens", "x.npy", "--cls", "c.npy"]
SEQ = ["prune-seq", "--hidden", "x.npy", "--roles", "r.npy"]
CUT = ["cut", "--scores", "s.npy"]
ATTENTION = SEQ + ["--relevance", "attention"]

# (arguments, what the one line on stderr must have)
WRONG_USAGE = [
    # A parameter that the detector does not read.
    (CUT + ["--detector", "otsu", "--k", "3"], ["--k: is not used by the detector otsu", "topk"]),
    (CUT + ["--detector", "mean", "--ratio", "0.5"], ["--ratio: is not used by the detector mean", "ratio"]),
    (CUT + ["--detector", "topk", "--k", "3", "--tau", "0.1"], ["--tau: is not used by the detector topk", "threshold"]),
    (CUT + ["--detector", "iqr", "--lambda", "2"], ["--lambda: is not used by the detector iqr", "mean"]),
    (CUT + ["--detector", "mean", "--mass", "0.5"], ["--mass: is not used by the detector mean", "mass"]),
    (CUT + ["--detector", "otsu", "--window", "3"], ["--window: is not used by the detector otsu", "curvature"]),
    (CUT + ["--detector", "iqr", "--search", "0:0.5"], ["--search: is not used by the detector iqr", "otsu, chord, gap or curvature"]),
    (CUT + ["--detector", "topk", "--k", "2", "--rounding", "floor"], ["--rounding: is not used by the detector topk", "ratio"]),
    (CUT + ["--detector", "gap", "--percent", "50"], ["--percent: is not used by the detector gap", "ratio"]),
    (CUT + ["--k", "3", "--search", "0:0.5"], ["--search: is not used by the detector topk, which is chosen by --k"]),
    # Two that choose.
    (CUT + ["--k", "3", "--tau", "0.1"], ["--tau: chooses the detector threshold", "--k chooses topk"]),
    (CUT + ["--mass", "0.5", "--lambda", "2"], ["--mass", "--lambda", "mean"]),
    (CUT + ["--window", "2", "--ratio", "0.5"], ["--window", "--ratio"]),
    (CUT + ["--k", "2", "--rounding", "floor"], ["--rounding: chooses the detector ratio", "--k chooses topk"]),
    # Parameters without a default.
    (CUT + ["--detector", "topk"], ["--k: is required by the detector topk"]),
    (CUT + ["--detector", "ratio"], ["--ratio: is required by the detector ratio", "--percent"]),
    (CUT + ["--detector", "threshold"], ["--tau: is required by the detector threshold"]),
    (CUT + ["--rounding", "nearest"], ["--ratio: is required by the detector ratio"]),
    (CUT + ["--rounding", "drop-percent"], ["--percent: is required by --rounding drop-percent"]),
    (CUT + ["--rounding", "drop-percent", "--ratio", "0.5"], ["--percent: is required", "in place of --ratio"]),
    (CUT + ["--percent", "50", "--ratio", "0.5"], ["--percent: cannot be combined with --ratio"]),
    (CUT + ["--percent", "50", "--rounding", "floor"], ["--percent: is rounded by drop-percent", "floor"]),
    # Numbers.
    (CUT + ["--k", "0"], ["--k: '0' is out of range, expected 1 to 2147483647"]),
    (CUT + ["--k", "2.5"], ["--k: '2.5' is not an integer"]),
    (CUT + ["--k", "99999999999"], ["--k: '99999999999' is out of range, expected 1 to 2147483647"]),
    (CUT + ["--ratio", "1.5"], ["--ratio: '1.5' is out of range, expected 0 to 1"]),
    (CUT + ["--ratio", "nan"], ["--ratio: 'nan' is not a finite number"]),
    (CUT + ["--ratio", "1e999"], ["--ratio: '1e999' is not a finite number"]),
    (CUT + ["--percent", "101"], ["--percent: '101' is out of range, expected 0 to 100"]),
    (CUT + ["--percent", "33.3"], ["--percent: '33.3' is not an integer"]),
    (CUT + ["--tau", "1e39"], ["--tau: '1e39' is not a finite float32"]),
    (CUT + ["--lambda", "inf"], ["--lambda: 'inf' is not a finite number"]),
    (CUT + ["--mass", "0"], ["--mass: '0' is out of range, expected above 0 to 1"]),
    (CUT + ["--window", "-1"], ["--window: '-1' is out of range, expected 0 to 2147483647"]),
    (CUT + ["--search", "0.5:0.5"], ["--search: '0.5:0.5' is out of range, expected 0 <= lo < hi <= 1"]),
    (CUT + ["--search", "0.5"], ["--search: '0.5' is not lo:hi"]),
    (CUT + ["--spread", "1.01"], ["--spread: '1.01' is out of range, expected 0 to 1"]),
    (CUT + ["--round-to", "0"], ["--round-to: '0' is out of range, expected 1 to 2147483647"]),
    (CUT + ["--min-keep", "5", "--max-keep", "4"], ["--max-keep: 4 is below --min-keep, which is 5"]),
    (CUT + ["--max-keep", "0"], ["--max-keep: 0 is below --min-keep, which is 1"]),
    (CUT + ["--threads", "1025"], ["--threads: '1025' is out of range, expected 0 to 1024"]),
    (CUT + ["--threads", "-1"], ["--threads: '-1' is out of range"]),
    (CUT + ["--repeat", "0"], ["--repeat: '0' is out of range"]),
    (CUT + ["--device", "gpu"], ["--device: 'gpu' is not cpu, cuda or cuda:i"]),
    # References.
    (["prune", "--tokens", "x.npy"], ["--cls: one of --cls, --cls-row 0", "is required"]),
    (PRUNE + ["--cls-mean"], ["--cls-mean: cannot be combined with --cls"]),
    (["prune", "--tokens", "x.npy", "--cls-row", "0", "--cls-mean"], ["--cls-mean: cannot be combined with --cls-row"]),
    (["prune", "--tokens", "x.npy", "--cls-row", "1"], ["--cls-row: only row 0"]),
    (["prune", "--cls", "c.npy"], ["--tokens: is required"]),
    (["prune", "--tokens", "x.npy", "--lag", "3", "--cls-mean"], ["--lag: cannot be combined with --cls-mean"]),
    (["prune", "--tokens", "x.npy", "--lag", "0"], ["--lag: '0' is out of range, expected 1 to 2147483647"]),
    (["prune", "--tokens", "x.npy", "--novelty", "65"], ["--novelty: '65' is not 64|128|256"]),
    (PRUNE + ["--merge", "mean", "--merge-window", "0"], ["--merge-window: '0' is not 64|128|256"]),
    (["prune", "--tokens", "x.npy", "--cls-row", "0", "--prefix", "0"], ["--prefix: 0", "--cls-row"]),
    (PRUNE + ["--prefix", "-1"], ["--prefix: '-1' is out of range, expected 0 to 1048576"]),
    (SEQ + ["--prefix", "1"], ["--prefix: is an option of prune, not of prune-seq"]),
    (["inspect", "--scores", "s.npy", "--prefix", "1"], ["--prefix: is for --tokens"]),
    (CUT + ["--order", "up"], ["--order: 'up' is not high|low"]),
    (PRUNE + ["--group-counts", "g.npy"], ["--group-counts: needs --groups"]),
    # Commands and their own options.
    (["cut"], ["--scores: is required"]),
    (["prune-seq", "--hidden", "x.npy"], ["--roles: is required"]),
    (PRUNE + ["--scale", "unit"], ["--scale: is an option of cut, not of prune"]),
    (CUT + ["--out", "o.npy"], ["--out: is an option of prune, not of cut"]),
    (["inspect", "--tokens", "x.npy", "--cls", "c.npy", "--scale", "unit"], ["--scale: is for --scores"]),
    (["inspect", "--scores", "s.npy", "--cls-mean"], ["--cls-mean: is for --tokens"]),
    (["inspect", "--scores", "s.npy", "--tokens", "x.npy"], ["--scores: cannot be combined with --tokens"]),
    (["view", "--image", "x.png", "--grid", "4x4", "--kept", "k.npy"], ["--out: is required"]),
    (["bench", "--busy", "--filter", "score"], ["--filter: is not used by --busy"]),
    # Attention.
    (SEQ + ["--q", "q.npy"], ["--q: is for --relevance attention, not for mean-cosine"]),
    (SEQ + ["--keys", "q.npy"], ["--keys: is for --relevance attention"]),
    (SEQ + ["--k", "keys.npy"], ["--keys: is for --relevance attention"]),
    (SEQ + ["--relevance", "max-cosine", "--causal"], ["--causal: is for --relevance attention, not for max-cosine"]),
    (SEQ + ["--last-query"], ["--last-query: is for --relevance attention"]),
    (SEQ + ["--query-reduction", "max"], ["--query-reduction: is for --relevance attention"]),
    (ATTENTION, ["--q: is required by --relevance attention"]),
    (ATTENTION + ["--q", "q.npy"], ["--keys: is required by --relevance attention"]),
    (ATTENTION + ["--q", "q.npy", "--k", "keys.npy", "--keys", "keys.npy"], ["--keys: is given twice"]),
    # Near misses.
    (CUT + ["--min-kep", "3"], ["--min-kep: unknown option; did you mean '--min-keep'?"]),
    (CUT + ["--min_keep", "3"], ["did you mean '--min-keep'?"]),
    (CUT + ["-kept", "k.npy"], ["did you mean '--kept'?"]),
    (CUT + ["--cu", "k.npy"], ["did you mean '--cu-seqlens'?"]),
    (CUT + ["--flasg", "f.npy"], ["did you mean '--flags'?"]),
    (CUT + ["--xyzzy"], ["--xyzzy: unknown option"]),
    (CUT + ["--detector", "otsy"], ["--detector: 'otsy' is not otsu|chord|", "did you mean 'otsu'?"]),
    (CUT + ["--detector", "top-k"], ["did you mean 'topk'?"]),
    (CUT + ["--rounding", "flor"], ["--rounding: 'flor' is not ceil|floor|", "did you mean 'floor'?"]),
    (SEQ + ["--relevance", "atention"], ["did you mean 'attention'?"]),
    (["prunne"], ["prunne: unknown command; did you mean 'prune'?"]),
    (["prune_seq"], ["did you mean 'prune-seq'?"]),
    (["help", "inspct"], ["did you mean 'inspect'?"]),
    (["frobnicate"], ["frobnicate: unknown command", "tailcut help"]),
    ([], ["no command given", "tailcut help"]),
    # The form of arguments.
    (CUT + ["--k", "3", "--k", "4"], ["--k: is given twice"]),
    (CUT + ["--json=1"], ["--json: takes no value"]),
    (CUT + ["--k"], ["--k: needs a value"]),
    (CUT + ["--kept", "--json"], ["--kept: needs a value, but --json follows"]),
    (CUT + ["x.npy"], ["x.npy: unexpected argument"]),
    (CUT + [""], ["unexpected argument"]),
    (CUT + ["--kept", ""], ["--kept: the file name is empty"]),
    (CUT + ["--kept", "same.npy", "--counts", "./same.npy"], ["--counts: names the same file as --kept"]),
    (["help", "cut", "more"], ["more: unexpected argument"]),
    (["--version", "more"], ["more: unexpected argument"]),
]

# Bad files: exit status 1.
BAD_INPUT = [
    (CUT + ["--groups", "gfirst.npy"], ["gfirst.npy: the first offset is 1, not 0"]),
    (CUT + ["--groups", "gdown.npy"], ["gdown.npy: offset 2 is 7, below the one before, 9"]),
    (CUT + ["--groups", "glast.npy"], ["glast.npy: the last offset is 39, but s.npy has 40 rows"]),
    (CUT + ["--groups", "gcross.npy", "--cu-seqlens", "cu.npy"], ["gcross.npy: lacks the offset 25, where segment 1 begins"]),
    (CUT + ["--groups", "r.npy"], ["r.npy: "]),
    (CUT + ["--groups", "missing.npy"], ["missing.npy: "]),
    (["prune-seq", "--hidden", "x.npy", "--roles", "r8.npy"], ["r8.npy: role 8 of row 5 is not 0 to 7"]),
    (ATTENTION + ["--q", "q.npy", "--keys", "keys5.npy"], ["keys5.npy: has 5 heads", "4 heads of q.npy"]),
    (ATTENTION + ["--q", "q.npy", "--keys", "keysd.npy"], ["keysd.npy: has 7 channels", "q.npy has 8"]),
    (ATTENTION + ["--q", "qn.npy", "--keys", "keys.npy"], ["qn.npy: has the shape [39, 4, 8], expected the rows [40] of x.npy"]),
    (ATTENTION + ["--q", "q.npy", "--keys", "keys64.npy"], ["keys64.npy: is float16, but the queries in q.npy are float32"]),
    (ATTENTION + ["--q", "x.npy", "--keys", "keys.npy"], ["x.npy: has the shape [40, 16]"]),
]


def files():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 16)).astype(np.float32)
    roles = np.uint8([1] * 20 + [2] * 10 + [3] * 4 + [0] * 6)
    q, keys = (rng.standard_normal((40, h, 8)).astype(np.float32) for h in (4, 2))
    save(gfirst=np.int32([1, 40]), gdown=np.int32([0, 9, 7, 40]), glast=np.int32([0, 39]), gcross=np.int32([0, 20, 30, 40]), cu=np.int32([0, 25, 40]))
    save(x=x, c=x[0], s=x[:, 0], r=roles, q=q, keys=keys, keys5=np.zeros((40, 5, 8), np.float32), qn=q[1:],
             keysd=keys[:, :, :7], keys64=keys.astype(np.float16), r8=np.where(np.arange(40) == 5, 8, roles).astype(np.uint8))


@case
def wrong_usage():
    """Exit status 2."""
    files()
    for argv, words in WRONG_USAGE:
        refused(2, words, *argv)


@case
def bad_input():
    """Exit status 1."""
    files()
    for argv, words in BAD_INPUT:
        refused(1, words, *argv)


if __name__ == "__main__":
    sys.exit(main())
