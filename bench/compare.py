# SPDX-License-Identifier: Apache-2.0
"""compare.py [--numpy] [--torch [--sequence | --batch]] [--rounds N] [--json FILE]

The whole fused prune of one image (576 x 1024: cosine to a reference, stable sort, OTSU's cut, kept
rows in their order) on all cores, against the same steps in numpy and PyTorch (CPU).

One process; rounds go through all contenders in rotating order. Each has threads of its own that
spin for some milliseconds after a call and would be in the way of the next contender's: a turn
starts with a pause until they sleep, then with calls that are not timed. Medians. First
every contender's kept tokens are compared with tailcut's. Exit status 1 when they differ by more
than rounding can do. --sequence: a sequence inside a language model's layer instead
(compare_sequence.py), PyTorch eager and compiled. --batch: eight images in one call, likewise.
"""
import argparse
import ctypes
import json
import os
import platform
import statistics
import sys
import time

TOKENS, DIM, IMAGES = 576, 1024, 8
# Seconds of pause and of calls not timed; calls timed. After a pause the cores of a virtual machine
# take some tens of milliseconds to come back to speed, all the more when two have to.
PAUSE, SETTLE, CALLS = 0.03, 0.1, 24
SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS",
           "MKL_NUM_THREADS")


def give_everyone_the_machine():
    """Environment variables that make a contender slower are dropped: libraries read them when
    they are loaded, so the script starts again without them."""
    found = [name for name in SLOWING if name in os.environ]
    if found:
        for name in found:
            del os.environ[name]
        print("running again without", ", ".join(found), flush=True)
        os.execv(sys.executable, [sys.executable, *sys.argv])


# ----------------------------------------------------------------------------- tailcut, by ctypes

P, I32, I64, SIZE = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_size_t


def struct(name, *fields):
    return type(name, (ctypes.Structure,), {"_fields_": [("struct_size", SIZE), *fields]})


Config = struct("Config", ("version", I32), ("device_kind", I32), ("device_index", I32),
                ("threads", I32))
Batch = struct("Batch", ("segments", I32), ("max_tokens", I32), ("total_tokens", I64),
               ("cu_seqlens", P), ("lengths", P), ("cls_row", I32))
Tokens = struct("Tokens", ("data", P), ("dtype", I32), ("dim", I32), ("row_stride", I64),
                ("segment_stride", I64))
Reference = struct("Reference", ("source", I32), ("dtype", I32), ("data", P),
                   ("segment_stride", I64))
Selection = struct("Selection", ("counts", P), ("kept", P), ("kept_placement", I32),
                   ("new_cu_seqlens", P), ("flags", P), ("scores", P), ("curve", P), ("ranks", P),
                   ("host_counts", P))
Rows = struct("Rows", ("src", P), ("dst", P), ("part_bytes", I64), ("parts", I32),
              ("placement", I32), ("flags", I32), ("slot_bytes", I32), ("src_part_stride", I64),
              ("dst_part_stride", I64), ("src_row_stride", I64), ("dst_row_stride", I64),
              ("src_segment_stride", I64), ("dst_segment_stride", I64), ("src_slots", P),
              ("dst_slots", P), ("page_rows", I64), ("page_stride", I64))
Limits = struct("Limits", ("segments", I32), ("max_tokens", I32), ("total_tokens", I64),
                ("dim", I32), ("q_heads", I32), ("head_dim", I32))
F16, F32, GIVEN, PACKED, LOCAL, PRUNE_VISUAL = 1, 3, 1, 2, 1, 6


def made(kind, *values):
    return kind(ctypes.sizeof(kind), *values)


class Tailcut:
    """tailcut_prune_visual on numpy arrays, everything prepared: call() is the library call (and
    ctypes)."""

    def __init__(self, library, np, x, c):
        """x: [images, TOKENS, DIM]"""
        self.keep, images = (x, c), len(x)
        lib = ctypes.CDLL(library)
        lib.tailcut_last_error.restype = ctypes.c_char_p
        lib.tailcut_build_info.restype = ctypes.c_char_p
        handle, size = P(), SIZE()
        config = made(Config, lib.tailcut_version(), 1, 0, 0)
        self.lib = lib
        self.check(lib.tailcut_create(ctypes.byref(handle), ctypes.byref(config)))
        limits = made(Limits, images, TOKENS, 0, DIM, 0, 0)
        self.check(lib.tailcut_workspace_size(handle, PRUNE_VISUAL, ctypes.byref(limits),
                                              ctypes.byref(size)))
        room = np.zeros(size.value + 256, np.uint8)
        workspace = P((room.ctypes.data + 255) // 256 * 256)
        self.check(lib.tailcut_workspace_init(handle, workspace, size, None))
        self.out = aligned(np, np.zeros_like(x)).reshape(-1, DIM)
        self.kept = np.empty((images, TOKENS), np.int32)
        self.counts = np.zeros(images, np.int32)
        dtype = F16 if x.dtype == np.float16 else F32
        batch = made(Batch, images, TOKENS, 0, None, None, 0)
        tokens = made(Tokens, x.ctypes.data, dtype, DIM, 0, 0)
        reference = made(Reference, GIVEN, 0, c.ctypes.data, 0)
        selection = made(Selection, self.counts.ctypes.data, self.kept.ctypes.data, LOCAL)
        rows = made(Rows, x.ctypes.data, self.out.ctypes.data, x.itemsize * DIM, 1, PACKED, 0, 4)
        self.keep += batch, tokens, reference, selection, rows, room
        address = ctypes.addressof
        args = (handle.value, address(batch), address(tokens), address(reference), None,
                address(selection), address(rows), 1, workspace.value, size.value, None)
        prune = lib.tailcut_prune_visual
        prune.argtypes = [P] * 7 + [I32, P, SIZE, P]
        self.call = lambda: prune(*args) and self.check(-1)

    def check(self, status):
        if status != 0:
            sys.exit("compare.py: " + self.lib.tailcut_last_error().decode())

    def result(self):
        """(numbers of the kept rows of the whole batch, those rows)"""
        self.call()
        kept = [b * TOKENS + int(row) for b, k in enumerate(self.counts)
                for row in self.kept[b, :k]]
        return kept, self.out[:len(kept)]


# ------------------------------------------------------------------------------- the same, by hand

def numpy_prune(np, x, c):
    ks = np.arange(1, TOKENS, dtype=np.float64)
    weight = 1 / (ks * (TOKENS - ks))

    def prune():
        a, b = x.astype(np.float32, copy=False), c.astype(np.float32, copy=False)
        norms = np.sqrt(np.einsum("ij,ij->i", a, a)) * np.sqrt(b @ b)
        s = np.clip(a @ b / np.maximum(norms, 1e-8), -1, 1)
        order = np.argsort(-s, kind="stable")
        sums = np.cumsum(s[order], dtype=np.float64)
        d = TOKENS * sums[:-1] - ks * sums[-1]
        kept = np.sort(order[:np.argmax(d * d * weight) + 1])
        return kept, x[kept]

    return prune


def torch_prune(torch, x, c, matrix_vector):
    ks = torch.arange(1, TOKENS, dtype=torch.float64)
    weight = 1 / (ks * (TOKENS - ks))

    def prune():
        if matrix_vector:
            a, b = x.float(), c.float()
            norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b)
            s = (a @ b / norms.clamp_min(1e-8)).clamp(-1, 1)
        else:
            s = torch.nn.functional.cosine_similarity(x, c[None], dim=1)
        best, order = torch.sort(s, descending=True, stable=True)
        sums = torch.cumsum(best, 0, dtype=torch.float64)
        d = TOKENS * sums[:-1] - ks * sums[-1]
        kept = torch.sort(order[:int(torch.argmax(d * d * weight)) + 1]).values
        return kept, x.index_select(0, kept)

    return prune


def torch_batch(torch, x, c, product, compiled):
    """Of [images, TOKENS, DIM]. The boolean index, whose length depends on the data, is eager."""
    ks = torch.arange(1, TOKENS, dtype=torch.float64)
    weight, ranks = 1 / (ks * (TOKENS - ks)), torch.arange(TOKENS)

    def choose(x, c):
        a, b = x.float(), c.float()
        norms = torch.linalg.vector_norm(a, dim=2) * torch.linalg.vector_norm(b)
        dots = (a * b).sum(2) if product else a @ b
        s = (dots / norms.clamp_min(1e-8)).clamp(-1, 1)
        best, order = torch.sort(s, dim=1, descending=True, stable=True)
        sums = torch.cumsum(best, 1, dtype=torch.float64)
        d = TOKENS * sums[:, :-1] - ks * sums[:, -1:]
        k = torch.argmax(d * d * weight, 1) + 1
        return torch.zeros_like(s, dtype=torch.bool).scatter(1, order, ranks < k[:, None])

    chosen = torch.compile(choose, fullgraph=True, dynamic=False) if compiled else choose

    def prune():
        mask = chosen(x, c)
        return torch.nonzero(mask.view(-1))[:, 0], x[mask]

    return prune


def features(np, dtype, images=1):
    """Random rows, one in four of which leans towards the reference, more or less."""
    random = np.random.default_rng(1)
    c = random.standard_normal(DIM)
    rows = images * TOKENS
    lean = np.where(random.random(rows) < 0.25, random.uniform(0.5, 2, rows), 0.1)
    x = random.standard_normal((rows, DIM)) + lean[:, None] * c
    return aligned(np, x.astype(dtype).reshape(images, TOKENS, DIM)), c.astype(dtype)


def aligned(np, a):
    """A copy on a 64-byte boundary, where PyTorch puts its tensors; for every contender."""
    room = np.empty(a.nbytes + 64, np.uint8)
    at = -room.ctypes.data % 64
    copy = room[at:at + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


# ----------------------------------------------------------------------------------- measurement

def measure(contenders, rounds):
    """{name: call} -> {name: microseconds of each timed call}."""
    times = {name: [] for name in contenders}
    names = list(contenders)
    for r in range(rounds):
        for name in names[r % len(names):] + names[:r % len(names)]:
            call = contenders[name]
            time.sleep(PAUSE)
            until = time.perf_counter() + SETTLE
            while time.perf_counter() < until:
                call()
            for _ in range(CALLS):
                start = time.perf_counter()
                call()
                times[name].append(1e6 * (time.perf_counter() - start))
    return times


def differing(ours, theirs):
    return len(set(ours) ^ set(theirs))


def cpu_name():
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def table(times, found, rows, columns):
    """Prints the lines of one size. found: {name: (kept, differing)}; rows gets what JSON has."""
    base = statistics.median(times["tailcut"])
    for name, us in times.items():
        median, (kept, off) = statistics.median(us), found[name]
        print(f"| {columns['dtype']:5} | {name:34} | {median:9.1f} | {min(us):10.1f} "
              f"| {median / base:23.1f} | {kept:4} | {off:9} |", flush=True)
        rows.append({**columns, "name": name, "us_median": median, "us_min": min(us),
                     "ratio": median / base, "kept": kept, "differing": off})


def compare_images(np, torch, options):
    """The rows of all sizes; whether something was wrong."""
    rows, bad = [], False
    for dtype, label in ((np.float16, "f16"), (np.float32, "f32")):
        x, c = features(np, dtype)
        tailcut = Tailcut(options.library, np, x, c)
        kept, out = tailcut.result()
        bad |= not np.array_equal(out, x.reshape(-1, DIM)[kept])
        contenders, found = {"tailcut": tailcut.call}, {"tailcut": (len(kept), 0)}
        x = x[0]
        if options.numpy or not options.torch:
            contenders["numpy"] = numpy_prune(np, x, c)
        if torch:
            tx, tc = torch.from_numpy(x), torch.from_numpy(c)
            contenders["PyTorch, cosine_similarity"] = torch_prune(torch, tx, tc, False)
            contenders["PyTorch, matrix x vector"] = torch_prune(torch, tx, tc, True)
        for name in list(contenders)[1:]:
            theirs = contenders[name]()[0].tolist()
            found[name] = len(theirs), differing(kept, theirs)
            # Scores that are rounded to fp16 tie and swap at the cut; fp32 ones hardly do.
            bad |= found[name][1] > TOKENS // 50
        table(measure(contenders, options.rounds), found, rows, {"dtype": label})
    return rows, bad


def compare_batches(np, torch, options):
    """As compare_images."""
    rows, bad = [], False
    for dtype, label in ((np.float16, "f16"), (np.float32, "f32")):
        x, c = features(np, dtype, IMAGES)
        tailcut = Tailcut(options.library, np, x, c)
        kept, out = tailcut.result()
        bad |= not np.array_equal(out, x.reshape(-1, DIM)[kept])
        contenders, found = {"tailcut": tailcut.call}, {"tailcut": (len(kept), 0)}
        tx, tc = torch.from_numpy(x), torch.from_numpy(c)
        for product, how in ((False, "matrix x vector"), (True, "product, sum")):
            for compiled in (True, False):
                name = f"PyTorch{' compiled' if compiled else ''}, {how}"
                contenders[name] = torch_batch(torch, tx, tc, product, compiled)
                theirs, moved = contenders[name]()
                found[name] = len(theirs), differing(kept, theirs.tolist())
                bad |= found[name][1] > IMAGES * TOKENS // 50 or len(moved) != len(theirs)
        table(measure(contenders, options.rounds), found, rows, {"dtype": label, "images": IMAGES})
    return rows, bad


def compare_sequences(torch, options):
    """As compare_images."""
    import compare_sequence
    rows, bad = [], False
    for size in compare_sequence.SIZES:
        tailcut = compare_sequence.Sequence(options.library, torch, torch.device("cpu"), size,
                                            lambda: None, stop)
        contenders = tailcut.contenders(True)
        found, right, dropped = tailcut.check_contenders(contenders, lambda: None)
        for name, why in dropped.items():
            print(f"not run: {name}: {why}", file=sys.stderr)
        print(compare_sequence.title(size))
        tokens, text, dim, layers, heads = size
        times = measure({name: call for name, (call, _) in contenders.items()}, options.rounds)
        table(times, found, rows, {"dtype": "f16", "tokens": tokens, "text": text, "dim": dim,
                                   "layers": layers, "kv_heads": heads})
        bad |= not right
    return rows, bad


def stop(message):
    sys.exit("compare.py: " + message)


def main():
    parser = argparse.ArgumentParser(usage=__doc__, add_help=True)
    parser.add_argument("--numpy", action="store_true")
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--sequence", action="store_true", help="stage 2 in place of an image")
    parser.add_argument("--batch", action="store_true", help=f"{IMAGES} images in one call")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json")
    parser.add_argument("--library", default="build/lib/libtailcut.so")
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error("--rounds must be 3 or more")
    if (options.sequence or options.batch) and not options.torch:
        parser.error("--sequence and --batch go with --torch")
    if options.sequence and options.batch:
        parser.error("either --sequence or --batch")
    give_everyone_the_machine()
    import numpy as np
    torch = None
    if options.torch:
        import torch
        torch.set_num_threads(os.cpu_count())
        torch.set_grad_enabled(False)

    print(f"{cpu_name()}, {os.cpu_count()} cores; numpy {np.__version__}"
          + (f"; PyTorch {torch.__version__}, {torch.get_num_threads()} threads" if torch else ""))
    what = "prune of a sequence" if options.sequence else "fused prune of " + (
        f"{IMAGES} x " if options.batch else "") + f"{TOKENS} x {DIM}"
    print(f"{what}, all cores; medians of {options.rounds * CALLS} calls in {options.rounds} "
          "interleaved rounds\n")
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.75:
        print(f"The machine is busy (load {os.getloadavg()[0]:.1f}): threads that wait for each "
              f"other "
              "wait for others, too.\nMedians then say little; the least times are nearer to the "
              "truth.\n")
    print("| dtype | what                               | median us |   least us | median, times "
          "tailcut's "
          "| kept | differing |")
    print("|-------|------------------------------------|----------:|-----------:|------------------------:"
          "|-----:|----------:|")
    if options.sequence:
        rows, bad = compare_sequences(torch, options)
    else:
        rows, bad = (compare_batches if options.batch else compare_images)(np, torch, options)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"cpu": cpu_name(), "cores": os.cpu_count(), "numpy": np.__version__,
                       "torch": torch.__version__ if torch else None, "rows": rows}, file, indent=1)
    if bad:
        sys.exit("compare.py: the kept tokens differ by more than rounding can do")


if __name__ == "__main__":
    main()
