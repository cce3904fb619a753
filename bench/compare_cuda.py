# SPDX-License-Identifier: Apache-2.0
"""compare_cuda.py [--device cuda[:I]] [--batch LIST | --sequence] [--rounds N] [--seconds S]
                [--json FILE] [--library FILE]

The whole fused prune of images of 576 x 1024 (cosine to a reference each, stable sort, OTSU's cut,
kept rows packed in their order) on a GPU, against the same steps in PyTorch, eager and compiled.

Two ways of calling. stream: calls one after the other on a stream, as a program makes them. graph:
the calls captured in a CUDA graph, where they can be. PyTorch's plain form selects rows by a mask
and waits for their number on the host; that cannot be captured. Its form without the wait has a
result of fixed size and so has to move every row. Buffers are the same in each call: a hot L2 where
they fit.

Then a sequence inside a language model's layer (compare_sequence.py); --sequence: that alone, and
larger ones.

One process; rounds go through all contenders in rotating order; CUDA events around CALLS calls;
medians. First every contender's kept tokens are compared with tailcut's, and rows with tokens. Exit
status 1 when they differ by more than rounding can do.

--seconds S: fewer rounds, the sizes with a target first (1 and 64 images, fp16); those that are not
begun in time are left out, which is said. Compiling takes most of the time.
"""
import argparse
import ctypes
import datetime
import json
import os
import statistics
import sys
import time
import traceback

import compare_sequence
from compare import (DIM, F16, F32, GIVEN, I32, LOCAL, P, PACKED, PRUNE_VISUAL, SIZE, TOKENS, Batch,
                     Config, Limits, Reference, Rows, Selection, Tokens, made)

START = time.monotonic()
CALLS, CUDA = 20, 2  # calls between two events; tailcut_device_kind
LEAST_ROUNDS = 11


def stop(message):
    sys.exit("compare_cuda.py: " + message)


# ----------------------------------------------------------------------------- tailcut, by ctypes

class Tailcut:
    """tailcut_prune_visual on PyTorch's memory and current stream, everything prepared."""

    def __init__(self, library, torch, device, x, c):
        try:
            lib = ctypes.CDLL(library)
        except OSError as error:
            stop(f"cannot load {library} ({error}); ./run bench builds it, --library names another")
        lib.tailcut_last_error.restype = ctypes.c_char_p
        lib.tailcut_build_info.restype = ctypes.c_char_p
        self.lib, self.torch, self.device = lib, torch, device
        batch_size, _, dim = x.shape
        handle, size = P(), SIZE()
        config = made(Config, lib.tailcut_version(), CUDA, device.index, 1)
        self.check(lib.tailcut_create(ctypes.byref(handle), ctypes.byref(config)))
        limits = made(Limits, batch_size, TOKENS, 0, dim, 0, 0)
        self.check(lib.tailcut_workspace_size(handle, PRUNE_VISUAL, ctypes.byref(limits),
                                              ctypes.byref(size)))
        room = torch.empty(max(size.value, 1), dtype=torch.uint8, device=device)
        self.check(lib.tailcut_workspace_init(handle, P(room.data_ptr()), size,
                                              P(self.stream())))
        self.out = torch.full((batch_size * TOKENS, dim), float("nan"), dtype=x.dtype,
                              device=device)
        self.kept = torch.full((batch_size, TOKENS), -1, dtype=torch.int32, device=device)
        self.counts = torch.full((batch_size,), -1, dtype=torch.int32, device=device)
        self.offsets = torch.full((batch_size + 1,), -1, dtype=torch.int32, device=device)
        dtype = F16 if x.dtype == torch.float16 else F32
        batch = made(Batch, batch_size, TOKENS, 0, None, None, 0)
        tokens = made(Tokens, x.data_ptr(), dtype, dim, 0, 0)
        reference = made(Reference, GIVEN, 0, c.data_ptr(), dim)
        selection = made(Selection, self.counts.data_ptr(), self.kept.data_ptr(), LOCAL,
                         self.offsets.data_ptr())
        rows = made(Rows, x.data_ptr(), self.out.data_ptr(), x.element_size() * dim, 1, PACKED, 0,
                    4)
        self.keep = x, c, batch, tokens, reference, selection, rows, room
        address = ctypes.addressof
        self.args = (handle.value, address(batch), address(tokens), address(reference), None,
                     address(selection), address(rows), 1, room.data_ptr(), size.value)
        self.prune = lib.tailcut_prune_visual
        self.prune.argtypes = [P] * 7 + [I32, P, SIZE, P]

    def stream(self):
        return self.torch.cuda.current_stream(self.device).cuda_stream

    def check(self, status):
        if status != 0:
            stop(self.lib.tailcut_last_error().decode() or f"tailcut: status {status}")

    def __call__(self):
        self.check(self.prune(*self.args, self.stream()))

    def mask(self):
        """Which tokens were kept, [B, N]."""
        torch = self.torch
        kept = torch.zeros((self.counts.numel(), TOKENS), dtype=torch.bool)
        for image, count in enumerate(self.counts.tolist()):
            kept[image, self.kept[image, :count].cpu().long()] = True
        return kept.to(self.device)


# ---------------------------------------------------------------------------- the same, in PyTorch

def torch_steps(torch, x, c):
    """(cosine_similarity, matrix x vector): functions without arguments that give (rows, mask)."""
    batch_size, total = x.shape[0], x.shape[0] * TOKENS
    ks = torch.arange(1, TOKENS, dtype=torch.float64, device=x.device)
    weight = 1 / (ks * (TOKENS - ks))
    ranks = torch.arange(TOKENS, device=x.device)[None]

    def similarity():
        return torch.nn.functional.cosine_similarity(x, c[:, None], dim=2)

    def matrix_vector():
        a, b = x.float(), c.float()
        norms = torch.linalg.vector_norm(a, dim=2) * torch.linalg.vector_norm(b, dim=1)[:, None]
        return ((a @ b[:, :, None])[:, :, 0] / norms.clamp_min(1e-8)).clamp(-1, 1)

    def cut(s):
        best, order = torch.sort(s, dim=1, descending=True, stable=True)
        sums = torch.cumsum(best, 1, dtype=torch.float64)
        d = TOKENS * sums[:, :-1] - ks * sums[:, -1:]
        k = torch.argmax(d * d * weight, 1) + 1
        mask = torch.zeros((batch_size, TOKENS), dtype=torch.bool, device=x.device)
        return mask.scatter(1, order, ranks < k[:, None])

    def waiting(scores):
        def prune():
            mask = cut(scores())
            return x[mask], mask
        return prune

    def fixed_size(scores):
        """Row r goes where it belongs among the kept ones, or to a last row that nobody reads."""
        def prune():
            mask = cut(scores())
            flat = mask.flatten()
            place = torch.where(flat, torch.cumsum(flat, 0) - 1, total)
            out = torch.empty((total + 1, x.shape[2]), dtype=x.dtype, device=x.device)
            return out.index_copy(0, place, x.flatten(0, 1)), mask
        return prune

    return similarity, matrix_vector, waiting, fixed_size


def contenders_of(torch, tailcut, x, c, compiled):
    """{name: (call, may be captured)}"""
    similarity, matrix_vector, waiting, fixed_size = torch_steps(torch, x, c)
    if compiled:
        torch.compiler.reset()  # or too many sizes of one function are refused
    found = {"tailcut": (tailcut, True)}
    for label, scores in (("cosine_similarity", similarity), ("matrix x vector", matrix_vector)):
        found[f"eager, {label}"] = (waiting(scores), False)
        found[f"eager without wait, {label}"] = (fixed_size(scores), True)
        if compiled:
            call = torch.compile(fixed_size(scores), fullgraph=True, dynamic=False)
            found[f"compile, {label}"] = (call, True)
    return found


def features(torch, device, dtype, batch_size):
    """Random rows, one in four of which leans towards its image's reference, more or less."""
    random = torch.Generator().manual_seed(1)
    c = torch.randn((batch_size, DIM), generator=random)
    lean = torch.rand((batch_size, TOKENS), generator=random) * 1.5 + 0.5
    lean[torch.rand((batch_size, TOKENS), generator=random) >= 0.25] = 0.1
    x = torch.randn((batch_size, TOKENS, DIM), generator=random) + lean[:, :, None] * c[:, None]
    return x.to(device, dtype), c.to(device, dtype)


# ----------------------------------------------------------------------------------- measurement

def captured(torch, call):
    """A replay of CALLS calls, or the reason why there is none."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(CALLS):
                call()
        graph.replay()
        torch.cuda.synchronize()
        return graph.replay, None
    except RuntimeError as error:
        return None, str(error).splitlines()[0]


def measure(torch, runs, rounds, end):
    """{key: run of CALLS calls} -> {key: microseconds per call, one for each round}."""
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times, keys = {key: [] for key in runs}, list(runs)
    for r in range(rounds + 3):
        if r >= LEAST_ROUNDS + 3 and time.monotonic() > end:
            break
        for key in keys[r % len(keys):] + keys[:r % len(keys)]:
            runs[key]()  # not timed: the caches are its own then
            torch.cuda.synchronize()
            before.record()
            runs[key]()
            after.record()
            torch.cuda.synchronize()
            if r >= 3:
                times[key].append(1e3 * before.elapsed_time(after) / CALLS)
    return times


def repeated(call):
    def run():
        for _ in range(CALLS):
            call()
    return run


def check_contenders(torch, tailcut, x, contenders):
    """{name: (tokens that are kept, that differ)}; drops what does not run; whether all is
    right."""
    found, right, dropped = {}, True, {}
    tailcut()
    torch.cuda.synchronize()
    ours = tailcut.mask()
    kept = int(ours.sum())
    right &= int(tailcut.offsets[-1]) == kept and torch.equal(tailcut.out[:kept], x[ours])
    found["tailcut"] = kept, 0
    for name in list(contenders)[1:]:
        try:
            rows, mask = contenders[name][0]()
            torch.cuda.synchronize()
        except Exception as error:  # torch.compile fails in many ways; the others still count
            dropped[name] = (str(error).splitlines() or [type(error).__name__])[0]
            del contenders[name]
            continue
        right &= torch.equal(rows[:int(mask.sum())], x[mask])
        found[name] = int(mask.sum()), int((mask ^ ours).sum())
        # Scores that are rounded to fp16 tie and swap at the cut; fp32 ones hardly do.
        right &= found[name][1] <= x.shape[0] * TOKENS // 50
    return found, right, dropped


def time_them(torch, options, contenders, found, dropped, what, columns, end):
    """The rows of one size, printed and returned. columns: what their JSON has of it."""
    runs = {}
    for name, (call, may_be_captured) in contenders.items():
        runs["stream", name] = repeated(call)
        if may_be_captured:
            runs["graph", name], why = captured(torch, call)
            if why is not None:
                del runs["graph", name]
                dropped[f"{name} in a graph"] = why
    for name, why in dropped.items():
        print(f"not run: {name}, {what}: {why}", file=sys.stderr)
    if ("graph", "tailcut") not in runs:
        stop("tailcut's calls cannot be captured")
    rows = []
    times = measure(torch, runs, options.rounds, end)
    for way in ("stream", "graph"):
        base = statistics.median(times[way, "tailcut"])
        for name in (key[1] for key in runs if key[0] == way):
            us = times[way, name]
            median = statistics.median(us)
            quarters = statistics.quantiles(us, n=4)
            noise = (quarters[2] - quarters[0]) / (1.349 * median)
            kept, differing = found[name]
            print(f"| {columns['segments']:3} | {columns['dtype']:5} | {way:6} | {name:37} "
                  f"| {median:11.2f} | {100 * noise:4.1f}% | {median / base:16.1f} | {kept:6} "
                  f"| {differing:9} | {'AMBIGUOUS' if noise > 0.05 else '':9} |", flush=True)
            rows.append({**columns, "way": way, "name": name, "us_median": median, "noise": noise,
                         "samples": len(us), "ambiguous": noise > 0.05,
                         "ratio": median / base, "kept": kept, "differing": differing})
    return rows


def compare(torch, options, device, dtype, label, batch_size, end):
    """The rows of one size; whether everything was right; the library's build."""
    x, c = features(torch, device, dtype, batch_size)
    tailcut = Tailcut(options.library, torch, device, x, c)
    contenders = contenders_of(torch, tailcut, x, c, not options.no_compile)
    found, right, dropped = check_contenders(torch, tailcut, x, contenders)
    columns = {"segments": batch_size, "tokens": TOKENS, "dim": DIM, "dtype": label}
    rows = time_them(torch, options, contenders, found, dropped, f"{batch_size} images {label}",
                     columns, end)
    return rows, right, json.loads(tailcut.lib.tailcut_build_info())


def compare_one_sequence(torch, options, device, size, end):
    """As compare."""
    def stream():
        return torch.cuda.current_stream(device).cuda_stream
    tailcut = compare_sequence.Sequence(options.library, torch, device, size, stream, stop)
    contenders = tailcut.contenders(not options.no_compile)
    found, right, dropped = tailcut.check_contenders(contenders, torch.cuda.synchronize)
    tokens, text, dim, layers, heads = size
    columns = {"segments": 1, "tokens": tokens, "text": text, "dim": dim, "dtype": "f16",
               "layers": layers, "kv_heads": heads}
    print(compare_sequence.title(size))
    rows = time_them(torch, options, contenders, found, dropped, "a sequence", columns, end)
    return rows, right, json.loads(tailcut.lib.tailcut_build_info())


# --------------------------------------------------------------------------------- the command line

def parse():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--torch", action="store_true", help="there is no other: may be given")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", default="1,8,64")
    parser.add_argument("--sequence", action="store_true", help="stage 2 alone")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--json")
    parser.add_argument("--library", default=os.path.join(here, "build-gpu/lib/libtailcut.so"))
    options = parser.parse_args()
    kind, _, index = options.device.partition(":")
    if kind != "cuda" or not (index.isdigit() or options.device == "cuda"):
        parser.error(f"--device {options.device}: expected cuda or cuda:I (compare.py is the CPU's)")
    options.index = int(index or 0)
    try:
        options.batches = [int(word) for word in options.batch.split(",")]
    except ValueError:
        options.batches = [0]
    if min(options.batches) < 1:
        parser.error(f"--batch {options.batch}: expected numbers of images, such as 1,8,64")
    if options.rounds < 3:
        parser.error("--rounds must be 3 or more")
    return options


def save(path, torch, name, build, rows):
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump({"tool": "compare_cuda", "version": build["version"], "date": now, "build": build,
                   "device": {"name": name, "simulated": False}, "torch": torch.__version__,
                   "cuda": torch.version.cuda, "calls": CALLS, "rows": rows}, file, indent=1)
    os.replace(path + ".new", path)


def main():
    options = parse()
    try:
        import torch
    except ImportError as error:
        stop(f"PyTorch is missing ({error}); ./run bench --torch --device cuda installs it")
    if not torch.cuda.is_available():
        stop("PyTorch sees no GPU: no device, no driver, or a PyTorch without CUDA "
             f"(torch {torch.__version__}, built for CUDA {torch.version.cuda})")
    if options.index >= torch.cuda.device_count():
        stop(f"--device {options.device}: this machine has {torch.cuda.device_count()} CUDA devices")
    torch.set_grad_enabled(False)
    device = torch.device("cuda", options.index)
    torch.cuda.set_device(device)
    name = torch.cuda.get_device_name(device)
    print(f"{name}; PyTorch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"fused prune of {TOKENS} x {DIM}; medians of {options.rounds} interleaved rounds of "
          f"{CALLS} "
          "calls\n")
    print("|   B | dtype | way    | what                                  |   median us | noise "
          "|  times tailcut's |   kept | differing |           |")
    print("|----:|-------|--------|---------------------------------------|------------:|------:"
          "|-----------------:|-------:|----------:|-----------|")
    rows, failed = [], []
    sizes = [] if options.sequence else [
        (dtype, label, batch_size)
        for dtype, label in ((torch.float16, "f16"), (torch.float32, "f32"))
        for batch_size in options.batches]
    sequences = compare_sequence.SIZES + compare_sequence.LARGE
    work = [(compare, size, f"{size[2]} images {size[1]}") for size in sizes]
    work += [(compare_one_sequence, (size,), compare_sequence.title(size))
             for size in (sequences if options.sequence else sequences[:1])]
    if options.seconds != float("inf"):
        work.sort(key=lambda one: one[0] is compare and (one[1][1] != "f16") * 2
                  + (one[1][2] not in (1, 64)))
    end = START + options.seconds
    for i, (call, size, title) in enumerate(work):
        now = time.monotonic()
        if now > end and i > 0:
            print("compare_cuda.py: --seconds: left out: " + ", ".join(one[2] for one in work[i:]),
                  file=sys.stderr)
            break
        share = (end - now) / (len(work) - i)
        try:
            more, good, build = call(torch, options, device, *size, now + share)
        except (Exception, SystemExit) as error:  # the other sizes still count
            traceback.print_exc()
            failed.append(f"{title}: {error}")
            continue
        rows += more
        if not good:
            failed.append(f"{title}: the kept tokens differ by more than rounding can do, or rows "
                          "are wrong")
        if options.json:  # each time: what comes next may take too long
            save(options.json, torch, name, build, rows)
    if failed:
        stop("; ".join(failed))


if __name__ == "__main__":
    main()
