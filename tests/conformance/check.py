# SPDX-License-Identifier: Apache-2.0
"""Check the `tailcut` command against METHOD.md, bit for bit.

Runs the crafted edge cases, then N random ones, through `tailcut prune`, `cut` and `prune-seq`, and compares every
output, the JSON report and what is said on stderr with method.py; lines that must be refused (refusals.py) have to be.
Some inputs come in another byte order or type, some files through a pipe. A failed case is printed with the command
line that reproduces it; its inputs stay under --keep. The last line is `N passed, M failed`; exit status 1 if any
failed.
"""
import argparse
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np

import method
import sequence
from cases import random_case
from crafted import crafted_cases
from crafted_options import option_cases
from cut import FLAG_BAD, FLAG_NAN, FLAG_NO_SCORE, FLAG_WHOLE, rule_of
from dress import dressed
from forked import Forked
from refusals import refusal_cases

FILES = ["kept", "counts", "offsets", "flags", "mask"]
OUTPUTS = {"cut": FILES, "prune": FILES + ["out", "scores"], "prune-seq": FILES + ["out", "scores"]}
FLAG_WORDS = {FLAG_WHOLE: ["kept whole"], FLAG_NAN: ["NaN", "is a number"], FLAG_BAD: ["bad (norm", "no query"],
              FLAG_NO_SCORE: ["NaN", "is a number"]}

workers = threading.local()


def same(got, want):
    """Same dtype, shape and bits; any two NaN are the same score."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"is {got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}"
    width = {1: np.uint8, 2: np.uint16, 4: np.uint32}[want.dtype.itemsize]
    return got.view(width) != want.view(width)


def difference(option, got, want):
    """None, or a line that says where an output is wrong."""
    unequal = same(got, want)
    if isinstance(unequal, str):
        return f"--{option} {unequal}"
    if option == "scores":
        unequal &= ~(np.isnan(got) & np.isnan(want))
    if not unequal.any():
        return None
    at = tuple(int(i) for i in np.argwhere(unequal)[0])
    return (f"--{option} differs at {int(unequal.sum())} of {unequal.size} places, first {list(at)}: {got[at]!r}, "
            f"expected {want[at]!r}")


def close_problems(request, scores):
    """A close policy: the scores near the float64 reference, and numbers at candidates only."""
    reference = method.close(request)
    if scores.dtype != np.float32 or scores.shape != reference.shape:
        return [f"--scores is {scores.dtype}{list(scores.shape)}"]
    wrong = np.isnan(scores) != np.isnan(reference)
    error = np.abs(np.where(np.isnan(reference), 0, scores.astype(np.float64) - reference))
    wrong |= error > method.tolerance(request, np.nan_to_num(reference))
    if not wrong.any():
        return []
    at = int(np.flatnonzero(wrong)[0])
    return [f"--scores is wrong at {int(wrong.sum())} of {wrong.size} rows, first {at}: {scores[at]!r}, "
            f"float64 says {reference[at]!r}"]


def json_problems(request, text, want, args):
    try:
        report = json.loads(text)
    except ValueError:
        return [f"--json printed {text[:200]!r}"]
    missing = [f for f in ("segments", "tokens", "kept", "ratio", "device", "detector", "threads", "counts", "flags",
                           "us_min", "us_median")
               if f not in report]
    if missing:
        return [f"--json lacks {missing}"]
    counts, total = want["counts"].tolist(), int(want["counts"].sum())
    candidates = len(want["scores"])
    if request.kind == "prune-seq":
        candidates = int(sequence.has_role(request.roles, sequence.CANDIDATE).sum())
    tokens = (len(request.rows), candidates)
    shares = [total / t for t in tokens if t] or [report["ratio"]]
    right = {
        "segments": report["segments"] == len(counts), "tokens": report["tokens"] in tokens,
        "kept": report["kept"] == total, "ratio": any(abs(report["ratio"] - s) < 1e-4 for s in shares),
        "device": str(report["device"]).startswith(args.device.split(":")[0]),
        "detector": report["detector"] == rule_of(request.values).detector,
        "threads": isinstance(report["threads"], int), "counts": report["counts"] == counts,
        "flags": report["flags"] == want["flags"].tolist(),
        "us_min": 0 <= report["us_min"] <= report["us_median"],
    }
    return [f"--json field {name} is {report[name]!r}" for name, good in right.items() if not good]


def stderr_problems(text, want, converted):
    """Flags and conversions are said, each in lines of the command's own; otherwise nothing is."""
    lines = text.splitlines()
    problems = [f"stderr has a line that is not the command's: {line!r}" for line in lines
                if not line.startswith("tailcut: ")][:1]
    raised = int(np.bitwise_or.reduce(want["flags"], initial=0))
    warnings = "".join(line for line in lines if "segment" in line)
    for flag, words in FLAG_WORDS.items():
        if raised & flag and not any(word in warnings for word in words):
            problems.append(f"flag {flag} is not said on stderr: {text[:200]!r}")
    notes = [line for line in lines if "converted to" in line or "read as" in line]
    if unsaid := [name for name in converted if not any(name in line for line in notes)]:
        problems.append(f"the conversion of {unsaid} is not said on stderr: {text[:200]!r}")
    if lines and not raised and not converted:
        problems.append(f"stderr says {text[:200]!r}")
    return problems


def refusal_problems(case, done, place, asked):
    """A line that must be refused: the status, one line that has the word, and no output."""
    status, expected = case.refused
    problems = [] if done.returncode == status else [f"exit status {done.returncode}, expected {status}"]
    if done.stderr.count("\n") != 1 or expected not in done.stderr:
        problems.append(f"stderr is not one line with {expected!r}: {done.stderr[:300]!r}")
    left = sorted(set(os.listdir(place)) & set(asked))
    return problems + ([f"left behind: {left}"] if left else [])


def result_problems(case, done, place, wanted, piped, converted, args):
    """The outputs of a command that ended with 0, against the method; `piped` is the one on stdout, or None. Returns
    (problems, what the method says)."""
    outputs, problems = {}, []
    for option in wanted:
        try:
            source = io.BytesIO(done.stdout) if option == piped else os.path.join(place, f"got-{option}.npy")
            outputs[option] = np.load(source, allow_pickle=False)
        except (OSError, ValueError) as error:
            problems.append(f"--{option}: {error}")
    if problems:
        return problems, {}
    is_close = method.is_close(case.request)
    if is_close and (problems := close_problems(case.request, outputs["scores"])):
        return problems, {}
    want = method.answer(case.request, outputs["scores"] if is_close else None)
    problems = [p for option in wanted if (p := difference(option, outputs[option], want[option]))]
    if not problems and "--json" in done.args:
        problems = json_problems(case.request, done.stdout, want, args)
    elif not problems and done.stdout and not piped:
        problems = [f"printed without --json: {done.stdout[:200]!r}"]
    return problems + stderr_problems(done.stderr, want, converted), want


def write_inputs(case, rng, place):
    """Writes a case's files, some in another dress. Returns the names of those that the command has to convert."""
    converted = []
    for name, array in case.files.items():
        worn = dressed(rng, name, array) if rng.random() < 0.1 and not case.refused else array
        converted += [name] if worn.dtype != array.dtype or not worn.flags.c_contiguous else []
        np.save(os.path.join(place, f"{name}.npy"), worn)
    return converted


def command_line(case, rng, place, args):
    """(argv, outputs asked for, the one on stdout or None, the file on stdin or None)."""
    argv = [args.tailcut] + [os.path.join(place, f"{a[1:]}.npy") if a.startswith("@") else a for a in case.argv]
    stdin = None
    if rng.random() < 0.05 and case.request is not None:
        stdin = os.path.join(place, f"{rng.choice(sorted(case.files))}.npy")
        argv = ["-" if a == stdin else a for a in argv]
    wanted = [o for o in OUTPUTS[case.argv[0]] if rng.random() < 0.95]
    if case.request is not None:
        if method.is_close(case.request) and "scores" not in wanted:
            wanted.append("scores")
        wanted += [o for o in ("sizes", "joins") if case.request.merge and rng.random() < 0.95]
        wanted += ["group-counts"] if case.request.groups is not None and rng.random() < 0.95 else []
    piped = str(rng.choice(wanted)) if rng.random() < 0.05 and wanted and case.request is not None else None
    for option in wanted:
        argv += [f"--{option}", "-" if option == piped else os.path.join(place, f"got-{option}.npy")]
    argv += ["--json"] if rng.random() < 0.5 and not piped else []
    argv += ["--repeat", str(rng.integers(1, 4))] if rng.random() < 0.1 else []
    argv += ["--device", args.device] if args.device != "cpu" or rng.random() < 0.2 else []
    if (threads := int(rng.choice(args.threads))) >= 0:
        argv += ["--threads", str(threads)]
    return argv, wanted, piped, stdin


def run(argv, stream, args):
    """The command line in a process of its own, or by the child of this worker's one."""
    if not args.forked:
        return subprocess.run(argv, stdin=stream, capture_output=True, timeout=args.timeout)
    if not hasattr(workers, "forked") or not workers.forked.alive():
        workers.forked = Forked(args.forked)
        args.started.append(workers.forked)
    return workers.forked.run(argv, stream, args.timeout)


def run_case(case, index, args):
    """Runs one case; returns (problems, reproducing command line)."""
    rng = np.random.default_rng([args.seed, 99, index])
    place = os.path.join(args.work, f"case-{index}")
    os.makedirs(place)
    converted = write_inputs(case, rng, place)
    argv, wanted, piped, stdin = command_line(case, rng, place, args)
    want, got = {}, [f"got-{o}.npy" for o in wanted]
    try:
        with open(stdin or os.devnull, "rb") as stream:
            done = run(argv, stream, args)
        done.stderr = done.stderr.decode("utf-8", "replace")
        if case.refused:
            problems = refusal_problems(case, done, place, got)
        elif done.returncode != 0:
            problems = [f"exit status {done.returncode}: {done.stderr.strip()[:400]}"]
        else:
            if stdin:  # its name is not the file's
                converted = ["" if os.path.basename(stdin) == f"{n}.npy" else n for n in converted]
            problems, want = result_problems(case, done, place, wanted, piped, converted, args)
    except subprocess.TimeoutExpired:
        problems = [f"no end after {args.timeout} s"]
    extra = sorted(set(os.listdir(place)) - {f"{n}.npy" for n in case.files} - set(got))
    problems += [f"left behind: {extra}"] if extra else []
    line = shlex.join(argv) + (f" <{shlex.quote(stdin)}" if stdin else "")
    if problems:
        kept = os.path.join(args.keep, f"{index}-" + re.sub(r"[^\w.+-]+", "_", case.name)[:80])
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(place, kept)
        for option, array in want.items():
            np.save(os.path.join(kept, f"want-{option}.npy"), array)
        line = line.replace(place, kept)
    else:
        shutil.rmtree(place)
    return problems, line


def all_cases(args):
    if args.only is not None:
        yield random_case(args.seed, args.only)
        return
    if not args.no_crafted:
        yield from (case for i, case in enumerate(chain(crafted_cases(), option_cases(), refusal_cases()))
                    if i % args.every == 0)
    for i in range(args.cases):
        yield random_case(args.seed, i)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tailcut", required=True, metavar="PATH", help="the command to check")
    parser.add_argument("--forked", metavar="PROGRAM", help="this runs the command's lines (forked.c)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:i")
    parser.add_argument("--cases", type=int, default=500, help="random cases after the crafted ones")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", default="-1,1,2,3",
                        help="--threads values to draw from, comma separated; -1 leaves the option out")
    parser.add_argument("--only", type=int, help="run just this random case of the seed")
    parser.add_argument("--no-crafted", action="store_true", help="leave the crafted cases out")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th of the crafted cases")
    parser.add_argument("--keep", help="where inputs of failed cases stay (default: a new folder)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds allowed per case")
    parser.add_argument("--workers", type=int, default=2, help="cases run at once")
    parser.add_argument("--show", type=int, default=40, help="failures printed in full")
    args = parser.parse_args()
    args.tailcut = os.path.abspath(args.tailcut)
    if not os.access(args.tailcut, os.X_OK):
        print(f"check.py: {args.tailcut} is not a program", file=sys.stderr)
        return 1
    args.started = []
    args.threads = [int(t) for t in args.threads.split(",")]
    args.keep = os.path.abspath(args.keep or tempfile.mkdtemp(prefix="tailcut-failed-"))
    os.makedirs(args.keep, exist_ok=True)
    passed = failed = 0
    quiet = {"initializer": np.seterr, "initargs": ("ignore",)}  # a thread's own setting
    with (tempfile.TemporaryDirectory(prefix="tailcut-check-") as args.work,
          ThreadPoolExecutor(args.workers, **quiet) as pool):
        pending = []

        def settle(case, future):
            nonlocal passed, failed
            problems, line = future.result()
            passed, failed = passed + (not problems), failed + bool(problems)
            if problems and failed <= args.show:
                print(f"FAILED {case.name}", *[f"  {p}" for p in problems], f"  {line}", sep="\n", flush=True)

        for index, case in enumerate(all_cases(args)):
            pending.append((case, pool.submit(run_case, case, index, args)))
            if len(pending) >= 4 * args.workers:
                settle(*pending.pop(0))
        for case, future in pending:
            settle(case, future)
    if any(forked.close() for forked in args.started):
        failed += 1
    if failed:
        print(f"inputs and expectations of the failed cases: {args.keep}")
    elif not os.listdir(args.keep):
        os.rmdir(args.keep)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
