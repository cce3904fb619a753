# SPDX-License-Identifier: Apache-2.0
"""Check the options of the `tailcut` command: which go together, what each changes, what is said.

Every case is a command line with the exit status and the words that it must end with. Results are compared with small
statements in numpy of what the option means. Prints one line per failure; exit status 1 if there was any.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

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
    (CUT + ["--k", "0"], ["--k: '0' is out of range, expected at least 1"]),
    (CUT + ["--k", "2.5"], ["--k: '2.5' is not an integer"]),
    (CUT + ["--k", "99999999999"], ["--k: '99999999999' is out of range"]),
    (CUT + ["--ratio", "1.5"], ["--ratio: '1.5' is out of range, expected 0 to 1"]),
    (CUT + ["--ratio", "nan"], ["--ratio: 'nan' is not a finite number"]),
    (CUT + ["--ratio", "1e999"], ["--ratio: '1e999' is not a finite number"]),
    (CUT + ["--percent", "101"], ["--percent: '101' is out of range, expected 0 to 100"]),
    (CUT + ["--percent", "33.3"], ["--percent: '33.3' is not an integer"]),
    (CUT + ["--tau", "1e39"], ["--tau: '1e39' is not a finite float32"]),
    (CUT + ["--lambda", "inf"], ["--lambda: 'inf' is not a finite number"]),
    (CUT + ["--mass", "0"], ["--mass: '0' is out of range, expected above 0 to 1"]),
    (CUT + ["--window", "-1"], ["--window: '-1' is out of range, expected at least 0"]),
    (CUT + ["--search", "0.5:0.5"], ["--search: '0.5:0.5' is out of range, expected 0 <= lo < hi <= 1"]),
    (CUT + ["--search", "0.5"], ["--search: '0.5' is not lo:hi"]),
    (CUT + ["--spread", "1.01"], ["--spread: '1.01' is out of range, expected 0 to 1"]),
    (CUT + ["--round-to", "0"], ["--round-to: '0' is out of range, expected at least 1"]),
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
    # Commands and their own options.
    (["cut"], ["--scores: is required"]),
    (["prune-seq", "--hidden", "x.npy"], ["--roles: is required"]),
    (PRUNE + ["--scale", "unit"], ["--scale: is an option of cut, not of prune"]),
    (CUT + ["--out", "o.npy"], ["--out: is an option of prune, not of cut"]),
    (["inspect", "--tokens", "x.npy", "--cls", "c.npy", "--scale", "unit"], ["--scale: is for --scores"]),
    (["inspect", "--scores", "s.npy", "--cls-mean"], ["--cls-mean: is for --tokens"]),
    (["inspect", "--scores", "s.npy", "--tokens", "x.npy"], ["--scores: cannot be combined with --tokens"]),
    (["view", "--image", "x.png", "--grid", "4x4", "--kept", "k.npy"], ["--out: is required"]),
    # Attention.
    (SEQ + ["--q", "q.npy"], ["--q: is for --relevance attention, not for mean-cosine"]),
    (SEQ + ["--keys", "q.npy"], ["--keys: is for --relevance attention"]),
    (SEQ + ["--k", "keys.npy"], ["--keys: is for --relevance attention"]),
    (SEQ + ["--relevance", "max-cosine", "--causal"], ["--causal: is for --relevance attention, not for max-cosine"]),
    (SEQ + ["--last-query"], ["--last-query: is for --relevance attention"]),
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
    (CUT + ["x.npy"], ["x.npy: unexpected argument"]),
    (CUT + [""], ["unexpected argument"]),
    (CUT + ["--kept", ""], ["--kept: the file name is empty"]),
    (CUT + ["--kept", "same.npy", "--counts", "./same.npy"], ["--counts: names the same file as --kept"]),
    (["help", "cut", "more"], ["more: unexpected argument"]),
    (["--version", "more"], ["more: unexpected argument"]),
]

# Bad files: exit status 1.
BAD_INPUT = [
    (["prune-seq", "--hidden", "x.npy", "--roles", "r8.npy"], ["r8.npy: role 8 of row 5 is not 0 to 7"]),
    (ATTENTION + ["--q", "q.npy", "--keys", "keys5.npy"], ["keys5.npy: has 5 heads", "4 heads of q.npy"]),
    (ATTENTION + ["--q", "q.npy", "--keys", "keysd.npy"], ["keysd.npy: has 7 channels", "q.npy has 8"]),
    (ATTENTION + ["--q", "qn.npy", "--keys", "keys.npy"], ["qn.npy: has the shape [39, 4, 8], expected the rows [40] of x.npy"]),
    (ATTENTION + ["--q", "q.npy", "--keys", "keys64.npy"], ["keys64.npy: is float16, but the queries in q.npy are float32"]),
    (ATTENTION + ["--q", "x.npy", "--keys", "keys.npy"], ["x.npy: has the shape [40, 16]"]),
]

failures = []


def check(condition, what):
    if not condition:
        failures.append(what)


class Command:
    def __init__(self, program, place):
        self.program, self.place = program, place

    def __call__(self, *argv, env=None):
        done = subprocess.run([self.program, *map(str, argv)], cwd=self.place, capture_output=True, text=True, timeout=120,
                              env={**os.environ, **(env or {})})
        return done.returncode, done.stdout, done.stderr

    def good(self, *argv, quiet=True, env=None):
        """Standard output of a run that must succeed, and say nothing else."""
        status, out, err = self(*argv, env=env)
        check(status == 0 and (err == "" or not quiet), f"{' '.join(map(str, argv))}: exit status {status}, {err.strip()!r}")
        return out

    def results(self, *argv, quiet=True):
        """The --json object, and the kept indices."""
        out = self.good(*argv, "--json", "--kept", "got.npy", quiet=quiet)
        return json.loads(out) if out else {}, self.load("got.npy")

    def save(self, **arrays):
        for name, array in arrays.items():
            np.save(os.path.join(self.place, name + ".npy"), array)

    def load(self, name):
        path = os.path.join(self.place, name)
        return np.load(path) if os.path.exists(path) else np.zeros(0)


def refusals(run):
    for status, cases in ((2, WRONG_USAGE), (1, BAD_INPUT)):
        for argv, words in cases:
            before = sorted(os.listdir(run.place))
            got, out, err = run(*argv)
            line = f"{' '.join(argv)!r}"
            check(got == status, f"{line}: exit status {got}, expected {status}; {err.strip()!r}")
            check(err.startswith("tailcut: ") and err.count("\n") == 1 and err.endswith("\n"), f"{line}: stderr is not one line: {err!r}")
            check(out == "", f"{line}: printed {out[:80]!r}")
            for word in words:
                check(word in err, f"{line}: {word!r} is not in {err.strip()!r}")
            check(sorted(os.listdir(run.place)) == before, f"{line}: left files")


def choices(run, scores):
    """What alone chooses a detector gives what the detector gives with it."""
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
        report, kept = run.results(*CUT, *argv)
        check(report.get("detector") == detector, f"cut {' '.join(argv)}: the detector is {report.get('detector')}")
        check(np.array_equal(kept, np.sort(ranked[:k])), f"cut {' '.join(argv)}: keeps {len(kept)}, expected {k}")
    for argv, detector in ((["--lambda", "0.5"], "mean"), (["--mass", "0.7"], "mass"), (["--window", "2"], "curvature")):
        report, kept = run.results(*CUT, *argv)
        named, same = run.results(*CUT, "--detector", detector, *argv)
        check(report.get("detector") == detector and np.array_equal(kept, same), f"cut {' '.join(argv)}: not as with --detector {detector}")
    report, _ = run.results(*CUT, "--search", "0.1:0.9")
    check(report.get("detector") == "otsu" and report.get("threads") == 1, f"cut --search: {report}")


def attention(run, x, roles, q, keys):
    """--relevance attention against float64; --k takes the keys as well as --keys."""
    run.save(kh=keys)
    for options, causal, last in (([], False, False), (["--causal"], True, False), (["--last-query"], False, True),
                                  (["--causal", "--last-query"], True, True)):
        logits = np.einsum("thd,jhd->thj", q.astype(np.float64), np.repeat(keys, q.shape[1] // keys.shape[1], 1)) / np.sqrt(q.shape[2])
        if causal:
            logits = np.where(np.arange(len(x))[None, None, :] <= np.arange(len(x))[:, None, None], logits, -np.inf)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        asking = np.flatnonzero(roles & 2)[-1:] if last else np.flatnonzero(roles & 2)
        expected = weights[asking].mean((0, 1))
        for name in ("--keys", "--k"):
            run.good(*ATTENTION, "--q", "q.npy", name, "keys.npy", *options, "--k", 4, "--scores", "got-s.npy", "--kept", "got.npy")
            scores, kept = run.load("got-s.npy"), run.load("got.npy")
            candidate = (roles & 1) != 0
            check(scores.shape == expected.shape and np.isnan(scores[~candidate]).all(), f"attention {options} {name}: the shape of the scores")
            error = np.abs(scores[candidate] - expected[candidate]) - 1e-5 * np.maximum(np.abs(expected[candidate]), 2.0**-7)
            check(error.max() <= 0, f"attention {options} {name}: off by {error.max():g}")
            best = np.flatnonzero(candidate)[np.argsort(-scores[candidate], kind="stable")[:4]]
            check(np.array_equal(kept, np.sort(np.concatenate([np.flatnonzero(~candidate), best]))), f"attention {options} {name}: kept {kept}")


def warnings(run):
    """Flags in words, on stderr and not in the way of --json."""
    ragged = np.concatenate([[0], np.full(8, 9).cumsum()]).astype(np.int32)
    x = np.random.default_rng(5).standard_normal((72, 16)).astype(np.float32)
    roles = np.tile(np.uint8([1, 1, 1, 1, 1, 1, 2, 2, 0]), 8)

    def told(argv, lines, flags):
        status, out, err = run(*argv, "--json")
        check(status == 0, f"{argv}: exit status {status}, {err!r}")
        check(err == "".join(f"tailcut: warning: {line}\n" for line in lines), f"{argv}: stderr is {err!r}")
        check(status == 0 and json.loads(out)["flags"] == flags, f"{argv}: stdout is {out!r}")

    s = np.linspace(1, 0, 72, dtype=np.float32)
    run.save(ws=s, wx=x, wr=roles, wcu=ragged, wnan=np.where(np.arange(72) % 9 < np.arange(72) // 9, np.nan, s).astype(np.float32))
    cut = ["cut", "--cu-seqlens", "wcu.npy", "--scores"]
    told(cut + ["ws.npy"], [], [0] * 8)
    told(cut + ["wnan.npy"], ["segment 1: 1 score is NaN; segment 2: 2 scores are NaN; segment 3: 3 scores are NaN; segment 4: 4 scores are NaN; "
                              "segment 5: 5 scores are NaN; and 2 segments more",
                              "segment 7: it has fewer than 3 scores that are numbers: kept whole"], [0, 2, 2, 2, 2, 2, 2, 3])
    told(cut + ["wnan.npy", "--max-keep", "5"],
         ["segment 1: 1 score is NaN; segment 2: 2 scores are NaN; segment 3: 3 scores are NaN; segment 4: 4 scores are NaN; "
          "segment 5: 5 scores are NaN; and 2 segments more",
          "segment 7: it has fewer than 3 scores that are numbers: kept whole, up to --max-keep"], [0, 2, 2, 2, 2, 2, 2, 3])
    bad = x.reshape(8, 9, 16).copy()
    bad[3, 0] = 0
    bad[6, 0] = np.inf
    run.save(wb=bad, wz=np.zeros(16, np.float32), wm=np.kron(np.eye(8, 16, dtype=np.float32), np.float32([[1], [-1]])))
    told(["prune", "--tokens", "wb.npy", "--cls-row", "0"],
         ["segments 3, 6: its CLS row is bad (norm 0 or not finite): kept whole", "segment 6: 8 scores are NaN"], [0, 0, 0, 5, 0, 0, 7, 0])
    told(["prune", "--tokens", "wb.npy", "--cls-row", "0", "--k", "2"],
         ["segments 3, 6: its CLS row is bad (norm 0 or not finite)", "segment 6: 8 scores are NaN"], [0, 0, 0, 4, 0, 0, 6, 0])
    told(["prune", "--tokens", "wx.npy", "--cls", "wz.npy"], ["segment 0: its reference vector is bad (norm 0 or not finite): kept whole"], [5])
    told(["prune", "--tokens", "wm.npy", "--cls-mean"], ["segment 0: its mean direction is bad (norm 0 or not finite): kept whole"], [5])
    none = roles.reshape(8, 9).copy()
    none[[0, 2, 3, 4, 5, 7], 6:8] = 0
    run.save(wn=none.ravel())
    told(["prune-seq", "--hidden", "wx.npy", "--roles", "wn.npy", "--cu-seqlens", "wcu.npy"],
         ["segments 0, 2, 3, 4, 5 and 1 more: it has no query rows: kept whole"], [5, 0, 5, 5, 5, 5, 0, 5])
    few = np.where(np.arange(72) % 9 < 2, roles, roles & 2)
    run.save(wf=few)
    told(["prune-seq", "--hidden", "wx.npy", "--roles", "wf.npy"], [], [0])
    told(["prune-seq", "--hidden", "wx.npy", "--roles", "wf.npy", "--cu-seqlens", "wcu.npy"],
         ["segments 0, 1, 2, 3, 4 and 3 more: it has fewer than 3 scores that are numbers: kept whole"], [1] * 8)
    status, out, err = run("inspect", "--scores", "wnan.npy", "--cu-seqlens", "wcu.npy")
    check(status == 0 and err.count("\n") == 2 and "segment 1: 1 score is NaN" in err, f"inspect: {err!r}")


def outputs(run):
    """--out and -o are one option."""
    for name in ("--out", "-o"):
        run.good(*PRUNE, "--k", 3, name, f"o{name}.npy")
        run.good("inspect", "--scores", "s.npy", name, f"o{name}.svg")
    check(np.array_equal(run.load("o--out.npy"), run.load("o-o.npy")) and len(run.load("o-o.npy")) == 3, "prune -o is not --out")
    check(os.path.exists(os.path.join(run.place, "o-o.svg")), "inspect -o")
    status, _, err = run(*PRUNE, "-o", "a.npy", "--out", "b.npy")
    check(status == 2 and "--out: is given twice" in err, f"-o and --out: {err!r}")


def help_texts(run):
    program = run.good("help")
    check(program == run.good("--help") == run.good("-h"), "tailcut help is not tailcut --help")
    for command in ("prune", "cut", "prune-seq", "inspect", "view", "info"):
        text = run.good(command, "--help")
        check(f"tailcut {command}" in program and text.startswith(f"tailcut {command}"), f"{command} --help: {text[:80]!r}")
        check(text == run.good("help", command) == run.good(command, "-h"), f"tailcut help {command} is not {command} --help")
        check(max(map(len, text.split("\n"))) <= 110, f"{command} --help: a line is too long")
    for option in ("--detector", "--k", "--percent", "--rounding", "--threads", "--out, -o", "--json"):
        check(f"  {option} " in run.good("prune", "--help"), f"prune --help does not list {option}")
    check(run.good("cut", "--k", "3", "--help") == run.good("cut", "--help"), "--help behind other options")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tailcut", required=True)
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as place:
        run = Command(os.path.abspath(args.tailcut), place)
        x = rng.standard_normal((40, 16)).astype(np.float32)
        scores = np.sort(rng.standard_normal(97).astype(np.float32) ** 3)[rng.permutation(97)]
        roles = np.uint8([1] * 20 + [2] * 10 + [3] * 4 + [0] * 6)
        q, keys = (rng.standard_normal((40, h, 8)).astype(np.float32) for h in (4, 2))
        run.save(x=x, c=x[0], s=scores, r=roles, q=q, keys=keys, keys5=np.zeros((40, 5, 8), np.float32), qn=q[1:],
                 keysd=keys[:, :, :7], keys64=keys.astype(np.float16), r8=np.where(np.arange(40) == 5, 8, roles).astype(np.uint8))
        refusals(run)
        choices(run, scores)
        attention(run, x, roles, q, keys)
        warnings(run)
        outputs(run)
        help_texts(run)
    for failure in failures:
        print(failure)
    print(f"options.py: {len(WRONG_USAGE) + len(BAD_INPUT)} refusals, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
