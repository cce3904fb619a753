# SPDX-License-Identifier: Apache-2.0
"""Runs the `tailcut` command in a folder of its own, for the tests of the command."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

failures = []
checks = [0]


def check(condition, what):
    checks[0] += 1
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


def run_tests(doc, *tests):
    """Calls each test with a Command; prints what failed and ends the program."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--tailcut", required=True)
    program = os.path.abspath(parser.parse_args().tailcut)
    for test in tests:
        with tempfile.TemporaryDirectory() as place:
            test(Command(program, place))
    for failure in failures:
        print(failure)
    print(f"{os.path.basename(sys.argv[0])}: {checks[0]} checks, {len(failures)} failures")
    sys.exit(1 if failures else 0)
