# SPDX-License-Identifier: Apache-2.0
"""Robustness of the `tailcut` command: damaged .npy files, option strings and argument vectors.

Whatever it is given, the command must exit 0, 1 or 2, never by a signal, and end within --timeout seconds. When it
fails it must write one line on stderr that names the file or option, behind no more than warnings of its own (flags,
conversions), and leave the folder as it was: no outputs, no temporaries. Input that the rules forbid must be refused;
an equivalent spelling, where accepted, must give the same result.
Failed cases are printed and kept. The last line is `N passed, M failed`; exit status 1 if any failed.
"""
import argparse
import io
import os
import re
import resource
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mutations import REFUSE, SAME, damage_argv, damage_file

FEWEST_SEEN = 1  # every exit status 0, 1 and 2 must occur, or the run proves little
WARNING = re.compile(r"segment|converted to|read as")


def png(width, height):
    """A small grey PNG."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(width)) for y in range(height))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


def outputs(*names):
    return [w for name in names for w in (f"--{name}", f"got-{name}.npy")]


def bases():
    """(name, argv, files, required): sound commands to damage. Not required: left out where the command refuses it."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(24, 16)).astype(np.float32)
    cu, groups = np.array([0, 5, 5, 24], np.int32), np.array([0, 2, 5, 5, 9, 9, 24], np.int32)
    cut_outs = outputs("kept", "counts", "offsets", "flags", "mask")
    outs = cut_outs + outputs("out", "scores")
    merge_outs = outs + outputs("sizes", "joins")
    cls = x[:3] + 1
    sizes = rng.integers(1, 9, 24).astype(np.int32)
    roles = (np.arange(24) % 8).astype(np.uint8)
    scores = rng.random(24).astype(np.float32)
    q, keys = (rng.normal(size=(24, heads, 8)).astype(np.float32) for heads in (4, 2))
    prune, cut = ["prune", "--tokens", "tokens.npy"], ["cut", "--scores", "scores.npy"]
    sequence = ["prune-seq", "--hidden", "hidden.npy", "--roles", "roles.npy"]
    ragged, grouped = ["--cu-seqlens", "cu.npy"], ["--groups", "groups.npy", *outputs("group-counts")]
    return [
        ("one", [*prune, "--cls", "cls.npy", *outs], {"tokens": x, "cls": cls[0]}, True),
        ("half", [*prune, "--cls", "cls.npy", "--detector", "topk", "--k", "3", *outs],
         {"tokens": x.reshape(3, 8, 16).astype(np.float16), "cls": cls}, True),
        ("ragged", [*prune, "--cls-mean", *ragged, "--ratio", "0.4", "--rounding", "drop-ceil", "--order", "low",
                    "--json", *outs], {"tokens": x, "cu": cu}, True),
        ("row", [*prune, "--cls-row", "0", "--prefix", "3", "--dtype", "bf16", "--search", "0.1:0.9", "--spread", "0.5",
                 "--threads", "2", *outs],
         {"tokens": rng.integers(0, 2 ** 15, (24, 16)).astype(np.uint16)}, True),
        ("groups", [*prune, "--cls-mean", "--prefix", "1", *ragged, *grouped, "--percent", "40", *outs],
         {"tokens": x, "cu": cu, "groups": groups}, True),
        ("lag", [*prune, "--lag", "4", "--order", "low", "--ratio", "0.7", "--rounding", "drop-trunc", "--min-keep",
                 "4", *outs], {"tokens": x}, True),
        ("novelty", [*prune, "--novelty", "64", *ragged, "--ratio", "0.4", *outs], {"tokens": x, "cu": cu}, True),
        ("merge", [*prune, "--novelty", "128", "--prefix", "1", "--k", "3", "--merge", "cos4", "--sizes-in", "sizes.npy",
                   *merge_outs], {"tokens": x.reshape(3, 8, 16).astype(np.float16), "sizes": sizes[:21].reshape(3, 7)},
         True),
        ("merge-groups", [*prune, "--cls-row", "0", *ragged, *grouped, "--percent", "40", "--merge", "mean",
                          "--merge-window", "256", "--sizes-in", "sizes.npy", *merge_outs],
         {"tokens": x, "cu": cu, "groups": groups, "sizes": sizes[:22]}, True),
        ("cut", [*cut, *ragged, "--tau", "-0.08", "--scale", "unit", *cut_outs], {"scores": scores, "cu": cu}, True),
        ("cut-mean", [*cut, "--detector", "mean", "--lambda", "-0.5", "--min-keep", "2", "--max-keep", "9",
                      "--round-to", "4", *cut_outs],
         {"scores": scores.reshape(4, 6)}, True),
        ("cut-groups", [*cut, *grouped, "--window", "1", "--order", "low", *cut_outs],
         {"scores": scores, "groups": groups}, True),
        ("sequence", [*sequence, "--relevance", "mean-cosine", *ragged, *grouped, *outs],
         {"hidden": x, "roles": roles, "cu": cu, "groups": groups}, True),
        ("sequence-max", [*sequence, "--relevance", "max-cosine", "--repeat", "2", "--json", *outs],
         {"hidden": x.astype(np.float16).reshape(2, 12, 16), "roles": roles.reshape(2, 12)}, True),
        ("attention", [*sequence, "--relevance", "attention", "--q", "q.npy", "--keys", "keys.npy", "--causal",
                       "--last-query", "--head-reduction", "max", *outs],
         {"hidden": x, "roles": roles, "q": q, "keys": keys}, True),
        ("view", ["view", "--image", "image.png", "--grid", "4x6", "--kept", "kept.npy", "-o", "got-view.svg"],
         {"image.png": png(24, 16), "kept": np.array([1, 2, 7, 20], np.int32)}, False),
        ("inspect", ["inspect", *cut[1:], "--order", "low"], {"scores": scores}, False),
        ("info", ["info"], {}, False),
    ]


def save(array):
    if isinstance(array, bytes):
        return array
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def file_name(name):
    return name if "." in name else f"{name}.npy"


def snapshot(place):
    """Every path under place with its bytes (None for a folder)."""
    found = {}
    for folder, folders, names in os.walk(place):
        for name in folders:
            found[os.path.relpath(os.path.join(folder, name), place)] = None
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as stream:
                found[os.path.relpath(path, place)] = stream.read()
    return found


def execute(args, argv, place):
    """(exit status, None after a timeout; stderr bytes)."""
    encoded = [os.fsencode(args.tailcut)] + [w.encode("utf-8", "surrogateescape") for w in argv]
    try:
        done = subprocess.run(encoded, cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, timeout=args.timeout)
        return done.returncode, done.stderr
    except subprocess.TimeoutExpired:
        return None, b""


def judge(args, argv, verdict, before, after, status, stderr, baseline):
    if status is None:
        return [f"no end after {args.timeout} s"]
    text = stderr.decode("utf-8", "replace")
    if status not in (0, 1, 2):
        return [f"exit status {status}: {text[-300:]!r}"]
    lines = text.split("\n")
    problems = [f"stderr has a line that is not the command's: {line[:200]!r}" for line in lines[:-1]
                if not line.startswith("tailcut: ")][:1]
    if lines[-1]:
        problems.append(f"stderr ends inside a line: {lines[-1][:200]!r}")
    if status == 0:
        if verdict == REFUSE:
            problems.append("accepted input that must be refused")
        if verdict == SAME and (wrong := sorted(n for n in baseline if after.get(n) != baseline[n])):
            problems.append(f"accepted an equivalent file with another result: {wrong}")
        asked = {word for w in argv for word in (w, os.path.normpath(w), w.partition("=")[2])}
        strange = sorted(set(after) - set(before) - asked)
        return problems + ([f"left behind: {strange}"] if strange else [])
    warnings, failure = lines[:-2], lines[-2] if len(lines) > 1 else ""
    if not failure or any(not WARNING.search(line) for line in warnings):
        problems.append(f"stderr is not one line, warnings aside: {text[:300]!r}")
    words = {os.path.basename(w.partition("=")[2] or w) for w in argv} | set(argv) | {w.partition("=")[0] for w in argv}
    # The command shows control characters as '?' and cuts a very long line short.
    shown = ["".join("?" if ord(c) < 32 or 0x7F <= ord(c) < 0xA0 else c for c in w)[:200] for w in words]
    named = "--" in failure or "-o:" in failure or "''" in failure or any(w.strip() and w in failure for w in shown)
    if argv and not named:
        problems.append(f"stderr names no file or option: {text[:300]!r}")
    if after != before:
        changed = sorted(n for n in set(after) | set(before) if after.get(n, 0) != before.get(n, 0))
        problems.append(f"the failed command changed files: {changed}")
    return problems


def run_case(args, base, index):
    """One damaged command. Returns (problems, exit status, what, reproducing line)."""
    rng = np.random.default_rng([args.seed, index])
    name, argv, files, baseline = base[int(rng.integers(0, len(base)))]
    contents, verdict, what = {file_name(n): save(a) for n, a in files.items()}, "any", []
    if files and rng.random() < 0.65:
        victim = str(rng.choice(sorted(files)))
        contents[file_name(victim)], verdict, how = damage_file(rng, victim, files[victim], save)
        what.append(f"{victim}: {how} ({verdict})")
    if not what or rng.random() < 0.05:
        argv, verdict = damage_argv(rng, argv), "any"
        what.append("argv")
    place = os.path.join(args.work, f"m{index}")
    os.makedirs(place)
    for path, data in contents.items():
        with open(os.path.join(place, path), "wb") as stream:
            stream.write(data)
    status, stderr = execute(args, argv, place)
    problems = judge(args, argv, verdict, contents, snapshot(place), status, stderr, baseline)
    line = shlex.join([args.tailcut, *argv])
    if problems:
        kept = os.path.join(args.keep, f"mutation-{args.seed}-{index}")
        shutil.rmtree(kept, ignore_errors=True)
        os.makedirs(kept)
        for path, data in contents.items():
            with open(os.path.join(kept, path), "wb") as stream:
                stream.write(data)
        line = f"cd {shlex.quote(kept)} && {line}"
    shutil.rmtree(place, ignore_errors=True)
    return problems, status, f"{name} {index}, {'; '.join(what)}", line, verdict


def sound_bases(args):
    """The bases the command accepts, each with the outputs it gives undamaged."""
    chosen = []
    for name, argv, files, required in bases():
        place = os.path.join(args.work, f"base-{name}")
        os.makedirs(place)
        contents = {file_name(n): save(a) for n, a in files.items()}
        for path, data in contents.items():
            with open(os.path.join(place, path), "wb") as stream:
                stream.write(data)
        status, stderr = execute(args, argv, place)
        after = snapshot(place)
        if status == 0:
            chosen.append((name, argv, files, {n: d for n, d in after.items() if n not in contents}))
        elif required:
            said = stderr.decode("utf-8", "replace").strip()
            print(f"mutate.py: the undamaged command {shlex.join(argv)} ends with {status}: {said}", file=sys.stderr)
            return None
        shutil.rmtree(place)
    return chosen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tailcut", required=True, metavar="PATH", help="the command to check")
    parser.add_argument("--cases", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0, help="stop after this long (0: when the cases are done)")
    parser.add_argument("--only", type=int, help="run just this case of the seed")
    parser.add_argument("--keep", help="where inputs of failed cases stay (default: a new folder)")
    parser.add_argument("--timeout", type=float, default=20, help="seconds allowed per case")
    parser.add_argument("--workers", type=int, default=2, help="cases run at once")
    parser.add_argument("--show", type=int, default=40, help="failures printed in full")
    args = parser.parse_args()
    args.tailcut = os.path.abspath(args.tailcut)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    args.keep = os.path.abspath(args.keep or tempfile.mkdtemp(prefix="tailcut-mutated-"))
    os.makedirs(args.keep, exist_ok=True)
    started, passed, failed = time.monotonic(), 0, 0
    statuses, equal = Counter(), Counter()
    with tempfile.TemporaryDirectory(prefix="tailcut-mutate-") as args.work, ThreadPoolExecutor(args.workers) as pool:
        base = sound_bases(args)
        if base is None:
            print("0 passed, 1 failed")
            return 1
        numbers = iter([args.only] if args.only is not None else range(args.cases))
        pending = []
        while True:
            late = args.seconds and time.monotonic() - started > args.seconds
            while len(pending) < 4 * args.workers and not late and (index := next(numbers, None)) is not None:
                pending.append(pool.submit(run_case, args, base, index))
            if not pending:
                break
            problems, status, what, line, verdict = pending.pop(0).result()
            passed, failed = passed + (not problems), failed + bool(problems)
            statuses[status] += 1
            if verdict == SAME:
                equal["accepted" if status == 0 else "refused"] += 1
            if problems and failed <= args.show:
                print(f"FAILED {what}", *[f"  {p}" for p in problems], f"  {line}"[:2000], sep="\n", flush=True)
    print(f"bases: {', '.join(b[0] for b in base)}; exit statuses: {dict(statuses)}; equivalent files: {dict(equal)}")
    if passed > 1000 and any(statuses[s] < FEWEST_SEEN for s in (0, 1, 2)):
        print("some exit status never occurred: the mutations prove little")
        failed += 1
    if failed:
        print(f"inputs of the failed cases: {args.keep}")
    elif not os.listdir(args.keep):
        os.rmdir(args.keep)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
