# SPDX-License-Identifier: Apache-2.0
"""Check what the `tailcut` command says: refusals, near misses, warnings, help.

A refusal is a command line with the exit status and the words of the one line that it must end with.
"""
import json
import os
import re

import numpy as np

from command import check, run_tests

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
    (["prune", "--tokens", "x.npy", "--lag", "3", "--cls-mean"], ["--lag: cannot be combined with --cls-mean"]),
    (["prune", "--tokens", "x.npy", "--lag", "0"], ["--lag: '0' is out of range, expected at least 1"]),
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
    run.save(wno=np.where(np.arange(72) // 9 == 2, np.nan, s).astype(np.float32), wg=np.int32([0, 9, 18, 20, 27, 36, 45, 54, 63, 72]))
    told(cut + ["wno.npy"], ["segment 2: not one of its scores is a number: kept whole"], [0, 0, 19, 0, 0, 0, 0, 0])
    told(cut + ["wno.npy", "--k", "3"], ["segment 2: not one of its scores is a number"], [0, 0, 18, 0, 0, 0, 0, 0])
    told(cut + ["ws.npy", "--groups", "wg.npy"], ["segment 2: it has a group with fewer than 3 scores that are numbers: kept whole"], [0, 0, 1, 0, 0, 0, 0, 0])
    bad = x.reshape(8, 9, 16).copy()
    bad[3, 0] = 0
    bad[6, 0] = np.inf
    run.save(wb=bad, wz=np.zeros(16, np.float32), wm=np.kron(np.eye(8, 16, dtype=np.float32), np.float32([[1], [-1]])))
    told(["prune", "--tokens", "wb.npy", "--cls-row", "0"],
         ["segments 3, 6: its CLS row is bad (norm 0 or not finite): kept whole", "segment 6: 8 scores are NaN"], [0, 0, 0, 5, 0, 0, 23, 0])
    told(["prune", "--tokens", "wb.npy", "--cls-row", "0", "--k", "2"],
         ["segments 3, 6: its CLS row is bad (norm 0 or not finite)", "segment 6: 8 scores are NaN"], [0, 0, 0, 4, 0, 0, 22, 0])
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


def info(run):
    """info tells what a handle of this machine really has."""
    usual = json.loads(run.good("info", "--json"))
    cpu = usual["devices"][0]
    check(cpu == {"backend": "cpu", "simd": usual["build"]["simd"], "threads": 1}, f"info --json: {cpu}")
    for level in ("scalar", usual["build"]["simd"]):
        told = json.loads(run.good("info", "--json", "--threads", 0, env={"TAILCUT_SIMD": level}))
        check(told["devices"][0]["simd"] == level and told["cores"] >= 1, f"info with TAILCUT_SIMD={level}: {told}")
    text = run.good("info", env={"TAILCUT_SIMD": "scalar"})
    check(text.startswith("build: {") and '\ncpu: {"backend": "cpu", "simd": "scalar", "threads": 1}\n' in text and "\ncuda" in text, f"info: {text}")
    status, out, err = run("info", env={"TAILCUT_SIMD": "mmx"})
    check(status == 1 and out == "" and err.startswith("tailcut: cpu: TAILCUT_SIMD is 'mmx'") and err.count("\n") == 1, f"TAILCUT_SIMD=mmx: {status}, {err!r}")


def readme(run):
    """The README's two sections on the command name every option."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "README.md"), encoding="utf-8") as file:
        text = file.read()
    text = text[text.index("## The command"):text.index("## What is supported")]
    for command in ("prune", "cut", "prune-seq", "inspect", "view", "info"):
        for option in re.findall("^  (--[a-z-]+)", run.good("help", command), re.M)[:-1]:  # the last is --help
            check(re.search(option + r"\b(?!-)", text), f"README.md: {option} of {command} is not in its sections on the command")


def lines(run):
    """Files for the refusals, then all of them."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, 16)).astype(np.float32)
    roles = np.uint8([1] * 20 + [2] * 10 + [3] * 4 + [0] * 6)
    q, keys = (rng.standard_normal((40, h, 8)).astype(np.float32) for h in (4, 2))
    run.save(gfirst=np.int32([1, 40]), gdown=np.int32([0, 9, 7, 40]), glast=np.int32([0, 39]), gcross=np.int32([0, 20, 30, 40]), cu=np.int32([0, 25, 40]))
    run.save(x=x, c=x[0], s=x[:, 0], r=roles, q=q, keys=keys, keys5=np.zeros((40, 5, 8), np.float32), qn=q[1:],
             keysd=keys[:, :, :7], keys64=keys.astype(np.float16), r8=np.where(np.arange(40) == 5, 8, roles).astype(np.uint8))
    refusals(run)
    outputs(run)


if __name__ == "__main__":
    run_tests(__doc__, lines, warnings, help_texts, info, readme)
