# SPDX-License-Identifier: Apache-2.0
"""The times that the CUDA backend must reach on an H100, and where each is measured: tables.py
writes them into the README and, for ./run gpu, beside what was measured.

Hot for up to 8 images and for cuts alone, else cold; 576 x 1024 fp16 where no other size is named.
"""
BENCH, COMPARE = "tailcut bench", "compare_cuda"  # the tools that leave results
US, TIMES, SHARE = "us", "times as long", "of the copy bandwidth"


class Target:
    """`must` and `stretch` in `unit`: microseconds at most; the others at least. A row is what its
    members are; without rows nothing measures this yet. must None: only to know. command: the same
    figure by hand."""

    def __init__(self, what, must=None, stretch=None, unit=US, tool=BENCH, rows=(), command=None,
                 base=None):
        self.base = base  # the row that is 1 x, where the rows do not say
        self.what, self.must, self.stretch, self.unit = what, must, stretch, unit
        self.tool, self.rows, self.command = tool, rows, command

    def value(self, row):
        member = {US: "us_median", TIMES: "ratio", SHARE: "copy_share"}[self.unit]
        return row[member]

    def holds(self, value, bound):
        return value <= bound if self.unit == US else value >= bound

    def bound(self, value):
        if value is None:
            return "-"
        return f"{value:g} us" if self.unit == US else self.text(value)

    def text(self, value):
        if self.unit == US:
            return f"{value:.2f} us" if value < 10 else f"{value:.1f} us"
        return f"{value:.1f} x" if self.unit == TIMES else f"{100 * value:.0f}%"


def timed(what, must, stretch, name, l2, segments=1, tokens=576):
    step = name.split()[0]
    dim, dtype = (0, "f32") if step == "cut" else (1024, "f16")
    row = dict(name=name, segments=segments, tokens=tokens, dim=dim, dtype=dtype, l2=l2)
    size = f"{segments}x{tokens}" + (f"x{dim}/{dtype}" if dim else "")
    return Target(what, must, stretch, rows=(row,),
                  command=f"./run bench --device cuda --filter {step}/{size}")


def sequence(what, must, stretch, unit, l2, tokens, text, dim, layers, kv_heads):
    """prune_sequence of one sequence: image rows, rows of text, K and V of earlier layers,
    dense."""
    row = dict(name="prune_sequence", segments=1, tokens=tokens, text=text, dim=dim, dtype="f16",
               layers=layers, kv_heads=kv_heads, paged=False, l2=l2)
    size = f"{tokens}+{text}x{dim}/f16/{layers}x{kv_heads}"
    return Target(what, must, stretch, unit, rows=(row,),
                  command=f"./run bench --device cuda --filter prune_sequence/1x{size}")


def torch(what, must, stretch, how, way, segments):
    """How many times tailcut's time the faster of PyTorch's forms takes."""
    rows = tuple(dict(way=way, name=f"{how}, {form}", segments=segments, dtype="f16")
                 for form in ("cosine_similarity", "matrix x vector"))
    return Target(what, must, stretch, TIMES, COMPARE, rows, "./run bench --torch --device cuda")


def torch_sequence(what, how, way):
    """The first sequence below: relevance, topk, sort, and a gather for each array."""
    row = dict(way=way, name=f"{how}, gathers", segments=1, tokens=576, text=64, dim=4096,
               dtype="f16", layers=2, kv_heads=8)
    return Target(what, None, None, TIMES, COMPARE, (row,),
                  "./run bench --torch --device cuda --sequence")


def cub(what, l2, segments):
    """tailcut's scores, then a sort and scans of CUB's, a block an image, and a gather; packed."""
    base = timed(what, None, None, "prune_visual packed", l2, segments)
    row = dict(base.rows[0], name="prune_visual by CUB")
    return Target(what, 1, None, TIMES, BENCH, (row,), base.command, base.rows[0])


TARGETS = [
    timed("1 image in place", 6.0, 5.0, "prune_visual in place", "hot"),
    timed("1 image packed", 6.0, 5.0, "prune_visual packed", "hot"),
    timed("8 images in place", 10, 8, "prune_visual in place", "hot", 8),
    timed("1 image of 2,048 in place", 9, 7, "prune_visual in place", "hot", 1, 2048),
    timed("64 images in place", 41, 36, "prune_visual in place", "cold", 64),
    timed("256 images in place", 141, 134, "prune_visual in place", "cold", 256),
    timed("64K rows in place", 88, 78, "prune_visual in place", "cold", 1, 65536),
    timed("64K rows packed", 84, 78, "prune_visual packed", "cold", 1, 65536),
    timed("cut alone, 576", 2.6, 2.0, "cut", "hot", 1, 576),
    timed("cut alone, 2K", 3.4, 2.8, "cut", "hot", 1, 2048),
    timed("cut alone, 8K", 6.5, 4.5, "cut", "hot", 1, 8192),
    timed("cut alone, 64K", 8.5, 7, "cut", "hot", 1, 65536),
    timed("cut alone, 1M", 18, 15, "cut", "hot", 1, 1048576),
    timed("compact in place, 64 images", 17.5, 15, "compact in place", "cold", 64),
    timed("compact in place, 256 images", 59, 55, "compact in place", "cold", 256),
    timed("compact in place, 64K rows", 33, 27, "compact in place", "cold", 1, 65536),
    timed("score, 64 images", 27.5, None, "score", "cold", 64),
    timed("score, 256 images", 100, None, "score", "cold", 256),
    timed("score, 64K rows", 46.5, None, "score", "cold", 1, 65536),
    timed("novelty, 1 image", 9.7, None, "novelty", "hot"),
    timed("novelty, 64 images", 45, None, "novelty", "cold", 64),
    timed("novelty, 64K rows", 75, None, "novelty", "cold", 1, 65536),
    timed("64 images by novelty, merged in place", 82, None, "prune_merge in place", "cold", 64),
    torch("1 image, torch.compile in a CUDA graph", 5, 7, "compile", "graph", 1),
    torch("64 images, torch.compile in a CUDA graph", 5, 7, "compile", "graph", 64),
    cub("1 image, CUB's sort and a gather", "hot", 1),
    cub("64 images, CUB's sort and a gather", "cold", 64),
    torch("1 image, torch.compile, calls on a stream", None, None, "compile", "stream", 1),
    torch("1 image, PyTorch eager, calls on a stream", None, None, "eager", "stream", 1),
    sequence("stage 2: 576 x 4096, 64 of text, hidden and 2 layers of K/V", 10, 8, US, "hot",
             576, 64, 4096, 2, 8),
    torch_sequence("stage 2: 576 x 4096, torch.compile in a CUDA graph", "compile", "graph"),
    torch_sequence("stage 2: 576 x 4096, PyTorch eager, calls on a stream", "eager", "stream"),
    sequence("stage 2: 4096 x 8192, 2,048 of text, 32 layers of K/V", 0.8, 0.9, SHARE, "cold",
             4096, 2048, 8192, 32, 8),
]
