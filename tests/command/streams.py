# SPDX-License-Identifier: Apache-2.0
"""streams.py TAILCUT [CASES]: damaged files of every kind that the command converts, as files and through pipes.

An array is saved big-endian, in Fortran order, as float64, int64, bool, V2 or as it is, mostly damaged by mutations.py, and
given twice: by name, and on standard input or a FIFO. Both must end in the same way, by exit status 0 or 1, with the same
outputs; what fails says one line and leaves nothing; what was not damaged gives the result of the plain array.
"""
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "conformance"))
from mutations import REFUSE, damage_file

COMMAND = os.path.abspath(sys.argv[1])
NUMBER = int(sys.argv[2]) if len(sys.argv) > 2 else 500


def bases():
    """(name of the damaged file, argv with @ in its place, files): sound commands."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(24, 16)).astype(np.float32)
    cu, roles = np.array([0, 5, 5, 24], np.int32), (np.arange(24) % 4).astype(np.uint8)
    outs = ["--out", "got-out.npy", "--kept", "got-kept.npy", "--scores", "got-scores.npy"]
    return [
        ("tokens", ["prune", "--tokens", "@", "--cls-mean", *outs], {"tokens": x}),
        ("tokens", ["prune", "--tokens", "@", "--cls-row", "0", *outs], {"tokens": x.reshape(3, 8, 16)}),
        ("tokens", ["prune", "--tokens", "@", "--cls-mean", "--dtype", "bf16", *outs], {"tokens": (x.view(np.uint32) >> 16).astype(np.uint16)}),
        ("cls", ["prune", "--tokens", "tokens.npy", "--cls", "@", *outs], {"tokens": x, "cls": x[3]}),
        ("cu", ["prune", "--tokens", "tokens.npy", "--cls-mean", "--cu-seqlens", "@", *outs], {"tokens": x, "cu": cu}),
        ("scores", ["cut", "--scores", "@", "--kept", "got-kept.npy", "--counts", "got-counts.npy"], {"scores": x[:, 0].reshape(4, 6)}),
        ("roles", ["prune-seq", "--hidden", "tokens.npy", "--roles", "@", *outs], {"tokens": x, "roles": roles}),
        ("roles", ["prune-seq", "--hidden", "tokens.npy", "--roles", "@", "--relevance", "max-cosine", *outs], {"tokens": x, "roles": (roles == 3).astype(np.uint8)}),
        ("kept", ["view", "--image", "image", "--grid", "4x6", "--kept", "@", "-o", "got-view.svg"], {"kept": np.array([1, 2, 7, 20], np.int32)}),
    ]


IMAGE = (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x18\0\0\0\x10\x08\0\0\0\0" + bytes(4))


def kinds(name, array):
    """The same numbers as other arrays, which the command converts."""
    yield array
    yield array.astype(array.dtype.newbyteorder(">"))
    yield np.asfortranarray(array)
    yield np.asfortranarray(array.astype(array.dtype.newbyteorder(">")))
    if array.dtype == np.float32:
        yield array.astype(np.float64)
        yield np.asfortranarray(array).astype(">f8", order="K")
    elif array.dtype == np.uint16:
        yield array.view("V2")
    else:
        yield array.astype(np.int64)
        yield array.astype(">i8")
        if name == "roles" and array.max() == 1:
            yield array.astype(bool)


def save(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def outputs(place):
    found = {}
    for name in os.listdir(place):
        if name.startswith("got-") or ".tailcut-" in name:
            with open(os.path.join(place, name), "rb") as stream:
                found[name] = stream.read()
    return found


def execute(place, argv, data=None, fifo=False):
    """(exit status, stderr, outputs), which are removed."""
    writer, path = None, os.path.join(place, "fifo")
    if fifo:
        os.mkfifo(path)

        def feed():
            try:
                with open(path, "wb") as stream:
                    stream.write(data)
            except BrokenPipeError:  # refused before the end
                pass
        writer = threading.Thread(target=feed)
        writer.start()
    done = subprocess.run([COMMAND, *argv], cwd=place, input=None if fifo else data if data is not None else b"", capture_output=True, timeout=20)
    if fifo:
        writer.join()
        os.unlink(path)
    found = outputs(place)
    for name in found:
        os.unlink(os.path.join(place, name))
    return done.returncode, done.stderr.decode("utf-8", "replace"), found


def run_case(work, base, index):
    """(problems, exit status, what)."""
    rng = np.random.default_rng([11, index])
    victim, argv, files = base[int(rng.integers(0, len(base)))]
    choices = list(kinds(victim, files[victim]))
    kind = int(rng.integers(0, len(choices)))
    place = os.path.join(work, str(index))
    os.makedirs(place)
    contents = {f"{n}.npy": save(a) for n, a in files.items()}
    contents["image"] = IMAGE
    for name, data in contents.items():
        with open(os.path.join(place, name), "wb") as stream:
            stream.write(data)
    plain = execute(place, [f"{victim}.npy" if a == "@" else a for a in argv])
    if rng.random() < 0.1:
        data, verdict, how = save(choices[kind]), "same", "sound"
    else:
        data, verdict, how = damage_file(rng, victim, choices[kind], save)
    if choices[kind].dtype == bool:  # any number put there is True, a role
        verdict = "any"
    with open(os.path.join(place, "other.npy"), "wb") as stream:
        stream.write(data)
    fifo = bool(rng.random() < 0.3)
    file = execute(place, ["other.npy" if a == "@" else a for a in argv])
    pipe = execute(place, [("fifo" if fifo else "-") if a == "@" else a for a in argv], data, fifo)
    problems = []
    for status, text, found in (file, pipe):
        if status not in (0, 1):
            problems.append(f"exit status {status}: {text[:300]!r}")
        if status != 0 and (text.count("\n") != 1 or not text.startswith("tailcut: ")):
            problems.append(f"stderr is not one line: {text[:300]!r}")
        if any(".tailcut-" in n for n in found) or (status != 0 and found):
            problems.append(f"left behind: {sorted(found)}")
    if file[0] != pipe[0] or file[2] != pipe[2]:
        problems.append(f"a file gives {file[:2]}, a pipe {pipe[:2]}")
    if verdict == REFUSE and file[0] == 0:
        problems.append("accepted input that must be refused")
    if how == "sound" and (file[0] != 0 or file[2] != plain[2]):
        problems.append(f"not the result of the plain array: {file[:2]}")
    shutil.rmtree(place)
    return problems, file[0], f"{index}: {argv[0]} {victim}, kind {kind} ({choices[kind].dtype}), {how}", how


def main():
    base, failed, statuses, sound = bases(), 0, Counter(), 0
    with tempfile.TemporaryDirectory(prefix="tailcut-streams-") as work, ThreadPoolExecutor(2) as pool:
        for problems, status, what, how in pool.map(lambda i: run_case(work, base, i), range(NUMBER)):
            statuses[status] += 1
            sound += how == "sound"
            failed += bool(problems)
            if problems and failed <= 20:
                print(f"FAILED {what}", *[f"  {p}" for p in problems], sep="\n", flush=True)
    if NUMBER >= 500 and not (statuses[0] > 50 and statuses[1] > 50 and sound > 20):
        print(f"exit statuses {dict(statuses)}, {sound} sound: the cases prove little")
        failed += 1
    print(f"exit statuses {dict(statuses)}; {NUMBER - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
