# SPDX-License-Identifier: Apache-2.0
"""What Python adds to a C call: least times of tailcut.prune, of a plan, and of the same C call.

    python python_shim/bench/overhead.py [--torch] [--seconds S]

The C call is the plan's own function and arguments, called by ctypes with every argument laid out;
the cost of that (`ctypes`) is what a call takes that the library refuses at once, for its handle is
NULL. So the plan's share is `plan` - `C call` + `ctypes`, that of the convenience form `prune` -
`C call` + `ctypes`. The four are called in turn, so that they meet the same machine.

But for tokens a Selection's arrays are made when they are first read: "and read" reads tokens,
kept, counts and scores.
"""
import argparse
import time

import numpy as np

import tailcut


def least(functions, seconds):
    """The least time of each, in microseconds."""
    best, end = [float("inf")] * len(functions), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, function in enumerate(functions):
            for _ in range(20):
                start = time.perf_counter_ns()
                function()
                best[i] = min(best[i], time.perf_counter_ns() - start)
    return [ns / 1000 for ns in best]


def measure(name, seconds, x, cls, read=False, **how):
    plan = tailcut.prune.plan(x, cls, **how)
    function, arguments = plan._function, plan._arguments

    def convenient():
        result = tailcut.prune(x, cls, **how)
        if read:
            return result.tokens, result.kept, result.counts, result.scores

    alone, c_call, planned, prune = least([
        lambda: function(None, *arguments[1:]), lambda: function(*arguments), plan, convenient],
        seconds)
    print(f"{name:32} {c_call - alone:9.1f} {alone:9.1f} {planned - c_call + alone:9.1f} "
          f"{prune - c_call + alone:12.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch", action="store_true", help="PyTorch's tensors too")
    parser.add_argument("--seconds", type=float, default=2, help="for each line")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{'least times, us':32} {'C call':>9} {'ctypes':>9} {'plan adds':>9} "
          f"{'prune() adds':>12}")
    for shape in ((16, 32), (576, 1024)):
        x = rng.normal(size=shape).astype(np.float32)
        cls = rng.normal(size=(shape[-1],)).astype(np.float32)
        out = np.empty(shape, np.float32)
        kinds = [("numpy", x, cls, out)]
        if args.torch:
            import torch
            kinds.append(("torch", *map(torch.from_numpy, (x, cls, out))))
        for kind, x, cls, out in kinds:
            name = f"{kind} {'x'.join(map(str, shape))}, "
            measure(name + "kept only", args.seconds, x, cls, out=False, want=())
            measure(name + "out given", args.seconds, x, cls, out=out, want=())
            measure(name + "all new", args.seconds, x, cls)
            measure(name + "all new and read", args.seconds, x, cls, read=True)


if __name__ == "__main__":
    main()
