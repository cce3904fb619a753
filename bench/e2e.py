# SPDX-License-Identifier: Apache-2.0
"""e2e.py [--model 7b|small|tiny] [--device cpu|cuda] [--batch N] [--rounds N] [--json FILE]

What pruning does to a whole prefill: a language model of LLaVA-1.5-7B's shape (random weights,
bfloat16; on a CPU one of 100M parameters, float32) takes the features of an image, projects them,
puts them into a prompt, and gives its first token. Cases:

  no pruning       all 576 image tokens
  stage 1          the 22% that are most like the CLS token, chosen before the projection
  stage 1 + 2      and behind layer 2 the half of those that has most to do with the question; the
                   keys and values of the layers before, and position ids, are compacted too
  ..., PyTorch     the same steps in PyTorch: cosines, topk, sort, gather
  ..., floor       a prompt that simply has that many tokens (1 + 2: rows simply cut off)

Times are wall-clock, of one process that goes through the cases in rotating order: `prefill` from
the features to the logits of the last row, `first token` to its number on the host. The encoder is
not in them. `pruning`: what lies inside the prune calls (between CUDA events on a GPU), and its
share of the prefill. `memory`: the peak above what stood before the case (on a CPU that of resident
memory, where the system lets a process reset it). Exit status 1 where the two ways of pruning keep
different tokens than rounding explains.
"""
import argparse
import contextlib
import ctypes
import datetime
import json
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F

import tailcut
import tailcut.torch as tt
from compare import cpu_name
from tailcut import Role, Rule

# Layers, width, heads, width of the MLP, vocabulary; the rows of text before and behind the image.
MODELS = {"7b": (32, 4096, 32, 11008, 32064), "small": (12, 768, 12, 2048, 8000),
          "tiny": (4, 64, 4, 128, 100)}
IMAGE, VISION, BEFORE, BEHIND, LAYER = 576, 1024, 35, 30, 2
STAGE1, STAGE2 = Rule(ratio=0.22), Rule(ratio=0.5)


class Model:
    """A decoder as Llama's, by hand: RMS norms, rotary embeddings, SwiGLU, no biases."""

    def __init__(self, shape, device, dtype):
        self.layers, self.dim, self.heads, inner, words = shape
        self.head = self.dim // self.heads
        random = torch.Generator(device=device).manual_seed(0)

        def matrix(rows, columns):
            made = torch.empty((rows, columns), device=device, dtype=dtype)
            return made.normal_(0, 0.02, generator=random)

        d = self.dim
        self.projector = matrix(d, VISION), matrix(d, d)
        self.blocks = [(matrix(3 * d, d), matrix(d, d), matrix(2 * inner, d), matrix(d, inner))
                       for _ in range(self.layers)]
        self.words = matrix(words, d)
        frequencies = torch.arange(0, self.head, 2, device=device, dtype=torch.float32) / self.head
        self.inv_freq = 10000.0 ** -frequencies

    def parameters(self):
        blocks = [matrix for block in self.blocks for matrix in block]
        return sum(m.numel() for m in (*self.projector, *blocks, self.words))

    def project(self, features):
        first, second = self.projector
        return F.linear(F.gelu(F.linear(features, first)), second)

    def turned(self, x, positions):
        angles = positions[:, None, :, None].float() * self.inv_freq
        cos, sin = (f(angles).repeat(1, 1, 1, 2).to(x.dtype) for f in (torch.cos, torch.sin))
        half = self.head // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def layer(self, x, positions, block):
        """(hidden states, keys, values)."""
        qkv, out, gate_up, down = block
        batch, rows, d = x.shape
        q, k, v = F.linear(F.rms_norm(x, (d,)), qkv).view(
            batch, rows, 3, self.heads, self.head).permute(2, 0, 3, 1, 4)
        q, k = self.turned(q, positions), self.turned(k, positions)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(seen.transpose(1, 2).reshape(batch, rows, d), out)
        gate, up = F.linear(F.rms_norm(x, (d,)), gate_up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, down), k, v.contiguous()

    def prefill(self, features, before, behind, inside=None):
        """(logits of the last row, keys and values by layer). `inside` prunes behind LAYER."""
        image = self.project(features)
        x = torch.cat([before, image, behind], 1)
        positions = torch.arange(x.shape[1], device=x.device).expand(len(x), -1).contiguous()
        cache = []
        for number, block in enumerate(self.blocks):
            if number == LAYER and inside is not None:
                flat = [array for pair in cache for array in pair]
                x, positions, flat = inside(x, positions, flat, image.shape[1])
                cache = list(zip(flat[::2], flat[1::2]))
            x, *pair = self.layer(x, positions, block)
            cache.append(tuple(pair))
        return F.linear(F.rms_norm(x[:, -1], (self.dim,)), self.words), cache


# ------------------------------------------------------------------------------- the prune steps
class Pruning:
    """Stage 1 and 2 of one way of pruning; `log` is what they chose, `spent` times each call."""

    def __init__(self, features, spent):
        self.features, self.spent, self.log = features, spent, {}
        self.n1 = tailcut.kept_count(STAGE1, IMAGE)
        self.n2 = tailcut.kept_count(STAGE2, self.n1)

    def roles(self, image):
        roles = torch.zeros((len(self.features), BEFORE + image + BEHIND), dtype=torch.uint8)
        roles[:, BEFORE:BEFORE + image] = Role.CANDIDATE
        roles[:, BEFORE + image:] = Role.QUERY
        return roles.to(self.features.device)


class ByTailcut(Pruning):
    def __init__(self, features, spent):
        super().__init__(features, spent)
        batch = len(features)
        self.out = torch.empty((batch * self.n1, VISION), dtype=features.dtype,
                               device=features.device)
        self.plan = tailcut.prune.plan(features, "row", rule=STAGE1, out=self.out, want=())
        self.inside_roles = self.roles(self.n1)

    def before(self):
        with self.spent():
            found = self.plan()
        batch = len(self.features)
        self.log["stage 1"] = found.kept[:batch * self.n1].view(batch, self.n1)
        return self.out.view(batch, self.n1, VISION)

    def inside(self, x, positions, cache, image):
        with self.spent():
            found = tt.prune_sequence(
                x, self.inside_roles, rule=STAGE2, rows=[positions, *cache],
                token_axis=[1] + [2] * len(cache), room=x.shape[1] - image + self.n2)
        self.log["stage 2"] = found.kept
        return found.tokens, found.rows[0], found.rows[1:]


class ByTorch(Pruning):
    def before(self):
        with self.spent():
            cls, x = self.features[:, :1], self.features[:, 1:]
            scores = F.cosine_similarity(x.float(), cls.float(), -1)
            kept = scores.topk(self.n1, -1).indices.sort(-1).values
            tokens = x.gather(1, kept[..., None].expand(-1, -1, VISION))
        self.log["stage 1"] = kept
        return tokens

    def inside(self, x, positions, cache, image):
        with self.spent():
            begin, end = BEFORE, BEFORE + image
            direction = F.normalize(x[:, end:].float(), dim=-1, eps=1e-8).mean(1, keepdim=True)
            visual = F.normalize(x[:, begin:end].float(), dim=-1, eps=1e-8)
            best = (visual * direction).sum(-1).topk(self.n2, -1).indices.sort(-1).values + begin
            rows = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
            kept = torch.cat([rows[:, :begin], best, rows[:, end:]], 1)
            moved = x.gather(1, kept[..., None].expand(-1, -1, x.shape[-1]))
            at = kept[:, None, :, None]
            cache = [a.gather(2, at.expand(-1, a.shape[1], -1, a.shape[3])) for a in cache]
            positions = positions.gather(1, kept)
        self.log["stage 2"] = kept
        return moved, positions, cache


class ByCutting(Pruning):
    """The floor: rows are cut off, which costs nothing."""

    def before(self):
        return self.features[:, 1:self.n1 + 1]

    def inside(self, x, positions, cache, image):
        rows = x.shape[1] - image + self.n2
        return x[:, -rows:], positions[:, -rows:], [a[:, :, -rows:] for a in cache]


# ------------------------------------------------------------------------------------ measurement
class Spent:
    """with spent(): ...; then milliseconds() of all since reset()."""

    def __init__(self, on_gpu):
        self.on_gpu, self.parts = on_gpu, []

    def reset(self):
        self.parts = []

    @contextlib.contextmanager
    def __call__(self):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self.on_gpu else [0, 0]
        for i in range(2):
            if self.on_gpu:
                marks[i].record()
            else:
                marks[i] = time.perf_counter()
            if i == 0:
                yield
        self.parts.append(marks)

    def milliseconds(self):
        if self.on_gpu:
            return sum(start.elapsed_time(end) for start, end in self.parts)
        return sum(1e3 * (end - start) for start, end in self.parts)


class Memory:
    """Peak bytes above what stood at reset(); None where that cannot be known."""

    def __init__(self, device):
        self.on_gpu, self.base = device.type == "cuda", 0

    @staticmethod
    def resident(name):
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))

    def reset(self):
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.base = torch.cuda.memory_allocated()
            return
        try:
            ctypes.CDLL(None).malloc_trim(0)
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # the peak is what it is now
            self.base = self.resident("VmRSS:")
        except (OSError, AttributeError):
            self.base = None

    def peak(self):
        if self.on_gpu:
            return torch.cuda.max_memory_allocated() - self.base
        return None if self.base is None else self.resident("VmHWM:") - self.base


def cases_of(features, spent):
    """{name: (what gives the image's features, what prunes inside or None, the pruning)}"""
    ways = {"": ByTailcut(features, spent), ", PyTorch": ByTorch(features, spent),
            ", floor": ByCutting(features, spent)}
    found = {"no pruning": (lambda: features[:, 1:], None, None)}
    for stage in ("stage 1", "stage 1 + 2"):
        for word, way in ways.items():
            found[stage + word] = way.before, way.inside if "2" in stage else None, way
    return found


def measure(model, cases, before, behind, spent, memory, rounds, synchronize):
    """{case: {what: [a figure of each round]}}; round 0 is not counted."""
    figures = {name: {"prefill": [], "first": [], "pruning": [], "memory": [], "token": []}
               for name in cases}
    names = list(cases)
    for r in range(rounds + 1):
        for name in names[r % len(names):] + names[:r % len(names)]:
            given, inside, _way = cases[name]
            spent.reset()
            memory.reset()
            synchronize()
            start = time.perf_counter()
            logits, cache = model.prefill(given(), before, behind, inside)
            synchronize()
            prefill = time.perf_counter()
            token = logits.argmax(-1).tolist()
            first = time.perf_counter()
            peak = memory.peak()
            rows = [pair[0].shape[2] for pair in cache]
            del logits, cache
            figure = figures[name]
            figure["rows"] = rows[0], rows[-1]
            if r:
                for what, value in (("prefill", 1e3 * (prefill - start)),
                                    ("first", 1e3 * (first - start)), ("memory", peak),
                                    ("pruning", spent.milliseconds()), ("token", token)):
                    figure[what].append(value)
    return figures


def table(figures):
    """Prints the lines; returns JSON's."""
    print("| case                 | rows, first and last layer | prefill ms |   least "
          "| first token ms | pruning ms |   least | share % | memory MB |")
    print("|----------------------|---------------------------:|-----------:|--------:"
          "|---------------:|-----------:|--------:|--------:|----------:|")
    rows = []
    for name, of in figures.items():
        prefill, first, pruning = (
            statistics.median(of[what]) for what in ("prefill", "first", "pruning"))
        share = statistics.median(p / t for p, t in zip(of["pruning"], of["prefill"]))
        peak = None if None in of["memory"] else max(of["memory"])
        megabytes = "unknown" if peak is None else f"{peak / 2 ** 20:.1f}"
        print(f"| {name:20} | {of['rows'][0]:18} {of['rows'][1]:7} | {prefill:10.2f} "
              f"| {min(of['prefill']):7.2f} | {first:14.2f} | {pruning:10.3f} "
              f"| {min(of['pruning']):7.3f} | {100 * share:7.3f} | {megabytes:>9} |", flush=True)
        rows.append({"name": name, "rows_first": of["rows"][0], "rows_last": of["rows"][1],
                     "prefill_ms_median": prefill, "prefill_ms_min": min(of["prefill"]),
                     "first_token_ms_median": first, "first_token_ms_min": min(of["first"]),
                     "pruning_ms_median": pruning, "pruning_ms_min": min(of["pruning"]),
                     "pruning_share": share, "peak_bytes": peak})
    return rows


def differing(cases):
    """Tokens of which tailcut and PyTorch keep different ones, by stage."""
    ours, theirs = (cases["stage 1 + 2" + way][2].log for way in ("", ", PyTorch"))
    return {stage: sum(len(set(a) - set(b)) for a, b in zip(kept.tolist(), theirs[stage].tolist()))
            for stage, kept in ours.items()}


def inputs(model, batch, device, dtype):
    """Features [batch, 1 + IMAGE, VISION] of which some lean towards the CLS row; text."""
    random = torch.Generator().manual_seed(1)
    cls = torch.randn((batch, 1, VISION), generator=random)
    lean = torch.rand((batch, IMAGE, 1), generator=random)
    patches = torch.randn((batch, IMAGE, VISION), generator=random) + lean * cls
    features = torch.cat([cls, patches], 1)
    text = [torch.randn((batch, rows, model.dim), generator=random) for rows in (BEFORE, BEHIND)]
    return [array.to(device, dtype) for array in (features, *text)]


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int,
                        help="PyTorch's on the CPU, default all; tailcut takes one")
    parser.add_argument("--json")
    options = parser.parse_args()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    on_gpu = device.type == "cuda"
    size = options.model or ("7b" if on_gpu else "small")
    rounds = options.rounds or (20 if on_gpu else 5)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    torch.set_grad_enabled(False)
    if not on_gpu:
        torch.set_num_threads(options.threads or os.cpu_count())
    model = Model(MODELS[size], device, dtype)
    features, before, behind = inputs(model, options.batch, device, dtype)
    spent = Spent(on_gpu)
    cases = cases_of(features, spent)
    name = f"{cpu_name()}, {torch.get_num_threads()} threads"
    if on_gpu:
        name = torch.cuda.get_device_name()
    print(f"{name}; PyTorch {torch.__version__}; tailcut {tailcut.version()}")
    print(f"{model.parameters() / 1e6:.0f}M parameters, {str(dtype)[6:]}, batch {options.batch}; "
          f"medians of {rounds} rounds\n")
    if not on_gpu and os.getloadavg()[0] > 0.75:
        print(f"The machine is busy (load {os.getloadavg()[0]:.1f}): the least times are nearer to "
              "the truth.\n")
    figures = measure(model, cases, before, behind, spent, Memory(device), rounds,
                      torch.cuda.synchronize if on_gpu else lambda: None)
    rows, off = table(figures), differing(cases)
    floor = {row["name"]: row["prefill_ms_min"] for row in rows}
    for stage in ("stage 1", "stage 1 + 2"):
        over = floor[stage] / floor[stage + ", floor"] - 1
        print(f"{stage}: least prefill {100 * over:+.1f}% of its floor's")
    print("kept otherwise by PyTorch:", ", ".join(f"{n} in {stage}" for stage, n in off.items()))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"tool": "e2e", "version": tailcut.version(), "device": name,
                       "date": datetime.date.today().isoformat(), "torch": torch.__version__,
                       "model": size, "parameters": model.parameters(), "dtype": str(dtype)[6:],
                       "batch": options.batch, "rounds": rounds, "image_tokens": IMAGE,
                       "text_tokens": BEFORE + BEHIND, "differing": off, "rows": rows},
                      file, indent=1)
    if max(off.values()) > options.batch * IMAGE // 50:
        sys.exit("e2e.py: tailcut and PyTorch keep different tokens")


if __name__ == "__main__":
    main()
