# SPDX-License-Identifier: Apache-2.0
"""words.py TAILCUT: what the command says: warnings, help, info; and that the README says it too."""
import json
import os
import re
import sys

import numpy as np

from command import case, good, main, refused, run, said, save, tokens


@case
def warnings():
    """Flags in words, on stderr and not in the way of --json."""
    ragged = np.concatenate([[0], np.full(8, 9).cumsum()]).astype(np.int32)
    x = np.random.default_rng(5).standard_normal((72, 16)).astype(np.float32)
    roles = np.tile(np.uint8([1, 1, 1, 1, 1, 1, 2, 2, 0]), 8)

    def told(argv, lines, flags):
        done = run(*argv, "--json")
        status, out, err = done.returncode, done.stdout.decode(), done.stderr.decode()
        assert status == 0, f"{argv}: exit status {status}, {err!r}"
        assert err == "".join(f"tailcut: warning: {line}\n" for line in lines), f"{argv}: stderr is {err!r}"
        assert status == 0 and json.loads(out)["flags"] == flags, f"{argv}: stdout is {out!r}"

    s = np.linspace(1, 0, 72, dtype=np.float32)
    save(ws=s, wx=x, wr=roles, wcu=ragged, wnan=np.where(np.arange(72) % 9 < np.arange(72) // 9, np.nan, s).astype(np.float32))
    cut = ["cut", "--cu-seqlens", "wcu.npy", "--scores"]
    told(cut + ["ws.npy"], [], [0] * 8)
    told(cut + ["wnan.npy"], ["segment 1: 1 score is NaN; segment 2: 2 scores are NaN; segment 3: 3 scores are NaN; segment 4: 4 scores are NaN; "
                              "segment 5: 5 scores are NaN; and 2 segments more",
                              "segment 7: it has fewer than 3 scores that are numbers: kept whole"], [0, 2, 2, 2, 2, 2, 2, 3])
    told(cut + ["wnan.npy", "--max-keep", "5"],
         ["segment 1: 1 score is NaN; segment 2: 2 scores are NaN; segment 3: 3 scores are NaN; segment 4: 4 scores are NaN; "
          "segment 5: 5 scores are NaN; and 2 segments more",
          "segment 7: it has fewer than 3 scores that are numbers: kept whole, up to --max-keep"], [0, 2, 2, 2, 2, 2, 2, 3])
    save(wno=np.where(np.arange(72) // 9 == 2, np.nan, s).astype(np.float32), wg=np.int32([0, 9, 18, 20, 27, 36, 45, 54, 63, 72]))
    told(cut + ["wno.npy"], ["segment 2: not one of its scores is a number: kept whole"], [0, 0, 19, 0, 0, 0, 0, 0])
    told(cut + ["wno.npy", "--k", "3"], ["segment 2: not one of its scores is a number"], [0, 0, 18, 0, 0, 0, 0, 0])
    told(cut + ["ws.npy", "--groups", "wg.npy"], ["segment 2: it has a group with fewer than 3 scores that are numbers: kept whole"], [0, 0, 1, 0, 0, 0, 0, 0])
    bad = x.reshape(8, 9, 16).copy()
    bad[3, 0] = 0
    bad[6, 0] = np.inf
    save(wb=bad, wz=np.zeros(16, np.float32), wm=np.kron(np.eye(8, 16, dtype=np.float32), np.float32([[1], [-1]])))
    told(["prune", "--tokens", "wb.npy", "--cls-row", "0"],
         ["segments 3, 6: its CLS row is bad (norm 0 or not finite): kept whole", "segment 6: 8 scores are NaN"], [0, 0, 0, 5, 0, 0, 23, 0])
    told(["prune", "--tokens", "wb.npy", "--cls-row", "0", "--k", "2"],
         ["segments 3, 6: its CLS row is bad (norm 0 or not finite)", "segment 6: 8 scores are NaN"], [0, 0, 0, 4, 0, 0, 22, 0])
    told(["prune", "--tokens", "wx.npy", "--cls", "wz.npy"], ["segment 0: its reference vector is bad (norm 0 or not finite): kept whole"], [5])
    told(["prune", "--tokens", "wm.npy", "--cls-mean"], ["segment 0: its mean direction is bad (norm 0 or not finite): kept whole"], [5])
    none = roles.reshape(8, 9).copy()
    none[[0, 2, 3, 4, 5, 7], 6:8] = 0
    save(wn=none.ravel())
    told(["prune-seq", "--hidden", "wx.npy", "--roles", "wn.npy", "--cu-seqlens", "wcu.npy"],
         ["segments 0, 2, 3, 4, 5 and 1 more: it has no query rows: kept whole"], [5, 0, 5, 5, 5, 5, 0, 5])
    few = np.where(np.arange(72) % 9 < 2, roles, roles & 2)
    save(wf=few)
    told(["prune-seq", "--hidden", "wx.npy", "--roles", "wf.npy"], [], [0])
    told(["prune-seq", "--hidden", "wx.npy", "--roles", "wf.npy", "--cu-seqlens", "wcu.npy"],
         ["segments 0, 1, 2, 3, 4 and 3 more: it has fewer than 3 scores that are numbers: kept whole"], [1] * 8)
    text = good("inspect", "--scores", "wnan.npy", "--cu-seqlens", "wcu.npy")
    assert text.count("\n") == 2 and "segment 1: 1 score is NaN" in text, text


@case
def outputs():
    """--out and -o are one option."""
    x = tokens()
    save(x=x, s=x[:, 0])
    prune = ["prune", "--tokens", "x.npy", "--cls-mean"]
    for name in ("--out", "-o"):
        said(*prune, "--k", 3, name, f"o{name}.npy")
        said("inspect", "--scores", "s.npy", name, f"o{name}.svg")
    assert np.array_equal(np.load("o--out.npy"), np.load("o-o.npy")) and len(np.load("o-o.npy")) == 3, "prune -o is not --out"
    assert os.path.exists("o-o.svg"), "inspect -o"
    refused(2, ["--out: is given twice"], *prune, "-o", "a.npy", "--out", "b.npy")


@case
def help_texts():
    program = said("help")
    assert program == said("--help") == said("-h") == said("help", "help"), "tailcut help is not tailcut --help"
    for line in program.split("\n")[2:-5]:
        assert re.match(r"  tailcut |      \S", line), f"help: {line!r} is out of line"
    refused(2, ["'': unknown command"], "")
    refused(2, ["'': unexpected argument"], "help", "prune", "")
    for command in ("prune", "cut", "prune-seq", "inspect", "view", "info", "bench"):
        text = said(command, "--help")
        assert f"tailcut {command}" in program and text.startswith(f"tailcut {command}"), f"{command} --help: {text[:80]!r}"
        assert text == said("help", command) == said(command, "-h"), f"tailcut help {command} is not {command} --help"
        assert max(map(len, text.split("\n"))) <= 110, f"{command} --help: a line is too long"
    for option in ("--detector", "--k", "--percent", "--rounding", "--threads", "--out, -o", "--json"):
        assert f"  {option} " in said("prune", "--help"), f"prune --help does not list {option}"
    assert said("cut", "--k", "3", "--help") == said("cut", "--help"), "--help behind other options"


@case
def info():
    """info tells what a handle of this machine really has."""
    def simd(level):
        return {**os.environ, "TAILCUT_SIMD": level}

    usual = json.loads(said("info", "--json"))
    cpu = usual["devices"][0]
    assert cpu == {"backend": "cpu", "simd": usual["build"]["simd"], "threads": 1}, f"info --json: {cpu}"
    for level in ("scalar", usual["build"]["simd"]):
        told = json.loads(said("info", "--json", "--threads", 0, env=simd(level)))
        assert told["devices"][0]["simd"] == level and told["cores"] >= 1, f"info with TAILCUT_SIMD={level}: {told}"
    text = said("info", env=simd("scalar"))
    assert text.startswith("build: {") and '\ncpu: {"backend": "cpu", "simd": "scalar", "threads": 1}\n' in text and "\ncuda" in text, f"info: {text}"
    refused(1, ["tailcut: cpu: TAILCUT_SIMD is 'mmx'"], "info", env=simd("mmx"))


@case
def readme():
    """The README's two sections on the command name every option."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "README.md"), encoding="utf-8") as file:
        text = file.read()
    text = text[text.index("## The command"):text.index("## What is supported")]
    for command in ("prune", "cut", "prune-seq", "inspect", "view", "info"):
        for option in re.findall("^  (--[a-z-]+)", said("help", command), re.M)[:-1]:  # the last is --help
            assert re.search(option + r"\b(?!-)", text), f"README.md: {option} of {command} is not in its sections on the command"


if __name__ == "__main__":
    sys.exit(main())
