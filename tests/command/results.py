# SPDX-License-Identifier: Apache-2.0
"""results.py TAILCUT: what the options of the command do, against small statements in numpy of what each means."""
import json
import os
import sys

import numpy as np

from command import case, good, main, said, save

CUT = ["cut", "--scores", "s.npy"]
SEQ = ["prune-seq", "--hidden", "x.npy", "--roles", "r.npy"]
FILES = ["--kept", "got-kept.npy", "--counts", "got-counts.npy", "--mask", "got-mask.npy"]
rng = np.random.default_rng(7)


def features(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def cosines(x, c):
    x, c = x.astype(np.float64), c.astype(np.float64)
    return (x * c).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(c, axis=-1))


def best(scores, k):
    """The numbers of the k greatest, ascending; ties go to the first, NaN comes last."""
    return np.sort(np.argsort(-scores, kind="stable")[:k])


def same(what, **expected):
    """Compares the files got-NAME.npy that a run left."""
    for name, array in expected.items():
        got = np.load(f"got-{name}.npy")
        assert got.shape == np.shape(array) and np.array_equal(got, array), f"{what}: --{name} is {got.tolist()}, expected {np.asarray(array).tolist()}"


def report(*argv):
    """The --json object, and the kept indices."""
    return json.loads(said(*argv, "--json", "--kept", "got-kept.npy")), np.load("got-kept.npy")


@case
def choices():
    """What alone chooses a detector gives what the detector gives with it."""
    scores = np.sort(rng.standard_normal(97).astype(np.float32) ** 3)[rng.permutation(97)]
    save(s=scores)
    n = len(scores)
    ranked = np.argsort(-scores, kind="stable")
    for argv, detector, k in (
            (["--k", "7"], "topk", 7),
            (["--ratio", "0.3"], "ratio", int(np.ceil(n * 0.3 - 1e-9))),
            (["--tau", "-0.08"], "threshold", int((scores >= np.float32(-0.08)).sum())),
            (["--percent", "30"], "ratio", n - n * 30 // 100),
            (["--percent", "30", "--rounding", "drop-percent"], "ratio", n - n * 30 // 100),
            (["--ratio", "0.33", "--rounding", "ceil"], "ratio", int(np.ceil(n * 0.33 - 1e-9))),
            (["--ratio", "0.33", "--rounding", "floor"], "ratio", int(n * 0.33)),
            (["--ratio", "0.33", "--rounding", "nearest"], "ratio", int(np.rint(n * 0.33))),
            (["--ratio", "0.33", "--rounding", "drop-ceil"], "ratio", n - int(np.ceil(n * 0.33 - 1e-9))),
            (["--ratio", "0.33", "--rounding", "drop-trunc"], "ratio", int(n * (1 - 0.33))),
            (["--detector", "ratio", "--percent", "30"], "ratio", n - n * 30 // 100)):
        told, kept = report(*CUT, *argv)
        assert told.get("detector") == detector, f"cut {' '.join(argv)}: the detector is {told.get('detector')}"
        assert np.array_equal(kept, np.sort(ranked[:k])), f"cut {' '.join(argv)}: keeps {len(kept)}, expected {k}"
    for argv, detector in ((["--lambda", "0.5"], "mean"), (["--mass", "0.7"], "mass"), (["--window", "2"], "curvature")):
        told, kept = report(*CUT, *argv)
        named, same = report(*CUT, "--detector", detector, *argv)
        assert told.get("detector") == detector and np.array_equal(kept, same), f"cut {' '.join(argv)}: not as with --detector {detector}"
    told, _ = report(*CUT, "--search", "0.1:0.9")
    assert told.get("detector") == "otsu" and told.get("threads") == 1, f"cut --search: {told}"


@case
def attention():
    """--relevance attention against float64; --k takes the keys as well as --keys."""
    roles = np.uint8([1] * 20 + [2] * 10 + [3] * 4 + [0] * 6)
    x = features(40, 16)
    q, keys = features(40, 4, 8), features(40, 2, 8)
    save(x=x, r=roles, q=q, keys=keys)
    for options, causal, last, heads, rows in (
            ([], False, False, np.mean, np.mean), (["--causal"], True, False, np.mean, np.mean),
            (["--last-query"], False, True, np.mean, np.mean),
            (["--causal", "--last-query"], True, True, np.mean, np.mean),
            (["--head-reduction", "max"], False, False, np.max, np.mean),
            (["--head-reduction", "mean", "--query-reduction", "max"], False, False, np.mean, np.max)):
        logits = np.einsum("thd,jhd->thj", q.astype(np.float64), np.repeat(keys, q.shape[1] // keys.shape[1], 1)) / np.sqrt(q.shape[2])
        if causal:
            logits = np.where(np.arange(len(x))[None, None, :] <= np.arange(len(x))[:, None, None], logits, -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        asking = np.flatnonzero(roles & 2)[-1:] if last else np.flatnonzero(roles & 2)
        expected = rows(heads(weights[asking], 1), 0)
        for name in ("--keys", "--k"):
            said(*SEQ, "--relevance", "attention", "--q", "q.npy", name, "keys.npy", *options, "--k", 4, "--scores", "got-s.npy", "--kept", "got.npy")
            scores, kept = np.load("got-s.npy"), np.load("got.npy")
            candidate = (roles & 1) != 0
            assert scores.shape == expected.shape and np.isnan(scores[~candidate]).all(), f"attention {options} {name}: the shape of the scores"
            error = np.abs(scores[candidate] - expected[candidate]) - 1e-5 * np.maximum(np.abs(expected[candidate]), 2.0**-7)
            assert error.max() <= 0, f"attention {options} {name}: off by {error.max():g}"
            best = np.flatnonzero(candidate)[np.argsort(-scores[candidate], kind="stable")[:4]]
            assert np.array_equal(kept, np.sort(np.concatenate([np.flatnonzero(~candidate), best]))), f"attention {options} {name}: kept {kept}"


@case
def order():
    """--order low keeps what is least; NaN is last all the same."""
    scores = rng.standard_normal(50).astype(np.float32)
    scores[[4, 9, 33]] = np.nan
    save(s=scores)
    for argv, k in ((["--k", "11"], 11), (["--ratio", "0.5"], 25), (["--tau", "-0.4"], int((scores <= np.float32(-0.4)).sum())), (["--k", "49"], 49)):
        good(*CUT, "--order", "low", *argv, *FILES)
        same(f"--order low {argv}", kept=best(-scores, k), counts=[k], mask=np.isin(np.arange(50), best(-scores, k)).astype(np.uint8))
        good(*CUT, "--order", "high", *argv, "--kept", "got-high.npy")
        good(*CUT, *argv, "--kept", "got-usual.npy")
        same(f"--order high {argv}", usual=np.load("got-high.npy"))


@case
def groups():
    """Each group keeps its own k best; lists and counts stay the segment's."""
    scores = rng.standard_normal((3, 20)).astype(np.float32)
    cuts = np.int32([0, 7, 7, 20, 40, 41, 60])
    k = 4
    kept = [best(scores.ravel()[a:b], k) + a for a, b in zip(cuts[:-1], cuts[1:])]
    counts = [len(i) for i in kept]
    rows = np.concatenate(kept)
    expected = {"kept": rows % 20, "counts": [int((rows // 20 == b).sum()) for b in range(3)], "mask": np.isin(np.arange(60), rows).astype(np.uint8),
                "group-counts": counts, "offsets": np.cumsum([0] + [int((rows // 20 == b).sum()) for b in range(3)])}
    save(s=scores, g=cuts, flat=scores.ravel(), cu=np.int32([0, 20, 40, 60]))
    files = FILES + ["--group-counts", "got-group-counts.npy", "--offsets", "got-offsets.npy"]
    for argv in (CUT, ["cut", "--scores", "flat.npy", "--cu-seqlens", "cu.npy"]):
        said(*argv, "--k", k, "--groups", "g.npy", *files)
        same(f"{argv} --groups", **expected)
    # No rows: one offset will do, or one for each end.
    save(none=np.zeros((2, 0), np.float32), g0=np.int32([0]), g1=np.int32([0, 0]))
    for name, count in (("g0.npy", 0), ("g1.npy", 1)):
        said("cut", "--scores", "none.npy", "--groups", name, *files)
        same(f"no rows, {count} groups", kept=[], counts=[0, 0], mask=[], offsets=[0, 0, 0], **{"group-counts": [0] * count})
    # Features with a prefix, which lies in the first group of each segment.
    x = features(2, 12, 16)
    cuts = np.int32([0, 5, 12, 12, 20, 24])
    save(x=x, g=cuts, c=x[0, 3])
    said("prune", "--tokens", "x.npy", "--cls", "c.npy", "--prefix", 2, "--groups", "g.npy", "--ratio", "0.5", *files, "--scores", "got-scores.npy", "--out", "got-out.npy")
    scores = np.load("got-scores.npy").reshape(2, 10)
    assert np.allclose(scores, cosines(x[:, 2:], x[0, 3]), atol=1e-6), "prune --prefix: the scores"
    parts = [(0, 0, 3), (0, 3, 10), (1, 0, 0), (1, 0, 6), (1, 6, 10)]  # segment, candidates
    kept = [best(scores[b, i:j], (j - i + 1) // 2) + i for b, i, j in parts]
    each = [np.concatenate([kept[g] for g in range(5) if parts[g][0] == b]) for b in range(2)]
    mask = np.zeros((2, 12), np.uint8)
    for b in range(2):
        mask[b, each[b] + 2] = 1
    same("prune --groups", kept=np.concatenate(each), counts=[len(i) for i in each], mask=mask.ravel(), out=x[mask == 1],
         **{"group-counts": [len(i) for i in kept]})


@case
def prefix():
    """CLS and four registers: row 0 is the reference, none of the five is in a result."""
    x = features(3, 20, 32)
    save(x=x, short=x[:, :4])
    said("prune", "--tokens", "x.npy", "--cls-row", 0, "--prefix", 5, "--k", 6, *FILES, "--scores", "got-scores.npy", "--out", "got-out.npy")
    scores = np.load("got-scores.npy")
    assert scores.shape == (45,) and np.allclose(scores.reshape(3, 15), cosines(x[:, 5:], x[:, :1]), atol=1e-6), "--prefix 5: the scores"
    kept = [best(s, 6) for s in scores.reshape(3, 15)] if scores.size == 45 else []
    mask = np.zeros((3, 20), np.uint8)
    for b, i in enumerate(kept):
        mask[b, i + 5] = 1
    same("--prefix 5", kept=np.concatenate(kept), counts=[6] * 3, mask=mask.ravel(), out=x[mask == 1])
    said("prune", "--tokens", "short.npy", "--cls-row", 0, "--prefix", 5, "--k", 6, *FILES)
    same("a prefix longer than the segments", kept=np.zeros(0, np.int32), counts=[0] * 3, mask=np.zeros(12, np.uint8))
    for argv, usual in ((["--cls-row", 0], 1), (["--cls-mean"], 0)):
        said("prune", "--tokens", "x.npy", *argv, "--scores", "a.npy")
        said("prune", "--tokens", "x.npy", *argv, "--prefix", usual, "--scores", "b.npy")
        assert len(np.load("a.npy")) == 3 * (20 - usual) and np.array_equal(np.load("a.npy"), np.load("b.npy")), f"{argv}: the usual prefix is not {usual}"


@case
def lag():
    """What servers keep of a video: the least similar to the frame before, the first frame whole."""
    frame, frames = 16, 5
    n = frame * frames
    x = features(n, 24)
    x[frame:] += 2 * x[:-frame]
    save(x=x)
    said("prune", "--tokens", "x.npy", "--lag", frame, "--k", 1, "--scores", "got-scores.npy")
    scores = np.load("got-scores.npy")
    assert (scores[:frame] == -1).all() and np.allclose(scores[frame:], cosines(x[frame:], x[:-frame]), atol=1e-6), "--lag: the scores"
    for dropped in (0.3, 0.75, 0.97):
        said("prune", "--tokens", "x.npy", "--lag", frame, "--order", "low", "--ratio", dropped, "--rounding", "drop-trunc", "--min-keep", frame,
                 *FILES, "--out", "got-out.npy")
        dissimilarity = np.concatenate([np.full(frame, 255.0, np.float32), 1 - scores[frame:]])
        kept = np.sort(np.argsort(-dissimilarity, kind="stable")[:max(frame, int(n * (1 - dropped)))])
        same(f"video, {dropped} dropped", kept=kept, counts=[len(kept)], out=x[kept])
    x16 = x.astype(np.float16).reshape(2, n // 2, 24)
    save(x=x16)
    said("prune", "--tokens", "x.npy", "--lag", 3, "--prefix", 4, "--k", 5, "--scores", "got-scores.npy")
    scores = np.load("got-scores.npy").reshape(2, n // 2 - 4)
    assert (scores[:, :3] == -1).all() and np.allclose(scores[:, 3:], cosines(x16[:, 7:], x16[:, 4:-3]), atol=1e-3), "--lag with --prefix: the scores"


@case
def absent():
    """Rows with role 4 are padding: in no result, no query and no key."""
    x = features(30, 16)
    roles = np.uint8([1] * 14 + [2] * 6 + [0] * 4 + [4, 5, 6, 7, 4, 5])
    save(x=x, r=roles, x2=x[:24], r2=roles[:24], g=np.int32([0, 9, 24, 30]), g2=np.int32([0, 9, 24]), q=features(30, 2, 8), keys=features(30, 2, 8))
    save(q2=np.load("q.npy")[:24], keys2=np.load("keys.npy")[:24])
    for argv in (["--k", "5"], [], ["--relevance", "max-cosine", "--k", "3"], ["--relevance", "attention", "--k", "3", "--q", "q.npy", "--keys", "keys.npy"],
                 ["--groups", "g.npy", "--k", "2"]):
        said(*SEQ, *argv, *FILES, "--out", "got-out.npy")
        short = [a.replace(".npy", "2.npy") for a in SEQ + argv]
        said(*short, "--kept", "kept2.npy", "--out", "out2.npy")
        kept = np.load("kept2.npy")
        same(f"absent rows, {argv}", kept=kept, out=np.load("out2.npy"), counts=[len(kept)], mask=np.isin(np.arange(30), kept).astype(np.uint8))
    said(*SEQ, "--k", "5", "--scores", "got-scores.npy")
    assert np.array_equal(~np.isnan(np.load("got-scores.npy")), (roles & 5) == 1), "absent rows have scores"


@case
def threads():
    """--threads changes the time alone, and --json says how many there were."""
    save(x=features(4, 50, 64))
    argv = ["prune", "--tokens", "x.npy", "--cls-mean"]
    usual, kept = report(*argv)
    for n in (0, 1, 3):
        told, same_kept = report(*argv, "--threads", n)
        assert np.array_equal(kept, same_kept), f"--threads {n} keeps other tokens"
        assert told["threads"] == (n or len(os.sched_getaffinity(0))), f"--threads {n}: {report['threads']} threads"
    assert usual["threads"] == 1, f"without --threads there are {usual['threads']}"


if __name__ == "__main__":
    sys.exit(main())
