# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command share: a folder per case, the command run in it, one line per failure."""
import os
import subprocess
import sys
import tempfile
import traceback

import numpy as np

COMMAND = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else sys.exit(f"usage: {sys.argv[0]} TAILCUT")
CASES = []


def case(function):
    CASES.append(function)
    return function


def run(*argv, **options):
    """The command with captured output, in the case's folder. `data` is given on a pipe."""
    data = options.pop("data", None)
    stdin = {"input": data} if data is not None else {"stdin": options.pop("stdin", subprocess.DEVNULL)}
    return subprocess.run([COMMAND, *map(str, argv)], stdout=options.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE, timeout=60, **stdin, **options)


def good(*argv, **options):
    """Runs it and expects success; stderr as text comes back."""
    done = run(*argv, **options)
    assert done.returncode == 0, (argv, done.returncode, done.stderr)
    return done.stderr.decode()


def said(*argv, **options):
    """Runs it, expects success and nothing on stderr; its standard output as text comes back."""
    done = run(*argv, **options)
    assert done.returncode == 0 and done.stderr == b"", (argv, done.returncode, done.stderr)
    return done.stdout.decode()


def refused(status, words, *argv, **options):
    """Expects a failure with one line on stderr that has all the words, and a folder that stays as it is."""
    before = contents()
    done = run(*argv, **options)
    text = done.stderr.decode()
    assert done.returncode == status, (argv, done.returncode, text)
    assert text.count("\n") == 1 and text.startswith("tailcut: "), (argv, text)
    for word in words:
        assert word in text, (argv, word, text)
    assert contents() == before, (argv, "changed the folder")
    assert not done.stdout, (argv, done.stdout[:80])
    return text


def contents(folder="."):
    found = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.islink(path):
            found[name] = ("link", os.readlink(path))
        elif os.path.isdir(path):
            found[name] = contents(path)
        elif os.path.isfile(path):
            with open(path, "rb") as stream:
                found[name] = (os.stat(path).st_mode, stream.read())
    return found


def tokens(rows=24, dim=16, seed=3):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def save(**arrays):
    for name, array in arrays.items():
        np.save(name + ".npy", array)


def saved(array):
    """Bytes of its .npy."""
    import io
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def main():
    failed = 0
    home = os.getcwd()
    for function in CASES:
        with tempfile.TemporaryDirectory(prefix="tailcut-command-") as folder:
            os.chdir(folder)
            try:
                function()
            except Exception:  # a test that fails in any way is a failed test
                failed += 1
                print(f"FAILED {function.__name__}: {function.__doc__}\n{traceback.format_exc()}", flush=True)
            os.chdir(home)
    print(f"{len(CASES) - failed} passed, {failed} failed")
    return 1 if failed or not CASES else 0
