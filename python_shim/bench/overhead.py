# SPDX-License-Identifier: Apache-2.0
"""What Python adds to a C call: least times of tailcut.prune, of a plan, and of the same C call by itself.

    python python_shim/bench/overhead.py [--torch]

The C call is the plan's own function and arguments, called by ctypes with every argument laid out; the cost of that
(`ctypes alone`) is what a call takes that the library refuses at once, for its handle is NULL. So the plan's share is
`plan` - `C call` + `ctypes alone`, that of the convenience form `prune` - `C call` + `ctypes alone`.
"""
import argparse
import time

import numpy as np

import tailcut


def least(function, seconds=1.0):
    """The least time of a call, in microseconds."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        function()
        best = min(best, time.perf_counter_ns() - start)
    return best / 1000


def measure(name, x, cls, **how):
    plan = tailcut.prune.plan(x, cls, **how)
    function, arguments = plan._function, plan._arguments
    alone = least(lambda: function(None, *arguments[1:]), 0.3)
    c_call = least(lambda: function(*arguments))
    planned = least(plan)
    convenient = least(lambda: tailcut.prune(x, cls, **how))
    print(f"{name:28} {c_call - alone:9.1f} {alone:9.1f} {planned - c_call + alone:9.1f} "
          f"{convenient - c_call + alone:12.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch", action="store_true", help="PyTorch's tensors too")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{'least times, us':28} {'C call':>9} {'ctypes':>9} {'plan adds':>9} {'prune() adds':>12}")
    for shape in ((16, 32), (576, 1024), (8, 576, 1024)):
        x = rng.normal(size=shape).astype(np.float32)
        cls = rng.normal(size=(shape[-1],)).astype(np.float32)
        name = "x".join(map(str, shape))
        out = np.empty((int(np.prod(shape[:-1])), shape[-1]), np.float32)
        measure(f"numpy {name}, kept only", x, cls, out=False, want=())
        measure(f"numpy {name}, out given", x, cls, out=out, want=())
        measure(f"numpy {name}, all new", x, cls)
        if args.torch:
            import torch
            measure(f"torch {name}, out given", torch.from_numpy(x), torch.from_numpy(cls), out=torch.from_numpy(out),
                    want=())
            measure(f"torch {name}, all new", torch.from_numpy(x), torch.from_numpy(cls))


if __name__ == "__main__":
    main()
