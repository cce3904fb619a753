# SPDX-License-Identifier: Apache-2.0
"""What Python adds to a C call: least times of each function of tailcut, of a plan of it, of the
operator of tailcut.torch, and of the same C call.

    python python_shim/bench/overhead.py [--torch] [--seconds S] [--only RE] [--shape N D]

The C call is the plan's own function and arguments, called by ctypes with every argument laid out;
the cost of that (`ctypes`) is what a call takes that the library refuses at once, for its handle is
NULL. So the plan's share is `plan` - `C call` + `ctypes`, that of a function or an operator its
time - `C call` + `ctypes`. They are called in turn, so that they meet the same machine.

But for tokens a Selection's arrays are made when they are first read: "and read" reads tokens,
kept, counts and scores. Operators give what their C call's plan gives, and zeros behind it.
"""
import argparse
import re
import time

import numpy as np

import tailcut
from tailcut import Batch, RelevanceOptions, Rows, Rule


ONLY = ""


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


def measure(name, seconds, call, *given, operator=None, read=False, **how):
    """`operator`: what is measured in place of `call` itself."""
    if not re.search(ONLY, name):
        return
    plan = call.plan(*given, **how)
    function, arguments = plan._function, plan._arguments

    def convenient():
        result = call(*given, **how)
        if read:
            return result.tokens, result.kept, result.counts, result.scores

    alone, c_call, planned, found = least([
        lambda: function(None, *arguments[1:]), lambda: function(*arguments), plan,
        operator or convenient], seconds)
    print(f"{name:44} {c_call - alone:9.1f} {alone:9.1f} {planned - c_call + alone:9.1f} "
          f"{found - c_call + alone:9.1f}", flush=True)


class Data:
    """Arrays of one batch: uniform [B, N, ..], or ragged [B N, ..] with cu_seqlens."""

    def __init__(self, segments, rows, dim, ragged, of=lambda array: array):
        rng = np.random.default_rng(0)
        lead = (segments * rows,) if ragged else (segments, rows) if segments > 1 else (rows,)
        self.ragged, self.most, self.axis = ragged, rows, len(lead) - 1
        self.x = of(rng.normal(size=(*lead, dim)).astype(np.float32))
        self.cls = of(rng.normal(size=(dim,)).astype(np.float32))
        self.roles = of(np.broadcast_to(np.repeat(np.uint8([1, 2]), [rows - 4, 4]), (
            segments, rows)).reshape(lead).copy())
        self.positions = of(np.arange(segments * rows).reshape(lead))
        self.cu = of(np.arange(segments + 1, dtype=np.int32) * rows)
        self.q = self.x.reshape(*lead, 4, dim // 4)
        self.batch = {"batch": Batch(self.cu, max_tokens=rows)} if ragged else {}
        self.found = tailcut.prune(self.x, self.cls, rule=Rule(ratio=0.25), out=False,
                                   want="scores", **self.batch)
        self.given = self.found.kept, self.found.counts, self.found.cu_seqlens
        self.options = RelevanceOptions("attention", q=self.q, k=self.q)


def functions(seconds, of, name):
    """Those of tailcut."""
    rule, how = Rule(ratio=0.25), of.batch
    entries = [Rows(of.x), Rows(of.positions)]
    for word, call, given, more in (
            ("score", tailcut.score, (of.x, of.cls), {}),
            ("mean_direction", tailcut.mean_direction, (of.x,), {}),
            ("cut", tailcut.cut, (of.found.scores, rule), {}),
            ("compact", tailcut.compact, (entries, *of.given), {}),
            ("prune", tailcut.prune, (of.x, of.cls), {"rule": rule}),
            ("prune, rows", tailcut.prune, (of.x, of.cls), {"rule": rule, "rows": entries[1:]}),
            ("prune, merge", tailcut.prune, (of.x, of.cls), {"rule": rule, "merge": "cos4"}),
            ("merge", tailcut.merge, (of.x, *of.given), {}),
            ("relevance", tailcut.relevance, (of.x, of.roles), {}),
            ("relevance, attention", tailcut.relevance, (None, of.roles, of.options), {}),
            ("prune_sequence", tailcut.prune_sequence, (of.x, of.roles),
             {"rule": rule, "rows": entries[1:]})):
        measure(f"{name}, {word}", seconds, call, *given, **more, **how)


def operators(seconds, of, name):
    """Those of tailcut.torch."""
    import tailcut.torch as tt
    rule, how, axes = Rule(ratio=0.25), of.batch, {"token_axis": of.axis}
    ragged = {"cu_seqlens": of.cu, "max_tokens": of.most} if of.ragged else {}
    x, cls, roles, more = of.x, of.cls, of.roles, [of.positions]
    pruned = tt.prune(x, cls, rule=rule, **ragged)
    room = {"room": pruned.kept.shape[-1]} if of.ragged else {}
    given = pruned.kept, pruned.counts
    tailcut_given = of.given
    entries = [Rows(x), Rows(of.positions)]
    in_place = {"out": x, "want": ()}
    core = {"rule": rule, "want": (), **how}
    for word, operator, call, arguments, options in (
            ("score", lambda: tt.score(x, cls, **ragged), tailcut.score, (x, cls), how),
            ("cut", lambda: tt.cut(of.found.scores, rule, **ragged, **room), tailcut.cut,
             (of.found.scores,), core),
            ("compact", lambda: tt.compact([x, *more], *given, **axes, **ragged), tailcut.compact,
             (entries, *tailcut_given), how),
            ("compact_", lambda: tt.compact_([x, *more], *given, **axes, **ragged),
             tailcut.compact, ([Rows(a, a) for a in (x, *more)], *tailcut_given), how),
            ("prune", lambda: tt.prune(x, cls, rule=rule, **ragged, **room), tailcut.prune,
             (x, cls), core),
            ("prune, otsu", lambda: tt.prune(x, cls, **ragged), tailcut.prune, (x, cls),
             {**core, "rule": None}),
            ("prune_", lambda: tt.prune_(x, cls, rule=rule, **ragged, **room), tailcut.prune,
             (x, cls), core | in_place),
            ("prune, merge", lambda: tt.prune(x, cls, rule=rule, merge="cos4", **ragged, **room),
             tailcut.prune, (x, cls), core | {"merge": "cos4", "want": "joins"}),
            ("prune_, merge", lambda: tt.prune_(x, cls, rule=rule, merge="cos4", **ragged, **room),
             tailcut.prune, (x, cls), core | in_place | {"merge": "cos4", "want": "joins"}),
            ("merge", lambda: tt.merge(x, *given, **ragged), tailcut.merge, (x, *tailcut_given),
             how | {"want": "joins"}),
            ("prune_sequence", lambda: tt.prune_sequence(
                x, roles, rule=rule, rows=more, **axes, **ragged), tailcut.prune_sequence,
             (x, roles), core | {"rows": entries[1:]}),
            ("prune_sequence_", lambda: tt.prune_sequence_(
                x, roles, rule=rule, rows=more, **axes, **ragged), tailcut.prune_sequence,
             (x, roles), core | in_place | {"rows": [Rows(of.positions, of.positions)]})):
        measure(f"{name}, {word}", seconds, call, *arguments, operator=operator, **options)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch", action="store_true", help="PyTorch's tensors and operators too")
    parser.add_argument("--seconds", type=float, default=2, help="for each line")
    parser.add_argument("--shape", type=int, nargs=2, default=(16, 32), help="of a segment")
    parser.add_argument("--segments", type=int, default=2, help="of a batch")
    parser.add_argument("--only", default="", help="lines with this regular expression")
    args = parser.parse_args()
    global ONLY
    ONLY = args.only
    print(f"{'least times, us':44} {'C call':>9} {'ctypes':>9} {'plan adds':>9} {'adds':>9}")
    kinds = {"numpy": lambda array: array}
    if args.torch:
        import torch
        kinds["torch"] = torch.from_numpy
    shape = "x".join(map(str, args.shape))
    for kind, tensor in kinds.items():
        of = Data(1, *args.shape, False, tensor)
        name, x, cls, out = f"{kind} {shape}", of.x, of.cls, tensor(np.empty_like(of.x))
        for word, how in (("kept only", {"out": False, "want": ()}),
                          ("out given", {"out": out, "want": ()}), ("all new", {}),
                          ("all new and read", {"read": True})):
            measure(f"{name}, prune {word}", args.seconds, tailcut.prune, x, cls, **how)
        for ragged, segments in ((False, 1), (False, args.segments), (True, args.segments)):
            of = Data(segments, *args.shape, ragged, tensor)
            lead = f"ragged {segments}x" if ragged else f"{segments}x" if segments > 1 else ""
            functions(args.seconds, of, f"{kind} {lead}{shape}")
            if kind == "torch":
                operators(args.seconds, of, f"operators {lead}{shape}")


if __name__ == "__main__":
    main()
